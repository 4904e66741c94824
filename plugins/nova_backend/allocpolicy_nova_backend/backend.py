"""Putting the images of this distribution where Nova chooses its own."""

from __future__ import annotations

from typing import Any

from nova.virt.libvirt import imagebackend

from allocpolicy import load_policy
from allocpolicy_nova_backend.image import PolicyQcow2

_chosen_by_nova = imagebackend.Backend.backend


def put_in() -> None:
    """Let ``Backend.backend`` return `PolicyQcow2` wherever it returned ``Qcow2``.

    :raises ConfigError: when allocpolicy's configuration is wrong; nothing is changed.
    """
    PolicyQcow2.default_strategy = load_policy().default_strategy
    imagebackend.Backend.backend = _chosen


def _chosen(self: Any, image_type: str | None = None) -> Any:
    """Return the class of images of a type: Nova's choice, or ours for ``Qcow2``."""
    chosen = _chosen_by_nova(self, image_type)
    return PolicyQcow2 if chosen is imagebackend.Qcow2 else chosen
