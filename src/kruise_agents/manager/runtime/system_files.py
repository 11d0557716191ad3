"""The few files below ``/etc`` that programs in a sandbox expect; nothing else of the host's ``/etc`` is visible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import SYSTEM_PATH

BOUND_FROM_HOST = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
)
"""What is the host's own, readable by everybody there, and mounted read-only where it exists."""

_GENERATED = {
    "group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hostname": "e2b.local\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 e2b.local e2b\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "user:x:1000:1000:user:/home/user:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "profile": (f"export PATH=\"${{PATH:-{SYSTEM_PATH}}}\"\nexport SHELL=/bin/bash\nPS1='\\w $ '\numask 022\n"),
    "resolv.conf": "nameserver 8.8.8.8\n",
}


class SystemFiles:
    """Generated files, written once for a manager and mounted read-only into each of its sandboxes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in _GENERATED.items():
            (folder / name).write_text(text, encoding="utf-8")
        self._folder = folder

    def mounts(self) -> Iterator[str]:
        """The ``bwrap`` arguments that put them below ``/etc``."""
        for name in _GENERATED:
            yield from ("--ro-bind", str(self._folder / name), f"/etc/{name}")
