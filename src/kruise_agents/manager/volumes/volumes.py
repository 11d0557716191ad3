"""The volumes of one manager: made, found by name, destroyed."""

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

from ...errors import ConfigurationError, KruiseAgentsError
from ..runtime import Runtime
from ..runtime.limits.limits import MIB
from ..state.database import Database, NoSpaceError, space_for
from ..state.secret import StateSecret
from ..state.tables import VolumeRow
from .tree import VolumeTree

_STAGING = ".staging"

logger = logging.getLogger(__name__)


class NameTakenError(KruiseAgentsError):
    """The owner has a volume of that name."""


class VolumeUsedError(KruiseAgentsError):
    """Sandboxes have it mounted."""


class VolumeFullError(KruiseAgentsError):
    """It has no room for what is to be put into it."""


class Volumes:
    """Every volume, each a folder and a row.

    Parameters:
        folder: where their folders go; it exists.
        store: where they are written down.
        secret: what the tokens for their contents are derived from.
        runtime: what mounts them.
        used: gives the ids of volumes that sandboxes have mounted.
        limit: bytes for which each has room. What sandboxes write into one is held to it by their watch.
    """

    def __init__(
        self,
        folder: Path,
        store: Database,
        secret: StateSecret,
        runtime: Runtime,
        used: Callable[[], Iterable[str]],
        limit: int,
    ) -> None:
        self._folder = folder
        self._staging = folder / _STAGING
        self._store = store
        self._secret = secret
        self._runtime = runtime
        self._used = used
        self._limit = limit
        self._uploading: Counter[str] = Counter()
        self._placing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def all(self, owner: str) -> list[VolumeRow]:
        """Those of one owner, oldest first."""
        return sorted(self._store.select(VolumeRow, owner=owner), key=lambda row: row.created_at)

    def find(self, owner: str, *, name: str | None = None, volume_id: str | None = None) -> VolumeRow | None:
        """The volume of that name, or id."""
        return next((row for row in self.all(owner) if name == row.name or volume_id == row.id), None)

    def token(self, volume: VolumeRow) -> str:
        """What opens the contents of a volume, as long as it has the same owner."""
        return self._secret.volume_token(volume.id, volume.owner)

    def opened_by(self, volume_id: str, token: str) -> VolumeRow | None:
        """The volume of that id, if ``token`` opens it."""
        row = next(iter(self._store.select(VolumeRow, id=volume_id)), None)
        # Compared also for one that is not there, so that the time tells nothing.
        expected = self.token(row) if row is not None else self._secret.volume_token(volume_id, "")
        same = hmac.compare_digest(expected.encode(), token.encode())
        return row if same else None

    def tree(self, volume: VolumeRow) -> VolumeTree:
        """The files of a volume; only where :attr:`.Runtime.file_owners` is known."""
        owners = self._runtime.file_owners
        assert owners is not None
        return VolumeTree(self._folder / volume.id, self._staging, owners)

    @contextmanager
    def upload(self, volume: VolumeRow) -> Iterator[Callable[[int], None]]:
        """Account for a file on its way; gives what is to be told how many bytes come, before they are written.

        What it is told raises :class:`VolumeFullError` when all uploads together could never fit.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            self._require(volume, 0, self._uploading[volume.id] + size)
            taken += size
            self._uploading[volume.id] += size

        try:
            yield take
        finally:
            self._uploading[volume.id] -= taken

    @asynccontextmanager
    async def room(self, volume: VolumeRow, size: int) -> AsyncIterator[None]:
        """Something of that many bytes may be put into a volume inside the block, by nobody else meanwhile.

        Raises:
            VolumeFullError: it may not.
        """
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
        """Make an empty volume that belongs to the default user of sandboxes.

        Raises:
            NameTakenError: there is one of that name.
            NoSpaceError, OSError: it could not be made.
        """
        if self.find(owner, name=name) is not None:
            raise NameTakenError(f"Volume with name '{name}' already exists")
        row = VolumeRow("v" + secrets.token_hex(10), owner, name, time.time())
        folder = self._folder / row.id
        with space_for(folder):
            self._store.save(row)
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
        await asyncio.to_thread(self._runtime.give_to_user, folder)
        return row

    async def remove(self, volume: VolumeRow) -> None:
        """Destroy a volume and all that is in it.

        Raises:
            VolumeUsedError: sandboxes have it mounted.
            NoSpaceError: the disk is full, and is so without its files too; it is empty then.
        """
        if volume.id in self._used():
            raise VolumeUsedError(f"volume '{volume.name}' is mounted in sandboxes; end them first")
        folder = self._folder / volume.id
        try:
            self._store.delete(VolumeRow, id=volume.id)
        except NoSpaceError:
            # What is lacking may be the room that it takes. Set aside first: there is no half of a volume.
            aside = self._staging / secrets.token_hex(10)
            folder.rename(aside)
            await asyncio.to_thread(self._runtime.remove, aside)
            folder.mkdir(mode=0o755)
            await asyncio.to_thread(self._runtime.give_to_user, folder)
            self._store.delete(VolumeRow, id=volume.id)
        self._placing.pop(volume.id, None)
        await asyncio.to_thread(self._runtime.remove, folder)

    def owners(self) -> set[str]:
        """Who has one."""
        return {row.owner for row in self._store.select(VolumeRow)}

    def transfer(self, owner: str, new_owner: str) -> None:
        """Give all of one owner's to another; those whose name the heir uses get a longer one.

        Raises:
            NoSpaceError: the disk is full; some are not given away.
        """
        for row in self.all(owner):
            taken = self.find(new_owner, name=row.name) is not None
            name = f"{row.name}-{row.id[-6:]}" if taken else row.name
            self._store.save(replace(row, owner=new_owner, name=name))

    def recover(self) -> None:
        """At the start of a manager: remove folders without a row, and make those again that were not made yet.

        Raises:
            ConfigurationError: a folder cannot be removed.
        """
        self._staging.mkdir(mode=0o700, exist_ok=True)
        known = {row.id for row in self._store.select(VolumeRow)}
        for folder in (*self._folder.iterdir(), *self._staging.iterdir()):
            if folder.name not in known and folder != self._staging and not self._runtime.remove(folder):
                raise ConfigurationError(f"{folder}, left over from another run, cannot be removed; remove it")
        for volume_id in known:
            folder = self._folder / volume_id
            if not folder.is_dir():
                folder.mkdir(mode=0o755)
                self._runtime.give_to_user(folder)
