"""The network outside of sandboxes: an internet made for the test, and nothing of the real internet."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.manager.runtime import EgressRules
from kruise_agents.manager.runtime.network import egress
from support.managers import RunningManager, available_runtime, descendants, running_manager, wait_for
from support.namespaces import in_network_namespace

pytestmark = pytest.mark.live
PROGRAM = Path(__file__).parents[1] / "programs" / "internet.py"
NEEDED = ("ip", "unshare", "nsenter", "curl")
PATH = f"{os.environ['PATH']}:/usr/sbin"
"""With the programs of administrators, which are not on everybody's."""
networks = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
)


def why_not(carrier: str) -> str | None:
    if available_runtime() != "bubblewrap":
        return "this machine permits no namespaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is closed to this user"
    missing = [name for name in (carrier, *NEEDED) if shutil.which(name, path=PATH) is None]
    return f"{', '.join(missing)} not installed" if missing else None


@pytest.fixture(scope="module", params=["slirp4netns", "pasta"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of programs/internet.py with this carrier."""
    if reason := why_not(request.param):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("internet")
    command = in_network_namespace([sys.executable, str(PROGRAM), request.param, str(folder)], folder)
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": str(PROGRAM.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"carrier": request.param}


PUBLIC, OTHER = "answer of 198.51.100.1", "answer of 198.51.100.2"


def test_the_internet_is_reached_by_address_and_by_name(found: dict[str, Any]) -> None:
    assert found["default"]["public"] == found["default"]["name"] == PUBLIC
    assert found["default"]["other"] == OTHER
    assert found["health"] == found["carrier"]


NOTHING = [
    *("no internet", "closed later", "warm, no internet"),
    *("closed template", "closed template, opened by the call", "closed template, cleared later"),
    "snapshot of a closed template",
]
PLACES = ("public", "other", "private", "name")


@pytest.mark.parametrize("case", NOTHING)
def test_without_internet_access_there_is_none(found: dict[str, Any], case: str) -> None:
    """A template's ``internet = false`` is not lifted by ``true``: SDKs up to 2.50 send that with every create."""
    assert not [place for place in PLACES if "answer of" in found[case][place]]
    assert "resolve" in found[case]["name"]


def test_a_claim_has_the_rules_of_its_create(found: dict[str, Any]) -> None:
    assert found["warm"]["public"] == found["warm"]["name"] == PUBLIC
    assert found["warm, one allowed"]["public"] == PUBLIC
    assert "answer of" not in found["warm, one allowed"]["other"]


def test_until_it_is_claimed_a_sandbox_has_the_rules_of_its_template(found: dict[str, Any]) -> None:
    for case in ("warm", "warm, no internet", "warm, one allowed"):
        assert found[case]["before"].strip() == PUBLIC
    for case in ("closed template", "closed template, opened by the call", "closed template, one allowed"):
        assert "answer of" not in found[case]["before"]


def test_what_a_call_allows_by_address_is_open_in_a_closed_template(found: dict[str, Any]) -> None:
    assert found["closed template, one allowed"]["public"] == PUBLIC
    assert "answer of" not in found["closed template, one allowed"]["other"]


def test_a_fork_has_the_rules_of_its_source(found: dict[str, Any]) -> None:
    assert found["fork of one that is denied something"]["public"] == PUBLIC
    assert "answer of" not in found["fork of one that is denied something"]["other"]


def test_it_can_be_opened_later(found: dict[str, Any]) -> None:
    assert found["opened later"]["public"] == found["opened later"]["name"] == PUBLIC


def test_what_is_denied_is_not_reached_and_the_rest_is(found: dict[str, Any]) -> None:
    assert found["one denied"]["public"] == PUBLIC
    assert "answer of" not in found["one denied"]["other"]


def test_what_is_allowed_beats_what_is_denied(found: dict[str, Any]) -> None:
    assert found["one allowed"]["public"] == PUBLIC
    assert "answer of" not in found["one allowed"]["other"]


BY_NAME = [
    *("one name allowed", "warm, one name allowed", "closed template, one name allowed", "one name allowed later"),
    *("fork with a name", "before the move"),
    *("paused and resumed with a name, memory True", "paused and resumed with a name, memory False"),
]


@pytest.mark.parametrize("case", BY_NAME)
def test_the_addresses_of_an_allowed_name_are_open_and_no_others(found: dict[str, Any], case: str) -> None:
    assert found[case]["public"] == found[case]["name"] == PUBLIC
    assert not [place for place in ("other", "private") if "answer of" in found[case][place]]


def test_an_allowed_name_is_followed_to_its_new_address(found: dict[str, Any]) -> None:
    for case in ("after the move", "another name later"):
        assert found[case]["other"] == OTHER
        assert "answer of" not in found[case]["public"]


@pytest.mark.parametrize("case", ["private.example allowed", "nobody.example allowed", "no name later"])
def test_a_name_with_private_addresses_or_none_opens_nothing(found: dict[str, Any], case: str) -> None:
    """A name's owner chooses the answers, and must not choose this machine or its network."""
    assert all(said.startswith("curl:") for said in found[case].values())


def test_an_allowed_name_is_shown(found: dict[str, Any]) -> None:
    assert found["shown"] == ["some.example"]


def test_private_addresses_are_never_reached(found: dict[str, Any]) -> None:
    for case in ("default", "private allowed", "opened later"):
        assert "curl:" in found[case]["private"]


def test_nothing_that_the_machine_serves_is_reached(found: dict[str, Any]) -> None:
    cases = [name for name in found if name.startswith("machine by")]
    assert len(cases) == 6
    for case in cases:
        assert all(said.startswith("curl:") for said in found[case]), case


def test_routes_cannot_be_changed_from_inside(found: dict[str, Any]) -> None:
    assert "not permitted" in found["routes"]


def test_the_carriers_end_with_a_manager_that_is_killed(found: dict[str, Any]) -> None:
    """The test program waits until the carriers have ended."""
    assert found["carriers"] == 5, "one for each sandbox, of which two wait"


def test_the_next_manager_connects_what_it_takes_over_by_the_same_rules(found: dict[str, Any]) -> None:
    assert found["taken over"]["public"] == PUBLIC
    assert "answer of" not in found["taken over"]["other"]
    assert not [said for said in found["taken over, of a closed template"].values() if "answer of" in said]
    assert found["taken over, with a name"]["public"] == PUBLIC
    assert "answer of" not in found["taken over, with a name"]["other"]


def test_what_carries_packets_of_hostile_code_is_shut_in_itself(tmp_path: Path) -> None:
    if reason := why_not("slirp4netns"):
        pytest.skip(reason)
    with running_manager(tmp_path) as manager, manager.api() as api:
        assert api.post("/sandboxes", json={"templateID": "base"}).status_code == 201
        processes = [Path(f"/proc/{pid}") for pid in descendants(manager.process.pid)]
        (carrier,) = [one for one in processes if (one / "comm").read_text() == "slirp4netns\n"]
        wait_for(lambda: "Seccomp:\t2" in (carrier / "status").read_text(), what="the filter")
        if os.geteuid() == 0:
            assert {one.name for one in (carrier / "root").iterdir()} <= {"etc", "run"}


@given(st.lists(networks, max_size=4), st.lists(networks, max_size=4), st.integers(0, 2**32 - 1))
def test_an_address_is_blocked_when_it_is_denied_and_not_allowed(
    allowed: list[IPv4Network], denied: list[IPv4Network], number: int
) -> None:
    address = IPv4Address(number)
    private = any(
        address in IPv4Network(one)
        for one in ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3")
    )
    expected = private or (any(address in one for one in denied) and not any(address in one for one in allowed))
    if address in IPv4Network("10.0.2.0/24"):
        return  # of the carrier
    blocked = EgressRules(tuple(allowed), tuple(denied)).blocked()
    assert any(address in one for one in blocked) == expected
    assert IPv4Network("0.0.0.0/0") not in blocked, "it would have no say beside the way out"


def test_new_ranges_are_blocked_before_old_ones_are_opened_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    codes = [0, 1, 0]

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[bytes]:
        commands.append([word for word in command if word[0] in "+-" and "/" in word])
        return subprocess.CompletedProcess(command, codes[len(commands) - 1], b"", b"a test says so")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(egress, "_namespaces", lambda _pid: contextlib.nullcontext((0, 0)))
    monkeypatch.setattr(egress, "_own_addresses", list)
    first, second = (EgressRules(denied=(IPv4Network(network),)) for network in ("1.0.0.0/8", "2.0.0.0/8"))
    connection = egress.Connection(1)
    connection.change(first, {})
    with pytest.raises(OSError, match="a test says so"):
        connection.change(second, {})
    connection.change(first, {})
    connection.close()
    for command, opened in zip(commands, ([], ["-1.0.0.0/8"], ["-2.0.0.0/8"]), strict=True):
        assert [change for change in command if change[0] == "-"] == command[len(command) - len(opened) :] == opened
    assert "+1.0.0.0/8" in commands[2], "the change that failed may have opened it"


@given(st.lists(networks, max_size=4), st.lists(networks, max_size=4), st.integers(0, 2**32 - 1))
def test_the_addresses_of_names_count_as_allowed_ones(
    denied: list[IPv4Network], addresses: list[IPv4Network], number: int
) -> None:
    rules = EgressRules(denied=tuple(denied), names=("a.example", "b.example"))
    opened = rules.with_addresses({"a.example": tuple(addresses), "other.example": (IPv4Network("0.0.0.0/0"),)})
    same = EgressRules(tuple(addresses), tuple(denied))
    address = IPv4Address(number)
    if address not in IPv4Network("10.0.2.0/24"):
        assert any(address in one for one in opened.blocked()) == any(address in one for one in same.blocked())
    name_server = IPv4Address(egress.NAME_SERVER)
    assert not any(name_server in one for one in rules.closed().blocked() if one.subnet_of(IPv4Network("10.0.2.0/24")))


@pytest.mark.needs("namespaces")
def test_the_routes_of_a_network_follow_the_names_of_its_rules() -> None:
    """Needs no carrier: the routes are there before a network is connected."""
    everything = IPv4Network("0.0.0.0/0")
    rules = EgressRules(denied=(everything,), names=("a.example",))
    public, other, private = (IPv4Network(one) for one in ("198.51.100.1", "198.51.100.2", "10.1.2.3"))
    command = ["unshare", "--user", "--map-root-user", "--net", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        own = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != own, what="the network")
        connection = egress.Connection(process.pid)
        connection.change(rules, {"a.example": ()})
        assert all(is_blocked(process.pid, one) for one in (public, other, private))
        connection.learn({"a.example": (public, private)})
        assert [is_blocked(process.pid, one) for one in (public, other, private)] == [False, True, True]
        connection.learn({"a.example": (other,)})
        assert [is_blocked(process.pid, one) for one in (public, other, private)] == [True, False, True]
        connection.change(EgressRules(denied=(everything,), names=("b.example",)), {"b.example": (public,)})
        connection.learn({"a.example": (other,)})  # found for the rules of before
        assert [is_blocked(process.pid, one) for one in (public, other, private)] == [False, True, True]
        connection.close()
        connection.learn({"b.example": (other,)})
        assert is_blocked(process.pid, other), "a closed connection changes nothing"


@pytest.mark.needs("namespaces")
def test_no_routes_of_another_network_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a process that has ended may be given to a process of the machine's network."""
    rules = EgressRules(denied=(IPv4Network("198.51.100.0/24"),))
    command = ["unshare", "--user", "--map-root-user", "--net", "cat"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as process,
        subprocess.Popen(command, stdin=subprocess.PIPE) as other,
    ):
        own = Path("/proc/self/ns/net").readlink()
        for pid in (process.pid, other.pid):
            wait_for(lambda: Path(f"/proc/{pid}/ns/net").readlink() != own, what="the network")  # noqa: B023 - called at once
        connection = egress.Connection(process.pid)
        connection.change(rules, {})
        monkeypatch.setattr(connection, "_pid", other.pid)
        with pytest.raises(OSError, match="the sandbox has ended"):
            connection.change(rules, {})
        assert not is_blocked(other.pid, IPv4Network("198.51.100.1"))
        connection.close()


def is_blocked(pid: int, address: IPv4Network) -> bool:
    lines = Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:]
    routes = [line.split() for line in lines]
    assert all(int(flags, 16) & 0x200 for _, _, _, flags, *_ in routes), "all of them are unreachable"
    return any(
        int(address[0]) & socket.ntohl(int(mask, 16)) == socket.ntohl(int(destination, 16))
        for _, destination, _, _, _, _, _, mask, *_ in routes
    )


@pytest.mark.parametrize("name", ["maskRequestHost", "httpsPorts"])
def test_what_would_change_requests_on_their_way_in_is_refused(api: httpx.Client, name: str) -> None:
    answer = api.post("/sandboxes", json={"templateID": "base", "network": {name: "x"}})
    assert answer.status_code == 400
    assert f"field 'network.{name}' is not supported" in answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"denyOut": ["somewhere"]}, "invalid denied CIDR somewhere"),
        ({"denyOut": ["some.example"]}, "invalid denied CIDR some.example"),
        ({"allowOut": ["1.2.3.4/99"]}, "invalid allowed address 1.2.3.4/99"),
        (
            {"allowOut": ["some.example"]},
            "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC'",
        ),
        ({"allowOut": ["*.a.example"], "denyOut": ["0.0.0.0/0"]}, "allowOut entry '*.a.example' is not supported"),
        ({"allowOut": ["1.2.3.4", "*"], "denyOut": ["0.0.0.0/0"]}, "allowOut entry '*' is not supported"),
        ({"allowOut": ["some.example\n"], "denyOut": ["0.0.0.0/0"]}, "invalid allowed address some.example"),
        ({"allowOut": ["http://some.example"]}, "invalid allowed address http://some.example"),
        ({"allowOut": ["some.example"] * 101}, "allowOut list exceeds maximum of 100 entries"),
        ({"allowOut": "1.2.3.4"}, "must be an array of strings"),
        ({"denyOut": ["1.2.3.4"] * 101}, "denyOut list exceeds maximum of 100 entries"),
        ({"maskRequestHost": "x.example"}, "field 'maskRequestHost' is not supported"),
        ({"egressProxy": {"address": "x"}}, "field 'egressProxy' is not supported"),
        ({"rules": {"a.example": []}}, "field 'rules' is not supported"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(
    manager: RunningManager, api: httpx.Client, body: dict[str, Any], said: str
) -> None:
    for method, path, content in (
        ("POST", "/sandboxes", {"templateID": "base", "network": body}),
        ("PUT", "/sandboxes/inone/network", body),
    ):
        answer = api.request(method, path, json=content)
        assert answer.status_code == 400
        assert said.replace("field '", "") in answer.text.replace("field '", "").replace("network.", "")


def test_who_may_come_in_is_no_rule_that_can_be_changed(api: httpx.Client) -> None:
    answer = api.put("/sandboxes/inone/network", json={"allowPublicTraffic": False})
    assert (answer.status_code, "cannot be changed" in answer.text) == (400, True)


def test_rules_for_a_sandbox_that_is_not_there_are_not_found(api: httpx.Client) -> None:
    assert api.put("/sandboxes/inone/network", json={}).status_code == 404


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager whose sandboxes have no way out."""
    with running_manager(tmp_path_factory.mktemp("closed"), "--no-internet") as running:
        yield running


@pytest.mark.needs("namespaces")
def test_without_a_way_out_the_network_ends_at_the_sandboxs_loopback(closed: RunningManager, patched: None) -> None:
    with Sandbox.create(domain=closed.domain, api_key=closed.api_key) as sandbox:
        devices = sandbox.commands.run("tail -n +3 /proc/net/dev").stdout.splitlines()
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]


def test_without_a_way_out_nothing_can_be_allowed(closed: RunningManager) -> None:
    with closed.api() as client:
        for entry in ("1.2.3.4", "some.example"):
            network = {"allowOut": [entry], "denyOut": ["0.0.0.0/0"]}
            answer = client.post("/sandboxes", json={"templateID": "base", "network": network})
            assert answer.status_code == 400
            assert "no internet access" in answer.text
        report = client.get("/health", headers={"Accept": "application/json"}).json()
        assert report["internet"] == ("none" if available_runtime() == "bubblewrap" else "the machine's")
