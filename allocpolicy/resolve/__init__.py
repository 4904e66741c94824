"""Which strategy a disk gets, and why."""
