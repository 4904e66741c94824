"""How large a qcow2 becomes, in bytes."""

from allocpolicy import (
    automatic_cluster_size,
    discarding_size_bound,
    fully_allocated_size,
    mapped_data_offset,
    thin_size_bound,
)

SIZE = 1 << 40

cluster_size = automatic_cluster_size(SIZE)
assert cluster_size == 256 << 10  # 32 MiB of L2 tables
empty = thin_size_bound(SIZE, cluster_size=cluster_size)
full = fully_allocated_size(SIZE, cluster_size=cluster_size)
discarding = discarding_size_bound(SIZE, cluster_size=cluster_size)
assert empty < SIZE < full <= discarding
offset = mapped_data_offset(SIZE, cluster_size=cluster_size)
assert offset == full - SIZE
