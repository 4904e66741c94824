"""Mechanism: what kernels and filesystems do with a file's storage; no policy."""
