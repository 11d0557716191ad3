"""Attempts of code in a sandbox to reach the host and its other users. No attempt does harm if it succeeds."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import NotFoundException
from e2b_code_interpreter import Sandbox

import kruise_agents
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.sandbox.linux.seccomp import refused_calls
from support.managers import (
    RunningManager,
    descendants,
    one_user_because,
    processes_with,
    running_manager,
    wait_for,
)

pytestmark = pytest.mark.needs("namespaces")
MARK = "only-the-host-has-this"
AGENT = 4
"""The number of a sandbox's own program, in the sandbox; 2 is its placeholder."""


@pytest.fixture(scope="module", params=["several users", "one user"])
def host(request: pytest.FixtureRequest) -> RunningManager:
    several = request.param == "several users"
    if several and one_user_because():
        pytest.skip(f"sandboxes have one user: {one_user_because()}")
    running: RunningManager = request.getfixturevalue("manager" if several else "one_user_manager")
    return running


@pytest.fixture(scope="module")
def _sandbox(host: RunningManager) -> Iterator[Sandbox]:
    with patch_e2b(False):
        running = Sandbox.create(domain=host.domain, api_key=host.api_key)
    yield running
    with patch_e2b(False):
        running.kill()


@pytest.fixture
def hostile(_sandbox: Sandbox, patched: None) -> Sandbox:
    """A sandbox that has made earlier attempts. None of the attempts may help a later attempt."""
    return _sandbox


@pytest.fixture
def fresh(host: RunningManager, patched: None) -> Iterator[Sandbox]:
    """A sandbox for a test that counts its processes, or hinders others."""
    with Sandbox.create(domain=host.domain, api_key=host.api_key) as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host, readable to everybody there."""
    file = tmp_path / f"{MARK}.txt"
    file.write_text(MARK)
    return file


def not_its_own(sandbox: Sandbox, *ports: int) -> list[int]:
    """Return the ports on which nothing in the sandbox listens. Kernels in the sandbox listen on random ports."""
    table = sandbox.files.read("/proc/net/tcp").splitlines()[1:]
    own = {int(line.split()[1].rpartition(":")[2], 16) for line in table}
    left = [port for port in ports if port not in own]
    assert left
    return left


def said(sandbox: Sandbox, command: str) -> str:
    """Return the output of a command that root runs, where the sandbox has a root."""
    return sandbox.commands.run(f"({command}) 2>&1; true", user="root", timeout=60).stdout


def python(sandbox: Sandbox, program: str) -> str:
    sandbox.files.write("/tmp/attempt.py", program)
    return said(sandbox, "python /tmp/attempt.py")


class TestFiles:
    def test_no_file_of_the_host_can_be_found(self, hostile: Sandbox, host: RunningManager, secret: Path) -> None:
        (host.state_dir / f"{MARK}.txt").write_text(MARK)
        others = [f"/proc/{pid}" for pid in (1, 2, AGENT)]
        ways = " ".join(f"{one}/root {one}/cwd {one}/fd/../../.." for one in others)
        assert MARK not in said(hostile, f"for way in / /../.. {ways}; do find $way/ -xdev -name '{MARK}*'; done")
        for path in (secret, host.state_dir / "lock", *(f"{one}/root{secret}" for one in others)):
            assert said(hostile, f"cat {path}").endswith(("No such file or directory\n", "Permission denied\n"))

    def test_of_other_homes_only_their_way_to_the_interpreter_is_there(self, hostile: Sandbox) -> None:
        assert said(hostile, "ls /home").split() == ["user"]
        assert set(said(hostile, "ls -A /root").split()) <= {".bashrc", ".cache", ".local", ".profile", ".pyenv"}

    def test_links_lead_nowhere_outside(self, hostile: Sandbox, secret: Path) -> None:
        hostile.commands.run(f"ln -s {secret} link; ln -s {secret.parent} folder")
        for name in ("link", f"folder/{secret.name}"):
            assert "No such file" in said(hostile, f"cat /home/user/{name}")
            with pytest.raises(NotFoundException):
                hostile.files.read(name)

    def test_hard_links_to_what_is_mounted_or_open_cannot_be_made(self, hostile: Sandbox) -> None:
        answers = python(
            hostile,
            "import os\n"
            f"log = '/proc/{AGENT}/fd/'\n"
            "for target in ('/usr/bin/env', '/etc/services', log + '1', log + '2', '/proc/self/exe'):\n"
            "    try:\n"
            "        os.link(target, '/home/user/hard', follow_symlinks=True)\n"
            "        print('made', target)\n"
            "    except OSError as error:\n"
            "        print(error.strerror)\n",
        )
        assert "made" not in answers
        assert len(answers.splitlines()) == 5

    def test_nothing_that_is_open_leads_to_the_host(self, fresh: Sandbox, host: RunningManager) -> None:
        """The one file of the host that is open is the sandbox's own log, for writing only."""
        fresh.run_code("1")
        targets = set(said(fresh, "for one in /proc/[0-9]*/fd/*; do readlink $one; done; true").splitlines())
        assert any(one.startswith("socket:") for one in targets)
        nameless = ("socket:", "pipe:", "anon_inode:", "/dev/null", "/dev/pts/", "/proc/", "/tmp/k-", "/memfd:")
        own = str(host.folder_of(fresh.sandbox_id) / "log")
        assert [one for one in targets if not one.startswith(nameless)] == [own]

    def test_what_the_host_links_to_survives_the_removal(self, host: RunningManager, secret: Path) -> None:
        with patch_e2b(False), Sandbox.create(domain=host.domain, api_key=host.api_key) as sandbox:
            sandbox.commands.run(f"ln -s {secret} a; ln -s {secret.parent} b; mkdir c; ln -s {secret.parent} c/d")
            sandbox.kill()
        assert secret.read_text() == MARK

    def test_its_own_folder_is_closed_to_other_users_of_the_host(self, hostile: Sandbox, host: RunningManager) -> None:
        """The folder may have programs that would run as their owner."""
        for folder in (host.state_dir / "sandboxes", host.folder_of(hostile.sandbox_id)):
            assert folder.stat().st_mode & 0o077 == 0

    def test_of_devices_there_are_the_harmless_ones(self, hostile: Sandbox) -> None:
        assert said(hostile, "cd /dev && for one in *; do [ -L $one -o -d $one ] || echo $one; done").split() == [
            *("full", "null", "random", "tty", "urandom", "zero")
        ]
        assert "not permitted" in said(hostile, "mknod /tmp/disk b 254 0")
        assert "not permitted" in said(hostile, "mknod /tmp/memory c 1 1")

    def test_the_machines_memory_and_keys_cannot_be_read(self, hostile: Sandbox) -> None:
        for name in ("kcore", "keys", "key-users", "kmsg", "timer_list"):
            assert said(hostile, f"head -c 1 /proc/{name} | wc -c").splitlines()[-1] == "0"

    def test_shared_files_can_be_watched_and_locked(self, fresh: Sandbox) -> None:
        """The page on security says that this is not held back."""
        watch = (
            "import ctypes, fcntl, os, time\n"
            "libc = ctypes.CDLL(None)\n"
            "events = libc.inotify_init()\n"
            f"libc.inotify_add_watch(events, {kruise_agents.__file__!r}.encode(), 0x20)\n"
            f"file = open({kruise_agents.__file__!r})\n"
            "os.read(events, 4096)\n"  # of its own opening
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\n"
            "os.read(events, 4096)\n"
            "print('opened', flush=True)\n"
            "time.sleep(1000)\n"
        )
        fresh.files.write("/tmp/watch.py", watch)
        watcher = fresh.commands.run("python /tmp/watch.py", background=True)
        output = (text for text, _, _ in watcher if text)
        assert next(output) == "locked\n"
        with Path(kruise_agents.__file__).open() as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert next(output) == "opened\n"


class TestProcesses:
    def test_only_its_own_can_be_seen(self, fresh: Sandbox, host: RunningManager) -> None:
        assert python(
            fresh,
            "import os\n"
            "pids = [name for name in os.listdir('/proc') if name.isdigit()]\n"
            "print(len(pids) < 20, max(map(int, pids)) < 200)\n",
        ).split() == ["True", "True"]
        assert str(host.state_dir) not in said(fresh, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '")

    def test_no_number_leads_to_a_process_of_the_host(self, fresh: Sandbox) -> None:
        answers = python(
            fresh,
            "import os\n"
            "reached = []\n"
            "for pid in range(300, 70_000):\n"
            "    try:\n"
            "        os.kill(pid, 0)\n"
            "        reached.append(pid)\n"
            "    except ProcessLookupError:\n"
            "        pass\n"
            "print([pid for pid in reached if pid != os.getpid()])\n",
        )
        assert answers == "[]\n"

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGTERM])
    def test_no_signal_ends_or_stops_the_first_process(self, fresh: Sandbox, number: signal.Signals) -> None:
        said(fresh, f"kill -{number} 1")
        assert said(fresh, "cut -d' ' -f3 /proc/1/stat") != "T\n"
        assert fresh.commands.run("echo alive").stdout == "alive\n"

    def test_the_first_process_is_shut_in_as_well(self, hostile: Sandbox) -> None:
        status = said(hostile, "cat /proc/1/status")
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status

    def test_only_processes_of_the_sandbox_can_be_traced(self, hostile: Sandbox, host: RunningManager) -> None:
        attach = (
            "import ctypes, os, sys\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "for pid in map(int, sys.argv[1:]):\n"
            "    print(libc.ptrace(16, pid, None, None), os.strerror(ctypes.get_errno()))\n"
        )
        hostile.files.write("/tmp/attach.py", attach)
        assert said(hostile, f"python /tmp/attach.py {host.process.pid + 100_000}") == "-1 No such process\n"
        assert said(hostile, "python /tmp/attach.py 1") == "-1 Operation not permitted\n"

    def test_the_first_process_can_be_neither_traced_nor_looked_into(self, hostile: Sandbox) -> None:
        """Its program is a file of the host, on a mount that is not read-only, and may belong to the manager's user."""
        attempt = (
            "import ctypes, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "print(libc.ptrace(0x4206, 1, None, None), os.strerror(ctypes.get_errno()))\n"
            "for name in ('exe', 'root', 'cwd', 'fd/0', 'ns/user', 'mem', 'task/1/mem', 'environ'):\n"
            "    try:\n"
            "        print(os.stat(f'/proc/1/{name}'), open(f'/proc/1/{name}', 'rb'))\n"
            "    except PermissionError:\n"
            "        pass\n"
        )
        assert python(hostile, attempt) == "-1 Operation not permitted\n"

    def test_a_program_of_root_gives_no_rights_to_who_executes_it(self, fresh: Sandbox) -> None:
        said(fresh, "cp /usr/bin/id /opt/id; chmod 6755 /opt/id; chmod 6755 /tmp")
        before, after = (fresh.commands.run(f"{path} -u").stdout for path in ("/usr/bin/id", "/opt/id"))
        assert before == after
        attempts = "/usr/bin/mount -t tmpfs none /mnt 2>&1; /usr/bin/newgrp root </dev/null 2>&1; id -u"
        assert fresh.commands.run(attempts).stdout.splitlines()[-1] == before.strip()
        assert "CapEff:\t0000000000000000" in fresh.commands.run("cat /proc/self/status").stdout

    def test_nothing_runs_on_after_the_end(self, host: RunningManager) -> None:
        before = set(descendants(host.process.pid))
        mark = str(random.randrange(10**8, 10**9))  # this test may run beside itself
        sleeper = f"(setsid sh -c \"trap '' TERM; sleep {mark}\" &)"
        stubborn = f"trap '' TERM INT HUP QUIT; for i in 1 2 3; do {sleeper} ; done; wait"
        with patch_e2b(False), Sandbox.create(domain=host.domain, api_key=host.api_key) as sandbox:
            sandbox.commands.run(stubborn, background=True)
            sandbox.run_code(f"import os\nif os.fork() == 0:\n    os.setsid(); os.execlp('sleep', 'sleep', '{mark}')")
            wait_for(lambda: len(processes_with(f"sleep {mark}")) >= 4)
            folder = host.folder_of(sandbox.sandbox_id)
            assert folder.exists()
            sandbox.kill()
        assert processes_with(f"sleep {mark}") == []
        assert not folder.exists()
        assert sandbox.sandbox_id not in Path("/proc/self/mountinfo").read_text()
        wait_for(lambda: set(descendants(host.process.pid)) <= before, what="the end of all that was started")


class TestNetwork:
    def test_what_listens_on_the_hosts_loopback_cannot_be_reached(self, hostile: Sandbox, host: RunningManager) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports = not_its_own(hostile, server.getsockname()[1], host.port)
            answers = python(
                hostile,
                "import socket\n"
                f"for port in {ports}:\n"
                "    for address in ('127.0.0.1', '::1', '10.0.2.2', '169.254.169.254', '192.168.0.1'):\n"
                "        try:\n"
                "            socket.create_connection((address, port), timeout=5)\n"
                "            print('reached', address, port)\n"
                "        except OSError as error:\n"
                "            print(error)\n",
            )
        assert "reached" not in answers
        assert len(answers.splitlines()) == 5 * len(ports)

    def test_the_relay_leads_into_the_sandbox_only(self, hostile: Sandbox, host: RunningManager) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            for port in not_its_own(hostile, server.getsockname()[1], host.port):
                answer = httpx.get(f"{host.sandbox_url(hostile.sandbox_id, port)}/")
                assert answer.status_code == 502
                assert "port is not open" in answer.text

    def test_abstract_sockets_of_the_host_cannot_be_reached(self, hostile: Sandbox) -> None:
        name = f"\0{MARK}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            listener.listen()
            answers = python(
                hostile,
                "import socket\n"
                "print(socket.socket(socket.AF_UNIX).connect_ex({name!r}))\nprint(open('/proc/net/unix').read())".replace(
                    "{name!r}", repr(name)
                ),
            )
        assert answers.splitlines()[0] == "111"
        assert MARK not in answers

    def test_the_network_cannot_be_changed(self, hostile: Sandbox) -> None:
        answers = python(
            hostile,
            "import socket\n"
            "for kind in ((socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 0)):\n"
            "    try:\n"
            "        socket.socket(*kind)\n"
            "        print('made', kind)\n"
            "    except OSError as error:\n"
            "        print(error.strerror)\n",
        )
        assert answers.splitlines()[0] == "Operation not permitted"
        assert answers.splitlines()[1] in ("Address family not supported by protocol", "Operation not permitted")


class TestKernel:
    def test_namespaces_can_be_neither_made_nor_entered(self, hostile: Sandbox) -> None:
        for kind in ("user", "mount", "net", "pid", "ipc", "uts", "cgroup", "time"):
            assert "failed" in said(hostile, f"unshare --{kind} --fork true")
        assert "No space left" in python(
            hostile,
            "import ctypes, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "print(libc.unshare(0x10000000), os.strerror(ctypes.get_errno()))\n",
        )
        for kind in ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup"):
            assert python(
                hostile,
                "import ctypes, os\n"
                "libc = ctypes.CDLL(None, use_errno=True)\n"
                "try:\n"
                f"    print(libc.setns(os.open('/proc/1/ns/{kind}', os.O_RDONLY), 0))\n"
                "except OSError as error:\n"
                "    print(-1)\n",
            ) == ("-1\n")

    def test_nothing_can_be_mounted(self, hostile: Sandbox) -> None:
        for command in (
            "mount -t tmpfs none /tmp",
            "mount --bind /usr /tmp",
            "mount -o remount,rw /usr",
            "mount -t proc none /tmp",
            "umount -l /proc/sys",
            "umount /dev/shm",
        ):
            assert said(hostile, f"{command} && echo done").splitlines()[-1] != "done"

    def test_calls_that_namespaces_do_not_keep_apart_are_shut(self, hostile: Sandbox) -> None:
        calls = refused_calls()
        if not calls:
            pytest.skip("there is no filter for this kind of processor")
        answers = python(
            hostile,
            "import ctypes, errno\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            f"for name, number in {calls!r}.items():\n"
            "    print(name, libc.syscall(number, -1, -1, -1, -1, -1, -1), errno.errorcode[ctypes.get_errno()])\n"
            "for name, number in {'io_uring': 425, 'memfd_secret': 447}.items():\n"
            "    print(name, libc.syscall(number, -1, None), errno.errorcode[ctypes.get_errno()])\n",
        )
        absent = ["io_uring -1 ENOSYS", "memfd_secret -1 ENOSYS"]
        assert answers.splitlines() == [*(f"{name} -1 EPERM" for name in calls), *absent]

    def test_no_lease_on_a_file_holds_up_the_manager(self, hostile: Sandbox) -> None:
        """An opening of a leased file, such as the log of a sandbox or a file of a volume, waits for up to a minute."""
        if not refused_calls():
            pytest.skip("there is no filter for this kind of processor")
        answers = python(
            hostile,
            "import fcntl, os\n"
            "os.close(os.open('leased', os.O_WRONLY | os.O_CREAT))\n"
            "file = os.open('leased', os.O_RDONLY)\n"
            "for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):\n"
            "    try:\n"
            "        fcntl.fcntl(file, fcntl.F_SETLEASE, kind)\n"
            "        print('leased')\n"
            "    except OSError as error:\n"
            "        print(error)\n"
            "fcntl.lockf(os.open('leased', os.O_RDWR), fcntl.LOCK_EX)\n"
            "print('locked')\n",
        )
        assert answers.splitlines() == [*["[Errno 1] Operation not permitted"] * 2, "locked"]

    def test_only_sockets_of_its_own_network_can_be_made(self, hostile: Sandbox) -> None:
        """Other families, such as AF_VSOCK, belong to no network namespace, or are rarely used parts of the kernel."""
        if not refused_calls():
            pytest.skip("there is no filter for this kind of processor")
        answers = python(
            hostile,
            "import errno, itertools, socket\n"
            "made, errors = set(), set()\n"
            "for family, kind in itertools.product(range(1, 64), (1, 2, 3, 4, 5)):\n"
            "    try:\n"
            "        socket.socket(family, kind).close()\n"
            "        made.add(family)\n"
            "    except OSError as error:\n"
            "        if family not in (1, 2, 10, 16): errors.add(errno.errorcode[error.errno])\n"
            "print(made <= {1, 2, 10, 16}, {1, 2} <= made, errors)\n",
        )
        assert answers == "True True {'EAFNOSUPPORT'}\n"

    def test_keys_of_the_manager_are_out_of_reach(self, tmp_path: Path) -> None:
        """The kernel keeps a user's keys outside of files, and passes the keys on to all programs that are started."""
        if not refused_calls():
            pytest.skip("there is no filter for this kind of processor")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(refused_calls()["keyctl"], 1, None)  # a session keyring of its own for this test's processes
        key = libc.syscall(refused_calls()["add_key"], b"user", MARK.encode(), b"secret", 6, -3)
        if key < 0:
            pytest.skip(f"this machine has no keyrings: {os.strerror(ctypes.get_errno())}")
        with (
            running_manager(tmp_path) as manager,
            patch_e2b(False),
            Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox,
        ):
            number = refused_calls()["keyctl"]
            assert (
                python(
                    sandbox,
                    "import ctypes\n"
                    "text = ctypes.create_string_buffer(20)\n"
                    f"print(ctypes.CDLL(None).syscall({number}, 11, {key}, text, 20), text.value)\n",
                )
                == "-1 b''\n"
            )

    def test_nobody_can_type_into_a_terminal_for_its_reader(self, hostile: Sandbox) -> None:
        assert "[Errno 1] Operation not permitted" in python(
            hostile,
            "import fcntl, os\n"
            "ours, theirs = os.openpty()\n"
            "for request in (0x5412, 0x541C):\n"
            "    try:\n"
            "        fcntl.ioctl(theirs, request, b'x')\n"
            "        print('typed')\n"
            "    except OSError as error:\n"
            "        print(error)\n",
        )
        assert "No such device" in said(hostile, "echo > /dev/tty")

    def test_settings_of_the_machine_cannot_be_changed(self, hostile: Sandbox) -> None:
        for name in ("kernel/core_pattern", "kernel/sysrq", "vm/overcommit_memory", "net/ipv4/ip_forward"):
            # Opened for writing and closed again: if that works, nothing has changed.
            assert "print" not in python(hostile, f"open('/proc/sys/{name}', 'r+').close()\nprint('print')")
        for folder in ("/sys/fs/cgroup", "/sys/kernel", "/sys/class", "/sys/module"):
            assert "No such file" in said(hostile, f"ls {folder}")

    def test_its_processes_go_before_those_of_the_host_when_memory_runs_out(self, hostile: Sandbox) -> None:
        assert "denied" in said(hostile, "echo -1000 > /proc/self/oom_score_adj")


def test_a_crash_starts_no_program_of_the_host(tmp_path: Path) -> None:
    """The host may pipe core dumps to a program of its own, which would run as the host's root."""
    pattern = tmp_path / "core_pattern"
    program = (
        "import pathlib, resource\n"
        "from kruise_agents.manager.runtime.limits import limits\n"
        f"limits._CORE_PATTERN = pathlib.Path({str(pattern)!r})\n"
        "limits.ProcessLimits().impose(0)\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    found = []
    for text in ("|/usr/share/apport/apport %p\n", "core\n"):
        pattern.write_text(text)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    assert found[0] == "(1, 1)"
    assert found[1] != "(1, 1)"
