"""Preparing the file tree that a template's sandboxes begin with a copy of: its files, and what pip installs.

Made once and kept below the state folder, under a name that changes with everything that goes into it.
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
from ..runtime import Layout, Runtime
from ..runtime.rootfs.custom import copied
from .reading import TemplateFile

_LAST_OUTPUT = 2000
_PIP_OPTIONS = (
    # Built distributions alone: to build one would run its code here, outside of any sandbox.
    "--only-binary=:all:",
    "--no-input",
    "--disable-pip-version-check",
    "--no-warn-script-location",
    "--progress-bar=off",
    "--root-user-action=ignore",
)
_OUR_PYTHON = re.compile(
    rb"#!\S*/\.local/bin/python[0-9.]*\n"
    # What installers write where the path is too long for the kernel, or has a space.
    rb"|#!/bin/sh\n'''exec' .*/\.local/bin/python[0-9.]*\"? \"\$0\" \"\$@\"\n' '''\n"
)


class Builder:
    """Prepares file trees below ``folder``, which exists.

    Parameters:
        tell: is told in a line what takes long.
    """

    def __init__(self, folder: Path, runtime: Runtime, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._runtime = runtime
        self._tell = tell

    async def build(self, files: Iterable[TemplateFile]) -> dict[str, Path]:
        """The prepared tree of each template that needs one, by the template's name. Others are removed.

        Raises:
            ConfigurationError: one cannot be prepared; the message has the file and the reason.
        """
        built = {}
        for one in files:
            if one.template.rootfs is not None:
                await self._try(one, Path(one.template.rootfs))
            if one.files or one.requirements or one.template.rootfs is not None:
                built[one.template.name] = (await self._build(one)) / "rootfs"
        for folder in self._folder.iterdir():
            if all(tree.parent != folder for tree in built.values()):
                await asyncio.to_thread(self._runtime.remove, folder)
        return built

    async def _build(self, one: TemplateFile) -> Path:
        folder = self._folder / f"{one.template.name}-{_digest(one)}"
        if folder.is_dir():
            return folder
        draft = Layout(self._folder / f"{folder.name}.new")
        await asyncio.to_thread(self._runtime.remove, draft.root)
        try:
            self._runtime.prepare(draft)
            for target, source in one.files.items():
                _put(source, draft.rootfs / target.relative_to("/"))
            if one.requirements:
                self._tell(f"template {one.template.name}: installing {', '.join(one.requirements)} ...")
                await asyncio.to_thread(_install, one, draft.home)
            if one.template.rootfs is not None:
                await self._settle(one, draft, Path(one.template.rootfs))
            draft.root.rename(folder)
        except OSError as error:
            raise ConfigurationError(f"{one.path}: the template cannot be prepared: {error}") from error
        return folder

    async def _try(self, one: TemplateFile, rootfs: Path) -> None:
        try:
            await asyncio.to_thread(self._runtime.try_rootfs, rootfs)
        except OSError as error:
            raise ConfigurationError(
                f"{one.rootfs_at}: the root file system {rootfs} cannot be used: {error}"
            ) from error

    async def _settle(self, one: TemplateFile, draft: Layout, rootfs: Path) -> None:
        self._tell(f"template {one.template.name}: copying what sandboxes may change of {rootfs} ...")
        left_out = await asyncio.to_thread(self._runtime.add_rootfs, draft, rootfs)
        if left_out:
            self._tell(
                f"template {one.template.name}: left out, because this user may not read it: {left_out[0]}"
                + (f", and {len(left_out) - 1} more" if len(left_out) > 1 else "")
            )


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def _install(one: TemplateFile, home: Path) -> None:
    command = [str(home / ".local/bin/python"), "-m", "pip", "install", *_PIP_OPTIONS, "--", *one.requirements]
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(
        command, cwd=one.path.parent, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[-_LAST_OUTPUT:]
        raise ConfigurationError(f"{one.path}: the requirements cannot be installed; pip says:\n{said}")
    for script in (home / ".local/bin").iterdir():
        _let_find_python(script)


def _let_find_python(script: Path) -> None:
    """Scripts of packages name the interpreter by its path here; in a sandbox it is the first on ``PATH``."""
    if script.is_symlink() or not script.is_file():
        return
    text = script.read_bytes()
    changed = _OUR_PYTHON.sub(b"#!/usr/bin/env python\n", text, count=1) if text.startswith(b"#!") else text
    if changed != text:
        script.write_bytes(changed)


def _digest(one: TemplateFile) -> str:
    """Changes with everything that goes into the tree."""
    digest = hashlib.sha256(repr((__version__, sys.version, sys.executable, one.requirements)).encode())
    for target, source in sorted(one.files.items()):
        for path in _all_of(source):
            digest.update(repr((target, path.relative_to(source), path.lstat().st_mode)).encode())
            digest.update(os.fsencode(path.readlink()) if path.is_symlink() and path != source else _contents(path))
    if one.template.rootfs is not None:
        for path in copied(Path(one.template.rootfs)):
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
