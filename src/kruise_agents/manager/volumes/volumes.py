"""The volumes of one manager: created, found by name or ID, filled, removed."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from ...errors import KruiseAgentsError
from ..runtime import Runtime
from ..runtime.files.trees import make_folder
from ..runtime.limits.limits import MIB
from ..state.database import Database, space_for
from ..state.folders import clean_up, entry, names_set_aside, put_back, set_aside
from ..state.reserve import NoSpaceError
from ..state.secret import StateSecret
from ..state.tables import VolumeRow
from .tree import VolumeTree

_STAGING = ".staging"

logger = logging.getLogger(__name__)


class NameTakenError(KruiseAgentsError):
    """The owner has a volume of that name already."""


class VolumeUsedError(KruiseAgentsError):
    """Sandboxes have the volume mounted."""


class VolumeFullError(KruiseAgentsError):
    """The volume has no room for the new file or folder."""


class Volumes:
    """The volumes of one manager, each a database row and a folder in ``folder``, which must exist.

    ``mounted`` returns the IDs of the volumes that sandboxes have mounted. ``limit`` is the size, in bytes, up to which
    the API fills a volume. A sandbox may fill a volume up to the sandbox's own disk limit.
    """

    def __init__(
        self,
        folder: Path,
        store: Database,
        secret: StateSecret,
        runtime: Runtime,
        mounted: Callable[[], Iterable[str]],
        limit: int,
    ) -> None:
        self._folder = folder
        self._staging = folder / _STAGING
        self._store = store
        self._secret = secret
        self._runtime = runtime
        self._mounted = mounted
        self._limit = limit
        self._uploading: Counter[str] = Counter()
        self._placing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def all(self, owner: str) -> list[VolumeRow]:
        return sorted(self._store.select(VolumeRow, owner=owner), key=lambda row: row.created_at)

    def find(self, owner: str, *, name: str | None = None, volume_id: str | None = None) -> VolumeRow | None:
        return next((row for row in self.all(owner) if name == row.name or volume_id == row.id), None)

    def token(self, volume: VolumeRow) -> str:
        """Return the token for the contents of a volume. The token is valid as long as the volume keeps its owner."""
        return self._secret.volume_token(volume.id, volume.owner)

    def opened_by(self, volume_id: str, token: str) -> VolumeRow | None:
        """Return the volume with that ID if ``token`` is valid for the volume, else None."""
        row = next(iter(self._store.select(VolumeRow, id=volume_id)), None)
        # Tokens for an unknown ID are compared too, so that the time does not reveal which IDs exist.
        expected = self.token(row) if row is not None else self._secret.volume_token(volume_id, "")
        same = hmac.compare_digest(expected.encode(), token.encode())
        return row if same else None

    def tree(self, volume: VolumeRow) -> VolumeTree:
        """Return the files of a volume. :attr:`.Runtime.file_owners` must not be None."""
        owners = self._runtime.file_owners
        assert owners is not None
        return VolumeTree(self._folder / volume.id, self._staging, owners)

    @contextmanager
    def upload(self, volume: VolumeRow) -> Iterator[Callable[[int], None]]:
        """Yield a function to call with the size of each piece of an upload before the piece is written.

        The function raises :class:`VolumeFullError` if all running uploads to the volume together exceed ``limit``.
        """
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            self._require(volume, 0, self._uploading[volume.id] + size)
            reserved += size
            self._uploading[volume.id] += size

        try:
            yield reserve
        finally:
            self._uploading[volume.id] -= reserved

    @asynccontextmanager
    async def room(self, volume: VolumeRow, size: int) -> AsyncIterator[None]:
        """Hold the volume's lock during the ``with`` block. Raise VolumeFullError unless ``size`` more bytes fit."""
        async with self._placing[volume.id]:
            used = await asyncio.to_thread(self._runtime.disk_usage, self._folder / volume.id)
            self._require(volume, used, size)
            yield

    def _require(self, volume: VolumeRow, used: int, size: int) -> None:
        if used + size > self._limit:
            raise VolumeFullError(
                f"volume '{volume.name}' has room for {self._limit // MIB} MiB, of which {used // MIB} are taken; "
                f"{-(-size // MIB)} more do not fit"
            )

    async def make(self, name: str, owner: str) -> VolumeRow:
        """Create an empty volume, or raise NameTakenError. The default user of sandboxes may write to the volume."""
        if self.find(owner, name=name) is not None:
            raise NameTakenError(f"Volume with name '{name}' already exists")
        row = VolumeRow("v" + secrets.token_hex(10), owner, name, time.time())
        folder = self._folder / row.id
        with space_for(folder):
            make_folder(folder)  # before the row: the next start removes an empty folder without a row
            self._store.save(row)
        await asyncio.to_thread(self._runtime.give_to_user, folder)
        return row

    async def remove(self, volume: VolumeRow) -> None:
        """Remove a volume and its files. Raises :class:`VolumeUsedError` if a sandbox has the volume mounted.

        If the disk is full and the reserve is used up, the volume stays, and :class:`NoSpaceError` is raised.
        """
        if volume.id in self._mounted():
            raise VolumeUsedError(f"volume '{volume.name}' is mounted in sandboxes; end them first")
        folder = self._folder / volume.id
        # If the manager ends between these two steps, the next start finishes the removal.
        aside = set_aside(folder)
        try:
            self._store.delete(VolumeRow, id=volume.id)
        except NoSpaceError:
            put_back(folder)
            raise
        self._placing.pop(volume.id, None)
        await asyncio.to_thread(self._runtime.remove, aside)

    def owners(self) -> set[str]:
        return {row.owner for row in self._store.select(VolumeRow)}

    def transfer(self, owner: str, new_owner: str) -> None:
        """Give all volumes of one owner to another. A volume is renamed if the new owner has a volume of that name."""
        for row in self.all(owner):
            taken = self.find(new_owner, name=row.name) is not None
            name = f"{row.name}-{row.id[-6:]}" if taken else row.name
            self._store.save_from_reserve(replace(row, owner=new_owner, name=name))

    def recover(self) -> None:
        """Finish removals, remove unfinished uploads, and make missing folders, at a manager's start."""
        for volume_id in names_set_aside(self._folder):
            self._store.delete(VolumeRow, id=volume_id)
        known: dict[str, Path] = {}
        for row in self._store.select(VolumeRow):
            with self._store.decoding(f"volume {row.id}"):
                known[row.id] = entry(self._folder, row.id)
        clean_up(self._folder, known.keys(), self._runtime)
        self._staging.mkdir(mode=0o700)
        for volume_id, folder in known.items():
            if not folder.is_dir():
                logger.warning("the files of volume %s are gone: %s is missing; the volume is empty", volume_id, folder)
                make_folder(folder)
                self._runtime.give_to_user(folder)
