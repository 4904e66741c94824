"""A guest made on the fly: the host's kernel and busybox, under QEMU."""
