"""Reading a vhdx whose log is not yet replayed: Hyper-V, or the host, stopped at once.

QEMU replays a log only in an image that it may write to. It writes to an overlay in
memory: nobody's image is changed, and no copy of it is made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from allocpolicy import qemu_img
from allocpolicy.errors import ImageError
from allocpolicy.foreign import vhdx
from allocpolicy.qcow2 import geometry, writer
from allocpolicy.qemu_nodes import Image
from allocpolicy.record import replace


@contextlib.contextmanager
def replayed(image: Image, *, virtual_size: int) -> Iterator[Image]:
    """Yield the image as it is once its log is replayed; itself, if it has none.

    :param virtual_size: of the image; bounds the time.
    :raises ImageError: when the log is damaged.
    """
    if image.format != "vhdx" or not vhdx.has_log(image.fd):
        yield image
        return
    size = -(-os.fstat(image.fd).st_size // geometry.SECTOR_SIZE) * geometry.SECTOR_SIZE
    overlay = os.memfd_create("log of a vhdx")
    try:
        cluster_size = geometry.DEFAULT_CLUSTER_SIZE
        whole = geometry.geometry(size, cluster_size=cluster_size)
        writer.write_unmapped(overlay, whole)
        changed = replace(image, overlay=overlay)
        _replay(changed, virtual_size=virtual_size)
        yield changed
    finally:
        os.close(overlay)


def _replay(image: Image, *, virtual_size: int) -> None:
    try:
        qemu_img.replay(image, virtual_size=virtual_size)
    except ImageError as error:
        raise ImageError(image.path, f"its log is damaged: {error.reason}") from error
