"""What a strategy's author sees; no I/O."""
