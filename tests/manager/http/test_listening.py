"""The listening sockets of the manager's port, on machines without one of the two kinds of addresses."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.http import listening
from kruise_agents.manager.http.admission import Listener


def test_without_ipv6_in_the_kernel_the_manager_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutIPv6(Listener):
        def __init__(self, family: int, *arguments: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments)

    monkeypatch.setattr(listening, "Listener", WithoutIPv6)
    (only,) = listening.bind(None, 0)
    with only:
        assert only.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConfigurationError, match=r"cannot listen on \[::1\]:0: Address family not supported"):
        listening.bind("::1", 0)


def test_without_ipv4_the_manager_listens_on_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutIPv4(Listener):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr(listening, "Listener", WithoutIPv4)
    (only,) = listening.bind(None, 0)
    with only:
        assert only.getsockname()[0] == "::1"


def test_without_any_address_the_first_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutAny(Listener):
        def bind(self, address: Any) -> None:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listening, "Listener", WithoutAny)
    with pytest.raises(ConfigurationError, match=r"127.0.0.1:80 needs more rights to listen on"):
        listening.bind(None, 80)


@pytest.mark.live  # asks the kernel for the route to another network, and sends nothing
def test_the_own_address_is_one_of_this_machine() -> None:
    address = listening.own_address("0.0.0.0")
    if address is not None:  # a machine with a network
        with socket.create_server((address, 0)):
            pass
