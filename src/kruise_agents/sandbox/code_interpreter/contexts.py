"""Contexts, in which clients run code. A context keeps its id when its kernel is replaced."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ..state import SandboxState
from .errors import ContextNotFoundError, KernelError, LanguageError
from .kernels import Kernel
from .languages import KernelSpec, Languages, full_name
from .launcher import KernelLauncher

GRACE_SECONDS = 1.0  # for the kernel of a restarted or removed context to end by itself


class Context:
    """A context of one language. ``cwd`` is the requested working folder, which may not exist.

    An execution holds ``lock`` while it uses the kernel. ``on_client_left`` tells this execution that its client, or a
    client that waits for the lock, has left. ``lost`` is True if the kernel ended and no client was told.
    """

    def __init__(
        self, language: str, spec: KernelSpec, cwd: str, state: SandboxState, launcher: KernelLauncher
    ) -> None:
        self.id = str(uuid.uuid4())
        self.spec = spec
        self.language = language
        self.cwd = cwd
        self.state = state
        self.lock = asyncio.Lock()
        self.on_client_left: Callable[[], None] | None = None
        self.lost = False
        self.removed = False
        self._launcher = launcher
        self._start: asyncio.Task[Kernel] | None = None
        self._failure: KernelError | None = None

    def start(self) -> None:
        if self._start is None and not self.removed:
            self._start = asyncio.create_task(self._launch())
            # Mark a failure as retrieved, because asyncio logs failures that nobody has asked for.
            self._start.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def kernel(self) -> Kernel:
        """Return the kernel when it is ready.

        Raises ContextNotFoundError for a removed context, and KernelError if the kernel did not start. The next call
        after a KernelError tries to start the kernel again.
        """
        while not self.removed:
            self.start()
            start = self._start
            assert start is not None
            try:
                return await asyncio.shield(start)
            except KernelError as error:
                if self._start is start:
                    self._start, self._failure = None, error
                raise
            except asyncio.CancelledError:
                # Either the caller was cancelled, or a restart or removal cancelled the start.
                caller = asyncio.current_task()
                if caller is not None and caller.cancelling():
                    raise
        raise ContextNotFoundError(self.id)

    async def restart(self) -> None:
        """Start a new kernel, stop the old kernel and its code, and wait for the new kernel as :meth:`kernel` does."""
        old, self._start = self._start, None
        self.start()
        await _end(old, GRACE_SECONDS)
        await self.kernel()
        self.lost = False

    async def remove(self, grace: float = GRACE_SECONDS) -> None:
        self.removed = True
        old, self._start = self._start, None
        await _end(old, grace)

    async def failure(self) -> BaseException | None:
        """Wait if the kernel is being started. Return the error of its last start, or None if there was no error."""
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
        home = str(self.state.home)
        wanted = home + self.cwd[1:] if self.cwd == "~" or self.cwd.startswith("~/") else self.cwd
        path = self.state.home / wanted
        # Not path.is_dir(), which raises OSError for a name that is too long, or below a folder without access.
        return path if os.path.isdir(path) and os.access(path, os.X_OK) else self.state.home  # noqa: PTH112 - as above


class Contexts:
    """The contexts of a sandbox in the order of creation, and the default contexts by language."""

    def __init__(self, state: SandboxState, launcher: KernelLauncher) -> None:
        self._state = state
        self._launcher = launcher
        self._languages = Languages(launcher.spec, state.home)
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}

    def __iter__(self) -> Iterator[Context]:
        return iter(list(self._contexts.values()))

    def get(self, context_id: str) -> Context:
        try:
            return self._contexts[context_id]
        except KeyError:
            raise ContextNotFoundError(context_id) from None

    def default(self, language: str | None = None) -> Context:
        """Return a language's default context; the first call creates it. Raise LanguageError if no kernel is found."""
        name = full_name(language)
        # Nothing is awaited between the look-up and the creation, so concurrent first calls get the same context.
        if name not in self._defaults:
            self._defaults[name] = self._add(name, str(self._state.home))
        return self._defaults[name]

    def announce(self, language: str) -> None:
        """Add a language's default context, whose kernel starts at its first use. Do nothing if no kernel is found."""
        with suppress(LanguageError):
            self._defaults[language] = self._add(language, str(self._state.home), start=False)

    async def failure(self) -> BaseException | None:
        """Wait while default contexts are being started. Return the error of a context that did not start, or None."""
        failures = [await context.failure() for context in list(self._defaults.values())]
        return next((failure for failure in failures if failure is not None), None)

    async def create(self, language: str | None, cwd: str | None) -> Context:
        """Create a context and wait until its kernel is ready. If that fails, the context is removed."""
        context = self._add(full_name(language), cwd or str(self._state.home))
        try:
            await context.kernel()
        except BaseException:
            await self.remove(context)
            raise
        return context

    async def remove(self, context: Context, grace: float = GRACE_SECONDS) -> None:
        self._contexts.pop(context.id, None)
        if self._defaults.get(context.language) is context:
            del self._defaults[context.language]
        await context.remove(grace)

    async def close(self) -> None:
        await asyncio.gather(*(self.remove(context, grace=0) for context in self))

    def _add(self, language: str, cwd: str, *, start: bool = True) -> Context:
        context = Context(language, self._languages.spec(language), cwd, self._state, self._launcher)
        self._contexts[context.id] = context
        if start:
            context.start()
        return context


async def _end(start: asyncio.Task[Kernel] | None, grace: float) -> None:
    if start is None:
        return
    start.cancel()
    await asyncio.wait([start])
    if not start.cancelled() and start.exception() is None:
        await start.result().shutdown(grace)
