"""The sandboxes of an earlier manager: taken over, or cleaned up.

- A sandbox is ended if its end had begun, or if its start was not finished, because no client knows it then.
- A sandbox whose processes still run is taken over, even if its program does not answer at the moment. A pause or
  resume that was not finished is undone.
- A sandbox whose processes are gone is removed if it was running, or in the middle of a pause with memory. Else the
  sandbox is kept as a paused sandbox with its files only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from ..runtime import Runtime
from ..runtime.files.layout import folder_name
from ..state.database import Database
from ..state.folders import clean_up
from ..state.tables import CreateRow, SandboxRow
from ..templates.model import Template
from .control_client import NoAnswerError, StartError
from .lifecycle import State
from .pool import POOLED
from .records import from_row, identity_of, mounts_of
from .sandbox import Sandbox, seconds_until
from .saved_variables import SavedVariables
from .service import SandboxService

logger = logging.getLogger(__name__)
_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """The counts of running and paused sandboxes that were taken over."""

    running: int = 0
    paused: int = 0


def require_runtime(store: Database, runtime: Runtime) -> None:
    """Raise :class:`ConfigurationError` if stored sandboxes belong to another runtime."""
    for row in store.select(SandboxRow):
        if row.runtime != runtime.name:
            raise ConfigurationError(
                f"the state folder holds sandboxes of the runtime {row.runtime!r}; start with --runtime {row.runtime}, "
                f"or choose another state folder with --state-dir"
            )


async def recover(sandboxes: SandboxService) -> Found:
    """Take over as many stored sandboxes as possible. Remove the other stored ones, and unclaimed pooled ones."""
    rows = sandboxes.store.select(SandboxRow)
    stored = [_stored(sandboxes, row) for row in rows]  # all of them, before anything is changed
    for row in rows:
        _rename_older_folder(sandboxes.folder, row.id)
    tasks = [asyncio.create_task(_recover(sandboxes, *each)) for each in zip(rows, stored, strict=True)]
    try:
        states = await asyncio.gather(*tasks)
    finally:
        await asyncio.gather(*tasks, return_exceptions=True)
    adopted = {row.id for row, state in zip(rows, states, strict=True) if state is not None}
    known = {folder_name(sandbox_id) for sandbox_id in adopted}
    pooled = {path.name.removeprefix(POOLED) for path in sandboxes.folder.iterdir() if path.name.startswith(POOLED)}
    # What is left of a paused sandbox without its files may still be of use, so it is moved to lost/ with the unknown.
    ended = {folder_name(row.id) for row in rows if row.state != State.PAUSED}
    await _remove_folders(sandboxes, (pooled | ended) - known)
    await asyncio.to_thread(clean_up, sandboxes.folder, known, sandboxes.runtime)
    for row in rows:
        if row.id not in adopted:
            if row.state == State.STARTING:  # so that the create call can be repeated
                sandboxes.store.delete(CreateRow, sandbox=row.id)
            sandboxes.store.delete(SandboxRow, id=row.id)
    return Found(states.count(State.RUNNING), states.count(State.PAUSED))


def _rename_older_folder(sandboxes: Path, sandbox_id: str) -> None:
    # Before November 2026 a folder had the name of its sandbox's ID. Sockets and mounts of a running sandbox stay.
    older, folder = sandboxes / sandbox_id, sandboxes / folder_name(sandbox_id)
    if older.is_dir() and not folder.exists():
        older.rename(folder)


def _stored(sandboxes: SandboxService, row: SandboxRow) -> Sandbox:
    with sandboxes.store.decoding(f"sandbox {row.id}"):
        process = sandboxes.new_process(row.id, Template.from_json(row.template), mounts_of(row))
        return from_row(row, process, sandboxes.secret)


async def _recover(sandboxes: SandboxService, row: SandboxRow, sandbox: Sandbox) -> State | None:
    """Take over the sandbox of a row, and return its state; None: the sandbox was gone or has been ended."""
    process = sandbox.process
    try:
        identity = identity_of(row)
        alive = identity is not None and process.find(identity)
        state = _recovered_state(sandbox, alive=alive)
        if state is State.PAUSED and not alive and not process.layout.rootfs.is_dir():
            state = None  # nothing is left to resume
        if state is State.RUNNING and not await _keep_running(sandbox):
            state = None
        if state is None:
            logger.warning("sandbox %s was %s and is gone", row.id, row.state)
            await process.stop()
            return None
        if state is State.PAUSED:
            await _keep_paused(sandbox, alive=alive)
        try:
            await process.attach(sandbox.rules)
        except StartError as error:
            logger.warning("sandbox %s goes on without internet access: %s", row.id, error)
    except BaseException:
        process.release()
        raise
    sandbox.state = state
    sandboxes.adopt(sandbox)
    logger.info("sandbox %s is here again, %s", row.id, state)
    return state


def _recovered_state(sandbox: Sandbox, *, alive: bool) -> State | None:
    """Return the state in which a sandbox is to be taken over; None: the sandbox is to be ended, or is gone."""
    match sandbox.state:
        case State.RUNNING:
            return State.RUNNING if alive else None
        case State.PAUSING if not alive:
            # A pause without memory has ended the processes itself. A pause with memory has lost them, say in a reboot.
            return None if sandbox.keeps_memory else State.PAUSED
        case State.PAUSING:
            return State.RUNNING
        case State.PAUSED | State.RESUMING:
            return State.PAUSED
        case _:
            return None


async def _keep_running(sandbox: Sandbox) -> bool:
    """Undo an unfinished pause, and send the program its end time again. Return whether the program still runs.

    A program that runs but does not answer is kept, because it may answer later.
    """
    try:
        if sandbox.state is State.PAUSING:
            sandbox.process.thaw(sandbox.stopped_before)
            sandbox.keeps_memory = True
            SavedVariables(sandbox.process.layout).remove()
        left = sandbox.lifetime.enforced(seconds_until(sandbox.end_at))
        await sandbox.process.control.set_end_time(left, _PATIENCE_SECONDS)
    except NoAnswerError as error:
        logger.warning("sandbox %s is not as it should be: %s", sandbox.id, error)
        return sandbox.process.alive
    return True


async def _keep_paused(sandbox: Sandbox, *, alive: bool) -> None:
    """Finish an unfinished pause. Undo an unfinished resume: freeze the thawed processes, or end the booted program."""
    if not alive or not sandbox.keeps_memory:
        await sandbox.process.stop()
        sandbox.keeps_memory = False
    elif sandbox.state is State.RESUMING:
        await sandbox.process.freeze()
    if sandbox.state is State.PAUSING:
        sandbox.keep_for(sandbox.lifetime.paused_seconds)


async def _remove_folders(sandboxes: SandboxService, names: Iterable[str]) -> None:
    for folder in filter(Path.exists, (sandboxes.folder / name for name in names)):
        # A program that was being started ends by itself in a moment; until then the removal may fail.
        for _ in range(round(_PATIENCE_SECONDS / _RETRY_SECONDS)):
            if await asyncio.to_thread(sandboxes.runtime.remove_sandbox, folder):
                break
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            raise ConfigurationError(
                f"{folder}, left over from another run, cannot be removed; remove it, or choose another state folder "
                f"with --state-dir"
            )
