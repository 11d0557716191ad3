"""Snapshots and forks: the files of a sandbox at one moment, and others made from them.

A snapshot is a folder with a row. The row is written when the folder is whole, so that a folder without one is what is
left of a copy that was not finished. Sandboxes get copies of a snapshot, and do not need it any more.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import ConfigurationError
from ..accounts.quota import UNLIMITED, Quota
from ..state.database import NoSpaceError, SnapshotRow
from ..templates.model import Template
from .sandbox import INTERNAL_VARIABLES, Sandbox, now
from .service import SandboxService

DEFAULT_TAG = "default"
_REFERENCE = re.compile(r"([a-z0-9_-]{1,128})(?::([a-z0-9_.-]{1,128}))?")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """``name`` or ``name:tag``, in lower case."""

    name: str
    tag: str | None

    @classmethod
    def read(cls, text: str) -> Reference:
        """Raises ValueError: it is neither."""
        match = _REFERENCE.fullmatch(text.lower())
        if match is None:
            raise ValueError("a name is made of a-z, 0-9, '-' and '_', with ':' and a tag after it if one is wanted")
        return cls(match[1], match[2])


class Snapshots:
    """The snapshots of one manager.

    Parameters:
        folder: where their folders go; it exists.
        sandboxes: those that they are made of, and that are made of them.
    """

    def __init__(self, folder: Path, sandboxes: SandboxService) -> None:
        self._folder = folder
        self._sandboxes = sandboxes
        self._store = sandboxes.store
        self._runtime = sandboxes.runtime
        self._later: set[asyncio.Task[None]] = set()

    def all(self, owner: str) -> list[SnapshotRow]:
        """Those of one owner, newest first."""
        moment = now().timestamp()
        rows = [row for row in self._store.snapshots() if row.owner == owner and not row.is_over(moment)]
        return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)

    def find(self, reference: str, owner: str) -> SnapshotRow | None:
        """The snapshot with that id, name, or ``name:tag``."""
        try:
            wanted = Reference.read(reference)
        except ValueError:
            return None
        names = {reference, f"{wanted.name}:{wanted.tag or DEFAULT_TAG}"}
        return next((row for row in self.all(owner) if row.id in names), None)

    def called(self, reference: str, owner: str) -> list[SnapshotRow]:
        """Those with that name, whatever their tag, or the one with that id or ``name:tag``; newest first."""
        named = [row for row in self.all(owner) if row.name == reference.lower()]
        one = self.find(reference, owner)
        return named or ([one] if one else [])

    def template(self, snapshot: SnapshotRow) -> tuple[Template, Path]:
        """The template that a snapshot is, and the files that belong to it."""
        return replace(Template.from_json(snapshot.template), name=snapshot.id), self._folder / snapshot.folder

    async def take(
        self, sandbox: Sandbox, owner: str, reference: Reference | None = None, seconds: float | None = None
    ) -> SnapshotRow:
        """Copy the files of a running sandbox, which stands still for that long and then goes on.

        Parameters:
            reference: what to call it, in place of one that is called so; None: only by its id.
            seconds: how long it is kept; None: for ever.

        Raises:
            RefusedError: the sandbox does not run.
            NoSpaceError: the disk is full. Nothing is left behind.
            OSError: the files could not be copied. Nothing is left behind.
        """
        await self._remove_old(owner)
        async with self._draft() as draft:
            await self._sandboxes.copy_files(sandbox, draft)
            moment = now().timestamp()
            row = SnapshotRow(
                owner=owner,
                id=f"{reference.name}:{reference.tag or DEFAULT_TAG}" if reference else draft.name,
                folder=draft.name,
                name=reference.name if reference else None,
                template=sandbox.template.to_json(),
                sandbox=sandbox.id,
                created_at=moment,
                expires_at=None if seconds is None else moment + seconds,
            )
            replaced = self._store.save_snapshot(row)
        if replaced is not None:
            await self._discard(self._folder / replaced.folder)
        logger.info("snapshot %s of sandbox %s", row.id, sandbox.id)
        return row

    async def remove(self, snapshot: SnapshotRow) -> None:
        """Forget a snapshot and remove its files; creates that are copying them get all of them first.

        Raises:
            NoSpaceError: the disk is full, and is so without these files too. The next start forgets it.
        """
        folder = self._folder / snapshot.folder
        try:
            self._store.remove_snapshot(snapshot)
        except NoSpaceError:
            # What is lacking may be the room that it takes. Its row leads to no half of it, whenever the manager ends.
            await self._discard(self._set_aside(folder))
            self._store.remove_snapshot(snapshot)
        else:
            await self._discard(folder)

    def _set_aside(self, folder: Path) -> Path:
        aside = self._new_folder()
        with suppress(FileNotFoundError):  # it was, by a removal before this one
            folder.rename(aside)
        return aside

    async def _discard(self, folder: Path) -> None:
        """Remove a folder to which no row leads: now, or when the last create that copies it is done."""
        if not self._sandboxes.readers.of(folder):
            await self._remove(folder)
            return
        task = asyncio.create_task(self._remove_unread(folder))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _remove_unread(self, folder: Path) -> None:
        await self._sandboxes.readers.gone(folder)
        await self._remove(folder)

    async def fork(
        self, sandbox: Sandbox, count: int, seconds: float, quota: Quota = UNLIMITED
    ) -> list[Sandbox | BaseException]:
        """Make others with the files, variables, metadata and network rules of a running sandbox, which goes on.

        Parameters:
            count: how many.
            seconds: how long they live.
            quota: what their owner may have.

        Returns:
            Each of them, or why it could not be made.

        Raises:
            RefusedError, NoSpaceError, OSError: as :meth:`take`.
        """
        variables = await self._sandboxes.variables(sandbox)
        for name in INTERNAL_VARIABLES:
            variables.pop(name, None)
        async with self._draft() as draft:
            await self._sandboxes.copy_files(sandbox, draft)
            creates = [
                self._sandboxes.create(
                    sandbox.template,
                    lifetime=replace(sandbox.lifetime, seconds=seconds, never_ends=False),
                    secure=sandbox.access_token is not None,
                    metadata=sandbox.metadata,
                    variables=variables,
                    owner=sandbox.owner,
                    quota=quota,
                    files=draft,
                    volume_mounts=sandbox.volume_mounts,
                    rules=sandbox.rules,
                    public=sandbox.traffic_token is None,
                )
                for _ in range(count)
            ]
            return await asyncio.gather(*creates, return_exceptions=True)

    def owners(self) -> set[str]:
        """Who has one."""
        return {row.owner for row in self._store.snapshots()}

    def hand_over(self, owner: str, heir: str) -> None:
        """Give all of one owner's to another, who may have some of the same name: of those the new ones lose theirs.

        Raises:
            NoSpaceError: the disk is full; some are not given away.
        """
        taken = {row.id for row in self._store.snapshots() if row.owner == heir}
        for row in [row for row in self._store.snapshots() if row.owner == owner]:
            named = row.id not in taken
            given = replace(row, owner=heir) if named else replace(row, owner=heir, id=row.folder, name=None)
            self._store.save_snapshot(given)
            self._store.remove_snapshot(row)

    async def recover(self) -> None:
        """At the start of a manager: remove copies that were not finished, and forget what is not there.

        Raises:
            ConfigurationError: a folder cannot be removed.
        """
        rows = self._store.snapshots()
        for row in rows:
            if row.is_over(now().timestamp()) or not (self._folder / row.folder).is_dir():
                self._store.remove_snapshot(row)
        kept = {row.folder for row in self._store.snapshots()}
        for folder in self._folder.iterdir():
            if folder.name not in kept and not await self._remove(folder):
                raise ConfigurationError(f"{folder}, left over from another run, cannot be removed; remove it")

    @asynccontextmanager
    async def _draft(self) -> AsyncIterator[Path]:
        """The name of a folder for a copy. Unless a row was written for it, it is removed at the end of the block."""
        folder = self._new_folder()
        try:
            yield folder
        finally:
            if all(row.folder != folder.name for row in self._store.snapshots()):
                await asyncio.shield(self._remove(folder))

    def _new_folder(self) -> Path:
        return self._folder / ("s" + secrets.token_hex(10))

    async def _remove_old(self, owner: str) -> None:
        for row in self._store.snapshots():
            if row.owner == owner and row.is_over(now().timestamp()):
                await self.remove(row)

    async def _remove(self, folder: Path) -> bool:
        return await asyncio.to_thread(self._runtime.remove, folder)
