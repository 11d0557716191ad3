"""Every sandbox of this manager: made, found, prolonged, ended at its time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from pathlib import Path

from ..runtime import Egress, EgressRules, Layout, Runtime, Watch
from ..traffic_tokens import TrafficTokens
from .model import Sandbox, State, new_access_token, new_sandbox_id, now
from .program import SandboxProgram, StartError
from .templates import Template

_CLOSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Sandboxes:
    """The sandboxes of one manager, in memory.

    Parameters:
        runtime: what runs them.
        folder: where their folders go; it exists.
        traffic_tokens: who signs for them, or None: an issuer of their own.
        egress: what connects them to the internet, or None: whatever is installed.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        traffic_tokens: TrafficTokens | None = None,
        egress: Egress | None = None,
    ) -> None:
        self._egress = egress or Egress()
        self.traffic_tokens = traffic_tokens or TrafficTokens()
        self._runtime = runtime
        self._limit_watch = Watch(runtime.disk_usage, memory=not runtime.enforcer.holds_memory)
        self._folder = folder
        self._known: dict[str, Sandbox] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def reach_the_internet(self) -> bool:
        """Whether sandboxes are connected to the outside at all."""
        return self._egress.carrier is not None and self._runtime.own_network

    def running(self, sandbox_id: str) -> Sandbox | None:
        """The running sandbox of that id, or None."""
        sandbox = self._known.get(sandbox_id)
        return sandbox if sandbox is not None and sandbox.state is State.RUNNING else None

    def all_running(self) -> list[Sandbox]:
        """Every running sandbox, in no particular order."""
        return [sandbox for sandbox in self._known.values() if sandbox.state is State.RUNNING]

    async def create(
        self,
        template: Template,
        *,
        seconds: float,
        secure: bool,
        metadata: Mapping[str, str],
        variables: Mapping[str, str],
        rules: EgressRules = EgressRules(),  # noqa: B008 - cannot be changed
    ) -> Sandbox:
        """Start a sandbox; returns when it answers on its ports.

        Parameters:
            seconds: to live, from the moment it is ready.
            secure: whether envd asks for an access token.
            rules: what it may reach outside.

        Raises:
            StartError: its program did not come up. Nothing is left behind.
        """
        sandbox_id = new_sandbox_id()
        program = SandboxProgram(
            Layout(self._folder / sandbox_id),
            self._runtime,
            code_interpreter=template.code_interpreter,
            limits=template.limits,
            watch=self._limit_watch,
            egress=self._egress,
        )
        token = new_access_token() if secure else None
        sandbox = Sandbox(sandbox_id, template, program, metadata, token, started_at=now(), end_at=now())
        self._known[sandbox_id] = sandbox
        try:
            await program.start(token, {**variables, **_internal_variables(sandbox)}, rules)
        except BaseException:
            # Whatever ended the start, nothing half-made stays.
            await asyncio.shield(self._end(sandbox))
            raise
        if sandbox.state is State.ENDING:
            raise StartError("the manager is ending")
        sandbox.state = State.RUNNING
        sandbox.started_at = now()
        self.set_timeout(sandbox, seconds)
        self._keep(self._watch(sandbox))
        logger.info("sandbox %s runs (template %s)", sandbox_id, template.name)
        return sandbox

    def set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        """Let ``sandbox`` end in ``seconds`` from now, sooner or later than before; 0 or less: now."""
        sandbox.end_at = now() + timedelta(seconds=max(seconds, 0))
        if previous := self._deadlines.pop(sandbox.id, None):
            previous.cancel()
        loop = asyncio.get_running_loop()
        self._deadlines[sandbox.id] = loop.call_later(max(seconds, 0), self._expire, sandbox)

    def extend(self, sandbox: Sandbox, seconds: float) -> None:
        """Let ``sandbox`` live at least ``seconds`` from now; never shortens its life."""
        if now() + timedelta(seconds=seconds) > sandbox.end_at:
            self.set_timeout(sandbox, seconds)

    async def kill(self, sandbox_id: str) -> bool:
        """End the sandbox and everything in it. Returns whether there was a running one."""
        sandbox = self.running(sandbox_id)
        if sandbox is None:
            return False
        await asyncio.shield(self._keep(self._end(sandbox)))
        return True

    async def close(self) -> None:
        """End every sandbox, also those that are just being made, and make no more."""
        ends = (self._end(sandbox) for sandbox in list(self._known.values()))
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if failure is not None:
                logger.error("a sandbox did not end well", exc_info=failure)
        # Those that were ending already finish what they do, and every watcher sees its program end.
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()

    def _expire(self, sandbox: Sandbox) -> None:
        logger.info("sandbox %s has reached its end time", sandbox.id)
        self._keep(self._end(sandbox))

    async def _watch(self, sandbox: Sandbox) -> None:
        """A sandbox whose program ends by itself is gone."""
        await sandbox.program.ended()
        if sandbox.state is State.RUNNING:
            logger.warning("sandbox %s ended by itself", sandbox.id)
            await self._end(sandbox)

    async def _end(self, sandbox: Sandbox) -> None:
        already_ending = sandbox.state is State.ENDING
        sandbox.state = State.ENDING
        if deadline := self._deadlines.pop(sandbox.id, None):
            deadline.cancel()
        if already_ending:
            return
        try:
            await sandbox.program.end()
        finally:
            self._known.pop(sandbox.id, None)
            logger.info("sandbox %s is gone", sandbox.id)

    def _keep(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _internal_variables(sandbox: Sandbox) -> dict[str, str]:
    """What every process in a sandbox finds in its environment (E2B's names)."""
    return {
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": sandbox.id,
        "E2B_TEMPLATE_ID": sandbox.template.name,
    }
