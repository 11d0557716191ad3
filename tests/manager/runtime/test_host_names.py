"""The manager's lookups of host names, with a resolver made for the test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from kruise_agents.manager.runtime.network import host_names
from kruise_agents.manager.runtime.network.host_names import HostNames


class Resolver:
    """Answers from ``addresses``; a name that is not there cannot be found, and lookups wait for ``go_on``."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def look_up(self, name: str) -> list[IPv4Address]:
        self.asked.append(name)
        self.go_on.wait(30)
        if name not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "a test says so")
        return [IPv4Address(address) for address in self.addresses[name]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(host_names, "look_up", made.look_up)
    yield made
    made.go_on.set()


def networks(*addresses: str) -> tuple[IPv4Network, ...]:
    return tuple(map(IPv4Network, addresses))


def test_a_name_is_looked_up_once_for_all_who_ask_at_the_same_time(resolver: Resolver) -> None:
    resolver.addresses["a.example"] = ["1.2.3.5", "1.2.3.4"]

    async def ask() -> None:
        names = HostNames()
        for answer in await asyncio.gather(*(names.find(["a.example"]) for _ in range(9)), names.find(["a.example"])):
            assert answer == {"a.example": networks("1.2.3.4", "1.2.3.5")}

    asyncio.run(ask())
    assert resolver.asked == ["a.example"]


def test_a_name_that_is_not_found_has_no_addresses(resolver: Resolver) -> None:
    resolver.addresses["a.example"] = ["1.2.3.4"]
    found = asyncio.run(HostNames().find(["nobody.example", "a.example"]))
    assert found == {"nobody.example": (), "a.example": networks("1.2.3.4")}


def test_a_name_that_is_not_found_is_logged_once(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_names, "SECONDS", 0.0)
    caplog.set_level("INFO")

    async def ask() -> None:
        names = HostNames()
        for _ in range(3):
            assert await names.find(["nobody.example"]) == {"nobody.example": ()}

    asyncio.run(ask())
    assert len(resolver.asked) == 3
    assert [
        record.getMessage().split(" was")[0] for record in caplog.records if "host name" in record.getMessage()
    ] == ["the host name nobody.example"]


def test_addresses_of_the_machine_itself_do_not_count(resolver: Resolver) -> None:
    resolver.addresses["a.example"] = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "1.2.3.4"]
    assert asyncio.run(HostNames().find(["a.example"])) == {"a.example": networks("1.2.3.4")}


def test_a_slow_lookup_holds_nobody_up_and_its_answer_counts_later(resolver: Resolver) -> None:
    resolver.addresses["a.example"] = ["1.2.3.4"]
    resolver.go_on.clear()

    async def ask() -> None:
        names = HostNames()
        assert await names.find(["a.example"], patience=0) == {"a.example": ()}
        resolver.go_on.set()
        assert await names.find(["a.example"]) == {"a.example": networks("1.2.3.4")}

    asyncio.run(ask())
    assert resolver.asked == ["a.example"]


def test_the_end_of_the_manager_waits_for_no_lookup(resolver: Resolver) -> None:
    resolver.go_on.clear()
    asyncio.run(HostNames().find(["a.example"], patience=0))
    assert not resolver.go_on.is_set()


def test_few_lookups_run_at_once(resolver: Resolver) -> None:
    resolver.go_on.clear()

    async def ask() -> None:
        names = HostNames()
        every = [f"a{number}.example" for number in range(100)]
        await names.find(every, patience=0)
        async with asyncio.timeout(30):
            while len(resolver.asked) < 32:
                await asyncio.sleep(0.01)
        assert len(resolver.asked) == 32
        resolver.go_on.set()
        await names.find(every)

    asyncio.run(ask())
    assert len(resolver.asked) == len(set(resolver.asked)) == 100


def test_all_names_of_a_sandbox_together_open_a_bounded_number_of_addresses(resolver: Resolver) -> None:
    resolver.addresses = {f"a{one}.example": [f"1.{one}.{part}.1" for part in range(200)] for one in range(100)}

    async def ask() -> None:
        names = HostNames()
        many = await names.find(list(resolver.addresses))
        assert {len(found) for found in many.values()} == {4}
        assert len((await names.find(["a1.example"]))["a1.example"]) == 200

    asyncio.run(ask())


def test_an_address_stays_for_a_while_after_the_last_answer_with_it(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)

    async def at(later: float, *answer: str) -> tuple[IPv4Network, ...]:
        nonlocal moment
        moment = 1000 + later
        resolver.addresses["a.example"] = list(answer)
        return (await names.find(["a.example"]))["a.example"]

    names = HostNames()

    async def ask() -> None:
        assert await at(0, "1.2.3.4") == networks("1.2.3.4")
        assert await at(1, "1.2.3.5") == networks("1.2.3.4"), "the answer of a moment ago"
        assert await at(15, "1.2.3.5") == networks("1.2.3.4", "1.2.3.5")
        assert await at(500) == networks("1.2.3.4", "1.2.3.5")
        assert await at(610) == networks("1.2.3.5")
        assert await at(620) == ()

    asyncio.run(ask())


def test_names_that_nobody_asks_for_are_forgotten(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_names, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(host_names, "SECONDS", 0.0)

    async def ask() -> None:
        names = HostNames()
        for number in range(50):
            await names.find([f"a{number}.example"])
        assert len(names._names) <= 2

    asyncio.run(ask())


def test_a_name_that_no_resolver_can_take_is_not_found() -> None:
    name = "a" * 70 + ".example"
    assert asyncio.run(HostNames().find([name])) == {name: ()}
