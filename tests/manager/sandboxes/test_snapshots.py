"""Snapshots and forks: what is copied, what goes on, and what a manager that is killed leaves of it."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Template
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.tables import SnapshotRow
from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, one_user_because, running_manager, wait_for


@pytest.fixture
def options(manager: RunningManager) -> dict[str, Any]:
    return {"domain": manager.domain, "api_key": manager.api_key}


@pytest.fixture(autouse=True)
def no_snapshots_left(manager: RunningManager) -> Iterator[None]:
    remove_snapshots(manager)  # of tests elsewhere
    yield
    remove_snapshots(manager)
    assert list((manager.state_dir / "snapshots").iterdir()) == []


def remove_snapshots(manager: RunningManager) -> None:
    with manager.api() as api:
        for one in api.get("/snapshots").json():
            assert api.delete(f"/templates/{one['snapshotID']}").status_code == 204


def take(api: httpx.Client, sandbox: Sandbox, headers: dict[str, str] | None = None, **body: Any) -> str:
    answer = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["snapshotID"]
    return identifier


def metrics(manager: RunningManager) -> dict[str, float]:
    text = httpx.get(f"{manager.scheme}://{manager.domain}/metrics", timeout=60).raise_for_status().text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def listed(api: httpx.Client, **query: str) -> list[str]:
    return [one["snapshotID"] for one in api.get("/snapshots", params=query).json()]


class TestSnapshots:
    """Snapshots: the files of one moment, from which other sandboxes are made."""

    def test_a_tree_of_any_shape_is_copied(self, sandbox: Sandbox, api: httpx.Client, options: dict[str, Any]) -> None:
        sandbox.commands.run(
            "mkdir d && touch d/f && chmod 555 d && truncate -s 1G sparse && mkfifo pipe && touch $'\\xff'\n"
            'python -c \'import os; [(os.mkdir("deeper"), os.chdir("deeper")) for _ in range(1000)]; open("f", "w")\''
        )
        look = "find . -printf '%M %s %n %l %f\\n' | md5sum; find . -name f | wc -l"
        before = sandbox.commands.run(look).stdout
        made = take(api, sandbox)
        with Sandbox.create(made, **options) as other:
            assert other.commands.run(look).stdout == before
        sandbox.pause(keep_memory=False)
        sandbox.connect()
        assert sandbox.commands.run(look).stdout == before

    def test_a_sandbox_from_a_snapshot_has_the_files_of_its_moment(
        self, sandbox: Sandbox, api: httpx.Client, options: dict[str, Any]
    ) -> None:
        sandbox.files.write("file.txt", "then")
        sandbox.files.write("/tmp/file.txt", "temporary")
        sandbox.run_code("x = 41")
        snapshot = take(api, sandbox)
        sandbox.files.write("file.txt", "later")
        assert sandbox.run_code("x + 1").text == "42", "the source goes on, with its kernels"
        with Sandbox.create(template=snapshot, envs={"FROM_CREATE": "its own"}, **options) as other:
            assert other.files.read("file.txt") == "then"
            assert other.files.read("/tmp/file.txt") == "temporary"
            assert other.commands.run("echo $FROM_CREATE").stdout == "its own\n"
            assert other.get_info().template_id == snapshot
            assert other.run_code("'x' in globals()").text == "False", "processes are not copied"
            own = other.commands.run("cat /run/e2b/.E2B_SANDBOX_ID; echo; cat /.e2b").stdout
            assert own.split() == [other.sandbox_id, f"ENV_ID={snapshot}", f"TEMPLATE_ID={snapshot}"]
            other.files.write("file.txt", "its own")
        assert sandbox.files.read("file.txt") == "later"

    @pytest.mark.parametrize("how", ["deleted", "replaced"])
    def test_creates_that_copy_a_snapshot_get_all_of_it_though_it_is_removed_meanwhile(
        self, how: str, sandbox: Sandbox, manager: RunningManager, options: dict[str, Any]
    ) -> None:
        sandbox.commands.run("mkdir d && cd d && seq 3000 | split -l 1 -a 4")
        with manager.api() as api, ThreadPoolExecutor(4) as threads:
            take(api, sandbox, name="busy")
            body = {"templateID": "busy"}
            creates = [threads.submit(api.post, "/v2/sandboxes", json=body) for _ in range(4)]
            starting = 'kruise_agents_sandboxes{state="starting"}'
            wait_for(lambda: metrics(manager)[starting] > 0 or all(create.done() for create in creates))
            if how == "deleted":
                assert api.delete("/templates/busy:default").status_code == 204
                assert listed(api) == []
            else:
                take(api, sandbox, name="busy")
            answers = [create.result() for create in creates]
            # Those that came too late found none; whoever found one gets the whole.
            assert {answer.status_code for answer in answers} <= {201, 404}
            made = [answer.json()["sandboxID"] for answer in answers if answer.status_code == 201]
            assert made
            for sandbox_id in made:
                other = Sandbox.connect(sandbox_id, **options)
                assert other.commands.run("ls d | wc -l").stdout == "3000\n"
                other.kill()
            kept = len(listed(api))
            wait_for(
                lambda: len(list((manager.state_dir / "snapshots").iterdir())) == kept, what="the end of its files"
            )

    def test_owners_modes_links_and_attributes_are_as_they_were(
        self, sandbox: Sandbox, api: httpx.Client, options: dict[str, Any]
    ) -> None:
        made = 'echo x > f; chmod 4711 f; ln f hard; ln -s nowhere soft; mkfifo p; python -c "import os\n'
        made += "os.setxattr('f', 'user.k', b'v'); f = open('sparse', 'wb'); f.truncate(1 << 30)\""
        sandbox.commands.run(made)
        if one_user_because() is None:
            of_root = "echo secret > /root/r; chmod 600 /root/r; mkdir /opt/o; chown 7:8 /opt/o"
            sandbox.commands.run(of_root, user="root")
        look = "stat -c '%n %U %G %a %s %h %Y %F' f hard soft p sparse; getfattr() { python -c \"import os\n"
        look += "print(os.getxattr('f', 'user.k'))\"; }; getfattr; sudo stat -c '%u %g %a' /root/r /opt/o || true"
        before = sandbox.commands.run(look).stdout
        with Sandbox.create(template=take(api, sandbox), **options) as other:
            assert other.commands.run(look).stdout == before
            assert int(other.commands.run("du -k sparse").stdout.split()[0]) < 1024
            other.commands.run("echo mine > new && rm f")

    def test_names_tags_and_what_they_point_to(
        self, sandbox: Sandbox, api: httpx.Client, options: dict[str, Any]
    ) -> None:
        sandbox.files.write("file.txt", "first")
        assert take(api, sandbox, name="mine") == "mine:default"
        tagged = take(api, sandbox, name="mine:v1")
        sandbox.files.write("file.txt", "second")
        take(api, sandbox, name="Mine")
        unnamed = take(api, sandbox)
        assert listed(api) == [unnamed, "mine:default", tagged]
        assert listed(api, name="mine") == ["mine:default", "mine:v1"]
        assert listed(api, name="mine:default") == ["mine:default"]
        assert listed(api, name="nobody") == []
        assert listed(api, sandboxID=sandbox.sandbox_id) == listed(api)
        assert listed(api, sandboxID="i1") == []
        for reference, text in (("mine", "second"), ("mine:v1", "first"), ("MINE:default", "second")):
            with Sandbox.create(template=reference, **options) as other:
                assert other.files.read("file.txt") == text

    def test_it_is_a_template_for_whoever_made_it(
        self, sandbox: Sandbox, api: httpx.Client, options: dict[str, Any], manager: RunningManager
    ) -> None:
        unnamed, tagged, default = (
            take(api, sandbox),
            take(api, sandbox, name="mine:v1"),
            take(api, sandbox, name="mine"),
        )
        for reference in (unnamed, tagged, "mine", "Mine:V1", "mine:default"):
            assert Template.exists(reference, **options) is True, reference
        assert Template.exists("mine:v2", **options) is False
        assert [one.tag for one in Template.get_tags("mine", **options)] == ["default", "v1"]
        assert [one.tag for one in Template.get_tags(unnamed, **options)] == ["default"]
        found = api.get("/templates/mine").json()
        assert (found["templateID"], found["names"], len(found["builds"])) == (default, ["mine"], 2)
        assert len({build["buildID"] for build in found["builds"]}) == 2
        key = api.post("/api-keys", json={"name": "another"}).json()
        with httpx.Client(base_url=manager.api_url, headers={"X-API-Key": key["key"]}) as stranger:
            assert stranger.get("/templates/mine").status_code == 404
            assert stranger.get(f"/templates/aliases/{unnamed}").status_code == 404
        api.delete(f"/api-keys/{key['id']}")

    def test_a_list_finds_sandboxes_by_the_name_of_their_snapshot(
        self, sandbox: Sandbox, api: httpx.Client, options: dict[str, Any]
    ) -> None:
        take(api, sandbox, name="mine:v1")
        with Sandbox.create("mine:v1", **options) as other:
            found = api.get("/v2/sandboxes", params={"template": "mine"}).json()
            assert [one["sandboxID"] for one in found] == [other.sandbox_id]

    def test_a_list_is_paged(self, sandbox: Sandbox, api: httpx.Client) -> None:
        taken = [take(api, sandbox) for _ in range(3)]
        first = api.get("/snapshots", params={"limit": 2})
        second = api.get("/snapshots", params={"limit": 2, "nextToken": first.headers["x-next-token"]})
        assert [one["snapshotID"] for one in first.json() + second.json()] == taken[::-1]
        assert "x-next-token" not in second.headers
        assert first.json()[0]["names"] == []
        assert api.get("/snapshots", params={"nextToken": "#"}).status_code == 400
        for wrong in ("nan__x", "inf__x", "1.5", "1.5__"):
            token = base64.urlsafe_b64encode(wrong.encode()).decode().rstrip("=")
            assert api.get("/snapshots", params={"nextToken": token}).status_code == 400

    def test_delete_removes_the_files_and_the_second_says_so(
        self, sandbox: Sandbox, api: httpx.Client, manager: RunningManager
    ) -> None:
        snapshot = take(api, sandbox)
        assert len(list((manager.state_dir / "snapshots").iterdir())) == 1
        assert api.delete(f"/templates/{snapshot}").status_code == 204
        assert list((manager.state_dir / "snapshots").iterdir()) == []
        assert api.delete(f"/templates/{snapshot}").status_code == 404
        assert api.delete("/templates/base").status_code == 400
        assert api.post("/v2/sandboxes", json={"templateID": snapshot}).status_code == 404

    def test_openkruises_headers(self, sandbox: Sandbox, api: httpx.Client) -> None:
        kept = take(api, sandbox, {"x-e2b-kruise-snapshot-ttl": "1h"})
        take(api, sandbox, {"x-e2b-kruise-snapshot-ttl": "1ms"})
        wait_for(lambda: listed(api) == [kept])
        take(api, sandbox, {"x-e2b-kruise-snapshot-keep-running": "false"})
        assert api.get(f"/sandboxes/{sandbox.sandbox_id}").json()["state"] == "paused"
        for name, value in (("ttl", "soon"), ("persistent-contents", "cpu"), ("wait-success-seconds", "-1")):
            headers = {f"x-e2b-kruise-snapshot-{name}": value}
            answer = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}, headers=headers)
            assert answer.status_code == 400
            assert value in answer.json()["message"]

    @pytest.mark.parametrize("name", ["a b", "team/a", "base", "", "a:b:c"])
    def test_a_bad_name_is_refused(self, name: str, sandbox: Sandbox, api: httpx.Client) -> None:
        answer = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={"name": name})
        assert answer.status_code == 400
        assert f"Invalid name: {name!r}" in answer.json()["message"]

    def test_what_does_not_run_has_none(self, sandbox: Sandbox, api: httpx.Client) -> None:
        sandbox.pause()
        assert api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).status_code == 404
        assert api.post("/sandboxes/i1/snapshots", json={}).status_code == 404
        assert api.post(f"/sandboxes/{sandbox.sandbox_id}/fork", json={}).status_code == 409
        assert api.post("/sandboxes/i1/fork", json={}).status_code == 404


class TestForks:
    """Copies of a running sandbox."""

    def test_forks_have_files_variables_and_tokens_of_their_own(
        self, manager: RunningManager, api: httpx.Client, options: dict[str, Any], patched: None
    ) -> None:
        with Sandbox.create(envs={"FROM_CREATE": "yes"}, metadata={"who": "me"}, **options) as source:
            source.files.write("file.txt", "then")
            forks = source.fork(count=2, timeout=60)
            try:
                for fork in forks:
                    assert fork.sandbox_id != source.sandbox_id
                    assert fork.files.read("file.txt") == "then"
                    assert fork.commands.run("echo $FROM_CREATE $E2B_SANDBOX_ID").stdout.split() == [
                        "yes",
                        fork.sandbox_id,
                    ]
                    assert fork.get_info().metadata == {"who": "me"}
                forks[0].files.write("file.txt", "changed")
                assert (source.files.read("file.txt"), forks[1].files.read("file.txt")) == ("then", "then")
            finally:
                for fork in forks:
                    fork.kill()

    def test_a_fork_may_reach_outside_what_its_source_may(self, api: httpx.Client, patched: None) -> None:
        body = {"templateID": "base", "allow_internet_access": False}
        source = api.post("/v2/sandboxes", json=body).json()["sandboxID"]
        rules = api.get(f"/sandboxes/{source}").json()["network"]
        assert rules == {"allowOut": [], "denyOut": ["0.0.0.0/0"], "allowPublicTraffic": True}
        fork = api.post(f"/sandboxes/{source}/fork", json={"timeout": 60}).json()[0]["sandbox"]["sandboxID"]
        try:
            assert api.get(f"/sandboxes/{fork}").json()["network"] == rules
        finally:
            for one in (source, fork):
                api.delete(f"/sandboxes/{one}")

    @pytest.mark.parametrize(
        ("body", "text"),
        [({"count": 0}, "at least 1"), ({"count": 21}, "greater than 20"), ({"timeout": 0}, "greater")],
    )
    def test_a_bad_wish_is_refused(self, body: dict[str, int], text: str, sandbox: Sandbox, api: httpx.Client) -> None:
        answer = api.post(f"/sandboxes/{sandbox.sandbox_id}/fork", json=body)
        assert answer.status_code == 400
        assert text in answer.json()["message"]


def test_a_manager_that_is_killed_keeps_snapshots_and_leaves_no_half_of_one(tmp_path: Path) -> None:
    with patch_e2b(False):
        with running_manager(tmp_path) as manager, manager.api() as api:
            sandbox = Sandbox.create(template="base", domain=manager.domain, api_key=manager.api_key)
            sandbox.files.write("file.txt", "then")
            snapshot = take(api, sandbox)
            sandbox.commands.run("head -c 300M /dev/urandom > large; sync", timeout=120)
            stopped = sandbox.commands.run("exec sleep 5000", background=True)
            sandbox.commands.run(f"kill -STOP {stopped.pid}")

            def take_another() -> None:
                with contextlib.suppress(httpx.HTTPError):
                    api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={})

            thread = threading.Thread(target=take_another)
            thread.start()
            folder = manager.state_dir / "snapshots"
            wait_for(lambda: len([one for one in folder.iterdir() if one.is_dir()]) == 2, 20, "a second copy")
            manager.process.kill()
            thread.join()
        with running_manager(tmp_path) as manager, manager.api() as api:
            assert snapshot in listed(api)
            assert len(list((manager.state_dir / "snapshots").iterdir())) == len(listed(api))
            again = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
            assert again.commands.run(f"ps -o stat= -p {stopped.pid}").stdout.startswith("T")
            again.kill()
            other = Sandbox.create(template=snapshot, domain=manager.domain, api_key=manager.api_key)
            assert other.files.read("file.txt") == "then"
        with running_manager(tmp_path) as manager, manager.api() as api:
            assert snapshot in listed(api), "Ctrl-C ends sandboxes, not snapshots"


def test_a_snapshot_whose_files_are_gone_is_forgotten(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager, manager.api() as api, patch_e2b(False):
        sandbox = Sandbox.create(template="base", domain=manager.domain, api_key=manager.api_key)
        take(api, sandbox)
    (tmp_path / "state" / "snapshots").rename(tmp_path / "elsewhere")
    with running_manager(tmp_path) as manager, manager.api() as api:
        assert listed(api) == []
    store = Database(tmp_path / "state" / "state.db")
    assert store.select(SnapshotRow) == []
    store.close()


@pytest.mark.needs("namespaces")
def test_a_copy_that_fails_leaves_nothing_and_the_sandbox_goes_on(
    sandbox: Sandbox, api: httpx.Client, manager: RunningManager
) -> None:
    """The folder for copies is removed while a copy is made."""
    folder = manager.state_dir / "snapshots"
    folder.rmdir()
    folder.write_text("in the way")
    try:
        answer = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={})
    finally:
        folder.unlink()
        folder.mkdir(mode=0o700)
    assert answer.status_code == 500
    assert sandbox.commands.run("echo here").stdout == "here\n"
    assert listed(api) == []
