"""A whole manager: settings in, a running server out, and nothing left behind at its end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .. import __version__
from ..errors import ConfigurationError
from ..protocol import parse_domain
from ..serving import Server
from .accounts.inheritance import Inheritance
from .accounts.keys import Keys
from .accounts.secrets import SecretStore
from .api import create_api
from .gateway import Gateway
from .http.certificates import LocalCertificate, make_certificate
from .http.dispatch import ManagerApp
from .http.installed_uvicorn import check_uvicorn
from .http.listening import bind
from .http.server import front_server
from .metrics import Metrics, MetricsPage
from .runtime import BubblewrapRuntime, Egress, ProcessRuntime, Runtime
from .runtime.files.ext4_spread import spread_apart
from .runtime.rootfs.python import compile_program
from .sandboxes.recovery import Found, recover
from .sandboxes.sandbox import now
from .sandboxes.service import SandboxService
from .sandboxes.snapshots import Snapshots
from .sandboxes.usage_history import UsageHistory
from .settings import Settings
from .state.database import Database
from .state.secret import StateSecret
from .templates import Builder, TemplateFile, read_templates, require_fitting
from .templates.model import POOLED_TEMPLATE, PreparedTemplate, Templates, built_in
from .traffic_tokens import TrafficTokens
from .volumes import Volumes

logger = logging.getLogger(__name__)


class Manager:
    """An embedded sandbox-manager, an asynchronous context manager: serves inside the block.

    Sandboxes of a manager that was killed, or ended with ``keep``, are taken over from the same state folder.

    Parameters:
        tell: is told in a line what takes long at the start.

    Raises (on entering):
        ConfigurationError: a setting cannot work: port in use, state folder in use, wrong certificate, wrong template.
        RuntimeUnavailableError: sandboxes cannot be run as asked on this machine.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None] = logger.info) -> None:
        if not settings.api_keys or not all(key.strip() for key in settings.api_keys):
            raise ConfigurationError("a manager needs at least one API key, and none may be empty")
        for key in settings.api_keys:
            _check_key(key)
        self._settings = replace(settings, state_dir=settings.state_dir.absolute())
        self._tell = tell
        self._lock: int | None = None
        self._server: Server | None = None
        self._sandboxes: SandboxService | None = None
        self._store: Database | None = None
        self._measurements: UsageHistory | None = None
        self.port = settings.port
        self.runtime: Runtime | None = None
        self.egress: Egress | None = None
        self.found = Found()
        """What was taken over from the manager before."""
        self.authority: Path | None = None
        """The CA file that clients must trust, when the certificate was made here."""

    async def __aenter__(self) -> Self:
        check_uvicorn()
        settings = self._settings
        files = read_templates(settings.templates, settings.limits) if settings.templates is not None else []
        listeners = bind(settings.host, settings.port)
        try:
            self.port = listeners[0].getsockname()[1]
            self._lock = _lock(settings.state_dir)
            self.runtime = _runtime(settings)
            self.runtime.check()
            await asyncio.to_thread(compile_program)
            await asyncio.to_thread(self.runtime.open)
            folder = settings.state_dir / "sandboxes"
            folder.mkdir(mode=0o700, exist_ok=True)
            spread_apart(folder)
            self._store = Database(settings.state_dir / "state.db")
            secret = StateSecret.at(settings.state_dir / "secret")
            tokens = TrafficTokens(
                settings.traffic_token_validity,
                settings.traffic_token_clock_skew,
                key_file=settings.state_dir / "traffic-token-key.pem",
            )
            volumes_folder = settings.state_dir / "volumes"
            self.egress = Egress(wanted=settings.internet)
            require_fitting(files, self.runtime, self.egress, self._tell)
            metrics = Metrics()
            self._sandboxes = SandboxService(
                self.runtime, folder, self._store, secret, tokens, self.egress, volumes_folder, metrics
            )
            self.found = await recover(self._sandboxes)
            kept = settings.state_dir / "snapshots"
            kept.mkdir(mode=0o700, exist_ok=True)
            snapshots = Snapshots(kept, self._sandboxes)
            await snapshots.recover()
            keys = Keys(settings.api_keys, self._store, secret)
            volumes_folder.mkdir(mode=0o700, exist_ok=True)
            mounted, room = self._sandboxes.mounted_volumes, settings.limits.disk
            volumes = Volumes(volumes_folder, self._store, secret, self.runtime, mounted, room)
            volumes.recover()
            held = SecretStore(self._store, secret)
            holdings = Inheritance(self._sandboxes, snapshots, volumes, held)
            holdings.transfer_orphans(keys)
            self._measurements = UsageHistory(self._sandboxes.visible)
            offers = await self._offers(files, self.runtime)
            templates = Templates(now(), offers)
            app = ManagerApp(
                create_api(
                    self._sandboxes,
                    snapshots,
                    templates,
                    keys,
                    holdings,
                    self._measurements,
                    volumes,
                    held,
                    self.runtime,
                    health=_health(self.runtime, self.egress),
                    v1_only=settings.v1_only,
                ),
                Gateway(self._sandboxes.find, self._sandboxes.operations.resume_for_traffic, tokens),
                settings.domain,
                page=MetricsPage(metrics, self._sandboxes.states, self._sandboxes.pools.all),
            )
            tls: dict[str, Any] = {}
            if settings.certificate is not None:
                tls = _tls(settings.certificate, settings.private_key)
            elif settings.tls:
                own = _own_certificate(settings)
                self.authority = own.authority
                tls = _tls(own.certificate, own.private_key)
            self._server = front_server(app, listeners, **tls)
            await self._server.start()
            self._measurements.start()
            self._sandboxes.pools.start(offers)
        except BaseException:
            for listener in listeners:
                listener.close()
            self._release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._sandboxes is not None
        assert self._server is not None
        assert self.runtime is not None
        assert self._measurements is not None
        await self._measurements.close()
        # Sandboxes first: that ends the streams which the server would wait for.
        await self._sandboxes.close(keep=self._settings.keep)
        await self._server.stop()
        if not self._settings.keep:
            self.runtime.remove(self._settings.state_dir / "sandboxes")
        self._release()

    async def _offers(self, files: list[TemplateFile], runtime: Runtime) -> list[PreparedTemplate]:
        prepared = self._settings.state_dir / "prepared"
        prepared.mkdir(mode=0o700, exist_ok=True)
        trees = await Builder(prepared, runtime, self._tell).build(files)
        templates = built_in(self._settings.limits) + [one.template for one in files]
        sizes = {POOLED_TEMPLATE: self._settings.pool} | {
            one.template.name: one.pool for one in files if one.pool is not None
        }
        by_name = {one.name: one for one in templates}
        return [PreparedTemplate(one, trees.get(name), sizes.get(name, 0)) for name, one in by_name.items()]

    def _release(self) -> None:
        if self.runtime is not None:
            self.runtime.close()
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _health(runtime: Runtime, egress: Egress) -> dict[str, str]:
    """What everybody may know, for nobody has to show a key; why there is one user may name a folder."""
    users = "one" if runtime.one_user_because else "several"
    internet = (egress.carrier or "none") if runtime.own_network else "the machine's"
    return {
        "version": __version__,
        "runtime": runtime.name,
        "users": users,
        "limits": runtime.enforcer.name,
        "internet": internet,
        "pause": runtime.pauses_by,
    }


def _runtime(settings: Settings) -> Runtime:
    if settings.runtime == BubblewrapRuntime.name:
        return BubblewrapRuntime(settings.state_dir, prefork=settings.prefork)
    if settings.runtime == ProcessRuntime.name:
        return ProcessRuntime()
    raise ConfigurationError(f"unknown runtime {settings.runtime!r}; it is 'bubblewrap' or 'process'")


def _check_key(key: str) -> None:
    """Refuse a key that no client could send as it is: the ends of a header are cut off."""
    if key.strip() != key:
        raise ConfigurationError("an API key has a blank or a line end at an end, which no header can carry; remove it")
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise ConfigurationError("an API key has a control character in it, which no header can carry")


def _lock(state_dir: Path) -> int:
    """Make the state folder ours until the returned descriptor is closed or this process ends."""
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


def _own_certificate(settings: Settings) -> LocalCertificate:
    domain = parse_domain(settings.domain).host if settings.domain else "localhost"
    names = [domain] if settings.host in (None, "0.0.0.0", "::") else [domain, str(settings.host)]  # noqa: S104 - compared with
    return make_certificate(settings.state_dir / "tls", names)


def _tls(certificate: Path, private_key: Path | None) -> dict[str, Any]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the certificate {certificate} with the key {private_key} cannot be used: {error}"
        ) from error
    return {"ssl_certfile": certificate, "ssl_keyfile": private_key}
