"""The manager as a whole: its start from settings, the server that it runs, and its end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from starlette.types import ASGIApp

from .. import __version__
from ..errors import ConfigurationError
from ..protocol import routing
from ..protocol.domains import parse_domain
from . import openkruise
from .accounts.inheritance import Inheritance
from .accounts.keys import Keys
from .accounts.secrets import SecretStore
from .api import create_api
from .gateway import Gateway
from .http.certificates import make_certificate, server_context
from .http.dispatch import ManagerApp
from .http.https import Https
from .http.listening import bind, own_address
from .http.pages import Pages
from .http.server import check_uvicorn, front_server
from .metrics import Metrics, MetricsPage
from .runtime import BubblewrapRuntime, Egress, ProcessRuntime, Runtime
from .runtime.files.ext4_spread import spread_apart
from .runtime.rootfs.python import compile_program
from .sandboxes.recovery import Found, recover, require_runtime
from .sandboxes.sandbox import Sandbox, now
from .sandboxes.service import SandboxService
from .sandboxes.snapshots import Snapshots
from .sandboxes.usage_history import UsageHistory
from .settings import Settings, check_values
from .state.checkpoints import Checkpoints
from .state.database import Database
from .state.folders import has_folders
from .state.secret import StateSecret, api_key_at
from .templates import Builder, TemplateFile, read_templates, require_supported
from .templates.model import POOLED_TEMPLATE, PreparedTemplate, Templates, built_in
from .traffic_tokens import TrafficTokens
from .volumes import Volumes

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Manager:
    """An embedded sandbox-manager: an asynchronous context manager that serves requests inside the block.

    The manager checks all settings, and then takes over the sandboxes that an earlier manager left in the state folder
    because it was killed or had the setting ``keep``. If the start fails, the next start can take the sandboxes over.

    Args:
        tell: Called with each message for the user during the start, such as the beginning of a long step.

    Raises:
        ConfigurationError: A setting cannot work. The constructor refuses wrong types, ranges, choices and API keys.
            Entering the block refuses a wrong certificate or template, and a port or state folder that is in use.
        RuntimeUnavailableError: On entering: this machine cannot run sandboxes as the settings ask.
        RuntimeError: On entering: this manager runs already.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None] = logger.info) -> None:
        check_values(settings)
        if not all(key.strip() for key in settings.api_keys):
            raise ConfigurationError("an API key is empty; give another, or none for the key in the state folder")
        if settings.new_key and settings.api_keys:
            raise ConfigurationError("--new-key does not go together with a key that is given; leave one of them out")
        for key in settings.api_keys:
            _check_key(key)
        self._settings = replace(settings, state_dir=settings.state_dir.absolute())
        self._tell = tell
        self._resources: AsyncExitStack | None = None
        self._serving = False
        self.port = settings.port
        self.addresses: list[str] = []  # that the manager listens on
        self.api_keys = tuple(settings.api_keys)  # after the start: the keys that clients may send
        self.runtime: Runtime | None = None
        self.egress: Egress | None = None
        self.found = Found()  # what was taken over from the earlier manager
        self.authority: Path | None = None  # the CA file that clients must trust, if the certificate was made here

    async def __aenter__(self) -> Self:
        if self._resources is not None:
            raise RuntimeError("this manager runs already")
        self._resources = AsyncExitStack()
        try:
            await self._start(self._resources)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _start(self, resources: AsyncExitStack) -> None:
        settings = self._settings
        files, runtime, egress = self._check_settings()
        listeners = bind(settings.host, settings.port, tls=settings.tls)
        for listener in listeners:
            resources.callback(listener.close)
        self.port = listeners[0].getsockname()[1]
        self.addresses = [listener.getsockname()[0] for listener in listeners]
        resources.callback(os.close, _lock(settings.state_dir))
        runtime.check()
        with _usable(settings.state_dir):
            secret_file = settings.state_dir / "secret"
            secret = StateSecret.at(secret_file) if secret_file.exists() else None
            unused = secret is None and not has_folders(settings.state_dir)
            store = resources.enter_context(closing(Database(settings.state_dir / "state.db", may_be_new=unused)))
            require_runtime(store, runtime)
            secret = secret or StateSecret.at(secret_file, may_be_new=store.is_empty())
            tokens = self._tokens(secret)
            tokens.check_key_file()
            volumes_folder, sandboxes_folder = self._folder("volumes"), self._folder("sandboxes")
            snapshots_folder, _ = self._folder("snapshots"), self._folder("prepared")
            if not settings.api_keys:
                self.api_keys = (api_key_at(settings.state_dir / "api-key", new=settings.new_key),)
            https = self._https()
        checkpoints = Checkpoints(store)
        resources.push_async_callback(checkpoints.close)
        await _finish(asyncio.to_thread(compile_program))
        resources.callback(runtime.close)
        await _finish(asyncio.to_thread(runtime.open))
        templates = await _finish(self._prepare_templates(files, runtime))

        metrics = Metrics()
        spread_apart(sandboxes_folder)
        known_templates = Templates(now(), templates)

        def first_files(sandbox: Sandbox) -> Path | None:
            source = snapshots.source(sandbox.template.name, sandbox.owner, known_templates)
            return None if source is None else source[1]

        sandboxes = SandboxService(
            runtime,
            sandboxes_folder,
            store,
            secret,
            tokens,
            egress,
            volumes_folder,
            metrics,
            first_files=first_files,
        )
        snapshots = Snapshots(snapshots_folder, sandboxes)
        volumes = Volumes(
            volumes_folder, store, secret, runtime, mounted=sandboxes.mounted_volumes, limit=settings.limits.disk
        )
        keys = Keys(self.api_keys, store, secret)
        secrets = SecretStore(store, secret)
        inheritance = Inheritance(sandboxes, snapshots, volumes, secrets)
        history = UsageHistory(sandboxes.visible)
        api: ASGIApp
        if settings.like_openkruise:
            api = openkruise.create_api(sandboxes, snapshots, known_templates, keys, inheritance)
            gateway = Gateway(
                sandboxes.find,
                sandboxes.operations.resume_for_traffic,
                tokens,
                openkruise.OpenKruiseErrors(),
                finds_whole_paths=False,
            )
        else:
            api = create_api(
                sandboxes,
                snapshots,
                known_templates,
                keys,
                inheritance,
                history,
                volumes,
                secrets,
                runtime,
                health=_health(runtime, egress),
            )
            gateway = Gateway(sandboxes.find, sandboxes.operations.resume_for_traffic, tokens)
        app = ManagerApp(
            api,
            gateway,
            settings.domain,
            MetricsPage(metrics, sandboxes.states, sandboxes.pools.all),
            openkruise.find_target if settings.like_openkruise else routing.parse,
            settle=checkpoints.settle,
            pages=None if settings.like_openkruise else Pages(settings.domain),
        )
        server = front_server(app, listeners, https=https)
        await _finish(snapshots.recover())
        volumes.recover()

        # From here on sandboxes are taken over and served. At the end they are closed before the server, which would
        # wait for their streams.
        resources.callback(self._remove_sandboxes, runtime, sandboxes_folder)
        resources.push_async_callback(server.stop)
        resources.push_async_callback(snapshots.close)
        resources.push_async_callback(self._close_sandboxes, sandboxes)
        resources.push_async_callback(history.close)
        self.found = await _finish(recover(sandboxes))
        inheritance.transfer_orphans(keys)
        await server.start()
        history.start()
        sandboxes.pools.start(templates)
        self._serving = True

    def _check_settings(self) -> tuple[list[TemplateFile], Runtime, Egress]:
        settings = self._settings
        check_uvicorn()
        files = read_templates(settings.templates, settings.limits) if settings.templates is not None else []
        self.runtime = _runtime(settings)
        self.egress = Egress(wanted=settings.internet)
        require_supported(files, self.runtime, self.egress, self._tell)
        if settings.domain is not None:
            parse_domain(settings.domain)
        if settings.certificate is not None:
            _require_certificate(settings.certificate, settings.private_key)
        return files, self.runtime, self.egress

    async def _close(self) -> None:
        assert self._resources is not None
        try:
            await _finish(self._resources.aclose())
        finally:
            self._resources = None
            self._serving = False

    async def _close_sandboxes(self, sandboxes: SandboxService) -> None:
        # A failed start leaves the sandboxes to the next start.
        await sandboxes.close(keep=self._settings.keep or not self._serving)

    def _remove_sandboxes(self, runtime: Runtime, folder: Path) -> None:
        if self._serving and not self._settings.keep:
            runtime.remove(folder)

    async def _prepare_templates(self, files: list[TemplateFile], runtime: Runtime) -> list[PreparedTemplate]:
        trees = await Builder(self._folder("prepared"), runtime, self._tell).build(files)
        sizes = {POOLED_TEMPLATE: self._settings.pool}
        sizes |= {file.template.name: file.pool for file in files if file.pool is not None}
        templates = built_in(self._settings.limits) + [file.template for file in files]
        by_name = {template.name: template for template in templates}
        return [PreparedTemplate(template, trees.get(name), sizes.get(name, 0)) for name, template in by_name.items()]

    def _folder(self, name: str) -> Path:
        folder = self._settings.state_dir / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _tokens(self, secret: StateSecret) -> TrafficTokens:
        settings = self._settings
        if settings.like_openkruise:
            return openkruise.OpaqueTokens(secret, settings.traffic_token_validity, settings.traffic_token_clock_skew)
        return TrafficTokens(
            settings.traffic_token_validity,
            settings.traffic_token_clock_skew,
            key_file=settings.state_dir / "traffic-token-key.pem",
        )

    def _https(self) -> Https:
        """Return the https side of the port. Without ``tls`` its certificate is made when a client speaks https."""
        settings = self._settings
        if (certificate := settings.certificate) is not None:
            advice = "Its SSL_CERT_FILE must name the authority that issued the certificate"
            return Https(lambda: server_context(certificate, settings.private_key), advice, only=True)
        folder = settings.state_dir / "tls"
        domain = parse_domain(settings.domain).host if settings.domain is not None else "localhost"
        host = settings.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with
            host = own_address(host)

        def load() -> ssl.SSLContext:
            made = make_certificate(folder, [domain] if host is None else [domain, host])
            return server_context(made.certificate, made.private_key)

        advice = f"start the program with SSL_CERT_FILE={folder / 'ca.pem'}"
        if not settings.tls:
            advice = f"Is patch_e2b(False) missing in the program, or in its worker process? For https, {advice}"
            return Https(load, advice)
        self.authority = folder / "ca.pem"
        return Https(load, f"To trust it, {advice}", only=True)


async def _finish(work: Awaitable[T]) -> T:
    """Await ``work`` to its end, even if the caller is cancelled. Raise the CancelledError only after the end."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()


def _health(runtime: Runtime, egress: Egress) -> dict[str, str]:
    """Return the report of ``GET /health``, which anyone may read. So the report omits texts that may name folders."""
    users = "one" if runtime.one_user_because else "several"
    internet = (egress.carrier or "none") if runtime.own_network else "the machine's"
    return {
        "version": __version__,
        "runtime": runtime.name,
        "users": users,
        "limits": runtime.enforcer.name,
        "disk": runtime.disk.name,
        "internet": internet,
        "pause": runtime.pauses_by,
    }


def _runtime(settings: Settings) -> Runtime:
    if settings.runtime == BubblewrapRuntime.name:
        return BubblewrapRuntime(settings.state_dir, prefork=settings.prefork)
    if not settings.internet:
        raise ConfigurationError(
            "--no-internet is not supported by the runtime 'process': its sandboxes have this machine's network"
        )
    return ProcessRuntime()


def _check_key(key: str) -> None:
    """Refuse a key that no header can carry unchanged: with control characters, or a blank at the start or end."""
    if key.strip() != key:
        raise ConfigurationError("an API key has a blank or a line end at an end, which no header can carry; remove it")
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise ConfigurationError("an API key has a control character in it, which no header can carry")


@contextmanager
def _usable(state_dir: Path) -> Iterator[None]:
    """Turn errors about the kind or permissions of a file into a ConfigurationError that names the file."""
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise ConfigurationError(
            f"the state folder {state_dir} cannot be used: {error.filename}: {error.strerror}; "
            f"put that away, or choose another folder with --state-dir"
        ) from error


def _lock(state_dir: Path) -> int:
    """Make the state folder if missing, and lock it until the returned descriptor is closed or this process ends."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the state folder {state_dir} cannot be used: {error.strerror}; choose another with --state-dir"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"another manager uses the state folder {state_dir}; stop it, or choose another with --state-dir"
        ) from error
    return descriptor


def _no_passphrase() -> str:
    raise ConfigurationError("the certificate's private key needs a passphrase; give a key without one")


def _require_certificate(certificate: Path, private_key: Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        # The error of OpenSSL does not say which of the two files is missing.
        missing = [str(path) for path in (certificate, private_key) if path is not None and not path.exists()]
        reason = f"there is no {missing[0]}" if missing else str(error)
        raise ConfigurationError(
            f"the certificate {certificate} with the key {private_key} cannot be used: {reason}"
        ) from error
