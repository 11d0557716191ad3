"""Disk limits by project quotas: the verdict on every machine, the limits where the file system of the tests has them.

To try the limits, run these tests as root with ``--basetemp`` on an ext4 or xfs that is mounted with ``prjquota``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import CommandExitException
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime import MIB, Limits
from kruise_agents.manager.runtime.limits import quotas
from kruise_agents.manager.runtime.limits.quotas import NoQuotasError, ProjectQuotas, find_quotas
from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, RunningManager, running_manager, wait_for

DISK = 64


@pytest.fixture
def found(tmp_path: Path) -> ProjectQuotas:
    try:
        return find_quotas(tmp_path)
    except NoQuotasError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told of the file system")
def test_a_file_system_without_quotas_is_named() -> None:
    """``/proc`` is never a file system with quotas."""
    with pytest.raises(NoQuotasError, match=r"^the file system of /proc has no project quotas: none"):
        find_quotas(Path("/proc"))


def test_a_folder_has_the_project_of_its_own_until_it_is_released(found: ProjectQuotas, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        assert not found.holds(folder)
        found.limit(folder, Limits(disk=DISK * MIB))
        assert found.holds(folder)
        (folder / "inner").mkdir()
        assert found.holds(folder / "inner")
    projects = set()
    for folder in folders:
        with quotas._opened(folder) as descriptor:
            projects.add(quotas._project(descriptor))
        found.release(folder)
        assert not found.holds(folder)
    assert len(projects) == 2


@pytest.fixture(params=["several users", "one user"])
def manager(request: pytest.FixtureRequest, found: ProjectQuotas, tmp_path: Path) -> Iterator[RunningManager]:
    prelude = NO_IDENTITIES if request.param == "one user" else ""
    with running_manager(tmp_path, "--disk", str(DISK), prelude=prelude) as running:
        yield running


@pytest.mark.needs("namespaces")
def test_the_kernel_refuses_what_does_not_fit(manager: RunningManager) -> None:
    health = httpx.get(f"{manager.api_url}/health", headers={"Accept": "application/json"}).json()
    assert health["disk"] == "project quotas"
    with patch_e2b(False), Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
        folder = manager.folder_of(sandbox.sandbox_id) / "rootfs"
        for command in (
            "for i in 1 2 3 4 5; do fallocate -l 16M $i || exit 1; done",
            f"for i in $(seq {DISK * 64 + 1}); do : > empty$i || exit 1; done",
            "chattr -p 5 .; for i in 6 7 8 9 10; do fallocate -l 16M $i || exit 1; done",
        ):
            with pytest.raises(CommandExitException):
                sandbox.commands.run(command, user="root", cwd="/home/user", timeout=120)
            assert sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) <= DISK * MIB
            sandbox.commands.run("rm -f [0-9]* empty*", user="root", cwd="/home/user")
        sandbox.commands.run("head -c 32M /dev/zero > kept")
        (copy,) = sandbox.fork()
        with pytest.raises(CommandExitException):
            copy.commands.run("for i in 1 2 3; do fallocate -l 16M $i || exit 1; done")
        copy.kill()
    wait_for(lambda: not folder.exists())
    assert "writing is refused" not in manager.log.read_text()


def test_only_root_with_a_state_folder_can_have_quotas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NoQuotasError, match="only in a state folder"):
        find_quotas(None)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(NoQuotasError, match="only root"):
        find_quotas(tmp_path)
