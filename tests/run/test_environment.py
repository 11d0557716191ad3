"""The variables of a program below ``kruise-agents run``."""

from __future__ import annotations

import os

import pytest

from kruise_agents.errors import DomainError
from kruise_agents.run.environment import SITE, client_variables, for_manager_here, program_environment

OUTSIDE = {"E2B_DOMAIN": "Localhost:7788", "E2B_API_KEY": "key", "HOME": "/home/me"}
FOUND = {
    "E2B_DOMAIN": "localhost:7788",
    "E2B_API_KEY": "key",
    "E2B_API_URL": "http://localhost:7788/kruise/api",
    "E2B_SANDBOX_URL": "http://localhost:7788",
    "KRUISE_AGENTS_RUN_ADDRESS": "http://localhost:7788",
}


def test_programs_without_the_patch_get_addresses() -> None:
    assert client_variables(OUTSIDE, "http") == FOUND
    assert client_variables(OUTSIDE, "https")["E2B_API_URL"] == "https://localhost:7788/kruise/api"


def test_addresses_of_the_user_count() -> None:
    own = {"E2B_API_URL": "http://mine/api", "E2B_SANDBOX_URL": "http://mine"}
    assert client_variables(OUTSIDE | own, "http") == FOUND | own


def test_a_run_below_another_starts_afresh() -> None:
    first = program_environment(OUTSIDE, "http", traffic_tokens=True, verbose=True)
    second = program_environment(first | {"E2B_DOMAIN": "b.example"}, "https")
    assert second["E2B_API_URL"] == "https://b.example/kruise/api"
    assert second["E2B_SANDBOX_URL"] == second["KRUISE_AGENTS_RUN_ADDRESS"] == "https://b.example"
    assert second["PYTHONPATH"] == str(SITE)
    assert not {"KRUISE_AGENTS_RUN_TRAFFIC_TOKENS", "KRUISE_AGENTS_RUN_VERBOSE"} & second.keys()


def test_without_a_domain_only_the_scheme_is_told() -> None:
    assert client_variables({"E2B_DOMAIN": " ", "E2B_API_KEY": "key"}, "http") == {
        "KRUISE_AGENTS_RUN_ADDRESS": "http://"
    }


def test_a_domain_of_a_wrong_form_is_refused() -> None:
    with pytest.raises(DomainError, match="has a scheme; use 'localhost:7788'"):
        client_variables({"E2B_DOMAIN": "http://localhost:7788"}, "http")


@pytest.mark.parametrize(("before", "after"), [(None, []), ("", []), ("a:b", ["a", "b"]), ("a:", ["a", ""])])
def test_the_path_of_python_keeps_what_it_has(before: str | None, after: list[str]) -> None:
    outside = OUTSIDE if before is None else OUTSIDE | {"PYTHONPATH": before}
    environment = program_environment(outside, "http")
    assert environment["PYTHONPATH"] == os.pathsep.join([str(SITE), *after])
    assert environment["HOME"] == "/home/me"
    assert program_environment(environment, "http") == environment


def test_a_manager_here_displaces_what_leads_elsewhere() -> None:
    elsewhere = dict.fromkeys(("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL", "E2B_DEBUG"), "x")
    assert for_manager_here(OUTSIDE | elsewhere, {"E2B_DOMAIN": "a:1", "E2B_API_KEY": "b"}) == {
        **{"E2B_DOMAIN": "a:1", "E2B_API_KEY": "b", "HOME": "/home/me"}
    }


def test_node_trusts_the_authority_of_a_manager_here_too() -> None:
    assert for_manager_here({}, {"SSL_CERT_FILE": "/ca.pem"})["NODE_EXTRA_CA_CERTS"] == "/ca.pem"


@pytest.mark.parametrize(("given", "direct"), [({}, ""), ({"no_proxy": "a"}, "a,"), ({"NO_PROXY": "b"}, "b,")])
def test_a_manager_here_is_reached_without_a_proxy(given: dict[str, str], direct: str) -> None:
    environment = for_manager_here({"HTTPS_PROXY": "http://proxy:3128", **given}, {})
    assert environment["NO_PROXY"] == environment["no_proxy"] == f"{direct}localhost,127.0.0.1,::1"
