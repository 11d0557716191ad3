"""The holder of a token: one refresh at a time for all who wait, delays after failures, no expired token."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from kruise_agents.client.traffic_token.errors import TrafficAccessTokenExpired, TrafficAccessTokenRefreshError
from kruise_agents.client.traffic_token.holder import Answer, AsyncTokens, SyncTokens
from kruise_agents.client.traffic_token.renewal import TokenState

START = 1_800_000_000.0


def jwt(exp: float, iat: float | None = None, mark: int = 0) -> str:
    claims = {"exp": exp, "mark": mark, **({} if iat is None else {"iat": iat})}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@dataclass
class Server:
    """A clock and an issuer. Each call of ``fetch`` returns the next token, or fails as ``broken`` says."""

    now: float = START
    validity: float = 1000
    broken: Answer | Exception | None = None
    calls: int = 0
    gate: Callable[[], None] = field(default=lambda: None)

    def state(self, token: str | None) -> TokenState:
        return TokenState(token, clock=lambda: self.now, jitter=lambda: 0.0)

    def token(self, number: int) -> str:
        return jwt(self.now + self.validity, mark=number)

    def fetch(self) -> Answer:
        self.calls += 1
        self.gate()
        if isinstance(self.broken, Exception):
            raise self.broken
        if self.broken is not None:
            return self.broken
        expiration = datetime.fromtimestamp(self.now + self.validity, UTC).isoformat()
        body = {"trafficAccessToken": self.token(self.calls), "trafficAccessTokenExpiration": expiration}
        return Answer(200, {}, json.dumps(body).encode())

    def holder(self, token: str | None) -> SyncTokens:
        return SyncTokens(self.state(token), self.fetch)


REFUSED = Answer(503, {}, b"")


def test_a_token_is_used_until_it_is_due_and_refreshed_then() -> None:
    server = Server()
    old = jwt(START + 1000, iat=START)
    holder = server.holder(old)
    server.now = START + 799
    assert (holder.current(), server.calls) == (old, 0)
    server.now = START + 800
    assert (holder.current(), server.calls) == (server.token(1), 1)


def test_a_token_without_iat_is_valid_from_now_on() -> None:
    server = Server()
    holder = server.holder(jwt(START + 300))
    server.now = START + 239
    holder.current()
    assert server.calls == 0
    server.now = START + 240
    holder.current()
    assert server.calls == 1


def test_after_a_refresh_the_schedule_begins_now() -> None:
    server = Server()
    holder = server.holder(jwt(START + 10, iat=START))
    holder.current()
    server.now = START + 799
    holder.current()
    assert server.calls == 1
    server.now = START + 800
    holder.current()
    assert server.calls == 2


def test_a_failed_refresh_keeps_the_token_and_waits_longer_each_time() -> None:
    server = Server(broken=REFUSED)
    old = jwt(START + 300, iat=START)
    holder = server.holder(old)
    server.now = START + 240
    waits = []
    while server.calls < 6:
        before, began = server.calls, server.now
        while server.calls == before:
            assert holder.current() == old
            if server.calls == before:
                server.now += 1
        waits.append(server.now - began)
    assert waits == [0, 1, 2, 4, 8, 16]


def test_the_wait_is_at_least_what_the_server_asked_for_and_is_forgotten_after_a_success() -> None:
    server = Server(broken=Answer(429, {"Retry-After": "10"}, b""))
    holder = server.holder(jwt(START + 50, iat=START))
    holder.current()
    server.now += 9.5
    holder.current()
    assert server.calls == 1
    server.broken = None
    server.now += 0.5
    holder.current()
    assert server.calls == 2
    server.broken = REFUSED
    server.now += 800
    holder.current()
    server.now += 1
    holder.current()
    assert server.calls == 4


def test_an_expired_token_is_never_given_out() -> None:
    server = Server(broken=ConnectionError("no route"))
    holder = server.holder(jwt(START + 50, iat=START))
    server.now = START + 50
    with pytest.raises(TrafficAccessTokenExpired, match="expired before it could be refreshed") as expired:
        holder.current()
    assert isinstance(expired.value.__cause__, TrafficAccessTokenRefreshError)
    assert isinstance(expired.value.__cause__.__cause__, ConnectionError)
    with pytest.raises(TrafficAccessTokenExpired):
        holder.current()
    assert server.calls == 1, "the second try falls into the wait"


def test_a_sandbox_that_needs_a_token_fetches_its_first_one() -> None:
    server = Server()
    holder = server.holder(None)
    assert holder.current() is None
    holder.state.require()
    assert holder.current() == server.token(1)
    holder.state.require()
    assert holder.state.token == server.token(1)


def test_an_opaque_token_is_sent_and_shown_as_it_is() -> None:
    server = Server()
    holder = server.holder("opaque")
    assert holder.current() == holder.state.token == holder.refresh(force=False) == "opaque"
    assert server.calls == 0


def test_a_forced_refresh_ignores_schedule_and_backoff() -> None:
    server = Server(broken=REFUSED)
    old = jwt(START + 1000, iat=START)
    holder = server.holder(old)
    assert holder.refresh(force=False) == old
    assert holder.refresh(force=True) == old
    assert holder.refresh(force=True) == old
    assert server.calls == 2
    server.broken = None
    fresh = holder.refresh(force=True)
    assert fresh == server.token(3)
    assert fresh.expires_at == datetime.fromtimestamp(START + 1000, UTC)
    server.broken, server.now = REFUSED, START + 1000
    with pytest.raises(TrafficAccessTokenExpired):
        holder.refresh(force=True)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("broken", [None, REFUSED])
def test_threads_that_wait_share_one_refresh(forced: bool, broken: Answer | None) -> None:
    entered, let_go = threading.Event(), threading.Event()

    def gate() -> None:
        entered.set()
        assert let_go.wait(20)

    server = Server(gate=gate, broken=broken)
    old = jwt(START + 50, iat=START)
    holder = server.holder(old)
    use = (lambda: holder.refresh(force=True)) if forced else holder.current
    arrived = threading.Semaphore(0)

    def arrive() -> str | None:
        arrived.release()
        return use()

    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(use)]
        assert entered.wait(20)
        results += [threads.submit(arrive) for _ in range(7)]
        for _ in range(7):
            assert arrived.acquire(timeout=20)
        let_go.set()
        tokens = {result.result(20) for result in results}
    # A thread may come so late that it finds everything done; a forced one then asks again, which is right.
    assert server.calls == 1 or forced
    assert tokens <= ({old} if broken else {server.token(call + 1) for call in range(server.calls)})


@pytest.mark.parametrize("validity", [30, 1000])
def test_callers_that_waited_take_the_new_token_even_if_it_is_due_at_once(validity: float) -> None:
    """A token that is valid for a minute or less is due for a refresh at once."""
    server = Server(validity=validity)
    holder = server.holder(jwt(START + 50, iat=START))
    waiting = threading.Semaphore(0)

    def gate() -> None:
        for _ in range(8):
            assert waiting.acquire(timeout=20)

    server.gate = gate
    real = holder.state

    class Watched:
        """The state, which says when a caller has found the token due."""

        def __getattr__(self, name: str) -> object:
            value = getattr(real, name)
            if name == "due":
                waiting.release()
            return value

    holder.state = Watched()  # type: ignore[assignment]  # stands in for the state, with all of its names
    with ThreadPoolExecutor(8) as threads:
        tokens = {one.result(20) for one in [threads.submit(holder.current) for _ in range(8)]}
    assert (server.calls, tokens) == (1, {server.token(1)})


@pytest.mark.live
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_refresh_that_its_parent_has_begun() -> None:
    entered, let_go = threading.Event(), threading.Event()

    def gate() -> None:
        entered.set()
        assert let_go.wait(20)

    server = Server(gate=gate)
    holder = server.holder(jwt(START + 50, iat=START))
    thread = threading.Thread(target=holder.current)
    thread.start()
    assert entered.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        server.gate = lambda: None
        os._exit(0 if holder.current() == server.token(2) else 3)
    ended = os.waitpid(child, 0)[1]
    let_go.set()
    thread.join(20)
    assert ended == 0


def async_holder(server: Server, gate: Callable[[], asyncio.Future[None]] | None = None) -> AsyncTokens:
    async def fetch() -> Answer:
        if gate is not None:
            server.calls += 1
            await gate()
            server.calls -= 1
        return server.fetch()

    return AsyncTokens(server.state(jwt(START + 50, iat=START)), fetch)


@pytest.mark.parametrize("forced", [False, True])
def test_tasks_that_wait_share_one_refresh(forced: bool) -> None:
    async def run() -> None:
        server = Server()
        let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        holder = async_holder(server, lambda: let_go)
        tasks = [asyncio.create_task(holder.refresh(True) if forced else holder.current()) for _ in range(8)]
        while not server.calls:
            await asyncio.sleep(0)
        let_go.set_result(None)
        assert {str(token) for token in await asyncio.gather(*tasks)} == {server.token(1)}
        assert server.calls == 1

    asyncio.run(run())


def test_tasks_that_waited_take_the_new_token_even_if_it_is_due_at_once() -> None:
    async def run() -> None:
        server = Server(validity=30)
        let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        holder = async_holder(server, lambda: let_go)
        tasks = [asyncio.create_task(holder.current()) for _ in range(8)]
        while not server.calls:
            await asyncio.sleep(0)
        let_go.set_result(None)
        assert {str(token) for token in await asyncio.gather(*tasks)} == {server.token(1)}
        assert server.calls == 1

    asyncio.run(run())


def test_a_cancellation_passes_through_and_is_no_failure() -> None:
    async def run() -> None:
        server = Server()
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        holder = async_holder(server, lambda: never)
        task = asyncio.create_task(holder.current())
        while not server.calls:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert holder.state.due, "no backoff was noted"
        assert holder.state.attempts == 0

    asyncio.run(run())


def test_an_async_holder_can_move_to_another_loop() -> None:
    server = Server()
    holder = async_holder(server)
    for call in (1, 2):
        assert asyncio.run(holder.refresh(force=True)) == server.token(call)


def test_no_token_shows_in_a_text_of_an_object() -> None:
    state = Server().state(jwt(START + 50))
    assert state.token is not None
    assert state.token not in repr(vars(state))
