"""The manager's client for ``kruise_agents.sandbox``, the program that runs in each sandbox and serves its ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import KruiseAgentsError
from ...protocol.control import (
    ANNOUNCE_KILL,
    CONTROL_SOCKET,
    GET_VARIABLES,
    INIT,
    PREPARE,
    SERVED_PORTS,
    SET_END_TIME,
    Endpoint,
    EndTime,
    InitSettings,
    KillNotice,
    PrepareOrder,
    Variables,
)
from ...protocol.names import ACCESS_TOKEN_HEADER, ENVD_PORT
from ..templates.model import Template, is_variable
from ..unix_http import exchange
from .sockets import connect

START_SECONDS = 30
CLAIM_SECONDS = 5
"""Seconds in which a pooled sandbox must answer a claim. Answers usually take milliseconds, or a second under load."""
ANSWER_SECONDS = 30
MEASURE_SECONDS = 3


class StartError(KruiseAgentsError):
    """A sandbox could not be started. The message says why, often with the last output of the sandbox's program."""


class NoAnswerError(KruiseAgentsError):
    """A started sandbox has ended, does not answer as expected, or cannot be frozen or thawed."""


class ControlClient:
    """The client of the program in one sandbox. ``report`` adds the program's last output to an error message.

    :meth:`prepare` and :meth:`init` raise :class:`StartError`. :meth:`announce_kill` has no time limit and raises
    OSError. The other methods raise :class:`NoAnswerError` if the program has ended, does not answer in time, or
    answers with an error.
    """

    def __init__(self, sockets: Path, report: Callable[[str], str]) -> None:
        self._sockets = sockets
        self._report = report

    async def prepare(self, template: Template, variables: Mapping[str, str], *, kernel: bool) -> None:
        """Run the template's start command, if any, and wait until the template's ready check, if any, passes.

        With ``kernel``, also wait for the default kernel of the code interpreter. ``variables`` are in the environment
        of every process that starts before :meth:`init`.
        """
        seconds = START_SECONDS + (template.ready.seconds if template.ready is not None else 0)
        order = PrepareOrder(dict(variables), template.start, template.ready, kernel)
        status, answer = await self._first_answer(PREPARE, order.to_json(), seconds)
        if status != 204:
            raise StartError(f"template {template.name}: {answer.decode(errors='replace')}")

    async def init(self, settings: InitSettings, patience: float = START_SECONDS) -> None:
        """Send the program its settings. Wait up to ``patience`` seconds until the program serves all its sockets."""
        status, answer = await self._first_answer(INIT, settings.to_json(), patience)
        if status != 204:
            raise StartError(self._report(f"answered {status} to its settings: {answer.decode(errors='replace')}"))

    async def set_end_time(self, seconds: float | None, patience: float = ANSWER_SECONDS) -> None:
        """Make the program end by itself after ``seconds`` and a grace period; None: never."""
        await self._ask(SET_END_TIME, EndTime(seconds).to_json(), patience)

    async def variables(self) -> dict[str, str]:
        answer = await self._ask(GET_VARIABLES, b"{}")
        try:
            variables: dict[str, Any] = dict(Variables.from_json(answer).variables)
        except (KeyError, TypeError, ValueError, RecursionError) as error:  # code in the sandbox can forge the answer
            raise NoAnswerError(f"the sandbox's program answered no variables: {error!r}") from error
        if not all(isinstance(value, str) and is_variable(name, value) for name, value in variables.items()):
            raise NoAnswerError("the sandbox's program answered variables that no program can have")
        return variables

    async def announce_kill(self, pid: int, reason: str) -> None:
        await self._exchange(ANNOUNCE_KILL, KillNotice(pid, reason).to_json())

    async def measure(self, access_token: str | None) -> bytes:
        """Return the JSON in which envd reports the resource use of the sandbox. The JSON is not checked."""
        headers = [] if access_token is None else [(ACCESS_TOKEN_HEADER.encode(), access_token.encode())]
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                connection = await connect(self._sockets, SERVED_PORTS[ENVD_PORT])
                status, answer = await exchange(connection, "GET", "/metrics", b"", headers)
        except TimeoutError:
            raise NoAnswerError(f"envd did not answer within {MEASURE_SECONDS} seconds") from None
        except OSError as error:
            raise NoAnswerError(f"envd is gone: {error}") from error
        if status != 200:
            raise NoAnswerError(f"envd answered {status}")
        return answer

    async def _first_answer(self, endpoint: Endpoint, body: bytes, seconds: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(endpoint, body)
        except TimeoutError:
            raise StartError(self._report(f"did not answer within {seconds:g} seconds")) from None
        except OSError as error:
            raise StartError(self._report("ended before it was ready")) from error

    async def _ask(self, endpoint: Endpoint, body: bytes, patience: float = ANSWER_SECONDS) -> bytes:
        try:
            async with asyncio.timeout(patience):
                status, answer = await self._exchange(endpoint, body)
        except TimeoutError:
            raise NoAnswerError(f"the sandbox's program did not answer within {patience:g} seconds") from None
        except OSError as error:
            raise NoAnswerError(f"the sandbox's program is gone: {error}") from error
        if status >= 300:
            raise NoAnswerError(f"the sandbox's program answered {status} to {endpoint.method} {endpoint.path}")
        return answer

    async def _exchange(self, endpoint: Endpoint, body: bytes) -> tuple[int, bytes]:
        return await exchange(await connect(self._sockets, CONTROL_SOCKET), *endpoint, body)
