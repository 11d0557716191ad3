"""The environment that programs expect, inside a sandbox: files, names, users and limits."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import httpx
import pytest
from e2b.sandbox.commands.command_handle import PtySize
from e2b_code_interpreter import Sandbox

from support.managers import RunningManager, wait_for

pytestmark = pytest.mark.needs("namespaces")  # without them, the environment is the host's
several = pytest.mark.needs("several users")
NEEDED = ("bash", "sh", "python3", "python", "pip", "sudo", "ps", "pgrep", "kill", "sleep", "cat", "tput")


@pytest.fixture
def sandbox(shared: Sandbox) -> Sandbox:
    return shared


def out(sandbox: Sandbox, command: str, **options: str) -> str:
    return sandbox.commands.run(command, **options).stdout.strip()


def test_the_programs_that_others_rely_on_are_found(sandbox: Sandbox) -> None:
    of_the_host = [name for name in NEEDED if shutil.which(name)]
    assert {"bash", "sh", "kill", "sleep", "cat"} <= set(of_the_host)
    for name in {*of_the_host, "python", "python3", "pip", "sudo"}:
        assert out(sandbox, f"command -v {name}"), name
    attribute = 'python -c \'import os; os.setxattr("f", "user.a", b"1"); print(os.getxattr("f", "user.a"))\''
    assert out(sandbox, f"touch f; {attribute}") == "b'1'"


def test_folders_and_their_modes(sandbox: Sandbox) -> None:
    assert out(
        sandbox, "stat -L -c '%n %a' / /tmp /var/tmp /dev/shm /code /home /home/user /etc /opt /srv /mnt"
    ).splitlines() == [
        "/ 755",
        "/tmp 1777",
        "/var/tmp 1777",
        "/dev/shm 1777",
        "/code 777",
        "/home 755",
        "/home/user 755",
        "/etc 755",
        "/opt 755",
        "/srv 755",
        "/mnt 755",
    ]
    assert out(sandbox, "ls -A /code; touch /code/x && stat -c %U /code/x") == "user"
    assert out(sandbox, "readlink -f /var/run /var/lock").split() == ["/run", "/run/lock"]


def test_home_is_filled_from_the_skeleton(sandbox: Sandbox) -> None:
    assert {".bashrc", ".profile"} <= set(out(sandbox, "ls -A ~").split())
    assert out(sandbox, "cd /etc/skel; for f in $(ls -A); do cmp $f ~/$f && echo same; done").split() == ["same"] * 2


def test_temporary_files_are_on_the_disk_that_home_is_on(sandbox: Sandbox) -> None:
    assert len(set(out(sandbox, "stat -c %d /tmp /home/user /").split())) == 1


@several
def test_everything_outside_of_the_system_folders_is_roots(sandbox: Sandbox) -> None:
    folders = "/code /etc /home /media /mnt /opt /run /srv /tmp /var /var/lib"
    owners = out(sandbox, f"stat -c %U {folders}").split()
    assert set(owners) == {"root"}
    assert out(sandbox, f"for d in / {folders}; do touch $d/x && rm $d/x || echo $d; done", user="root") == ""


def test_system_folders_are_readable_and_read_only(sandbox: Sandbox) -> None:
    said = out(sandbox, "for d in /usr /usr/local /usr/local/bin /bin; do sudo touch $d/x 2>&1; done; true")
    assert said.count("Read-only file system") == 4


def test_what_a_sandbox_is_stands_in_files(sandbox: Sandbox, manager: RunningManager) -> None:
    assert out(sandbox, "cd /run/e2b; for f in .E2B*; do echo $f $(cat $f); done").splitlines() == [
        ".E2B_SANDBOX true",
        f".E2B_SANDBOX_ID {sandbox.sandbox_id}",
        ".E2B_TEMPLATE_ID code-interpreter-v1",
    ]
    assert "TEMPLATE_ID=code-interpreter-v1\n" in sandbox.files.read("/.e2b")


def test_names_of_the_network(sandbox: Sandbox) -> None:
    assert out(sandbox, "hostname; hostname -f; hostname -i").split() == ["e2b.local", "e2b.local", "127.0.1.1"]
    assert out(sandbox, "python -c 'import socket; print(socket.gethostbyname(\"localhost\"))'") == "127.0.0.1"
    assert out(sandbox, "cat /etc/resolv.conf") == "nameserver 10.0.2.3"
    assert sandbox.commands.run("curl -sm 5 http://192.0.2.1 || echo failed").stdout == "failed\n"


def test_a_shell_has_what_it_expects(sandbox: Sandbox) -> None:
    show = 'echo "$HOME|$USER|$LOGNAME|$SHELL|$PWD|$PS1|$(umask)|$-"'
    login = out(sandbox, f"{show}; shopt login_shell; echo $PATH").splitlines()
    assert login[0] == "/home/user|user|user|/bin/bash|/home/user|\\w $ |0022|hBc"
    assert login[1].split() == ["login_shell", "on"]
    path = login[2].split(":")
    assert path[0] == "/home/user/.local/bin"
    assert {"/usr/local/bin", "/usr/bin", "/bin"} <= set(path)
    terminal = sandbox.pty.create(PtySize(24, 200), timeout=30)
    sandbox.pty.send_stdin(terminal.pid, f"{show}; echo $TERM $LANG; exit\n".encode())
    shown: list[bytes] = []
    terminal.wait(on_pty=shown.append)
    text = b"".join(shown)
    assert b"/home/user|user|user|/bin/bash|/home/user|\\w $ |0022|himBHs\r\nxterm-256color C.UTF-8\r\n" in text


def test_the_environment_is_the_same_in_every_way_in(sandbox: Sandbox, manager: RunningManager) -> None:
    names = ("E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID")
    expected = ["true", sandbox.sandbox_id, "code-interpreter-v1"]
    assert out(sandbox, "; ".join(f"echo ${name}" for name in names)).splitlines() == expected
    assert sandbox.run_code(f"import os; [os.environ[n] for n in {names}]").text == str(expected)
    token = {"X-Access-Token": str(sandbox.connection_config.sandbox_headers["X-Access-Token"])}
    given = httpx.get(f"{manager.sandbox_url(sandbox.sandbox_id, 49983)}/envs", headers=token).json()
    assert [given[name] for name in names] == expected


def test_what_the_kernel_tells(sandbox: Sandbox) -> None:
    boot = sandbox.files.read("/proc/sys/kernel/random/boot_id").strip()
    assert len(boot) == 36
    assert out(sandbox, "cat /proc/sys/kernel/random/boot_id") == boot
    assert int(out(sandbox, "cat /proc/sys/fs/inotify/max_user_watches")) > 0
    assert abs(int(out(sandbox, "date +%s")) - time.time()) < 60
    assert int(out(sandbox, "nproc")) > 0
    assert int(out(sandbox, "grep -c processor /proc/cpuinfo")) > 0
    assert out(
        sandbox, "head -c 8 /dev/urandom | wc -c; echo x > /dev/null; ls /dev/full /dev/zero /dev/tty"
    ).split() == [
        "8",
        "/dev/full",
        "/dev/tty",
        "/dev/zero",
    ]


def test_process_ids_are_the_sandboxs_own(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("exec sleep 600", background=True)
    look = f"ps -o args= -p {handle.pid}; kill -0 {handle.pid} && echo alive"
    wait_for(lambda: out(sandbox, look).splitlines() == ["sleep 600", "alive"], what="the shell becoming sleep")
    assert handle.pid in [int(pid) for pid in out(sandbox, "ps -e -o pid=").split()]
    assert handle.kill()
    assert out(sandbox, f"kill -0 {handle.pid} 2>&1 || true").endswith("No such process")


def test_commands_are_the_first_to_go_when_memory_runs_out(sandbox: Sandbox) -> None:
    assert out(sandbox, "cat /proc/self/oom_score_adj; nice").split() == ["600", str(os.nice(0))]
    # What starts a command has its score until that runs, and on a busy machine a moment longer.
    wait_for(lambda: out(sandbox, "cat /proc/$PPID/oom_score_adj") == "500")
    for user in ("user", "root"):
        assert out(sandbox, "(cat /proc/self/oom_score_adj)", user=user) == "600"


@several
def test_a_user_that_root_adds_has_a_home_with_a_profile(sandbox: Sandbox) -> None:
    # Not on the PATH of an ordinary user; on that of the sandbox.
    if shutil.which("useradd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("useradd is not installed here")
    sandbox.commands.run("sudo useradd -m -s /bin/bash anna")
    assert out(sandbox, "id -un; pwd; echo $SHELL; ls -A", user="anna").split() == [
        "anna",
        "/home/anna",
        "/bin/bash",
        ".bashrc",
        ".profile",
    ]


def test_the_system_says_which_it_is(sandbox: Sandbox) -> None:
    if Path("/etc/os-release").exists():
        assert out(sandbox, "cat /etc/os-release") == Path("/etc/os-release").read_text().strip()
