"""A strategy's attachment: its words checked, and fitted to what can start a VM.

The words are those of QEMU's -blockdev and of libvirt's docs/formatdomain.rst. What a
strategy prefers and the storage or the programs can't do would keep the VM from
starting; the nearest that works is taken instead.
"""

from __future__ import annotations

from allocpolicy import wording
from allocpolicy.contract.facts import Allocation, DiskFormat, Observation
from allocpolicy.contract.policy import Machines
from allocpolicy.contract.strategy import Attachment
from allocpolicy.errors import ContractBroken
from allocpolicy.record import replace

_WORDS = {
    "discard": ("ignore", "unmap"),
    "detect_zeroes": ("off", "on", "unmap"),
    "cache": ("none", "writeback", "writethrough", "directsync", "unsafe"),
    "io": ("threads", "native", "io_uring"),
}
# Without O_DIRECT: what keeps the same promise to the guest's flushes.
_BUFFERED = {"none": "writeback", "directsync": "writethrough"}
_OWN = (Allocation.RESERVED, Allocation.WRITTEN)
_KNOWS_NO_UNREF = {"qemu": (8, 1), "libvirt": (9, 5)}
_NO_UNREF_VERSION = 3  # QEMU refuses to open an older qcow2 with it
_SECTOR = 512


def checked(given: Attachment) -> Attachment:
    """Return the attachment as plain values; call it where its plugin is blamed.

    :raises ContractBroken: for a word that QEMU doesn't have, a size that it refuses,
        words that don't go together, and for values of other types.
    """
    words = {name: _word(name, getattr(given, name)) for name in _WORDS}
    keeps: object = given.discard_no_unref
    if type(keeps) is not bool:
        raise ContractBroken(f"discard_no_unref is {wording.named(keeps)}, not bool")
    made = Attachment(
        **words,
        l2_cache_size=_size("l2_cache_size", given.l2_cache_size, multiple=1),
        discard_no_unref=keeps,
        discard_granularity=_size(
            "discard_granularity", given.discard_granularity, multiple=_SECTOR
        ),
    )
    if made.detect_zeroes == "unmap" and made.discard != "unmap":
        raise ContractBroken("detect_zeroes is 'unmap', and discard is not")
    if made.io == "native" and made.cache not in _BUFFERED:
        raise ContractBroken(f"io is 'native', which cache={made.cache} does not allow")
    return made


def _word(name: str, given: object) -> str:
    if not isinstance(given, str) or given not in _WORDS[name]:
        known = " or ".join(_WORDS[name])
        raise ContractBroken(f"{name} is {wording.named(given)}, not {known}")
    return str(given)


def _size(name: str, given: object, *, multiple: int) -> int | None:
    if given is None:
        return None
    if type(given) is not int or given <= 0 or given % multiple:
        wrong = f"{name} is {wording.named(given)}"
        raise ContractBroken(f"{wrong}, not a positive multiple of {multiple}")
    return given


def fitted(
    wanted: Attachment, *, observed: Observation, machines: Machines
) -> Attachment:
    """Return the attachment with which a VM starts on this disk's storage.

    Without O_DIRECT the page cache is used. Linux AIO (``native``) stops the whole VM
    where a write must allocate, so it is left to storage that is the disk's own; what
    costs less elsewhere depends on the host, and the operator says what was measured.
    """
    direct = observed.opens_directly
    cache = wanted.cache if direct else _BUFFERED.get(wanted.cache, wanted.cache)
    qcow2 = observed.format is DiskFormat.QCOW2
    unmaps = qcow2 and wanted.discard == "unmap"
    granularity = observed.cluster_size if unmaps else None
    keeps = unmaps and (observed.qcow2_version or 0) >= _NO_UNREF_VERSION
    return replace(
        wanted,
        cache=cache,
        io=_io(wanted.io, cache=cache, observed=observed, machines=machines),
        l2_cache_size=wanted.l2_cache_size if qcow2 else None,
        discard_no_unref=wanted.discard_no_unref and keeps and _know(machines),
        discard_granularity=wanted.discard_granularity or granularity,
    )


def _io(wanted: str, *, cache: str, observed: Observation, machines: Machines) -> str:
    """Return the way of I/O: Linux AIO needs O_DIRECT, which ``cache`` may not use."""
    if wanted != "native":
        return wanted
    thin = observed.allocation not in _OWN
    io = machines.thin_io.value if thin else wanted
    return io if io != "native" or cache in _BUFFERED else "threads"


def _know(machines: Machines) -> bool:
    """Return whether the VM's programs know discard-no-unref: both, as was said."""
    return all(
        (getattr(machines, name) or (0, 0)) >= version
        for name, version in _KNOWS_NO_UNREF.items()
    )
