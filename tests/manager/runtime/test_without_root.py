"""Promises of the isolating runtime, kept by a manager that is not run by root, on a machine where the tests are.

They are run again by a user who is known in a mount namespace only, once with ids of their own and once without.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.managers import available_runtime

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[3]
USER_ID = 12345
AGAIN = [
    "test_backup.py",
    "sandboxes/test_pause.py::TestWithItsMemory",
    "sandboxes/test_pause.py::TestFilesOnly",
    "sandboxes/test_snapshots.py::TestSnapshots::test_owners_modes_links_and_attributes_are_as_they_were",
    "volumes/test_volumes.py::test_two_sandboxes_share_a_volume_that_outlives_them",
    "volumes/test_volumes.py::test_a_volume_is_made_found_and_destroyed",
    "state/test_lost_state.py::test_a_volume_of_another_user_is_moved_to_lost_too",
    "volumes/test_volumes.py::test_contents_are_there_or_refused_by_name",
    "volumes/test_volumes.py::test_a_snapshot_with_a_link_where_a_volume_goes_makes_no_folder_outside",
    "templates/test_root_file_systems.py::test_the_next_manager_takes_it_over",
    "templates/test_root_file_systems.py::test_what_may_not_be_read_is_left_out_and_said",
    "sandboxes/test_restart.py::test_a_killed_managers_sandboxes_go_on_with_all_that_runs_in_them",
    "runtime/test_zygote.py",
    "sandboxes/test_restart.py::test_a_paused_sandbox_is_still_paused_and_goes_on_where_it_was",
    "runtime/test_limits.py::test_a_disk_filler_is_refused_and_may_write_again_when_it_has_made_room",
    "runtime/test_limits.py::test_folders_closed_to_others_count_as_disk",
    "runtime/test_limits.py::test_a_log_that_code_closes_to_everybody_stops_no_look",
    "runtime/test_limits.py::test_space_that_takes_no_processor_time_is_noticed",
]
PROGRAM = """
set -e
for name in passwd group subuid subgid; do mount --bind "$1/$name" /etc/$name; done
# Folders that only their owner may enter, such as root's home, give way to empty ones with what the tests need.
IFS=:
number=0
for folder in $3; do
    mkdir -p "$1/$((number += 1))"
    mount --rbind "$folder" "$1/$number"
done
for folder in $2; do mount -t tmpfs -o mode=755 none "$folder"; done
number=0
for folder in $3; do
    mkdir -p "$folder"
    mount --rbind "$1/$((number += 1))" "$folder"
done
cd "$PWD"
shift 3
exec setpriv --reuid=12345 --regid=12345 --clear-groups "$@" 2>&1
"""


def why_not() -> str | None:
    """Return why this machine cannot run the tests as another user, or None if it can."""
    if os.geteuid() != 0:
        return "these are for test runs of root"
    if available_runtime() != "bubblewrap":
        return "this machine permits no namespaces"
    if not (Path("/etc/subuid").exists() and Path("/etc/subgid").exists()):
        return "there are no /etc/subuid and /etc/subgid to mount others over"
    missing = [program for program in ("unshare", "setpriv", "newuidmap") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ids", ["several", "one"])
def test_promises_hold_for_an_ordinary_user(ids: str, tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    # Below /tmp itself: pytest's own folders are root's.
    folder = Path("/tmp") / f"ordinary-{os.getpid()}-{ids}"
    folder.mkdir()
    try:
        write_accounts(tmp_path, folder, with_ids=ids == "several")
        os.chown(folder, USER_ID, USER_ID)
        said = run(tmp_path, folder, "-c", "from support.managers import one_user_because as why; print(why())")
        assert (said.strip() == "None") is (ids == "several")
        tests = [str(ROOT / "tests" / "manager" / name) for name in AGAIN]
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
        if ids == "one":
            command += ["-k", "not (test_zygote and several)"]
        said = run(tmp_path, folder, *command)
        assert "skipped" not in said.splitlines()[-1]
    finally:
        shutil.rmtree(folder)


def run(accounts: Path, home: Path, *arguments: str) -> str:
    """Run Python as that user; gives what it printed."""
    environment = {"HOME": str(home), "TMPDIR": str(home), "PATH": os.environ["PATH"]}
    environment |= {"PYTHONPATH": str(ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1"}
    needed = hidden_from_others()
    closed = sorted({str(closed_above(folder)) for folder in needed})
    command = ["bash", "-c", PROGRAM, "bash", str(accounts), ":".join(closed), ":".join(map(str, needed))]
    command += [sys.executable, *arguments]
    done = subprocess.run(
        ["unshare", "--mount", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    return done.stdout


def hidden_from_others() -> list[Path]:
    """Return the folders that the tests need and that others cannot reach: the interpreter's, and this clone."""
    needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    return [
        folder
        for folder in dict.fromkeys(needed)
        if closed_above(folder) is not None and not any(other in folder.parents for other in needed)
    ]


def closed_above(folder: Path) -> Path | None:
    """Return the uppermost folder on the way to ``folder`` that others may not enter."""
    return next((above for above in reversed(folder.parents) if not above.stat().st_mode & stat.S_IXOTH), None)


def write_accounts(folder: Path, home: Path, *, with_ids: bool) -> None:
    """Write the account files of this user for the mount namespace."""
    account = f"ordinary:x:{USER_ID}:{USER_ID}::{home}:/bin/bash\n"
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + account)
    (folder / "group").write_text(Path("/etc/group").read_text() + f"ordinary:x:{USER_ID}:\n")
    for name in ("subuid", "subgid"):
        (folder / name).write_text("ordinary:300000:65536\n" if with_ids else "")
