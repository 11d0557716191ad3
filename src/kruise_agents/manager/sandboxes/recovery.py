"""What a manager finds of the one before it: taken over, or cleaned away.

A sandbox whose start was not finished is ended: nobody was told of it. One that runs is taken over, also when its
program does not answer at the moment. Of a paused one at least the files are left. One that was about to pause or to go
on is as it was before, since nobody was told of the change, unless its processes are gone.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from ...errors import ConfigurationError
from ..state.database import SandboxRow
from ..templates.model import Template
from .lifecycle import State
from .program import NoAnswerError, StartError
from .sandbox import Sandbox, from_row, mounts_of, process_of, seconds_until
from .saved_variables import SavedVariables
from .service import SandboxService

logger = logging.getLogger(__name__)
_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """How many sandboxes were taken over."""

    running: int = 0
    paused: int = 0


async def recover(sandboxes: SandboxService) -> Found:
    """Take over what the store knows of; everything else in the sandboxes' folder is removed.

    Raises:
        ConfigurationError: they belong to another runtime, or a folder cannot be removed.
    """
    rows = sandboxes.store.sandboxes()
    for row in rows:
        if row.runtime != sandboxes.runtime.name:
            raise ConfigurationError(
                f"the state folder holds sandboxes of the runtime {row.runtime!r}; start with --runtime {row.runtime}, "
                f"or choose another state folder with --state-dir"
            )
    found = await asyncio.gather(*(_recover(sandboxes, row) for row in rows))
    known = {row.id for row, state in zip(rows, found, strict=True) if state is not None}
    await _remove_strangers(sandboxes, known)
    for row in rows:
        if row.id not in known:
            if row.state == State.STARTING:  # so that its create may come again
                sandboxes.store.remove_create_of(row.id)
            sandboxes.store.remove_sandbox(row.id)
    return Found(found.count(State.RUNNING), found.count(State.PAUSED))


async def _recover(sandboxes: SandboxService, row: SandboxRow) -> State | None:
    """The state in which a sandbox was taken over; None for one that is not there any more."""
    program = sandboxes.program(row.id, Template.from_json(row.template), mounts_of(row))
    process = process_of(row)
    alive = process is not None and program.find(process)
    sandbox = from_row(row, program, sandboxes.secret)
    state = _settled(sandbox, alive=alive)
    if state is State.RUNNING and not await _runs(sandbox):
        state = None
    if state is None:
        logger.warning("sandbox %s was %s and is gone", row.id, row.state)
        await program.stop()
        return None
    if state is State.PAUSED:
        await _rest(sandbox, alive=alive)
    try:
        await program.attach(sandbox.rules)
    except StartError as error:
        logger.warning("sandbox %s goes on without internet access: %s", row.id, error)
    sandbox.state = state
    sandboxes.adopt(sandbox)
    logger.info("sandbox %s is here again, %s", row.id, state)
    return state


def _settled(sandbox: Sandbox, *, alive: bool) -> State | None:
    """The state that it is in, after a manager ended in the middle of anything."""
    match sandbox.state:
        case State.RUNNING:
            return State.RUNNING if alive else None
        case State.PAUSING if not alive:
            # Without its processes it was to be, or its boot is over.
            return None if sandbox.keeps_memory else State.PAUSED
        case State.PAUSING:
            return State.RUNNING
        case State.PAUSED | State.RESUMING:
            return State.PAUSED
        case _:
            return None


async def _runs(sandbox: Sandbox) -> bool:
    """Let it go on, if it was just being stopped, and tell it its end time once more. Returns whether it is there.

    One that is silent is there too: whatever stopped it may let it go on, and its end time counts in any case.
    """
    try:
        if sandbox.state is State.PAUSING:
            sandbox.program.thaw(sandbox.asleep)
            sandbox.keeps_memory = True
            SavedVariables(sandbox.program.layout).remove()
        left = sandbox.lifetime.enforced(seconds_until(sandbox.end_at))
        await sandbox.program.set_seconds_left(left, _PATIENCE_SECONDS)
    except NoAnswerError as error:
        logger.warning("sandbox %s is not as it should be: %s", sandbox.id, error)
        return sandbox.program.alive
    return True


async def _rest(sandbox: Sandbox, *, alive: bool) -> None:
    """Stop it again, if it was just going on; without its processes, see that none is half-started."""
    if not alive or not sandbox.keeps_memory:
        await sandbox.program.stop()
        sandbox.keeps_memory = False
    elif sandbox.state is State.RESUMING:
        await sandbox.program.freeze()


async def _remove_strangers(sandboxes: SandboxService, known: set[str]) -> None:
    strangers = [folder for folder in sandboxes.folder.iterdir() if folder.name not in known]
    for folder in strangers:
        # A program that was being started ends by itself, in a moment.
        for _ in range(round(_PATIENCE_SECONDS / _RETRY_SECONDS)):
            if await asyncio.to_thread(sandboxes.runtime.remove, folder):
                break
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            raise ConfigurationError(
                f"{folder}, left over from another run, cannot be removed; remove it, or choose another state folder "
                f"with --state-dir"
            )
