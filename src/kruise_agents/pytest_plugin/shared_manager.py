"""Manager of a pytest run: the embedded one that all workers share, or the one that ``--e2b-domain`` names."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence

import pytest

from ..embedded import CONNECTION_FILE, Connection
from ..errors import KruiseAgentsError
from ..patch_e2b import patch_e2b
from ..protocol.addresses import Scheme, api_url
from ..protocol.domains import parse_domain
from ..protocol.names import API_KEY_HEADER
from . import E2BManager
from .run_folder import LOG_FILE, RunFolder

_START_LOCK = "start.lock"
_REQUEST_SECONDS = 30.0
_OTHER_ADDRESSES = ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL", "E2B_DEBUG")
"""Variables that would lead the SDK past ``E2B_DOMAIN``."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def embedded_manager(folder: RunFolder, options: Sequence[str], worker: str) -> E2BManager:
    """Return the embedded manager of a run with a new key for this worker. Start the manager if there is none.

    Raises:
        KruiseAgentsError: The manager does not start, or does not answer any more.
    """
    folder.make()
    with (folder.path / _START_LOCK).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not (folder.path / CONNECTION_FILE).exists():
            _start(folder, options)
    connection = Connection.read(folder.path / CONNECTION_FILE)
    return E2BManager(
        connection.domain,
        connection.scheme,
        connection.api_url,
        _make_key(folder, connection, worker),
        connection.ca_file,
    )


def _start(folder: RunFolder, options: Sequence[str]) -> None:
    # -P: a module of the tests' folder must not stand in for one of the standard library.
    command = [sys.executable, "-P", "-m", f"{__package__}.keeper", str(folder.path), str(folder.pid), *options]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,  # Ctrl-C in the terminal is for pytest and its debugger
    )
    if done.stdout:
        raise KruiseAgentsError(
            f"{done.stdout.strip()}\nOptions of this manager are settings of pytest, such as e2b_runtime = process"
        )


def _make_key(folder: RunFolder, connection: Connection, worker: str) -> str:
    request = urllib.request.Request(  # noqa: S310 - the address is the manager's
        f"{connection.api_url}/api-keys",
        data=json.dumps({"name": f"pytest {worker}"}).encode(),
        headers={API_KEY_HEADER: connection.api_key, "Content-Type": "application/json"},
    )
    trust = ssl.create_default_context(cafile=connection.ca_file)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(request, timeout=_REQUEST_SECONDS) as reply:
            return str(json.load(reply)["key"])
    except OSError as error:
        raise KruiseAgentsError(
            f"the manager of the tests does not answer: {error}; its log is {folder.path / LOG_FILE}"
        ) from error


def named_manager(domain: str, https: bool) -> E2BManager:
    """Return the manager that ``--e2b-domain`` names, with the key in ``E2B_API_KEY``."""
    scheme: Scheme = "https" if https else "http"
    domain = str(parse_domain(domain))
    return E2BManager(domain, scheme, api_url(scheme, domain), os.environ["E2B_API_KEY"], embedded=False)


@contextlib.contextmanager
def in_force(manager: E2BManager) -> Iterator[E2BManager]:
    """Patch the SDK and set the environment variables for a manager, for the time of the block."""
    with pytest.MonkeyPatch.context() as environment:
        for name in _OTHER_ADDRESSES:
            environment.delenv(name, raising=False)
        for name, value in manager.environment().items():
            environment.setenv(name, value)
        if manager.embedded and any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
            for name in ("NO_PROXY", "no_proxy"):
                environment.setenv(name, ",".join(filter(None, [os.environ.get(name), "localhost"])))
        with patch_e2b(manager.https):
            yield manager
