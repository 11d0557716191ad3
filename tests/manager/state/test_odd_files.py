"""Links and pipes in place of files of the state folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kruise_agents.manager.state.reserve import NoSpaceError, Reserve


def test_a_link_in_place_of_the_reserve_changes_no_other_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "reserve").symlink_to(other)
    reserve = Reserve(tmp_path / "reserve")
    reserve.refill()
    assert "no space can be held back for deletes" in caplog.text

    def fail() -> None:
        raise NoSpaceError("full")

    with pytest.raises(NoSpaceError):
        reserve.spend(fail)
    assert other.read_text() == "kept"


@pytest.mark.live
def test_a_pipe_in_place_of_the_secret_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret")
    program = "import sys; from pathlib import Path; from kruise_agents.manager.state.secret import StateSecret\n"
    program += "StateSecret.at(Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "secret")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1].endswith("--state-dir")
    assert "secret has 0 bytes in place of 32" in done.stderr
