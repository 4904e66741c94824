"""The sizes of a qcow2 image's parts: numbers only, all sizes in bytes.

The rules are those of QEMU's docs/interop/qcow2.rst ("Header", "Host cluster
management", "Cluster mapping"); refcounts are 16 bits wide, QEMU's default.
"""

from __future__ import annotations

from allocpolicy import arguments
from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass

KiB, MiB, TiB = 1 << 10, 1 << 20, 1 << 40
SECTOR_SIZE = 512
MIN_CLUSTER_SIZE = 512
MAX_CLUSTER_SIZE = 2 * MiB
DEFAULT_CLUSTER_SIZE = 64 * KiB  # QEMU's
# 32 subclusters of at least a sector each: cluster_bits must be at least 14.
MIN_EXTENDED_L2_CLUSTER_SIZE = 16 * KiB
MAX_VIRTUAL_SIZE = 64 * TiB
MAX_L1_SIZE = 32 * MiB  # QEMU's limit, given in the specification
DEFAULT_L2_CACHE_SIZE = 32 * MiB  # QEMU >= 3.1 on Linux
TABLE_ENTRY_SIZE = 8  # of the L1 and the refcount table
REFCOUNT_SIZE = 2
SUBCLUSTERS = 32
# A request for more clusters than a hole has skips the hole until QEMU restarts. Linux
# sends requests of up to 1280 KiB by default, 4 MiB since 6.16.
LARGEST_REQUEST = 4 * MiB
LONGEST = LARGEST_REQUEST // DEFAULT_CLUSTER_SIZE
TABLE_GENERATIONS = 3  # each is half as large again as the one before: 1 + 2/3 + …


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The parts of a fully allocated image, in clusters unless the name says entries.

    ``l1_clusters``, ``refcount_blocks`` and ``refcount_table_clusters`` include what
    the refcount structures need for themselves.
    """

    virtual_size: int
    cluster_size: int
    extended_l2: bool
    data_clusters: int
    l2_tables: int
    l1_entries: int
    l1_clusters: int
    refcount_blocks: int
    refcount_table_clusters: int

    @property
    def l2_entries(self) -> int:
        """Return how many guest clusters one L2 table maps."""
        return l2_entries(self.cluster_size, extended_l2=self.extended_l2)

    @property
    def l2_entry_size(self) -> int:
        """Return the bytes of an L2 entry."""
        return self.cluster_size // self.l2_entries

    @property
    def data_offset(self) -> int:
        """Return where the data begins if all metadata precedes it."""
        return self.metadata_bytes

    @property
    def metadata_clusters(self) -> int:
        """Return the clusters of header, L1, L2 and refcount structures."""
        tables = self.l1_clusters + self.l2_tables
        refcounts = self.refcount_blocks + self.refcount_table_clusters
        return 1 + tables + refcounts

    @property
    def metadata_bytes(self) -> int:
        """Return the bytes of all metadata clusters."""
        return self.metadata_clusters * self.cluster_size

    @property
    def total_clusters(self) -> int:
        """Return the host clusters of the file: metadata and data."""
        return self.metadata_clusters + self.data_clusters

    @property
    def file_size(self) -> int:
        """Return the bytes of all host clusters."""
        return self.total_clusters * self.cluster_size


def geometry(
    virtual_size: int | str, *, cluster_size: int | str, extended_l2: bool = False
) -> Geometry:
    """Return the parts of an image that maps every guest cluster.

    Both sizes are bytes, or text such as ``40G``.

    :raises InvalidRequest: when qcow2 doesn't allow such an image, or its virtual size
        is above `MAX_VIRTUAL_SIZE`.
    """
    if type(virtual_size) is not int:
        virtual_size = arguments.size(virtual_size, "virtual_size")
    if type(cluster_size) is not int:
        cluster_size = arguments.size(cluster_size, "cluster_size")
    arguments.flag(extended_l2, "extended_l2")
    _check(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    data_clusters = _divide_up(virtual_size, cluster_size)
    entries = l2_entries(cluster_size, extended_l2=extended_l2)
    l2_tables = _divide_up(data_clusters, entries)
    if l2_tables * TABLE_ENTRY_SIZE > MAX_L1_SIZE:
        reason = (
            f"a virtual size of {virtual_size} bytes needs an L1 table larger than"
            f" {MAX_L1_SIZE} bytes at a cluster size of {cluster_size}"
        )
        raise InvalidRequest(reason)
    l1_clusters = _divide_up(l2_tables * TABLE_ENTRY_SIZE, cluster_size)
    blocks, table_clusters = refcount_clusters(
        1 + l1_clusters + l2_tables + data_clusters, cluster_size=cluster_size
    )
    return Geometry(
        virtual_size=virtual_size,
        cluster_size=cluster_size,
        extended_l2=extended_l2,
        data_clusters=data_clusters,
        l2_tables=l2_tables,
        l1_entries=l2_tables,
        l1_clusters=l1_clusters,
        refcount_blocks=blocks,
        refcount_table_clusters=table_clusters,
    )


def fully_allocated_size(
    virtual_size: int | str,
    *,
    cluster_size: int | str = DEFAULT_CLUSTER_SIZE,
    extended_l2: bool = False,
) -> int:
    """Return the bytes of a fully allocated image, as qemu-img measure reports them.

    :raises InvalidRequest: as `geometry` does.
    """
    return geometry(
        virtual_size, cluster_size=cluster_size, extended_l2=extended_l2
    ).file_size


def discarding_size_bound(
    virtual_size: int | str,
    *,
    cluster_size: int | str = DEFAULT_CLUSTER_SIZE,
    extended_l2: bool = False,
) -> int:
    """Return the most storage that an image takes whose guest discards and rewrites.

    QEMU punches the clusters that a discard frees, so that storage is what is in use:
    every guest cluster once, and the metadata. The file's length is no bound, as holes
    that are too small for a request are passed by; what grows with it are the refcount
    blocks, which are never freed, and the tables before the last. QEMU allocates past
    the end only where no hole is large enough for the request: after each cluster in
    use there are then fewer free ones than a request has. With clusters of 64 KiB the
    file is thus shorter than `LONGEST` times its fully allocated size; for smaller ones
    that is taken as the bound, too.

    :raises InvalidRequest: as `geometry` does.
    """
    whole = geometry(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    cluster_size = whole.cluster_size
    blocks, table = refcount_clusters(
        whole.total_clusters * LONGEST, cluster_size=cluster_size
    )
    more = blocks - whole.refcount_blocks + whole.l1_clusters
    more += TABLE_GENERATIONS * table - whole.refcount_table_clusters
    return whole.file_size + more * cluster_size


def grown_size_bound(
    size: int,
    *,
    virtual_size: int,
    grown: int,
    cluster_size: int,
    extended_l2: bool = False,
) -> int:
    """Return the most bytes that a file takes after its virtual size grows in place.

    That is all that the new range may take, and new L1 and refcount tables beside the
    old ones. They go after the end of the file; large requests may skip the end of the
    hole before them, and that after them.

    :param size: the file's size before; if it isn't fully mapped, the size that it
        would have if it were.
    :param grown: the new virtual size.
    :raises InvalidRequest: as `geometry` does.
    """
    before = geometry(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    after = geometry(grown, cluster_size=cluster_size, extended_l2=extended_l2)
    present = _divide_up(size, cluster_size)
    _, table = refcount_clusters(
        present + after.total_clusters, cluster_size=cluster_size
    )
    copies = after.l1_clusters + table + 1
    if after.l1_clusters > before.l1_clusters or table > 1:
        copies += 2 * _divide_up(LARGEST_REQUEST, cluster_size)
        copies += _divide_up(copies * REFCOUNT_SIZE, cluster_size) + 1
    clusters = after.total_clusters - before.total_clusters + copies
    return (present + clusters) * cluster_size


def unmapped_refcount_blocks(whole: Geometry) -> int:
    """Return the refcount blocks of an image that maps nothing of ``whole``.

    They count the header, the L1 table, the refcount table of ``whole`` and themselves.
    """
    fixed = 1 + whole.l1_clusters + whole.refcount_table_clusters
    blocks = 0
    while (
        more := _divide_up((fixed + blocks) * REFCOUNT_SIZE, whole.cluster_size)
    ) != blocks:
        blocks = more
    return blocks


def thin_size_bound(
    virtual_size: int | str,
    *,
    cluster_size: int | str = DEFAULT_CLUSTER_SIZE,
    extended_l2: bool = False,
) -> int:
    """Return the most bytes that an empty image without preallocation takes.

    Header, L1 and refcount structures. The latter count twice: when the L1 of an image
    with tiny clusters outgrows the first refcount table, QEMU creates a new one
    elsewhere and leaves the old one's clusters behind. The new one begins where a
    refcount block's 16-bit entries do, up to a block's worth of clusters further on.

    :raises InvalidRequest: as `geometry` does.
    """
    whole = geometry(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    cluster_size = whole.cluster_size
    blocks, table = refcount_clusters(1 + whole.l1_clusters, cluster_size=cluster_size)
    clusters = 1 + whole.l1_clusters + blocks + table
    if blocks > 1:
        clusters += blocks + table + cluster_size // 2
    return clusters * cluster_size


def automatic_cluster_size(
    virtual_size: int | str, *, extended_l2: bool = False
) -> int:
    """Return the smallest cluster size whose L2 tables fit QEMU's default L2 cache.

    At least 64 KiB, QEMU's own default; at most 2 MiB, even if the tables don't fit.

    :raises InvalidRequest: as `geometry` does.
    """
    cluster_size = 64 * KiB
    while cluster_size < MAX_CLUSTER_SIZE:
        whole = geometry(
            virtual_size, cluster_size=cluster_size, extended_l2=extended_l2
        )
        if whole.l2_tables * cluster_size <= DEFAULT_L2_CACHE_SIZE:
            break
        cluster_size *= 2
    return cluster_size


def l2_entries(cluster_size: int, *, extended_l2: bool) -> int:
    """Return how many entries, of 8 or 16 bytes, an L2 table of one cluster has."""
    return cluster_size // (16 if extended_l2 else 8)


def l1_entries(virtual_size: int, *, cluster_size: int, extended_l2: bool) -> int:
    """Return how many L2 tables, and thus L1 entries, a virtual size needs."""
    entries = l2_entries(cluster_size, extended_l2=extended_l2)
    return _divide_up(virtual_size, cluster_size * entries)


def refcount_clusters(
    clusters: int, *, cluster_size: int, refcount_bits: int = 8 * REFCOUNT_SIZE
) -> tuple[int, int]:
    """Return (blocks, table clusters) that count these clusters and themselves.

    The least fixed point: each pass counts what the previous one added, until nothing
    more is added.
    """
    blocks = table = 0
    while True:
        counted = clusters + blocks + table
        more_blocks = _divide_up(counted * refcount_bits, 8 * cluster_size)
        more_table = _divide_up(more_blocks * TABLE_ENTRY_SIZE, cluster_size)
        if (more_blocks, more_table) == (blocks, table):
            return blocks, table
        blocks, table = more_blocks, more_table


def _check(virtual_size: int, *, cluster_size: int, extended_l2: bool) -> None:
    if virtual_size % SECTOR_SIZE or not 0 < virtual_size <= MAX_VIRTUAL_SIZE:
        reason = (
            f"a virtual size of {virtual_size} bytes: it must be a multiple of"
            f" {SECTOR_SIZE}, from {SECTOR_SIZE} to {MAX_VIRTUAL_SIZE}"
        )
        raise InvalidRequest(reason)
    smallest = MIN_EXTENDED_L2_CLUSTER_SIZE if extended_l2 else MIN_CLUSTER_SIZE
    power_of_two = cluster_size & (cluster_size - 1) == 0
    if not power_of_two or not smallest <= cluster_size <= MAX_CLUSTER_SIZE:
        extended = " with extended L2 entries" if extended_l2 else ""
        reason = (
            f"a cluster size of {cluster_size} bytes{extended}: it must be a power of"
            f" two from {smallest} to {MAX_CLUSTER_SIZE}"
        )
        raise InvalidRequest(reason)


def _divide_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
