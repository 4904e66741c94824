"""The only room that stages, locks, rolls back and publishes disks."""
