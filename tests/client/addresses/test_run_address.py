"""The patch in a process below ``kruise-agents run``, which has the addresses for programs without the patch."""

from __future__ import annotations

import pytest
from e2b.connection_config import ConnectionConfig

from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.run.environment import client_variables


@pytest.fixture(autouse=True)
def below_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in client_variables({"E2B_DOMAIN": "localhost:7788", "E2B_API_KEY": "e2b_00"}, "http").items():
        monkeypatch.setenv(name, value)


def addresses(config: ConnectionConfig) -> tuple[str, str, str]:
    domain = config.domain
    return config.api_url, config.get_sandbox_url("sid", domain), config.get_host("sid", domain, 3000)


HERE = (
    "http://localhost:7788/kruise/api",
    "http://localhost:7788/kruise/sid/49983",
    "localhost:7788/kruise/sid/3000",
)
OTHER = ("http://b.example/kruise/api", "http://b.example/kruise/sid/49983", "b.example/kruise/sid/3000")


def test_addresses_of_run_do_not_count_under_the_patch() -> None:
    with patch_e2b(False):
        assert addresses(ConnectionConfig()) == HERE
        assert addresses(ConnectionConfig(domain="b.example", api_key="e2b_01")) == OTHER


def test_addresses_of_run_count_without_the_patch() -> None:
    config = ConnectionConfig()
    assert (config.api_url, config.get_sandbox_url("sid", config.domain)) == (
        "http://localhost:7788/kruise/api",
        "http://localhost:7788",
    )


def test_addresses_of_the_user_count_under_the_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_URL", "http://localhost:7788/own/api")
    monkeypatch.setenv("E2B_SANDBOX_URL", "http://own.localhost:7788")
    with patch_e2b(False):
        config = ConnectionConfig()
        assert (config.api_url, config.get_sandbox_url("sid", config.domain)) == (
            "http://localhost:7788/own/api",
            "http://own.localhost:7788",
        )


def test_the_key_of_run_stays_behind_in_a_call_to_another_domain() -> None:
    with patch_e2b(False):
        config = ConnectionConfig(headers={"a": "b"})
        with pytest.raises(ValueError, match="given without api_key="):
            config.get_api_params(domain="b.example")
        assert config.get_api_params(domain="b.example", api_key="e2b_01")["headers"] == {}


@pytest.mark.parametrize("https", [True, False])
def test_the_scheme_of_run_counts_for_its_domain(https: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with patch_e2b(https):
        assert ConnectionConfig().api_url == HERE[0]
    monkeypatch.setenv("E2B_DOMAIN", "b.example")
    with patch_e2b(https):
        assert ConnectionConfig().api_url == f"http{'s' if https else ''}://b.example/kruise/api"


def test_options_of_an_object_keep_private_addresses() -> None:
    with patch_e2b():
        assert addresses(ConnectionConfig(**ConnectionConfig().get_api_params())) == HERE
