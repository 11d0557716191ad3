"""The skeleton of a sandbox's file tree: ``/etc``, the usual empty folders, and settings bound from the host."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..files.layout import SYSTEM_PATH
from ..network.egress import NAME_SERVER
from .python import fill_login_files

_BOUND_FROM_HOST = (
    "/etc/R",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
)

_ETC = {
    "environment": "",
    "group": "root:x:0:\ntty:x:5:\nsudo:x:27:user\nusers:x:100:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hostname": "e2b.local\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 e2b.local e2b\n",
    "nsswitch.conf": (
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
    ),
    "passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "user:x:1000:1000:user:/home/user:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "profile": f"export PATH=\"${{PATH:-{SYSTEM_PATH}}}\"\nexport SHELL=/bin/bash\nPS1='\\w $ '\numask 022\n",
    "resolv.conf": f"nameserver {NAME_SERVER}\n",
    "shadow": "root::19000:0:99999:7:::\nuser::19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    # For `su` by root; passwords mean nothing here.
    "pam.d/other": "".join(f"{kind} sufficient pam_permit.so\n" for kind in ("auth", "account", "session")),
}
_FOLDERS = {
    "code": 0o777,
    "etc/pam.d": 0o755,
    "etc/skel": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}
_LINKS = {"var/lock": "/run/lock", "var/run": "/run"}


def bound_from_host() -> list[str]:
    """Return the existing public settings of the host that sandboxes see, read-only."""
    existing = (path for path in _BOUND_FROM_HOST if Path(path).exists())
    # The JDKs and the R of Debian lie in /usr, and do not start without their settings in /etc.
    return [*existing, *sorted(str(folder) for folder in Path("/etc").glob("java-*"))]


def fill_root(rootfs: Path, mounted: Iterable[Path]) -> None:
    """Put the skeleton into a new sandbox's file tree; every user must be able to reach the ``mounted`` folders."""
    for name, mode in _FOLDERS.items():
        folder = rootfs / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    for name, text in _ETC.items():
        file = rootfs / "etc" / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o640 if name == "shadow" else 0o644)
    for name, target in _LINKS.items():
        (rootfs / name).symlink_to(target)
    for home in (rootfs / "etc" / "skel", rootfs / "root"):
        fill_login_files(home)
    # An interpreter below root's home on the host has the same path in a sandbox.
    if any(folder.is_relative_to("/root") for folder in mounted):
        (rootfs / "root").chmod(0o711)
