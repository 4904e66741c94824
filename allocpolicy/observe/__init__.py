"""What is, measured: the host, a disk, a fleet."""
