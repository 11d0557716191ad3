"""Egress of sandboxes: a program on the host carries packets to the internet, and routes in the sandbox block some.

The carrier, ``slirp4netns`` or ``pasta`` (package ``passt``), gives the sandbox's network namespace an interface and
needs no rights on the host. Blocked ranges have unreachable routes, which no user of a sandbox may change.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

INTERFACE = "tap0"
NAME_SERVER = "10.0.2.3"  # of the carrier, which asks the name servers of the host
_OWN_NETWORK = IPv4Network("10.0.2.0/24")
# The gateway, and the sandbox with either carrier.
_OWN_ADDRESSES = tuple(map(IPv4Network, ("10.0.2.2/32", "10.0.2.15/32", "10.0.2.100/32")))
_NAME_SERVER = IPv4Network(NAME_SERVER)
_EVERYTHING = IPv4Network("0.0.0.0/0")
# Private, link-local (with the metadata services of clouds) and multicast addresses.
_PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3")
_ALWAYS_BLOCKED = tuple(map(IPv4Network, _PRIVATE))
_CARRIERS = {
    "slirp4netns": (
        *("--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", "--enable-seccomp"),
        *("--userns-path={user}", "{net}", INTERFACE),
    ),
    "pasta": (
        *("--foreground", "--quiet", "--ipv4-only", "--config-net", "--no-map-gw", "--ns-ifname", INTERFACE),
        *("--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2", "--dns-forward", NAME_SERVER),
        *("-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-dhcp", "--no-ra", "--no-ndp", "--no-dhcpv6"),
        *("--runas", "{uid}", "--userns", "{user}", "--netns", "{net}"),
    ),
}
# The carrier reads what hostile code sends, so it is shut in. An ordinary user's slirp4netns has no right to do that.
_AS_ROOT = {"slirp4netns": ("--enable-sandbox",), "pasta": ()}
# Ends the carrier when the manager ends, in whatever way: the manager holds the other end of this standard input.
_PARENT_PIPE = ("/bin/sh", "-c", '"$@" </dev/null & read -r _; kill $!; wait', "egress")
_NS_GET_USERNS = 0xB701
_SECONDS = 5.0
_TUNNELS = "/dev/net/tun"
_HOST_ADDRESS = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EgressRules:
    """Ranges that a sandbox may reach. ``allowed`` beats ``denied``; private addresses are always blocked."""

    allowed: tuple[IPv4Network, ...] = ()
    denied: tuple[IPv4Network, ...] = ()

    def blocked(self, own: Iterable[IPv4Network] = ()) -> list[IPv4Network]:
        """Return the ranges to block, none within another. ``own`` are the host's addresses, always blocked too."""
        denied = list(ipaddress.collapse_addresses(self.denied))
        for allowed in self.allowed:
            denied = [rest for network in denied for rest in _without(network, allowed)]
        blocked = list(ipaddress.collapse_addresses([*denied, *_ALWAYS_BLOCKED, *own]))
        if self.nothing_allowed:
            blocked = [_EVERYTHING]
        # A route to everything has no effect beside the default route. The interface's own route beats shorter ones.
        return [*_halves(blocked, _EVERYTHING), *self._blocked_of_carrier()]

    def closed(self) -> Self:
        """Return these rules without internet access, except for the allowed ranges."""
        return self if _EVERYTHING in self.denied else replace(self, denied=(*self.denied, _EVERYTHING))

    @property
    def nothing_allowed(self) -> bool:
        return self.everything_denied and not self.allowed

    @property
    def everything_denied(self) -> bool:
        return _EVERYTHING in ipaddress.collapse_addresses(self.denied)

    def _blocked_of_carrier(self) -> list[IPv4Network]:
        # The carrier's network without its addresses: a network of the host might have the same range.
        rest = [_OWN_NETWORK]
        for address in [*_OWN_ADDRESSES, *([] if self.nothing_allowed else [_NAME_SERVER])]:
            rest = [part for network in rest for part in _without(network, address)]
        return _halves(rest, _OWN_NETWORK)


class Egress:
    """Connects sandboxes to the internet, if a carrier is installed and ``wanted``."""

    def __init__(self, *, wanted: bool = True) -> None:
        self._installed = {name: path for name in _CARRIERS if (path := shutil.which(name))}
        self.carrier = next(iter(self._installed), None)
        why_not = None
        if not wanted:
            why_not = "--no-internet"
        elif self.carrier is None:
            why_not = "neither slirp4netns nor pasta is installed"
        elif not os.access(_TUNNELS, os.R_OK | os.W_OK):
            why_not = f"{_TUNNELS} is not there, or closed to this user"
        if why_not:
            self.carrier = None
        how = f"none ({why_not})" if why_not else f"by {self.carrier}"
        self.summary = f"internet access of sandboxes: {how}"

    def attach(self, pid: int, rules: EgressRules) -> Connection | None:
        """Connect the network namespace of a process and return when packets can flow. Blocks for a moment.

        Returns None without a carrier. An OSError says why it failed; then nothing is left running.
        """
        if self.carrier is None:
            return None
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:  # noqa: PTH116 - a magic link
            raise OSError("it has ended, or has no network of its own")
        connection = Connection(pid, rules)
        try:
            shut_in = _AS_ROOT[self.carrier] if os.geteuid() == 0 else ()
            connection.start([self._installed[self.carrier], *shut_in, *_CARRIERS[self.carrier]])
        except BaseException:
            connection.close()
            raise
        return connection


class Connection:
    """The connection of a sandbox, made by :meth:`Egress.attach`."""

    def __init__(self, pid: int, rules: EgressRules) -> None:
        self._pid = pid
        self._rules = rules
        self._blocked: set[IPv4Network] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection

    def start(self, carrier: list[str]) -> None:
        """Block ranges, then start the carrier; raises as :meth:`Egress.attach`."""
        # bwrap sets up the loopback, and fails when the network is changed at the same moment.
        deadline = time.monotonic() + _SECONDS
        while "127.0.0.1" not in Path(f"/proc/{self._pid}/net/fib_trie").read_text():
            if time.monotonic() > deadline:
                raise OSError("the sandbox's loopback did not come up")
            time.sleep(0.002)
        self.change(self._rules)
        with _namespaces(self._pid) as (user, net):
            places = {"user": f"/proc/self/fd/{user}", "net": f"/proc/self/fd/{net}", "uid": os.geteuid()}
            self._process = subprocess.Popen(
                [*_PARENT_PIPE, *(part.format(**places) for part in carrier)],
                env={},
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(user, net),
                start_new_session=True,
            )
        deadline = time.monotonic() + _SECONDS
        while f"{INTERFACE}\t00000000\t" not in Path(f"/proc/{self._pid}/net/route").read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._output.seek(0)
                message = self._output.read().decode(errors="replace").strip()[-500:]
                raise OSError(f"{carrier[0]} did not connect the sandbox: {message}")
            time.sleep(0.005)  # the kernel tells nobody outside about a new interface

    def change(self, rules: EgressRules) -> None:
        """Replace the rules. Blocks for a moment. After an OSError, a part of the old rules may still hold."""
        wanted = set(rules.blocked(_own_addresses()))
        changes = [f"-{network}" for network in self._blocked - wanted]
        changes += [f"+{network}" for network in wanted - self._blocked]
        with _namespaces(self._pid) as (user, net):
            program = str(Path(__file__).with_name("routes.py"))
            command = [sys.executable, "-I", "-S", program, str(user), str(net), *changes]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(user, net), check=False, env={}
            )
        if done.returncode != 0:
            raise OSError(f"the sandbox's routes: {done.stderr.decode(errors='replace').strip()[-500:]}")
        self._blocked, self._rules = wanted, rules

    def close(self) -> None:
        self._output.close()
        if self._process is not None:
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def _namespaces(pid: int) -> Iterator[tuple[int, int]]:
    # Descriptors of a process's network namespace and, first, of the user namespace that owns it.
    with contextlib.ExitStack() as opened:
        net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, net)
        user = fcntl.ioctl(net, _NS_GET_USERNS)
        opened.callback(os.close, user)
        yield user, net


def _without(network: IPv4Network, part: IPv4Network) -> list[IPv4Network]:
    if network.subnet_of(part):
        return []
    return list(network.address_exclude(part)) if part.subnet_of(network) else [network]


def _halves(networks: list[IPv4Network], whole: IPv4Network) -> list[IPv4Network]:
    return [part for network in networks for part in (network.subnets() if network == whole else [network])]


def _own_addresses() -> list[IPv4Network]:
    # The services of this machine for others are not for sandboxes.
    text = Path("/proc/net/fib_trie").read_text(encoding="ascii")
    return [IPv4Network(address) for address in set(_HOST_ADDRESS.findall(text))]
