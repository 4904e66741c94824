"""The operator's options, declared to oslo.config.

They are in the group ``[allocpolicy]``; ``[DEFAULT] preallocate_images``, known from
nova.conf, applies if ``[allocpolicy] preallocate_images`` is not set.
"""

from __future__ import annotations

from oslo_config import cfg

from allocpolicy.resolve.config_places import PROJECT
from allocpolicy.resolve.config_types import Prepared, Size, Version

GROUP = PROJECT

_DEFAULT_OPTIONS = [
    cfg.StrOpt(
        "preallocate_images",
        help="The strategy for disks whose flavor chooses none, as in Nova's option of"
        " this name. [allocpolicy] preallocate_images takes precedence.",
    ),
]

_OPTIONS = [
    cfg.StrOpt(
        "preallocate_images",
        default="none",
        help="How the storage of a disk is allocated if its flavor does not say: the"
        " name of an installed strategy. allocpolicy comes with none (thin), space (all"
        " of the disk's storage is reserved when it is created) and performance (a disk"
        " without a backing file and with all of its metadata preallocated);"
        " 'allocpolicy strategy list' shows what else is installed. If it is not set"
        " here, [DEFAULT] preallocate_images applies.",
    ),
    cfg.BoolOpt(
        "flavor_override",
        default=True,
        help="Whether flavors choose the strategy and its options by extra specs"
        " (allocpolicy:strategy and others). If false, a flavor's extra specs are"
        " ignored, those on a command line are refused, and every disk gets"
        " preallocate_images.",
    ),
    cfg.ListOpt(
        "allowed_strategies",
        default=[],
        help="The strategies that extra specs and the stamps of existing disks may"
        " choose; others are refused. If empty, they may choose any installed strategy."
        " preallocate_images and fallback_strategies are the operator's own choice and"
        " are not limited by it. With flavor_override = false, stamps may choose only"
        " these three.",
    ),
    cfg.StrOpt(
        "on_unsupported",
        default="fail",
        choices=[
            ("fail", "Refuse to create the disk."),
            (
                "fallback",
                "Take the next of fallback_strategies; the report names both.",
            ),
        ],
        help="What happens if the storage cannot do what the chosen strategy needs,"
        " such as fallocate on ext2. A lack of space is never a reason to fall back.",
    ),
    cfg.ListOpt(
        "fallback_strategies",
        default=["none"],
        help="The strategies to try, in this order, if on_unsupported = fallback.",
    ),
    cfg.FloatOpt(
        "headroom_ratio",
        default=0.01,
        min=0,
        max=1,
        help="How much space to keep free on a filesystem beside reserved bytes that"
        " are not written yet, as a share of these bytes: writing into reserved storage"
        " takes blocks for the filesystem's own trees.",
    ),
    cfg.Opt(
        "headroom_minimum",
        type=Size(),
        default="64M",
        help="The least space to keep free beside reserved bytes: bytes, or 64M, 10G.",
    ),
    cfg.StrOpt(
        "lock_path",
        sample_default="/run/allocpolicy",
        help="The directory of the locks, one per filesystem, under which storage is"
        " reserved; every process that creates disks on a host must use the same one."
        " If not set: /run/allocpolicy for root, and for other users allocpolicy under"
        " $XDG_RUNTIME_DIR, or allocpolicy-UID under the directory of temporary files;"
        " these are refused if another user may write to them. A directory that is set"
        " here is used as it is: users who can read its lock files can hold the locks.",
    ),
    cfg.FloatOpt(
        "max_overcommit_ratio",
        default=0,
        min=0,
        help="How many times the size of a filesystem, less what is reserved on it, may"
        " be used and promised together: used bytes, plus what thin disks will take if"
        " their guests write all of them. A disk that would exceed it is refused. 1"
        " means that every disk can be filled; 0 means no limit. With a limit, disks of"
        " every strategy are created one after the other on a filesystem, each until it"
        " is published, so that racing requests never exceed it. Only disks in the same"
        " directory and in disk_directories are counted.",
    ),
    cfg.Opt(
        "reserved_host_disk",
        type=Size(),
        default=0,
        help="How much space to keep free for the host itself on every filesystem:"
        " bytes, or 512M, 10G. It is subtracted before max_overcommit_ratio"
        " multiplies.",
    ),
    cfg.Opt(
        "max_promised_bytes",
        type=Size(),
        default=0,
        help="The most bytes that one disk may be promised, such as 2T: what it takes"
        " if its guest writes all of it. It holds for every disk that is created, grown"
        " or brought to its policy, also by its own stamp: the owner of an existing"
        " disk can give it any size, and any stamp. 0 means no limit.",
    ),
    cfg.ListOpt(
        "trusted_base_directories",
        default=[],
        help="The directories, at any depth, whose files may be the backing files of"
        " any disk. A backing file anywhere else is opened, and copied into the disk by"
        " 'apply', only if all users who may write to the disk may read that file"
        " themselves: they can make the disk name any file of the host.",
    ),
    cfg.StrOpt(
        "snapshot_policy",
        default="report",
        choices=[
            ("report", "It has none; audit says of its disk that it is uncovered."),
            ("inherit", "It has that of the nearest disk below it that has a stamp."),
        ],
        help="Which policy an overlay without a stamp has, as an external snapshot, for"
        " audit, inspect, apply and resize. Its header alone says that a file"
        " without a stamp is an overlay, and which disk it is on. The guest of a raw"
        " disk without a stamp can write such a header: inherit only where raw disks"
        " have stamps.",
    ),
    cfg.ListOpt(
        "disk_directories",
        default=[],
        help="The directories whose disks are counted, recursively, together with those"
        " in a disk's own directory: for headroom, for max_overcommit_ratio, and in the"
        " output of 'host capacity'. Disks on another filesystem are left out. If"
        " empty, only the disk's directory and those below it count.",
    ),
    cfg.Opt(
        "size_alignment",
        type=Size(),
        default=0,
        help="Of what the size of a new or grown disk must be a multiple: bytes, or 1M."
        " Another size that was asked for is refused, and the size of a base image is"
        " rounded up. 0 means what QEMU needs to open a raw disk with cache=none on its"
        " storage, at least 4096; a qcow2 disk may then have any size. With 512, raw"
        " disks may have any size too, and those that QEMU can't open with cache=none"
        " are to be attached with cache=writeback.",
    ),
    cfg.Opt(
        "qemu_version",
        type=Version(),
        help="The oldest QEMU that runs the host's virtual machines, such as 8.1."
        " allocpolicy does not look for it, as it may be on another host or in a"
        " container; if it is not set, no disk is to be attached with anything newer"
        " than QEMU 4.0.",
    ),
    cfg.Opt(
        "libvirt_version",
        type=Version(),
        help="The oldest libvirt that starts the host's virtual machines, such as 9.5."
        " If it is not set, 'inspect --libvirt-xml' uses nothing newer than libvirt"
        " 7.0. From QEMU 8.1 and libvirt 9.5 on, thin disks are to be attached with"
        " discard-no-unref, with which discards don't make a qcow2 outgrow its size.",
    ),
    cfg.StrOpt(
        "thin_io",
        default="threads",
        choices=[
            ("threads", "A pool of threads; it works everywhere."),
            ("native", "Linux AIO; it may stop the VM where a write must allocate."),
            ("io_uring", "QEMU 5.0, libvirt 6.3 and a kernel that allows it."),
        ],
        help="How virtual machines are to do I/O on disks whose storage is allocated as"
        " the guest writes. Which costs least depends on the kernel, the filesystem and"
        " the device; 'allocpolicy bench' measures it. Disks whose storage is their own"
        " are attached with native.",
    ),
    cfg.StrOpt(
        "image_cache_dir",
        sample_default="_base beside the disk",
        help="The directory of base images that were converted from a foreign format."
        " If not set: _base beside the disk. Set it if each disk has a directory of its"
        " own; on the disks' filesystem, data can still be shared by reflink.",
    ),
    cfg.Opt(
        "prepared_disks",
        type=Prepared(),
        default="on",
        help="Whether disks are prepared: on, off, or the most bytes that they may take"
        " in one image cache, such as 20G. Where the storage has reflink, a disk whose"
        " content follows from its base image, its size and its options is kept in the"
        " image cache, packed, in the background of the first request; further ones are"
        " clones of it, in the time that an overlay takes. No disk depends on it. Disks"
        " with reserved or written storage, such as those of the strategy space, are"
        " never prepared. 'allocpolicy cache prepare' does it ahead of time, and 'cache"
        " list' and 'host capacity' show what it takes.",
    ),
    cfg.StrOpt(
        "change_log",
        default="auto",
        choices=[
            ("auto", "In systemd's journal where it is there, or else in syslog."),
            ("journal", "In systemd's journal alone, with its fields."),
            ("syslog", "In syslog alone, through /dev/log."),
            ("none", "In neither."),
        ],
        help="Where the commands and libvirt's hook record who changed what: one line"
        " for each change of a disk, its stamp, the image cache, a domain's policy or"
        " the hook itself, with the identifier allocpolicy. Changes never wait for the"
        " log, nor fail for it. Programs that use the Python API log by Python's"
        " logging, as they have configured it, whatever this says.",
    ),
    cfg.StrOpt(
        "libvirt_default",
        default="",
        help="The strategy for the disks of a libvirt domain whose metadata has no"
        " policy: neither extra specs of a Nova flavor nor an allocpolicy:policy. It is"
        " brought into force by the hook ('allocpolicy libvirt install-hook') whenever"
        " such a domain starts, also on disks that have a stamp. If it is not set,"
        " their disks are left alone.",
    ),
    cfg.StrOpt(
        "libvirt_convert",
        default="bounded",
        choices=[
            (
                "bounded",
                "At most libvirt_max_copy is copied, within libvirt_deadline.",
            ),
            ("always", "Whatever has to be copied is, however long the start takes."),
            ("never", "No disk is rewritten; storage is still reserved in place."),
        ],
        help="Whether a disk may be rewritten when libvirt starts its domain, such as"
        " an overlay that becomes a disk without a backing file. An overlay only is if"
        " nothing is below it but one base image in libvirt_base_dirs, in"
        " image_cache_dir or in Nova's _base.",
    ),
    cfg.Opt(
        "libvirt_max_copy",
        type=Size(),
        default="2G",
        help="The most bytes of a disk that a rewrite may copy while its domain"
        " starts, if libvirt_convert = bounded: what the filesystem shares by reflink"
        " doesn't count.",
    ),
    cfg.FloatOpt(
        "libvirt_deadline",
        default=20,
        min=0,
        help="The seconds that rewriting a disk may take while its domain starts, if"
        " libvirt_convert = bounded; then the disk stays as it was. Nor are zeroes"
        " written into it for longer, unless always. 0 means no limit.",
    ),
    cfg.StrOpt(
        "libvirt_on_unmet",
        default="pass",
        choices=[
            (
                "pass",
                "The domain starts; the disk's stamp and syslog say what it lacks.",
            ),
            ("fail", "The domain doesn't start."),
        ],
        help="What happens to the start of a domain with a disk that its policy would"
        " have rewritten, if it may not be: by libvirt_convert, or because of what is"
        " below it. 'allocpolicy libvirt apply' does it when the domain is shut off. A"
        " lack of space always refuses the start.",
    ),
    cfg.StrOpt(
        "libvirt_on_error",
        default="fail",
        choices=[
            ("fail", "The domain doesn't start."),
            ("pass", "The domain starts, without its policy."),
        ],
        help="What happens to the start of a domain when allocpolicy itself, or a"
        " strategy's code, fails unexpectedly; syslog has the traceback.",
    ),
    cfg.ListOpt(
        "libvirt_base_dirs",
        default=[],
        help="The directories whose files, at any depth, may be the base images of"
        " disks that are rewritten when libvirt starts their domain; besides"
        " image_cache_dir, and _base beside the instances of Nova. An overlay on any"
        " other file, such as a snapshot, is never rewritten then.",
    ),
]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options by group, for oslo-config-generator."""
    return [("DEFAULT", list(_DEFAULT_OPTIONS)), (GROUP, list(_OPTIONS))]


def register(conf: cfg.ConfigOpts) -> None:
    """Add the options to ``conf``; keep those that it already has."""
    for options, group in ((_DEFAULT_OPTIONS, None), (_OPTIONS, GROUP)):
        for option in options:
            try:
                conf.register_opt(option, group=group)
            except cfg.DuplicateOptError:
                continue  # Nova registers [DEFAULT] preallocate_images with choices
