"""Any libvirt host: the hook that runs before QEMU opens a disk, and domains."""
