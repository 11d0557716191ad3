"""Warnings and errors about an SDK that the patch may not fit."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import warnings
from typing import Any

import e2b
import e2b.sandbox.main
import pytest
from packaging.version import Version

from kruise_agents.client import installed_sdk
from kruise_agents.client.addresses.table import TARGETS
from kruise_agents.client.installed_sdk import WINDOWS, Window
from kruise_agents.client.seams import Place
from kruise_agents.errors import UnsupportedSDKError
from kruise_agents.patch_e2b import UntestedSDKWarning, patch_e2b

Config = e2b.ConnectionConfig


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that pretends that a package has another version."""
    real = installed_sdk.installed_release

    def pretend(package: str, version: str) -> None:
        monkeypatch.setattr(installed_sdk, "installed_release", lambda name: version if name == package else real(name))

    return pretend


def refuse() -> str:
    """Return the text of the error, after a check that nothing was changed."""
    before = {**vars(Config)}, {**vars(e2b.sandbox.main.SandboxBase)}
    with pytest.raises(UnsupportedSDKError) as caught:
        patch_e2b()
    assert ({**vars(Config)}, {**vars(e2b.sandbox.main.SandboxBase)}) == before
    return str(caught.value)


@pytest.fixture
def newer_than_tested(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the window end before the installed e2b, and return the text about versions that the warning must have."""
    window = Window("e2b", "2.0.0", "2.7.9")
    others = [other for other in WINDOWS if other.package != "e2b"]
    monkeypatch.setattr(installed_sdk, "WINDOWS", (window, *others))
    monkeypatch.setattr(installed_sdk, "_warned_about", set())
    return f"e2b {importlib.metadata.version('e2b')} (tested: 2.0.0 ... 2.7.9)"


def test_a_newer_sdk_that_fits_is_patched_with_one_warning(newer_than_tested: str) -> None:
    with pytest.warns(UntestedSDKWarning, match=re.escape(newer_than_tested)) as caught:
        patch_e2b()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    patch_e2b(False)  # another level of the same SDK says nothing again
    assert Config().api_url == "http://example.com/kruise/api"


def test_a_newer_sdk_whose_seam_changed_is_refused(newer_than_tested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "get_host", lambda self, sandbox_id, port, region: "")
    text = refuse()
    for part in (
        newer_than_tested,
        "S2 e2b.connection_config.ConnectionConfig.get_host",
        "expected a function (self, sandbox_id, sandbox_domain, port)",
        "found a function (self, sandbox_id, port, region)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("package", "version"), [("e2b", "2.7.9"), ("e2b", "2.8.0rc1"), ("e2b-code-interpreter", "2.4.0")]
)
def test_an_older_sdk_is_refused(package: str, version: str, pretend: Any) -> None:
    if package == "e2b-code-interpreter":
        pytest.importorskip("e2b_code_interpreter")
    pretend(package, version)
    assert f"{package} {version} is older than every supported release" in refuse()


SEAMS = ["S1", "S1b", "S2", "S3a", "S3b", "S4", "S5", "S6", "S9", "K1", "B1"]
ANY_SIGNATURE_FITS = ["S4"]  # the replacement hands every argument on, whatever they are


@pytest.mark.parametrize(
    ("seam", "fault"),
    [(seam, fault) for seam in SEAMS for fault in ("missing", "other kind")]
    + [(seam, "other signature") for seam in SEAMS if seam not in ANY_SIGNATURE_FITS],
)
def test_a_seam_that_is_not_as_expected_is_named(seam: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (target,) = (target for target in TARGETS if target.seam == seam)
    place = target.place
    module = sys.modules.get(place.module)
    if module is None or not exists(place):
        pytest.skip(f"{place} is in {place.package} {place.since} ... {place.until or ''}")
    owner = getattr(module, place.owner) if place.owner else module
    if fault == "missing":
        monkeypatch.delattr(owner, place.attribute)
    elif fault == "other kind":
        monkeypatch.setattr(owner, place.attribute, classmethod(lambda *_: None))
    else:
        monkeypatch.setattr(owner, place.attribute, lambda self, something: None)
    assert f"{seam} {place}: expected a function" in refuse()


def exists(place: Place) -> bool:
    installed = Version(importlib.metadata.version(place.package))
    return Version(place.since) <= installed and (place.until is None or installed <= Version(place.until))


@pytest.mark.parametrize(
    ("owner", "attribute"),
    [
        (Config, "envd_port"),
        (Config, "_api_url"),
        (e2b.sandbox.main.SandboxBase, "sandbox_id"),
        (e2b.sandbox.main.SandboxBase, "connection_config"),
        (e2b.sandbox.main.SandboxBase, "mcp_port"),
    ],
)
def test_what_the_replacements_read_is_checked_too(
    owner: type, attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, attribute)
    assert f"{owner.__name__}.{attribute}: expected" in refuse()


def test_a_constructor_that_does_not_set_the_api_url_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def __init__(self: Any, domain: str | None = None, api_url: str | None = None) -> None:
        self.domain = domain

    monkeypatch.setattr(Config, "__init__", __init__)
    text = refuse()
    assert "ConnectionConfig.api_url: expected an attribute set in __init__; found an __init__ without it" in text
    assert "ConnectionConfig.debug" in text


def test_a_parameter_that_a_replacement_does_not_know_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_sandbox_url(
        self: Any, sandbox_id: str, sandbox_domain: str, port: int | None = None, region: str = ""
    ) -> str:
        return ""

    monkeypatch.setattr(Config, "get_sandbox_url", get_sandbox_url)
    assert "expected a function (self, sandbox_id, sandbox_domain, [port])" in refuse()


@pytest.mark.usefixtures("newer_than_tested")
def test_a_warning_that_is_an_error_changes_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UntestedSDKWarning):
            patch_e2b()
    assert Config().api_url == "https://api.example.com"


def test_a_package_without_metadata_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installed_sdk, "installed_release", nothing)
    assert "e2b is there but has no package metadata" in refuse()


def test_constructors_are_patched_last() -> None:
    """Constructors come last, so that no object is marked while another target is not patched."""
    assert [target.seam for target in TARGETS][-2:] == ["S6", "S1"]


def test_every_target_belongs_to_a_package_with_a_window() -> None:
    assert {target.place.package for target in TARGETS} <= {window.package for window in WINDOWS}
