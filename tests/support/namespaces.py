"""Network namespaces for test programs, with every port free, and names that a DNS server on 127.0.0.1 resolves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kruise_agents.manager.runtime.bwrap.binary import find_bwrap

_FILES = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def in_network_namespace(command: Sequence[str], folder: Path) -> list[str]:
    """Return ``command`` wrapped so that it runs in a network namespace, where it may bind any port.

    Args:
        folder: an existing folder for the files that replace those of ``/etc``.
    """
    wrapped = [find_bwrap(), "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-net"]
    wrapped += ["--cap-add", "ALL", "--die-with-parent", "--dev-bind", "/", "/"]
    for path, text in _FILES.items():
        replacement = folder / Path(path).name
        replacement.write_text(text)
        if Path(path).exists():
            wrapped += ["--ro-bind", str(replacement), os.path.realpath(path)]
    return [*wrapped, "--", *command]
