"""Secrets: set, replaced, listed and destroyed by the SDK; nobody reads a value back."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncSecret, Secret
from e2b.exceptions import SecretException, SecretNotFoundException

from kruise_agents.manager.accounts.secrets import SecretStore
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.secret import StateSecret
from kruise_agents.manager.state.tables import SecretRow
from support.managers import API_KEY, RunningManager, running_manager

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("patched")]
VALUE = "a value that is nobody's business"


@pytest.fixture
def options(manager: RunningManager) -> dict[str, Any]:
    return {"domain": manager.domain, "api_key": manager.api_key}


@pytest.fixture
def name(api: httpx.Client) -> Iterator[str]:
    """A name that no secret has. A secret with this name is removed after the test."""
    name = f"s-{uuid.uuid4().hex[:8]}"
    yield name
    api.delete(f"/secrets/{name}")


def test_a_secret_is_made_found_replaced_and_destroyed(options: dict[str, Any], name: str) -> None:
    made = Secret.create(name, VALUE, {"team": "red"}, **options)
    assert (made.name, made.version, made.metadata) == (name, 1, {"team": "red"})
    assert Secret.get_info(made.secret_id, **options) == Secret.get_info(name, **options) == made
    second = Secret.update(name, "another", **options)
    assert (second.version, second.metadata, second.created_at) == (2, {"team": "red"}, made.created_at)
    assert second.updated_at >= made.updated_at
    assert Secret.update(made.secret_id, "a third", {}, **options).metadata == {}
    assert Secret.destroy(name, **options) is True
    assert Secret.destroy(name, **options) is False
    with pytest.raises(SecretNotFoundException):
        Secret.get_info(name, **options)
    with pytest.raises(SecretNotFoundException):
        Secret.update(name, "late", **options)


def test_the_asynchronous_sdk_does_the_same(options: dict[str, Any], name: str) -> None:
    async def walk() -> None:
        made = await AsyncSecret.create(name, VALUE, **options)
        assert (await AsyncSecret.get_info(name, **options)) == made
        assert (await AsyncSecret.update(name, "another", **options)).version == 2
        assert await AsyncSecret.destroy(made.secret_id, **options) is True

    asyncio.run(walk())


def test_a_list_has_pages_in_the_order_of_making(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        options: dict[str, Any] = {"domain": manager.domain, "api_key": manager.api_key}
        names = [f"s{number}" for number in range(5)]
        for name in names:
            Secret.create(name, VALUE, **options)
        paginator, pages = Secret.list(limit=2, **options), []
        while paginator.has_next:
            pages.append([one.name for one in paginator.next_items()])
    assert pages == [names[:2], names[2:4], names[4:]]


def test_a_name_is_given_once_and_counts_in_small_letters(options: dict[str, Any], name: str) -> None:
    assert Secret.create(name.upper(), VALUE, **options).name == name
    assert Secret.get_info(name.upper(), **options).name == name
    with pytest.raises(SecretException, match=r"409: there is a secret .* already"):
        Secret.create(name, VALUE, **options)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "", "value": "v"}, "Invalid secret name"),
        ({"name": "sec_mine", "value": "v"}, "Invalid secret name"),
        ({"name": "a b", "value": "v"}, "Invalid secret name"),
        ({"name": "a" * 129, "value": "v"}, "Invalid secret name"),
        ({"name": "a"}, "field 'value' is missing"),
        ({"name": "a", "value": ""}, "1 to 65536 bytes, got 0"),
        ({"name": "a", "value": "ä" * 40000}, "1 to 65536 bytes, got 80000"),
        ({"name": "a", "value": 7}, "field 'value' must be a string"),
        ({"name": "a", "value": "v", "metadata": {str(n): "" for n in range(33)}}, "it may have 32"),
        ({"name": "a", "value": "v", "metadata": {"a": 1}}, "'metadata.a' must be a string"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_no_answer_has_the_value(
    body: dict[str, Any], said: str, api: httpx.Client
) -> None:
    answer = api.post("/secrets", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert api.get("/secrets/a").status_code == 404


def test_a_forged_page_token_is_refused(api: httpx.Client) -> None:
    answer = api.get("/secrets", params={"nextToken": "bmFuX194"})
    assert (answer.status_code, "did not come from this list" in answer.text) == (400, True)


def test_secrets_of_another_key_are_not_there_until_that_key_is_gone(
    manager: RunningManager, api: httpx.Client, options: dict[str, Any], name: str
) -> None:
    other = api.post("/api-keys", json={"name": "other", "teamName": "red"}).json()
    Secret.create(name, VALUE, **options)
    with httpx.Client(base_url=manager.api_url, headers={"X-API-Key": other["key"]}) as theirs:
        assert theirs.get("/secrets").json() == []
        for method in ("GET", "DELETE"):
            assert theirs.request(method, f"/secrets/{name}").status_code == 404
        assert theirs.post(f"/secrets/{name}", json={"value": "mine"}).status_code == 404
        assert theirs.post("/secrets", json={"name": name, "value": "theirs"}).status_code == 201
    assert Secret.get_info(name, **options).version == 1
    assert httpx.get(f"{manager.api_url}/secrets").status_code == 401
    api.delete(f"/api-keys/{other['id']}").raise_for_status()
    inherited = [one for one in api.get("/secrets").json() if one["name"].startswith(f"{name}-")]
    assert len(inherited) == 1
    api.delete(f"/secrets/{inherited[0]['secretID']}").raise_for_status()


def test_values_outlive_the_manager_sealed(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        made = Secret.create("kept", VALUE, domain=manager.domain, api_key=manager.api_key)
        log, state_dir = manager.log, manager.state_dir
    assert VALUE not in log.read_text()
    held = [path for path in state_dir.rglob("*") if path.is_file() and VALUE.encode() in path.read_bytes()]
    assert held == []
    store = Database(state_dir / "state.db")
    secrets = SecretStore(store, StateSecret.at(state_dir / "secret"))
    (row,) = store.select(SecretRow)
    assert (row.id, row.name, secrets.value(row)) == (made.secret_id, "kept", VALUE)
    store.close()
    with running_manager(tmp_path) as manager:
        assert Secret.update("kept", "new", domain=manager.domain, api_key=API_KEY).version == 2


def test_a_key_may_have_a_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kruise_agents.manager.accounts.secrets.MOST_OF_A_KEY", 2)
    store = Database(tmp_path / "state.db")
    held = SecretStore(store, StateSecret(b"x" * 32))
    for owner in ("a", "b"):
        for name in ("one", "two"):
            held.make(owner, name, VALUE, {})
    with pytest.raises(Exception, match="as many as a key may have"):
        held.make("a", "three", VALUE, {})
    store.close()
