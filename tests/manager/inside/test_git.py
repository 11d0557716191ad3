"""The SDK's git helper, with the git of a sandbox."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from e2b import GitAuthException, GitUpstreamException
from e2b_code_interpreter import Sandbox

from support.managers import wait_for

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed here")
SERVER = Path(__file__).parents[1] / "programs" / "git_server.py"


@pytest.fixture
def work(sandbox: Sandbox) -> str:
    """A clone of the bare repository ``origin.git``, both in the user's home."""
    sandbox.git.init("origin.git", bare=True, initial_branch="main")
    sandbox.git.clone("origin.git", path="work")
    return "work"


def commit(sandbox: Sandbox, repository: str, name: str, text: str) -> None:
    sandbox.files.write(f"{repository}/{name}", text)
    sandbox.git.add(repository)
    sandbox.git.commit(repository, f"{name} is there", author_name="A U Thor", author_email="author@example.com")


def test_a_commit_goes_from_one_clone_to_another(sandbox: Sandbox, work: str) -> None:
    commit(sandbox, work, "a b.txt", "1")
    sandbox.git.push(work, set_upstream=True, remote="origin", branch="main")
    sandbox.git.clone("origin.git", path="second")
    assert sandbox.files.read("second/a b.txt") == "1"
    commit(sandbox, work, "c", "2")
    sandbox.git.push(work)
    sandbox.git.pull("second")
    assert sandbox.files.read("second/c") == "2"
    log = sandbox.commands.run("git log -1 --format='%an <%ae> %s'", cwd="second").stdout
    assert log == "A U Thor <author@example.com> c is there\n"
    assert sandbox.files.get_info("second/c").owner == "user"


def test_branches_and_changes(sandbox: Sandbox, work: str) -> None:
    commit(sandbox, work, "file", "1")
    sandbox.git.create_branch(work, "feature")
    sandbox.files.write("work/file", "2")
    sandbox.files.write("work/new", "3")
    status = sandbox.git.status(work)
    assert {(one.name, one.status, one.staged) for one in status.file_status} == {
        ("file", "modified", False),
        ("new", "untracked", False),
    }
    sandbox.git.add(work, files=["file"])
    assert sandbox.git.status(work).has_staged
    sandbox.git.restore(work, paths=["file"], staged=True, worktree=True)
    sandbox.git.reset(work, mode="hard")
    assert sandbox.files.read("work/file") == "1"
    sandbox.git.checkout_branch(work, "main")
    sandbox.git.delete_branch(work, "feature")
    branches = sandbox.git.branches(work)
    assert (branches.branches, branches.current_branch) == (["main"], "main")


def test_settings_and_remotes(sandbox: Sandbox, work: str) -> None:
    assert sandbox.git.get_config("user.name") is None
    sandbox.git.configure_user("Me", "me@example.com")
    assert sandbox.git.get_config("user.name") == "Me"
    assert "Me" in sandbox.files.read(".gitconfig")
    sandbox.git.set_config("pull.rebase", "true", scope="local", path=work)
    assert sandbox.git.get_config("pull.rebase", scope="local", path=work) == "true"
    sandbox.git.remote_add(work, "other", "../origin.git", fetch=True)
    sandbox.git.remote_add(work, "other", "https://example.com/x.git", overwrite=True)
    assert sandbox.git.remote_get(work, "other") == "https://example.com/x.git"


def test_credentials_are_used_and_not_kept(sandbox: Sandbox, work: str, port: int) -> None:
    commit(sandbox, work, "file", "1")
    sandbox.git.push(work, remote="origin", branch="main")
    sandbox.commands.run("git -C origin.git config http.receivepack true")
    sandbox.files.write("server.py", SERVER.read_text())
    sandbox.commands.run(f"exec python server.py {port} . me:s3cret", background=True, timeout=0)
    url = f"http://localhost:{port}/origin.git"
    probe = f"curl -s -o /dev/null -w '%{{http_code}}' {url}/HEAD || true"
    wait_for(lambda: sandbox.commands.run(probe).stdout == "401")
    with pytest.raises(GitAuthException):
        sandbox.git.clone(url, path="refused")
    sandbox.git.clone(url, path="private", username="me", password="s3cret")
    assert sandbox.files.read("private/file") == "1"
    assert sandbox.git.remote_get("private", "origin") == url
    commit(sandbox, "private", "more", "2")
    with pytest.raises(GitAuthException):
        sandbox.git.push("private", remote="origin", branch="main")
    sandbox.git.push("private", remote="origin", branch="main", username="me", password="s3cret")
    assert sandbox.commands.run("git log --format=%s main", cwd="origin.git").stdout.startswith("more is there\n")
    assert "s3cret" not in sandbox.commands.run("cat private/.git/config").stdout


def test_a_branch_without_an_upstream_is_named_as_the_cause(sandbox: Sandbox, work: str) -> None:
    commit(sandbox, work, "file", "1")
    with pytest.raises(GitUpstreamException):
        sandbox.git.pull(work)
