"""allocpolicy-pool: disks that were made and fully written before they are needed."""
