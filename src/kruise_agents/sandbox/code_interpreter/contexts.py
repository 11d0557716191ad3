"""Contexts: what a client sees of a kernel. The id stays, the kernel behind it may change."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from kruise_agents.sandbox.state import SandboxState

from .errors import ContextNotFoundError, KernelError
from .kernels import Kernel
from .languages import KernelSpec, Languages, normalised
from .launcher import KernelLauncher

__all__ = ["Context", "Contexts"]

GRACE_SECONDS = 1.0
"""How long the code of a restarted or removed context has to end by itself."""


class Context:
    """A place where code keeps its state between executions."""

    def __init__(
        self, language: str, spec: KernelSpec, cwd: str, state: SandboxState, launcher: KernelLauncher
    ) -> None:
        self.id = str(uuid.uuid4())
        self.spec = spec
        self.language = language
        self.cwd = cwd
        """The working directory as it was asked for; code may have left it."""
        self.state = state
        self.lock = asyncio.Lock()
        """Held by an execution until the kernel is idle again."""
        self.removed = False
        self._launcher = launcher
        self._start: asyncio.Task[Kernel] | None = None
        self._failure: KernelError | None = None

    def start(self) -> None:
        """Begins to start the kernel; does nothing while there is one."""
        if self._start is None and not self.removed:
            self._start = asyncio.create_task(self._launch())
            # The failure is kept for whoever asks next; nobody may ask before the sandbox ends.
            self._start.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def kernel(self) -> Kernel:
        """The kernel, when it is ready.

        Raises KernelError when it did not start; the next call tries again. Raises ContextNotFoundError when
        the context was removed.
        """
        while not self.removed:
            self.start()
            start = self._start
            if start is None:
                continue
            try:
                return await asyncio.shield(start)
            except KernelError as error:
                if self._start is start:
                    self._start, self._failure = None, error
                raise
            except asyncio.CancelledError:
                # Either the caller was cancelled, or the start was by a restart or a removal.
                caller = asyncio.current_task()
                if caller is not None and caller.cancelling():
                    raise
        raise ContextNotFoundError(self.id)

    async def restart(self) -> None:
        """Replaces the kernel; code that runs in it ends. Raises what ``kernel`` raises."""
        old, self._start = self._start, None
        self.start()
        await _finished(old, GRACE_SECONDS)
        await self.kernel()

    async def remove(self, grace: float = GRACE_SECONDS) -> None:
        """Ends the kernel for good."""
        self.removed = True
        old, self._start = self._start, None
        await _finished(old, grace)

    async def failure(self) -> BaseException | None:
        """Why the last start of the kernel failed; waits for a start that is under way."""
        start = self._start
        if start is None:
            return self._failure
        await asyncio.wait([start])
        return None if start.cancelled() else start.exception()

    async def _launch(self) -> Kernel:
        start = asyncio.current_task()
        kernel = await self._launcher.start(self.spec, self.state.environment(), self._directory())
        self._failure = None
        kernel.on_end(lambda: self._on_kernel_end(start))
        return kernel

    def _on_kernel_end(self, start: object) -> None:
        if self._start is start:
            self._start = None
            self.start()

    def _directory(self) -> Path:
        """The folder to start in: a missing one leaves the kernel at home, as ``%cd`` does."""
        home = str(self.state.home)
        wanted = home + self.cwd[1:] if self.cwd == "~" or self.cwd.startswith("~/") else self.cwd
        path = self.state.home / wanted
        return path if path.is_dir() and os.access(path, os.X_OK) else self.state.home


async def _finished(start: asyncio.Task[Kernel] | None, grace: float) -> None:
    """Ends the kernel that ``start`` started or is starting."""
    if start is None:
        return
    start.cancel()
    await asyncio.wait([start])
    if not start.cancelled() and start.exception() is None:
        await start.result().shutdown(grace)


class Contexts:
    """All contexts of the sandbox in the order of their creation, and the default one of each language."""

    def __init__(self, state: SandboxState, launcher: KernelLauncher) -> None:
        self._state = state
        self._launcher = launcher
        self._languages = Languages(launcher.spec, state.home)
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}

    def __iter__(self) -> Iterator[Context]:
        return iter(list(self._contexts.values()))

    def get(self, context_id: str) -> Context:
        """Raises ContextNotFoundError."""
        try:
            return self._contexts[context_id]
        except KeyError:
            raise ContextNotFoundError(context_id) from None

    def default(self, language: str | None = None) -> Context:
        """The default context of a language; it is made when there is none. Raises LanguageError.

        Nothing is awaited between the look and the making, so parallel first calls share one.
        """
        name = normalised(language)
        if name not in self._defaults:
            self._defaults[name] = self._add(name, str(self._state.home))
        return self._defaults[name]

    async def failure(self) -> BaseException | None:
        """Why a default context has no kernel."""
        failures = [await context.failure() for context in self._defaults.values()]
        return next((failure for failure in failures if failure is not None), None)

    async def create(self, language: str | None, cwd: str | None) -> Context:
        """A new context whose kernel is ready. Raises KernelError."""
        context = self._add(normalised(language), cwd or str(self._state.home))
        try:
            await context.kernel()
        except BaseException:
            await self.remove(context)
            raise
        return context

    async def remove(self, context: Context, grace: float = GRACE_SECONDS) -> None:
        """Forgets a context and ends its kernel."""
        self._contexts.pop(context.id, None)
        if self._defaults.get(context.language) is context:
            del self._defaults[context.language]
        await context.remove(grace)

    async def close(self) -> None:
        """Ends all kernels at once and for good."""
        await asyncio.gather(*(self.remove(context, grace=0) for context in self))

    def _add(self, language: str, cwd: str) -> Context:
        context = Context(language, self._languages.spec(language), cwd, self._state, self._launcher)
        self._contexts[context.id] = context
        context.start()
        return context
