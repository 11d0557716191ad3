"""The method that the traffic token patch adds: checked, undone and refused like everything that a patch changes."""

from __future__ import annotations

from typing import Any

import e2b
import pytest

from kruise_agents.client.traffic_token.patch import TRAFFIC_PATCH
from kruise_agents.errors import PatchConflictError, UnsupportedSDKError
from kruise_agents.patch_traffic_token import patch_traffic_access_token, unpatch_traffic_access_token

METHOD = "refresh_traffic_access_token"
both_classes = pytest.mark.parametrize("cls", [e2b.Sandbox, e2b.AsyncSandbox], ids=["sync", "async"])


def own(self: Any, *, region: str = "") -> str:
    """Stand in for a method that a new release of the SDK brings."""
    return f"the SDK's own {region}"


@both_classes
def test_a_method_of_the_sdks_own_comes_back_identical(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cls, METHOD, own, raising=False)
    for _ in range(2):
        with patch_traffic_access_token():
            assert vars(cls)[METHOD] is not own
        assert vars(cls)[METHOD] is own


@both_classes
def test_a_method_of_the_sdks_own_stays_away_until_the_last_level_is_closed(
    cls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cls, METHOD, own, raising=False)
    outer, inner = patch_traffic_access_token(), patch_traffic_access_token()
    ours = vars(cls)[METHOD]
    outer.close()
    assert vars(cls)[METHOD] is ours
    inner.close()
    assert vars(cls)[METHOD] is own


@both_classes
def test_where_the_sdk_has_no_such_method_nothing_is_left(cls: Any) -> None:
    with patch_traffic_access_token():
        assert METHOD in vars(cls)
    assert METHOD not in vars(cls)


def test_an_inherited_method_is_neither_changed_nor_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    base: Any = e2b.Sandbox.__mro__[1]
    monkeypatch.setattr(base, METHOD, own, raising=False)
    sandbox: Any = e2b.Sandbox
    with patch_traffic_access_token():
        assert getattr(sandbox, METHOD) is not own
        assert vars(base)[METHOD] is own
    assert METHOD not in vars(sandbox)
    assert getattr(sandbox, METHOD) is own


@both_classes
def test_a_method_that_somebody_put_over_the_added_one_is_never_undone(
    cls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = patch_traffic_access_token()
    with monkeypatch.context() as somebody:
        somebody.setattr(cls, METHOD, own)
        for undo in (patch.close, unpatch_traffic_access_token):
            with pytest.raises(PatchConflictError, match=rf"{cls.__name__}\.{METHOD}"):
                undo()
            assert vars(cls)[METHOD] is own
            assert not patch.closed
    patch.close()
    assert METHOD not in vars(cls)


@both_classes
def test_a_removed_method_hinders_nothing(cls: Any) -> None:
    patch = patch_traffic_access_token()
    delattr(cls, METHOD)
    patch.close()
    assert METHOD not in vars(cls)
    assert not TRAFFIC_PATCH.slots


@both_classes
@pytest.mark.parametrize("in_base", [False, True])
def test_something_else_of_that_name_is_refused_and_nothing_is_changed(
    cls: Any, in_base: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = cls.__mro__[1] if in_base else cls
    theirs = property(lambda self: "a token")
    monkeypatch.setattr(holder, METHOD, theirs, raising=False)
    expected = rf"{cls.__name__}\.{METHOD}: expected a function, or nothing of that name; found a property"
    with pytest.raises(UnsupportedSDKError, match=expected):
        patch_traffic_access_token()
    assert vars(holder)[METHOD] is theirs
    assert not TRAFFIC_PATCH.slots


@both_classes
def test_a_fault_while_patching_brings_the_sdks_own_method_back(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kruise_agents.client.patch_set import Slot

    monkeypatch.setattr(cls, METHOD, own, raising=False)
    fill = Slot.fill

    def failing(slot: Slot) -> None:
        fill(slot)
        if slot.owner is cls and slot.attribute == METHOD:
            raise KeyboardInterrupt

    monkeypatch.setattr(Slot, "fill", failing)
    with pytest.raises(KeyboardInterrupt):
        patch_traffic_access_token()
    assert vars(cls)[METHOD] is own
