"""Snapshots and forks: copies of a sandbox's files, and new sandboxes that are created from such copies.

A snapshot is a folder with a database row. A copy gets the name of a snapshot when it is complete, and its row at once
after that. A sandbox that was created from a snapshot has a copy of the folder and does not need the snapshot any more.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...protocol.names import INTERNAL_VARIABLES
from ..accounts.quota import UNLIMITED, Quota
from ..state.database import space_for
from ..state.folders import clean_up, draft_of, entry, names_set_aside, put_back, set_aside
from ..state.reserve import NoSpaceError
from ..state.tables import SnapshotRow
from ..templates.model import Template, Templates
from .sandbox import NewSandbox, Sandbox, now
from .service import SandboxService

DEFAULT_TAG = "default"
_REFERENCE = re.compile(r"([a-z0-9_-]{1,128})(?::([a-z0-9_.-]{1,128}))?")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """The ``name`` or ``name:tag`` of a snapshot, in lower case."""

    name: str
    tag: str | None

    @classmethod
    def read(cls, text: str) -> Reference:
        """Parse ``name`` or ``name:tag``; raise :class:`ValueError` for any other text."""
        match = _REFERENCE.fullmatch(text.lower())
        if match is None:
            raise ValueError("a name is made of a-z, 0-9, '-' and '_', with ':' and a tag after it if one is wanted")
        return cls(match[1], match[2])


class Snapshots:
    """The snapshots of one manager. Their folders go into ``folder``, which must exist."""

    def __init__(self, folder: Path, sandboxes: SandboxService) -> None:
        self._folder = folder
        self._sandboxes = sandboxes
        self._store = sandboxes.store
        self._runtime = sandboxes.runtime
        self._removals: set[asyncio.Task[None]] = set()

    def all(self, owner: str) -> list[SnapshotRow]:
        """Return the snapshots of an owner that have not expired, newest first."""
        moment = now().timestamp()
        rows = [row for row in self._store.select(SnapshotRow, owner=owner) if not row.is_over(moment)]
        return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)

    def find(self, reference: str, owner: str) -> SnapshotRow | None:
        try:
            wanted = Reference.read(reference)
        except ValueError:
            return None
        names = {reference, f"{wanted.name}:{wanted.tag or DEFAULT_TAG}"}
        return next((row for row in self.all(owner) if row.id in names), None)

    def called(self, reference: str, owner: str) -> list[SnapshotRow]:
        """Return the snapshots named ``reference``, newest first. If there are none, try ``reference`` as an ID."""
        named = [row for row in self.all(owner) if row.name == reference.lower()]
        snapshot = self.find(reference, owner)
        return named or ([snapshot] if snapshot else [])

    def template(self, snapshot: SnapshotRow) -> tuple[Template, Path]:
        """Return the template of sandboxes that are made from a snapshot, and the file tree to copy for them."""
        return replace(Template.from_json(snapshot.template), name=snapshot.id), self._folder / snapshot.folder

    def source(self, reference: str, owner: str, templates: Templates) -> tuple[Template, Path | None] | None:
        """Return the template of new sandboxes, and the file tree to copy for them; None: there is no such name.

        ``reference`` names a template, or a snapshot of ``owner``.
        """
        prepared = templates.prepared(reference)
        if prepared is not None:
            return prepared.template, prepared.files
        snapshot = self.find(reference, owner)
        return None if snapshot is None else self.template(snapshot)

    async def take(
        self, sandbox: Sandbox, owner: str, reference: Reference | None = None, seconds: float | None = None
    ) -> SnapshotRow:
        """Make a snapshot of a running sandbox, which is frozen while its files are copied. A failed copy is removed.

        Without a ``reference`` the snapshot only has an ID; otherwise the snapshot replaces any snapshot of the owner
        with the same name and tag. The snapshot expires after ``seconds``; None: never.
        """
        await self._remove_expired(owner)
        folder = self._new_folder()
        async with self._draft(folder) as draft:
            await self._sandboxes.operations.copy_files(sandbox, draft)
            moment = now().timestamp()
            row = SnapshotRow(
                owner=owner,
                id=f"{reference.name}:{reference.tag or DEFAULT_TAG}" if reference else folder.name,
                folder=folder.name,
                name=reference.name if reference else None,
                template=sandbox.template.to_json(),
                sandbox=sandbox.id,
                created_at=moment,
                expires_at=None if seconds is None else moment + seconds,
            )
            replaced = self._store.select(SnapshotRow, owner=owner, id=row.id)
            with space_for(folder):
                draft.rename(folder)
                self._store.save(row)
        for old in replaced:
            await self._discard(self._folder / old.folder, self._set_aside(self._folder / old.folder))
        logger.info("snapshot %s of sandbox %s", row.id, sandbox.id)
        return row

    async def remove(self, snapshot: SnapshotRow) -> None:
        """Remove a snapshot. Its files stay as long as a create call is copying them.

        If the disk is full and the reserve is used up, the snapshot stays, and :class:`NoSpaceError` is raised.
        """
        folder = self._folder / snapshot.folder
        # If the manager ends between these two steps, the next start finishes the removal.
        aside = self._set_aside(folder)
        try:
            self._delete_row(snapshot)
        except NoSpaceError:
            put_back(folder)
            raise
        await self._discard(folder, aside)

    async def fork(
        self, sandbox: Sandbox, count: int, seconds: float, quota: Quota = UNLIMITED
    ) -> list[Sandbox | BaseException]:
        """Create ``count`` forks: sandboxes with the files, variables, metadata and settings of a running sandbox.

        The running sandbox is frozen during the copy. The end time of a fork is ``seconds`` after its start. Return,
        for each fork, the new sandbox or the exception that prevented the fork.
        """
        variables = await self._sandboxes.operations.read_variables(sandbox)
        for name in INTERNAL_VARIABLES:
            variables.pop(name, None)
        async with self._draft(self._new_folder()) as draft:
            await self._sandboxes.operations.copy_files(sandbox, draft)
            new = NewSandbox(
                template=sandbox.template,
                owner=sandbox.owner,
                lifetime=replace(sandbox.lifetime, seconds=seconds, never_ends=False),
                secure=sandbox.access_token is not None,
                metadata=sandbox.metadata,
                variables=variables,
                quota=quota,
                files=draft,
                volume_mounts=sandbox.volume_mounts,
                rules=sandbox.rules,
                public=sandbox.traffic_token is None,
            )
            creates = [self._sandboxes.create(new) for _ in range(count)]
            return await asyncio.gather(*creates, return_exceptions=True)

    def owners(self) -> set[str]:
        return {row.owner for row in self._store.select(SnapshotRow)}

    def transfer(self, owner: str, new_owner: str) -> None:
        """Give all snapshots of one owner to another.

        A snapshot loses its name and tag if the new owner already has a snapshot with this name and tag.
        """
        taken = {row.id for row in self._store.select(SnapshotRow, owner=new_owner)}
        for row in self._store.select(SnapshotRow, owner=owner):
            moved = replace(row, owner=new_owner)
            self._store.save_from_reserve(replace(moved, id=row.folder, name=None) if row.id in taken else moved)
            self._delete_row(row)

    async def recover(self) -> None:
        """Remove expired snapshots, finish removals, and remove unfinished copies, at the start of a manager."""
        removed = names_set_aside(self._folder)
        for row in self._store.select(SnapshotRow):
            with self._store.decoding(f"snapshot {row.id}"):
                folder = entry(self._folder, row.folder)
            if row.is_over(now().timestamp()):
                set_aside(folder)
            elif row.folder not in removed:
                if folder.is_dir():
                    continue
                logger.warning("snapshot %s is gone: its files in %s are missing", row.id, folder)
            self._delete_row(row)
        kept = {row.folder for row in self._store.select(SnapshotRow)}
        await asyncio.to_thread(clean_up, self._folder, kept, self._runtime)

    async def close(self) -> None:
        """Wait until the folders of removed snapshots are gone. All create calls must have ended before."""
        await asyncio.gather(*self._removals, return_exceptions=True)

    @asynccontextmanager
    async def _draft(self, folder: Path) -> AsyncIterator[Path]:
        """Yield a path to build ``folder`` at. After the block both paths are removed unless a row names ``folder``."""
        draft = draft_of(folder)
        try:
            yield draft
        finally:
            if not self._store.select(SnapshotRow, folder=folder.name):
                for path in (draft, folder):
                    await asyncio.shield(self._remove(path))

    def _new_folder(self) -> Path:
        return self._folder / ("s" + secrets.token_hex(10))

    def _delete_row(self, row: SnapshotRow) -> None:
        self._store.delete(SnapshotRow, owner=row.owner, id=row.id)

    def _set_aside(self, folder: Path) -> Path:
        return set_aside(folder, in_use=folder in self._sandboxes.trees_in_use)

    async def _discard(self, folder: Path, aside: Path) -> None:
        """Remove a folder that was set aside. If a create call is copying it, a task removes the folder later."""
        if folder not in self._sandboxes.trees_in_use:
            await self._remove(aside)
            return
        task = asyncio.create_task(self._remove_once_unused(folder, aside))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _remove_once_unused(self, folder: Path, aside: Path) -> None:
        await self._sandboxes.trees_in_use.wait_until_unused(folder)
        await self._remove(folder)
        await self._remove(aside)

    async def _remove_expired(self, owner: str) -> None:
        for row in self._store.select(SnapshotRow, owner=owner):
            if row.is_over(now().timestamp()):
                await self.remove(row)

    async def _remove(self, folder: Path) -> bool:
        return await asyncio.to_thread(self._runtime.remove, folder)
