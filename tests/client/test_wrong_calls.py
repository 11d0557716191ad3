"""Wrong calls of patched functions, which the SDK refuses with the words that it has unpatched."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import e2b
import pytest
from packaging.version import Version

from kruise_agents.client.addresses.patch import ADDRESS_PATCH
from kruise_agents.client.patch_set import Slot
from kruise_agents.client.traffic_token.patch import TRAFFIC_PATCH
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.patch_traffic_token import patch_traffic_access_token
from support.sdk import E2B_VERSION, SANDBOX_CLASSES, class_name

WRONG = [((), {}), ((), {"bogus": 1}), ((1, 2, 3, 4, 5, 6, 7, 8, 9), {}), ((1,), {"bogus": 1}), ((1, 2), {})]
TAKES_A_PORT_TOO = ("get_sandbox_url", "get_sandbox_direct_url") if Version("2.55.1") > E2B_VERSION else ()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(TypeError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("cls", SANDBOX_CLASSES, ids=class_name)
@pytest.mark.parametrize("args", [(), ("sbx",)], ids=["keyword", "position"])
def test_a_wrong_argument_of_a_sandbox_is_refused_in_the_sdks_words(cls: Any, args: tuple[str, ...]) -> None:
    def make() -> Any:
        return cls(*args, template="t", connection_config=e2b.ConnectionConfig())

    native = refusal(make)
    assert "__init__() " in native
    with patch_e2b():
        assert refusal(make) == native
        with patch_traffic_access_token():
            assert refusal(make) == native
    with patch_traffic_access_token():
        assert refusal(make) == native


def test_every_patched_function_refuses_wrong_calls_in_the_sdks_words() -> None:
    compared = set()
    with patch_e2b(), patch_traffic_access_token():
        for slot in (*ADDRESS_PATCH.slots, *TRAFFIC_PATCH.slots):
            for native, ours in wrong_calls(slot):
                assert refusal(ours) == refusal(native), slot
                compared.add(str(slot))
    assert len(compared) > 10


def wrong_calls(slot: Slot) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Give each call that the SDK's function refuses, of that function and of ours."""
    native, ours = function_in(slot.original), function_in(slot.replacement)
    if native is None or slot.attribute in TAKES_A_PORT_TOO:
        return
    itself = instance_of(slot.owner)
    for args, kwargs in WRONG:
        try:
            inspect.signature(native).bind(*itself, *args, **kwargs)
        except TypeError:
            yield call(native, *itself, *args, **kwargs), call(ours, *itself, *args, **kwargs)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: finish(function(*args, **kwargs))


def function_in(descriptor: Any) -> Any:
    for inner in ("__func__", "method"):
        descriptor = getattr(descriptor, inner, descriptor)
    return descriptor if inspect.isfunction(descriptor) else None


def instance_of(owner: Any) -> tuple[Any, ...]:
    if not isinstance(owner, type):
        return ()
    if issubclass(owner, Exception):
        return (owner(),)
    instance: Any = object.__new__(owner)
    instance._headers = {}
    for name in ("_connection_config", "_SandboxBase__connection_config"):  # the second in older releases
        setattr(instance, name, e2b.ConnectionConfig())
    return (instance,)


def finish(result: Any) -> Any:
    """Wait for what an async function gave, since some of ours look at the arguments only then."""
    if inspect.isasyncgen(result):
        return asyncio.run(anext(result))
    return asyncio.run(result) if inspect.iscoroutine(result) else result
