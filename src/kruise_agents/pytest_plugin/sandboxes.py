"""Sandboxes of tests: those of the fixtures, which end with their test, and those that tests leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from e2b import SandboxException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from ..shell_variables import format_variables
from . import E2BManager
from .run_folder import KEEP_FILE, KEPT_SECONDS, PID_FILE, RunFolder

KEPT = "E2B sandboxes of failed tests"
LEFT = "E2B sandboxes that tests left behind"
_SandboxT = TypeVar("_SandboxT", bound=Sandbox)
_closed_loops: list[asyncio.AbstractEventLoop] = []


class SandboxesOfTest:
    """Sandboxes that the fixtures make for one test.

    Args:
        options: The arguments of ``Sandbox.create`` for all sandboxes.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._made: list[Sandbox] = []

    @property
    def ids(self) -> list[str]:
        return [sandbox.sandbox_id for sandbox in self._made]

    def create(self, template: str | None = None, **options: Any) -> Sandbox:
        """Return a new sandbox. The arguments are those of ``Sandbox.create``."""
        return self._create(Sandbox, options if template is None else {"template": template, **options})

    def create_async(self) -> AsyncSandbox:
        """Return a new sandbox for asynchronous code, without a running event loop."""
        options = self._create(_WithOptions, {}).options

        async def build() -> AsyncSandbox:
            return AsyncSandbox(**options)

        # e2b 2.15.2 ... 2.37.1 build the object only while a loop runs, and keep the connections of each loop by the
        # loop's id(). So the loop lives on: no later one may get its id.
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(build())
        finally:
            loop.close()
            _closed_loops.append(loop)

    def _create(self, kind: type[_SandboxT], options: Mapping[str, Any]) -> _SandboxT:
        sandbox: _SandboxT = kind.create(**{**self._options, **options})
        self._made.append(sandbox)
        return sandbox

    def prolong(self) -> list[str]:
        """Give the sandboxes an hour, so that a person can look at them. Return the IDs of those that still live."""
        alive = []
        for sandbox in self._made:
            with contextlib.suppress(SandboxException):  # the test has killed it
                sandbox.set_timeout(KEPT_SECONDS)
                alive.append(sandbox.sandbox_id)
        return alive

    def kill(self) -> None:
        with contextlib.ExitStack() as stack:  # an error of one does not save the others
            for sandbox in self._made:
                stack.callback(sandbox.kill)

    def keep(self, test: str, manager: E2BManager, folder: RunFolder, worker: str) -> None:
        """Keep the sandboxes after their test, and note how to reach them."""
        alive = self.prolong()
        if not alive:
            return
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + KEPT_SECONDS))
        lines = [f"{test}: kept until {until}: {' '.join(alive)}"]
        if manager.embedded:
            variables = folder.path / f"{worker}.sh"
            variables.touch(0o600)
            variables.write_text(format_variables(manager.environment(), "shell") + "\n")
            (folder.path / KEEP_FILE).touch()
            lines.append(f"  . {variables}")
        else:
            lines.append(f"  export E2B_DOMAIN={manager.domain}    # and the same E2B_API_KEY")
        lines += [f"  kruise-agents sandbox shell {sandbox_id}" for sandbox_id in alive]
        if manager.embedded:
            keeper = (folder.path / PID_FILE).read_text()
            lines.append(f"  kill {keeper}    # ends the manager and all its sandboxes; it ends by itself at {until}")
        folder.note(KEPT, "\n".join(lines))


class _WithOptions(Sandbox):  # type: ignore[misc]  # the code interpreter has no types
    """A sandbox that remembers the arguments of its constructor, which the constructor of AsyncSandbox takes too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.options = options


@dataclass(frozen=True)
class _Seen:
    test: str
    template: str
    end_at: datetime


class Leftovers:
    """Sandboxes of a worker's key, and the test after which each was first seen."""

    def __init__(self, manager: E2BManager) -> None:
        self._manager = manager
        self._seen: dict[str, _Seen] = {}
        self._expired: dict[str, _Seen] = {}
        self.of_fixtures: set[str] = set()

    def look(self, test: str) -> None:
        """Find out which sandboxes are new since the last look, and which ended by their time limit."""
        now, found = datetime.now(UTC), self._list()
        for sandbox_id in self._seen.keys() - found.keys():
            seen = self._seen.pop(sandbox_id)
            if seen.end_at <= now and sandbox_id not in self.of_fixtures:
                self._expired[sandbox_id] = seen
        for sandbox_id, info in found.items():
            first = self._seen[sandbox_id].test if sandbox_id in self._seen else test
            self._seen[sandbox_id] = _Seen(first, info.name or info.template_id, info.end_at)

    def report(self, folder: RunFolder) -> None:
        """Note the sandboxes that nobody has killed, at the end of all tests."""
        self.look("between tests")
        for sandbox_id, seen in self._expired.items():
            folder.note(LEFT, f"{seen.test}: {sandbox_id} ({seen.template}), ended by its time limit")
        for sandbox_id, seen in self._seen.items():
            folder.note(LEFT, f"{seen.test}: {sandbox_id} ({seen.template})")

    def _list(self) -> dict[str, Any]:
        pages = Sandbox.list(domain=self._manager.domain, api_key=self._manager.api_key)
        found: dict[str, Any] = {}
        while pages.has_next:
            found.update((info.sandbox_id, info) for info in pages.next_items())
        return {sandbox_id: info for sandbox_id, info in found.items() if sandbox_id not in self.of_fixtures}
