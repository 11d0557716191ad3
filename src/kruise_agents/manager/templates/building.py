"""The prepared file tree of a template: its files, the packages that pip installs, and parts of its root file system.

Sandboxes start with a copy of the tree. The tree is made once and kept below the state folder. The name of its folder
has a digest of the template's requirements, files and root file system. If any of them changes, a new tree is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ... import __version__
from ...errors import ConfigurationError
from ..runtime import Egress, Layout, Runtime
from ..runtime.files.trees import make_folder
from ..runtime.rootfs.commands import BESIDE
from ..runtime.rootfs.custom import copied
from .reading import TemplateFile

_LAST_OUTPUT = 2000
_PIP_OPTIONS = (
    # Wheels only: building a source distribution would run its code here, outside of any sandbox.
    "--only-binary=:all:",
    "--no-input",
    "--disable-pip-version-check",
    "--no-warn-script-location",
    "--progress-bar=off",
    "--root-user-action=ignore",
)
_OUR_PYTHON = re.compile(
    rb"#!\S*/\.local/bin/python[0-9.]*\n"
    # Installers write these lines if the path is too long for a line with #!, or has a space.
    rb"|#!/bin/sh\n'''exec' .*/\.local/bin/python[0-9.]*\"? \"\$0\" \"\$@\"\n' '''\n"
)


def require_supported(
    files: Iterable[TemplateFile], runtime: Runtime, egress: Egress, tell: Callable[[str], None]
) -> None:
    """Raise a ConfigurationError with a line for each setting that the runtime does not support.

    ``tell`` is called with a line for each ``internet = true`` that has no effect.
    """
    problems = []
    for file in files:
        if file.rootfs_at is not None and not runtime.takes_rootfs:
            problems.append(
                f"{file.rootfs_at}: 'rootfs' is not supported by the runtime '{runtime.name}': its sandboxes have the "
                f"system folders of this machine"
            )
        problems += [
            f"{file.path}: no file can be put at '{target}', a place that sandboxes need for themselves; choose another"
            for target in file.files
            if runtime.reserves(str(target), file.template.rootfs_folder)
        ]
        if file.internet_at is None:
            continue
        if not file.template.internet and not runtime.own_network:
            problems.append(
                f"{file.internet_at}: 'internet = false' is not supported by the runtime '{runtime.name}': its "
                f"sandboxes have the network of this machine"
            )
        elif file.template.internet and runtime.own_network and egress.carrier is None:
            tell(f"{file.internet_at}: 'internet = true' has no effect; {egress.summary}")
    if problems:
        raise ConfigurationError("\n  ".join(["templates cannot be used:", *problems]))


class Builder:
    """The builder of prepared file trees below ``folder``. ``tell`` is called with each message for the user."""

    def __init__(self, folder: Path, runtime: Runtime, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._runtime = runtime
        self._tell = tell

    async def build(self, files: Iterable[TemplateFile]) -> dict[str, Path]:
        """Prepare the trees that templates need, and return the trees by template name. Remove all other trees.

        If a tree cannot be prepared, a ConfigurationError names the template file and the reason.
        """
        built = {}
        for file in files:
            if file.template.rootfs is not None:
                await self._check_rootfs(file, Path(file.template.rootfs))
            if file.files or file.requirements or file.template.rootfs is not None:
                built[file.template.name] = (await self._build(file)) / "rootfs"
        for folder in self._folder.iterdir():
            if all(tree.parent != folder for tree in built.values()):
                await asyncio.to_thread(self._runtime.remove, folder)
        return built

    async def _build(self, file: TemplateFile) -> Path:
        folder = self._folder / f"{file.template.name}-{_digest(file)}"
        if folder.is_dir():
            return folder
        draft = Layout(self._folder / f"{folder.name}.new")
        await asyncio.to_thread(self._runtime.remove, draft.root)
        try:
            draft.make_outer()
            self._runtime.prepare(draft)
            for target, source in file.files.items():
                _put(source, draft.rootfs / target.relative_to("/"))
            if file.requirements:
                self._tell(f"template {file.template.name}: installing {', '.join(file.requirements)} ...")
                await asyncio.to_thread(_install, file, draft.home)
            if file.template.rootfs is not None:
                await self._add_rootfs(file, draft, Path(file.template.rootfs))
            draft.root.rename(folder)
        except OSError as error:
            raise ConfigurationError(f"{file.path}: the template cannot be prepared: {error}") from error
        return folder

    async def _check_rootfs(self, file: TemplateFile, rootfs: Path) -> None:
        try:
            await asyncio.to_thread(self._runtime.try_rootfs, rootfs)
        except OSError as error:
            raise ConfigurationError(
                f"{file.rootfs_at}: the root file system {rootfs} cannot be used: {error}"
            ) from error

    async def _add_rootfs(self, file: TemplateFile, draft: Layout, rootfs: Path) -> None:
        self._tell(f"template {file.template.name}: copying what sandboxes may change of {rootfs} ...")
        left_out = await asyncio.to_thread(self._runtime.add_rootfs, draft, rootfs)
        if left_out:
            self._tell(
                f"template {file.template.name}: left out, because this user may not read it: {left_out[0]}"
                + (f", and {len(left_out) - 1} more" if len(left_out) > 1 else "")
            )


def _put(source: Path, target: Path) -> None:
    make_folder(target.parent)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def _install(file: TemplateFile, home: Path) -> None:
    # With -P, Python does not import from the current folder, which is that of the templates.
    command = [str(home / ".local/bin/python"), "-P", "-m", "pip", "install", *_PIP_OPTIONS, "--", *file.requirements]
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(
        command,
        cwd=file.path.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        umask=0o022,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[-_LAST_OUTPUT:]
        raise ConfigurationError(f"{file.path}: the requirements cannot be installed; pip says:\n{said}")
    for script in (home / ".local/bin").iterdir():
        _find_python_beside(script)


def _find_python_beside(script: Path) -> None:
    """Replace the interpreter that a script's first lines name, on the host, by the one in the script's own folder."""
    if script.is_symlink() or not script.is_file():
        return
    text = script.read_bytes()
    changed = _OUR_PYTHON.sub(lambda _: BESIDE.encode(), text, count=1) if text.startswith(b"#!") else text
    if changed != text:
        script.write_bytes(changed)


def _digest(file: TemplateFile) -> str:
    """Return a digest of what the tree depends on: files, requirements, root file system, this release, and Python."""
    digest = hashlib.sha256(repr((__version__, sys.version, sys.executable, file.requirements)).encode())
    for target, source in sorted(file.files.items()):
        for path in _all_of(source):
            digest.update(repr((target, path.relative_to(source), path.lstat().st_mode)).encode())
            digest.update(os.fsencode(path.readlink()) if path.is_symlink() and path != source else _contents(path))
    if file.template.rootfs is not None:
        for path in copied(Path(file.template.rootfs)):
            facts = path.lstat()
            digest.update(repr((str(path), facts.st_mode, facts.st_size, facts.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _all_of(source: Path) -> Iterator[Path]:
    yield source
    if source.is_dir():
        yield from sorted(source.rglob("*"))


def _contents(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
