"""The service that finds, creates and kills a manager's sandboxes, and ends or keeps them when the manager ends."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..metrics import Metrics
from ..runtime import Egress, Layout, Mount, Runtime, Watchdog
from ..state.database import Database, no_space
from ..state.reserve import NoSpaceError
from ..state.secret import StateSecret
from ..templates.model import Template
from ..traffic_tokens import TrafficTokens
from .control_client import StartError
from .lifecycle import RefusedError, State
from .operations import FirstFiles, Operations
from .pool import PooledSandbox, Pools
from .process import SandboxProcess
from .records import Records
from .sandbox import NewSandbox, Sandbox, VolumeMount, new_sandbox_id, now

_LEAST_FREE_BYTES = 1024 * 1024
"""The free disk space that a create requires. A new sandbox usually takes less than a quarter of this space."""

logger = logging.getLogger(__name__)


class ManagerEndingError(StartError):
    """No sandbox was created, because the manager is ending."""


class SandboxService:
    """The sandboxes of one manager; their folders go into ``folder``."""

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        store: Database,
        secret: StateSecret,
        traffic_tokens: TrafficTokens,
        egress: Egress,
        volumes: Path,
        metrics: Metrics,
        process_type: Callable[..., SandboxProcess] = SandboxProcess,  # replaced by tests
        first_files: FirstFiles = lambda sandbox: None,
    ) -> None:
        self.traffic_tokens = traffic_tokens
        self.runtime = runtime
        self.folder = folder
        self.store = store
        self.secret = secret
        self._egress = egress
        self._limit_watch = Watchdog(
            runtime.disk_usage, memory=not runtime.enforcer.holds_memory, disk_held=runtime.disk.holds
        )
        self._volumes = volumes
        self._process_type = process_type
        self._metrics = metrics
        self._known: dict[str, Sandbox] = {}
        self._records = Records(store, runtime.name)
        self._closing = False
        self.operations = Operations(runtime, self._records, self._metrics, self._forget, first_files)
        self.trees_in_use = TreesInUse()
        self.pools = Pools(self.new_process)

    @property
    def reach_the_internet(self) -> bool:
        return self._egress.carrier is not None and self.runtime.own_network

    def find(self, sandbox_id: str) -> Sandbox | None:
        """Return the sandbox with that ID if it has started and its end has not begun, else None."""
        sandbox = self._known.get(sandbox_id)
        return None if sandbox is None or sandbox.state is State.STARTING or sandbox.state.ending else sandbox

    def running(self, sandbox_id: str) -> Sandbox | None:
        sandbox = self._known.get(sandbox_id)
        return sandbox if sandbox is not None and sandbox.state is State.RUNNING else None

    def visible(self) -> list[Sandbox]:
        """Return every sandbox that :meth:`find` finds, of all owners."""
        return [sandbox for sandbox in self._known.values() if self.find(sandbox.id) is not None]

    def all(self, owner: str) -> list[Sandbox]:
        return [sandbox for sandbox in self.visible() if sandbox.owner == owner]

    def states(self) -> Iterator[State]:
        return (sandbox.state for sandbox in self._known.values())

    def mounted_volumes(self) -> set[str]:
        return {mount.volume_id for sandbox in self._known.values() for mount in sandbox.volume_mounts}

    def owners(self) -> set[str]:
        return {sandbox.owner for sandbox in self._known.values()}

    def transfer(self, owner: str, new_owner: str) -> None:
        for sandbox in self._known.values():
            if sandbox.owner == owner:
                sandbox.owner = new_owner
                if not sandbox.state.ending:
                    self._records.note(sandbox)

    async def create(self, new: NewSandbox, on_id_assigned: Callable[[str], None] = lambda sandbox_id: None) -> Sandbox:
        """Create a sandbox, and return it when its program answers. After an error the sandbox is ended and removed.

        ``on_id_assigned`` is called with the ID when the sandbox's row is stored, before the sandbox runs. If a pooled
        sandbox cannot be claimed, another sandbox takes its place, and ``on_id_assigned`` is called with the new ID.

        Raises:
            QuotaExceededError: The sandbox would exceed the owner's quota.
            ManagerEndingError: The manager is ending.
            StartError: The sandbox could not be started.
            NoSpaceError: The disk is full.
            OSError: The files could not be made, or the network rules could not be set.
        """
        while True:
            # Nothing waits between this check and the entry in `_known`: two creates cannot take the last place.
            self._require_room(new)
            # A pooled sandbox has no volumes: they are mounted when its program is launched.
            pooled = self.pools.take(new.template, new.files) if not new.volume_mounts else None
            sandbox = self._assemble(new, pooled)
            self._known[sandbox.id] = sandbox
            if await self._start(sandbox, new, pooled, on_id_assigned):
                return sandbox

    async def kill(self, sandbox_id: str) -> bool:
        """End a sandbox, and cancel all operations on it. Return False if :meth:`find` does not find the sandbox."""
        sandbox = self.find(sandbox_id)
        if sandbox is None:
            return False
        await asyncio.shield(self.operations.end(sandbox, "kill"))
        return True

    def adopt(self, sandbox: Sandbox) -> None:
        self._known[sandbox.id] = sandbox
        self.operations.adopt(sandbox)

    async def close(self, *, keep: bool = False) -> None:
        """Refuse further create calls, and end all sandboxes. With ``keep``, end only starting and pooled sandboxes."""
        self._closing = True
        await self.pools.close()
        present = [sandbox for sandbox in self._known.values() if not sandbox.state.ending]
        ends = [self.operations.end(sandbox) for sandbox in present if not keep or sandbox.state is State.STARTING]
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if failure is not None:
                logger.error("a sandbox did not end well", exc_info=failure)
        await self.operations.close()
        for sandbox in self._known.values():
            sandbox.process.release()

    def new_process(
        self, sandbox_id: str, template: Template, volume_mounts: Sequence[VolumeMount] = ()
    ) -> SandboxProcess:
        mounts = tuple(Mount(self._volumes / mount.volume_id, mount.path) for mount in volume_mounts)
        return self._process_type(
            Layout.of(self.folder, sandbox_id, mounts, template.rootfs_folder),
            self.runtime,
            code_interpreter=template.code_interpreter,
            limits=template.limits,
            watch=self._limit_watch,
            egress=self._egress,
        )

    def _require_room(self, new: NewSandbox) -> None:
        if self._closing:
            raise ManagerEndingError("the manager is ending; nothing was made")
        uses = [use for sandbox in self._known.values() if sandbox.owner == new.owner and (use := sandbox.use)]
        new.quota.require(new.template.use(), uses)
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
            raise NoSpaceError(no_space(self.folder))

    def _assemble(self, new: NewSandbox, pooled: PooledSandbox | None) -> Sandbox:
        sandbox_id = pooled.id if pooled else new_sandbox_id()
        created_at = now()
        return Sandbox(
            id=sandbox_id,
            owner=new.owner,
            template=new.template,
            process=pooled.process if pooled else self.new_process(sandbox_id, new.template, new.volume_mounts),
            metadata=new.metadata,
            access_token=self.secret.access_token(sandbox_id) if new.secure else None,
            started_at=created_at,
            end_at=created_at,
            lifetime=new.lifetime,
            rules=new.template.within(new.rules),
            traffic_token=None if new.public else self.secret.traffic_token(sandbox_id),
            volume_mounts=new.volume_mounts,
        )

    async def _start(
        self,
        sandbox: Sandbox,
        new: NewSandbox,
        pooled: PooledSandbox | None,
        on_id_assigned: Callable[[str], None],
    ) -> bool:
        """Start a new sandbox. Return False if a pooled sandbox failed, so that the caller can take another sandbox."""
        begun = time.monotonic()
        try:
            # Stored before the start, so that the next manager can clean up if this manager ends now.
            self._records.save(sandbox)
            if pooled is not None:
                pooled.claimed()
            on_id_assigned(sandbox.id)
            with self.trees_in_use.reading(new.files):
                await self.operations.start(sandbox, new.variables, new.files)
        except BaseException as error:
            # Nothing of a sandbox that did not start may stay.
            end = None if sandbox.state.ending else self.operations.end(sandbox)
            if pooled is not None and isinstance(error, StartError) and end is not None:
                logger.warning("a warm sandbox is ended, and another taken: %s", error)
                pooled.pool.failures += 1
                return False
            self._metrics.failed_creates += 1
            if end is not None:
                await asyncio.shield(end)
            if isinstance(error, RefusedError):
                raise ManagerEndingError("the manager is ending; nothing was made") from error
            raise
        if pooled is not None:
            pooled.pool.warm_claims += 1
        self._metrics.create_seconds["warm" if pooled else "cold"].add(time.monotonic() - begun)
        logger.info("sandbox %s runs (template %s)", sandbox.id, sandbox.template.name)
        return True

    def _forget(self, sandbox: Sandbox) -> None:
        self._known.pop(sandbox.id, None)


class TreesInUse:
    """The file trees that are being copied for create calls. While a tree is being copied, it must not be removed."""

    def __init__(self) -> None:
        self._readers = Counter[Path]()
        self._released = asyncio.Event()

    def __contains__(self, tree: Path) -> bool:
        return self._readers[tree] > 0

    @contextmanager
    def reading(self, tree: Path | None) -> Iterator[None]:
        if tree is None:
            yield
            return
        self._readers[tree] += 1
        try:
            yield
        finally:
            self._readers[tree] -= 1
            if not self._readers[tree]:
                del self._readers[tree]
                self._released.set()
                self._released = asyncio.Event()

    async def wait_until_unused(self, tree: Path) -> None:
        while tree in self:
            await self._released.wait()
