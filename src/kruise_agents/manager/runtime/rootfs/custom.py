"""The root file system that an operator gives a template.

Its programs and libraries are mounted read-only, in place of the machine's. Most of the other files
are copied into the tree that sandboxes begin with, because sandboxes may change these files. Existing files of that
tree stay, except that ``/etc/passwd`` and ``/etc/group`` get more lines. No file is copied through a link.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # beside usr; on most systems links into usr
_NOT_COPIED = frozenset(
    {"usr", *SYSTEM_FOLDERS, "boot", "dev", "home", "lost+found", "proc", "run", "sys", "tmp", ".dockerenv"}
)
# Not copied: sandboxes have their own rules for passwords and for `su`.
_OURS = frozenset({"etc/pam.d", "etc/shadow", "etc/gshadow", "etc/shadow-", "etc/gshadow-"})
_ACCOUNTS = ("etc/passwd", "etc/group")


def copied(rootfs: Path) -> Iterator[Path]:
    """Yield the paths that :func:`copy_missing` considers, parents first. Some of the paths are not copied."""
    for name in _names(rootfs):
        if name in _NOT_COPIED:
            continue
        yield rootfs / name
        if not (rootfs / name).is_symlink():
            for folder, folders, files in os.walk(rootfs / name):
                yield from (Path(folder) / child for child in sorted([*folders, *files]))


def copy_missing(rootfs: Path, target: Path) -> list[Path]:
    """Copy files that sandboxes may change, unless ``target`` has them. Return paths that the manager may not read."""
    left_out: list[Path] = []
    for name in _names(rootfs):
        if name not in _NOT_COPIED:
            _lay(rootfs / name, target / name, name, left_out)
    for name in _ACCOUNTS:
        _add_accounts(rootfs / name, target / name)
    return left_out


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _lay(source: Path, target: Path, name: str, left_out: list[Path]) -> None:
    if name in _OURS:
        return
    try:
        if source.is_symlink():
            if not os.path.lexists(target):
                target.symlink_to(source.readlink())
        elif source.is_dir():
            children = _names(source)
            if not os.path.lexists(target):
                target.mkdir()
                target.chmod(source.stat().st_mode & 0o1777 | 0o700)
            if target.is_dir() and not target.is_symlink():
                for child in children:
                    _lay(source / child, target / child, f"{name}/{child}", left_out)
        elif source.is_file() and not os.path.lexists(target):
            shutil.copy2(source, target)  # no sockets, pipes and devices, which do nothing without their owners
            target.chmod(source.stat().st_mode & 0o777)
    except PermissionError:
        left_out.append(source)


def _add_accounts(source: Path, target: Path) -> None:
    # Accounts whose name or number the sandbox has already are left out.
    if source.is_symlink() or not source.is_file():
        return
    lines = target.read_text(encoding="utf-8").splitlines()
    taken = {key for line in lines for key in _keys(line)}
    for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.count(":") >= 3 and not taken & set(_keys(line)):
            lines.append(line)
            taken.update(_keys(line))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _keys(account: str) -> tuple[str, str]:
    name, _, number = account.split(":")[:3]
    return name, f":{number}"
