"""Internet access of sandboxes: a host program carries packets, and the sandbox's routing table blocks addresses.

The carrier, ``slirp4netns`` or ``pasta`` (package ``passt``), gives the sandbox's network namespace an interface and
needs no root rights on the host. A blocked range has an ``unreachable`` route, which no user of a sandbox may change.
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
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

from .host_names import Addresses, HostNames

INTERFACE = "tap0"
NAME_SERVER = "10.0.2.3"  # the carrier answers there, and asks the name servers of the host
_OWN_NETWORK = IPv4Network("10.0.2.0/24")
# The addresses of the gateway, and of the sandbox with pasta and with slirp4netns.
_OWN_ADDRESSES = tuple(map(IPv4Network, ("10.0.2.2/32", "10.0.2.15/32", "10.0.2.100/32")))
_NAME_SERVER = IPv4Network(NAME_SERVER)
_EVERYTHING = IPv4Network("0.0.0.0/0")
# Private, shared (100.64), link-local (with the metadata services of clouds), multicast and reserved addresses.
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
# The carrier reads packets of hostile code. slirp4netns can confine itself only if root runs it. To do so, it unmounts
# everything in its mount namespace. If these mounts were shared, the host would lose them too, so it gets private ones.
# pasta gets such mounts from the kernel, because it enters the sandbox's user namespace first.
_CONFINED = "--enable-sandbox"
_PRIVATE_MOUNTS = ("--mount", "--propagation", "private", "--")
# The manager holds the other end of the shell's input. When that closes, also by a kill, the shell ends the carrier.
_PARENT_PIPE = ("/bin/sh", "-c", '"$@" </dev/null & read -r _; kill $!; wait', "egress")
_NS_GET_USERNS = 0xB701
_SECONDS = 5.0
_TUNNELS = "/dev/net/tun"
_HOST_ADDRESS = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EgressRules:
    """The network rules of a sandbox. Where ``allowed`` and ``denied`` overlap, ``allowed`` wins.

    ``names`` are host names whose addresses are allowed too. Private addresses are blocked even if allowed, except a
    few addresses of the sandbox's own network.
    """

    allowed: tuple[IPv4Network, ...] = ()
    denied: tuple[IPv4Network, ...] = ()
    names: tuple[str, ...] = ()

    def with_addresses(self, hosts: Addresses) -> Self:
        """Return a copy whose ``allowed`` also has the addresses that ``hosts`` has for ``names``."""
        found = (address for name in self.names for address in hosts.get(name, ()))
        return replace(self, allowed=(*self.allowed, *found))

    def blocked(self, own: Iterable[IPv4Network] = ()) -> list[IPv4Network]:
        """Return the ranges to block. ``own`` are the host's addresses, which are always blocked too."""
        ranges = ipaddress.collapse_addresses(self.denied)
        denied = [rest for network in ranges for rest in _without(network, self.allowed)]
        blocked = list(ipaddress.collapse_addresses([*denied, *_ALWAYS_BLOCKED, *own]))
        if blocked == [_EVERYTHING]:
            blocked = list(_EVERYTHING.subnets())  # a route to everything would have no effect beside the default
        return [*blocked, *self._blocked_of_carrier()]

    def closed(self) -> Self:
        """Return these rules, changed to deny everything except the entries of ``allowed`` and ``names``."""
        return self if _EVERYTHING in self.denied else replace(self, denied=(*self.denied, _EVERYTHING))

    @property
    def everything_denied(self) -> bool:
        return _EVERYTHING in ipaddress.collapse_addresses(self.denied)

    def _blocked_of_carrier(self) -> list[IPv4Network]:
        # Return the carrier's network without the used addresses: the host might have a network with the same range.
        # The interface's own route to that network beats shorter routes, so the parts need routes of their own.
        nothing_allowed = self.everything_denied and not self.allowed and not self.names
        return list(_without(_OWN_NETWORK, [*_OWN_ADDRESSES, *([] if nothing_allowed else [_NAME_SERVER])]))


class Egress:
    """The internet access of all sandboxes, if it is ``wanted`` and ``slirp4netns`` or ``pasta`` can be used."""

    def __init__(self, *, wanted: bool = True) -> None:
        self._installed = {name: path for name in _CARRIERS if (path := shutil.which(name))}
        self.carrier = next(iter(self._installed), None)
        self._unshare = shutil.which("unshare")
        why_not = None
        if not wanted:
            why_not = "--no-internet"
        elif self.carrier is None:
            why_not = "neither slirp4netns nor pasta is installed"
        elif not os.access(_TUNNELS, os.R_OK | os.W_OK):
            why_not = f"{_TUNNELS} is not there, or closed to this user"
        elif self._confines and self._unshare is None:
            why_not = "unshare is not installed (system package `util-linux`)"
        if why_not:
            self.carrier = None
        how = f"none ({why_not})" if why_not else f"by {self.carrier}"
        self.host_names = HostNames()
        self.summary = f"internet access of sandboxes: {how}"

    def attach(self, pid: int, rules: EgressRules, hosts: Addresses) -> Connection | None:
        """Connect the network namespace of a process to the internet. Return None if sandboxes have no internet access.

        ``hosts`` has the addresses that the names in ``rules`` have now. When these change, call the connection's
        ``learn``. This method blocks until packets can flow. On failure, it raises OSError.
        """
        if self.carrier is None:
            return None
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:  # noqa: PTH116 - a magic link
            raise OSError("it has ended, or has no network of its own")
        connection = Connection(pid)
        try:
            connection.start(rules, hosts, self.carrier, self._command(self.carrier))
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def _confines(self) -> bool:
        return self.carrier == "slirp4netns" and os.geteuid() == 0

    def _command(self, carrier: str) -> list[str]:
        program, options = self._installed[carrier], _CARRIERS[carrier]
        if not self._confines:
            return [program, *options]
        assert self._unshare is not None
        return [self._unshare, *_PRIVATE_MOUNTS, program, _CONFINED, *options]


class Connection:
    """The connection of one sandbox to the internet, made by :meth:`Egress.attach`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._rules = EgressRules()
        self._hosts: Addresses | None = None  # of the rules that hold; None after an error
        self._blocked: set[IPv4Network] = set()
        self._network: int | None = None  # the inode of the namespace
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection

    def start(self, rules: EgressRules, hosts: Addresses, carrier: str, command: Iterable[str]) -> None:
        """Apply the rules, start the carrier, and wait until packets can flow. Raises OSError if a step fails."""
        # Changes have to wait for bwrap to set up the loopback: bwrap fails if the network changes at that moment.
        deadline = time.monotonic() + _SECONDS
        while "127.0.0.1" not in Path(f"/proc/{self._pid}/net/fib_trie").read_text():
            if time.monotonic() > deadline:
                raise OSError("the sandbox's loopback did not come up")
            time.sleep(0.002)
        self.change(rules, hosts)
        with _namespaces(self._pid) as (user, net):
            places = {"user": f"/proc/self/fd/{user}", "net": f"/proc/self/fd/{net}", "uid": os.geteuid()}
            self._process = subprocess.Popen(
                [*_PARENT_PIPE, *(part.format(**places) for part in command)],
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
                raise OSError(f"{carrier} did not connect the sandbox: {message}")
            time.sleep(0.005)  # no process outside of the namespace can wait for an interface

    def change(self, rules: EgressRules, hosts: Addresses) -> None:
        """Replace the rules, which takes a moment. After an OSError, parts of the old and of the new rules may hold."""
        with self._lock:
            self._rules = rules
            self._apply(hosts)

    def learn(self, hosts: Addresses) -> None:
        """Open the addresses that the names in the rules have now, and block their earlier addresses.

        Has no effect if the names in the rules are not those of ``hosts``. Raises OSError as :meth:`change` does.
        """
        with self._lock:
            if hosts != self._hosts and hosts.keys() == set(self._rules.names) and not self._closed:
                self._apply(hosts)

    def _apply(self, hosts: Addresses) -> None:
        self._hosts = None
        wanted = set(self._rules.with_addresses(hosts).blocked(_own_addresses()))
        # All ranges are blocked anew, because an earlier change may have failed. Then old ranges are opened: in the
        # other order, too much would be open in between.
        changes = [f"+{network}" for network in wanted]
        changes += [f"-{network}" for network in self._blocked - wanted]
        self._blocked |= wanted
        with _namespaces(self._pid) as (user, net):
            # Never change the network of another process, which has the number of one that has ended.
            network = os.fstat(net).st_ino
            if self._network not in (None, network):
                raise OSError("the sandbox has ended")
            self._network = network
            program = str(Path(__file__).with_name("routes.py"))
            command = [sys.executable, "-I", "-S", program, str(user), str(net), *changes]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(user, net), check=False, env={}
            )
        if done.returncode != 0:
            raise OSError(f"the sandbox's routes: {done.stderr.decode(errors='replace').strip()[-500:]}")
        self._blocked = wanted
        self._hosts = hosts

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._output.close()
        if self._process is not None:
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def _namespaces(pid: int) -> Iterator[tuple[int, int]]:
    # Yield descriptors of the user namespace that owns a process's network namespace, and of that network namespace.
    with contextlib.ExitStack() as opened:
        net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, net)
        user = fcntl.ioctl(net, _NS_GET_USERNS)
        opened.callback(os.close, user)
        yield user, net


def _without(network: IPv4Network, parts: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    first, last = network[0], network[-1]
    for part in ipaddress.collapse_addresses(parts):  # in ascending order
        if part.overlaps(network):
            if part[0] > first:
                yield from ipaddress.summarize_address_range(first, part[0] - 1)
            if part[-1] >= last:
                return
            first = part[-1] + 1
    yield from ipaddress.summarize_address_range(first, last)


def _own_addresses() -> list[IPv4Network]:
    # Sandboxes must not reach the services of this machine at its own addresses.
    text = Path("/proc/net/fib_trie").read_text(encoding="ascii")
    return [IPv4Network(address) for address in set(_HOST_ADDRESS.findall(text))]
