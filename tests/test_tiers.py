"""The tiers: what `make check` runs starts no process and speaks to no other machine, and neither does collecting."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from support.environments import ROOT
from support.guard import guard

COLLECT = """
import sys

started = []

def look(event, arguments):
    if (event, *arguments[:1]) == ("subprocess.Popen", "fc-list"):  # by matplotlib, once in a home folder
        return
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"):
        started.append((event, arguments[:2]))

sys.addaudithook(look)
import pytest

code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests"])
sys.exit(f"code {code}, started {started}" if code or started else 0)
"""


@pytest.mark.live
def test_collecting_all_tests_starts_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_a_process_is_refused_where_the_mark_is_missing() -> None:
    with pytest.raises(AssertionError, match=r"subprocess\.Popen.*not marked live"):
        subprocess.run(["true"], check=False)
    with pytest.raises(AssertionError, match=r"os\.fork.*not marked live"):
        os.fork()
    guard.refused.clear()


def test_another_machine_is_refused_where_the_mark_is_missing() -> None:
    with socket.socket() as connection, pytest.raises(AssertionError, match=r"192\.0\.2\.1.*not marked live"):
        connection.connect(("192.0.2.1", 80))
    guard.refused.clear()


def test_a_refusal_that_the_code_swallows_fails_the_test_all_the_same() -> None:
    def swallow() -> None:
        with guard.watching(), contextlib.suppress(AssertionError):
            subprocess.run(["true"], check=False)

    with pytest.raises(AssertionError, match="true"):
        swallow()
