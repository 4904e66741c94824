"""Measuring what layouts of disks cost a guest, on a filesystem of the operator's."""
