"""What Nova reads of allocpolicy: extra-spec validators and provider configuration."""
