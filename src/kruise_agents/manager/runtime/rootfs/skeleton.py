"""The skeleton of a sandbox's file tree: ``/etc``, the usual empty folders, and settings of the host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ....protocol.names import HIGHEST_ID, USER_ID
from ..files.layout import SYSTEM_PATH
from ..files.trees import make_folder, write_file
from ..network.egress import NAME_SERVER
from .python import fill_login_files

_BOUND_FROM_HOST = (  # below /etc
    *("R", "alternatives", "ca-certificates", "debian_version", "fonts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "os-release", "pki/ca-trust", "pki/tls/certs", "protocols", "services", "ssl/certs"),
    *("ssl/openssl.cnf", "timezone"),
)
_ETC = {
    "environment": "",
    "group": (f"root:x:0:\ntty:x:5:\nsudo:x:27:user\nusers:x:100:\nuser:x:{USER_ID}:\nnogroup:x:{HIGHEST_ID}:\n"),
    "hostname": "e2b.local\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 e2b.local e2b\n",
    "nsswitch.conf": (
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
    ),
    "passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        f"user:x:{USER_ID}:{USER_ID}:user:/home/user:/bin/bash\n"
        f"nobody:x:{HIGHEST_ID}:{HIGHEST_ID}:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "profile": f"export PATH=\"${{PATH:-{SYSTEM_PATH}}}\"\nexport SHELL=/bin/bash\nPS1='\\w $ '\numask 022\n",
    "resolv.conf": f"nameserver {NAME_SERVER}\n",
    "shadow": "root::19000:0:99999:7:::\nuser::19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    # Lets `su` work for root. Passwords mean nothing in a sandbox.
    "pam.d/other": "".join(f"{kind} sufficient pam_permit.so\n" for kind in ("auth", "account", "session")),
}
_FOLDERS = {  # each folder after the one that it is in
    0o700: "root",
    0o755: "etc etc/pam.d etc/skel home media mnt opt run srv var var/cache var/lib var/log",
    0o777: "code",
    0o1777: "run/lock var/tmp",
}
_LINKS = {"var/lock": "/run/lock", "var/run": "/run"}


def bound_from_host() -> list[str]:
    """Return the existing paths in the host's ``/etc`` that sandboxes see read-only, such as ``/etc/localtime``."""
    with os.scandir("/etc") as listing:  # not Path.iterdir: a Path for each file takes longer
        names = {entry.name for entry in listing}
    existing = [f"/etc/{name}" for name in _BOUND_FROM_HOST if os.path.exists(f"/etc/{name}")]  # noqa: PTH110 - as above
    # Debian's JDKs and R lie in /usr, and do not start without their settings in /etc.
    return [*existing, *sorted(f"/etc/{name}" for name in names if name.startswith("java-"))]


def fill_mount_points(rootfs: Path) -> None:
    """Put hard links to one empty file into a new file tree, at each place where a file of the host is mounted."""
    # Without them, bwrap makes a file for each, which takes more time.
    covered = [Path(f"{rootfs}{path}") for path in bound_from_host() if os.path.isfile(path)]  # noqa: PTH113 - as above
    for number, file in enumerate(covered):
        make_folder(file.parent)
        if number == 0:
            write_file(file, "", 0o444)
        else:
            os.link(covered[0], file)


def fill_root(rootfs: Path, mounted: Iterable[Path]) -> None:
    """Put the skeleton into a new file tree. If a ``mounted`` folder is in ``/root``, let users traverse ``/root``."""
    for mode, names in _FOLDERS.items():
        for name in names.split():
            folder = rootfs / name
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
    for name, text in _ETC.items():
        write_file(rootfs / "etc" / name, text, 0o640 if name == "shadow" else 0o644)
    for name, target in _LINKS.items():
        (rootfs / name).symlink_to(target)
    for home in (rootfs / "etc" / "skel", rootfs / "root"):
        fill_login_files(home)
    # A folder below root's home on the host has the same path in a sandbox.
    if any(folder.is_relative_to("/root") for folder in mounted):
        (rootfs / "root").chmod(0o711)
