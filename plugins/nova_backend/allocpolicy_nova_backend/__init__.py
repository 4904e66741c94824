"""allocpolicy-nova-backend: Nova makes its qcow2 disks under their flavor's policy."""
