"""The users of the programs in a sandbox, and the owners of the files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import AuthenticationException, CommandExitException, InvalidArgumentException
from e2b.sandbox.commands.command_handle import PtySize
from e2b_code_interpreter import Sandbox

from support.managers import RunningManager, available_runtime, descendants, one_user_because, wait_for

pytestmark = pytest.mark.live
several = pytest.mark.needs("several users")


@pytest.fixture
def sandbox(shared: Sandbox) -> Sandbox:
    return shared


def out(sandbox: Sandbox, command: str, **options: str) -> str:
    return sandbox.commands.run(command, **options).stdout.strip()


@several
class TestSeveralUsers:
    def test_commands_run_as_user_in_its_home(self, sandbox: Sandbox) -> None:
        assert out(sandbox, "id -un; id -gn; id -u; pwd; echo $HOME $USER $LOGNAME").splitlines() == [
            "user",
            "user",
            "1000",
            "/home/user",
            "/home/user user user",
        ]

    def test_commands_run_as_root_on_demand(self, sandbox: Sandbox) -> None:
        assert out(sandbox, "id -un; id -G; pwd; echo $HOME $USER", user="root").splitlines() == [
            "root",
            "0",
            "/root",
            "/root root",
        ]

    def test_a_user_keeps_no_way_back_to_root(self, sandbox: Sandbox) -> None:
        status = dict(
            line.split(":\t", 1) for line in out(sandbox, "cat /proc/self/status").splitlines() if ":\t" in line
        )
        assert status["Uid"] == status["Gid"] == "1000\t1000\t1000\t1000"
        assert status["Groups"].split() == ["27", "1000"]
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        setuid = "python -c 'import os; os.setuid(0)'"
        with pytest.raises(CommandExitException, match="Operation not permitted"):
            sandbox.commands.run(setuid)

    def test_the_agents_ids_are_its_own_again_after_a_start(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("true")
        ids = out(sandbox, "cat /proc/$PPID/task/*/status | grep -E '^(Uid|Gid|CapEff)' | sort -u", user="root")
        assert [line.split()[1:] for line in ids.splitlines() if line[0] != "C"] == [["0"] * 4] * 2
        assert len([line for line in ids.splitlines() if line.startswith("CapEff")]) == 1

    def test_a_folder_that_the_user_may_not_enter_is_no_working_directory(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("mkdir -m 700 /opt/closed", user="root")
        assert out(sandbox, "pwd", cwd="/opt/closed", user="root") == "/opt/closed"
        denied = "error starting .*: /opt/closed: permission denied"
        with pytest.raises(InvalidArgumentException, match=denied):
            sandbox.commands.run("pwd", cwd="/opt/closed")
        with pytest.raises(InvalidArgumentException, match=denied):
            sandbox.pty.create(PtySize(rows=24, cols=80), cwd="/opt/closed")
        assert sandbox.files.list("/opt/closed") == []

    def test_files_belong_to_whom_they_were_written_for(self, sandbox: Sandbox) -> None:
        sandbox.files.write("new/mine.txt", "1")
        sandbox.files.write("/opt/his.txt", "1", user="root")
        sandbox.files.make_dir("folder", user="root")
        assert out(
            sandbox, "cd /home/user; stat -c '%U:%G %a' new new/mine.txt /opt/his.txt /root/folder", user="root"
        ).splitlines() == [
            "user:user 755",
            "user:user 644",
            "root:root 644",
            "root:root 755",
        ]
        assert sandbox.files.get_info("/opt/his.txt").owner == "root"
        assert sandbox.files.get_info("new/mine.txt").owner == "user"
        sandbox.files.rename("new/mine.txt", "newer/still/mine.txt")
        assert out(sandbox, "stat -c '%U:%G %a' newer newer/still").split("\n") == ["user:user 755"] * 2

    def test_an_upload_over_a_file_of_root_makes_it_the_users(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("install -m 600 /dev/null /home/user/f", user="root")
        sandbox.files.write("/home/user/f", "text")
        assert out(sandbox, "stat -c '%U %a' f; cat f").splitlines() == ["user 600", "text"]

    def test_files_are_reached_whatever_their_permissions(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("echo secret > s; chmod 0 s; mkdir d; chmod 0 d")
        assert sandbox.files.read("s") == "secret\n"
        sandbox.files.write("d/x", "1")
        assert [entry.name for entry in sandbox.files.list("d")] == ["x"]

    def test_relative_paths_lead_below_the_users_home(self, sandbox: Sandbox) -> None:
        sandbox.files.write("here.txt", "root's", user="root")
        assert out(sandbox, "cat /root/here.txt", user="root") == "root's"
        assert not sandbox.files.exists("here.txt")

    def test_what_belongs_to_root_is_kept_from_the_user(self, sandbox: Sandbox) -> None:
        for command in ("touch /x", "echo > /etc/passwd", "ls /root", "cat /etc/shadow", "kill -9 2"):
            with pytest.raises(CommandExitException):
                sandbox.commands.run(command)
        assert sandbox.is_running()

    def test_root_can_change_the_system_outside_of_usr(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("mkdir /data && chown user /data && echo '127.0.0.1 db' >> /etc/hosts", user="root")
        assert out(sandbox, "touch /data/x && getent hosts db").startswith("127.0.0.1")

    def test_users_that_root_adds_are_known_at_once(self, sandbox: Sandbox) -> None:
        with pytest.raises(AuthenticationException, match="bob"):
            sandbox.commands.run("true", user="bob")
        sandbox.commands.run("echo 'bob:x:1001:1001::/home/bob:/bin/sh' >> /etc/passwd", user="root")
        sandbox.commands.run("install -d -o 1001 -g 1001 /home/bob", user="root")
        assert out(sandbox, "id -u; pwd", user="bob").splitlines() == ["1001", "/home/bob"]
        sandbox.files.write("f", "1", user="bob")
        assert sandbox.files.get_info("/home/bob/f").owner == "bob"
        with pytest.raises(CommandExitException, match="bob is not in the sudoers file"):
            sandbox.commands.run("sudo true", user="bob")

    def test_code_runs_as_root_in_the_users_home(self, sandbox: Sandbox) -> None:
        execution = sandbox.run_code("import os; open('made', 'w').close(); (os.getuid(), os.getcwd())")
        assert execution.text == "(0, '/home/user')"
        assert out(sandbox, "stat -c %U made") == "root"

    def test_code_may_write_over_what_the_user_has_made(self, sandbox: Sandbox) -> None:
        sandbox.files.write("mine", "1")
        sandbox.commands.run("chmod 600 mine")
        assert sandbox.run_code("open('mine', 'a').write('2')").error is None
        assert out(sandbox, "cat mine; stat -c %U mine") == "12user"

    def test_a_context_may_be_in_the_home_of_root(self, sandbox: Sandbox) -> None:
        context = sandbox.create_code_context(cwd="/root")
        assert sandbox.run_code("import os; os.getcwd(), os.path.expanduser('~')", context=context).text == (
            "('/root', '/root')"
        )

    def test_the_user_is_in_the_groups_that_programs_look_for(self, sandbox: Sandbox) -> None:
        assert out(sandbox, "id -gn; id -Gn").splitlines()[0] == "user"
        assert "sudo" in out(sandbox, "id -Gn").split()

    def test_an_owner_without_a_name_is_a_number(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("touch /home/user/f && chown 4321:4322 /home/user/f", user="root")
        info = sandbox.files.get_info("f")
        assert (info.owner, info.group) == ("4321", "4322")

    def test_temporary_folders_are_everybodys(self, sandbox: Sandbox) -> None:
        for user in ("user", "root"):
            assert (
                out(sandbox, "touch /tmp/$USER /var/tmp/$USER /dev/shm/$USER && stat -c %a /tmp", user=user) == "1777"
            )
        assert out(sandbox, "python -c 'import multiprocessing as m; m.Lock(); print(1)'") == "1"

    def test_low_ports_are_open_to_everybody(self, sandbox: Sandbox) -> None:
        sandbox.commands.run("exec python -m http.server 80", background=True)
        wait_for(lambda: httpx.get(f"http://{sandbox.get_host(80)}").status_code == 200)

    def test_a_terminal_belongs_to_its_user(self, sandbox: Sandbox) -> None:
        shown: list[bytes] = []
        for user in ("user", "root"):
            terminal = sandbox.pty.create(PtySize(24, 80), user=user, timeout=20)
            sandbox.pty.send_stdin(terminal.pid, b"stat -c '%U'=%a $(tty); echo > /dev/tty; exit\n")
            terminal.wait(on_pty=shown.append)
        assert b"user=620" in b"".join(shown)
        assert b"root=620" in b"".join(shown)

    def test_nothing_can_be_mounted_and_no_namespace_made(self, sandbox: Sandbox) -> None:
        for command in (
            "unshare --user true",
            "unshare --mount true",
            "mount -t tmpfs none /tmp",
            "mount -o remount,rw /proc/sys",
            "umount /proc/sys",
            "echo 5 > /proc/sys/user/max_user_namespaces && unshare --user true",
            "chroot /proc/1/root true",
            "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk",
            "kill -9 1 && sleep 0.2 && ! kill -0 1",
        ):
            with pytest.raises(CommandExitException):
                sandbox.commands.run(command, user="root")
        assert sandbox.is_running()

    def test_no_process_is_a_user_of_the_host(self, sandbox: Sandbox, manager: RunningManager) -> None:
        sandbox.run_code("1")
        sandbox.commands.run("sleep 971241", background=True)
        sandbox.commands.run("sleep 971242", background=True, user="root")
        wait_for(lambda: len(_uids(manager, "sleep 97124")) == 2)
        assert min(_uids(manager, "sleep 97124")) > 65536

    def test_the_folder_goes_with_everything_in_it(self, manager: RunningManager, patched: None) -> None:
        sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key)
        sandbox.commands.run("mkdir -p /data/deep; touch /data/deep/x; chmod 0 /data/deep", user="root")
        sandbox.kill()
        assert not manager.folder_of(sandbox.sandbox_id).exists()


@several
class TestSudo:
    def test_it_is_root_without_a_question(self, sandbox: Sandbox) -> None:
        assert out(sandbox, "sudo whoami; sudo -n id -u; /usr/bin/env sudo -E whoami").splitlines() == [
            "root",
            "0",
            "root",
        ]

    def test_files_folder_and_exit_code_are_the_callers(self, sandbox: Sandbox) -> None:
        assert out(sandbox, "cd /tmp && echo text | sudo tee /root/f | sudo tr a-z A-Z; sudo pwd") == "TEXT\n/tmp"
        with pytest.raises(CommandExitException) as caught:
            sandbox.commands.run("sudo sh -c 'echo said >&2; exit 7'")
        assert (caught.value.exit_code, caught.value.stderr) == (7, "said\n")

    def test_variables(self, sandbox: Sandbox) -> None:
        shown = out(sandbox, "export MINE=1; sudo GIVEN=2 env; echo --; sudo -E sh -c 'echo $MINE $HOME'")
        environment, _, kept = shown.partition("--\n")
        assert "GIVEN=2" in environment
        assert "SUDO_USER=user" in environment
        assert "HOME=/root" in environment
        assert "MINE" not in environment
        assert kept == "1 /root"

    def test_another_user_a_login_and_a_folder(self, sandbox: Sandbox) -> None:
        assert out(
            sandbox, "sudo -u user whoami; sudo -i echo '$USER a'; sudo -i pwd; sudo -D /etc pwd"
        ).splitlines() == [
            "user",
            "$USER a",
            "/root",
            "/etc",
        ]

    def test_flags_may_stand_together_and_end_at_the_command_or_at_two_hyphens(self, sandbox: Sandbox) -> None:
        asked = "sudo -nEH whoami; sudo -nuuser whoami; sudo -nu user -- whoami; sudo -- echo -s -u x; sudo ls -d /"
        assert out(sandbox, asked).splitlines() == ["root", "user", "user", "-s -u x", "/"]

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("sudo nosuchprogram", "sudo: nosuchprogram: command not found"),
            ("sudo -u ghost id", "sudo: unknown user ghost"),
            ("sudo --nonsense", "usage: sudo [-EHin] [-u user]"),
            ("sudo -s", "option -s not recognized; sudo in a sandbox knows -u user, -E, -i, -n, -H and -D directory"),
            ("sudo --login", "option --login not recognized; sudo in a sandbox knows -u user"),
            ("sudo -nb true", "option -b not recognized"),
            ("sudo -u", "option -u requires argument"),
            ("sudo", "a command is required"),
            ("sudo -D /nosuch pwd", "nosuch"),
        ],
    )
    def test_what_cannot_be_done_is_said(self, command: str, said: str, sandbox: Sandbox) -> None:
        with pytest.raises(CommandExitException) as caught:
            sandbox.commands.run(command)
        assert said in caught.value.stderr
        assert caught.value.exit_code == 1

    def test_signals_reach_the_command(self, sandbox: Sandbox) -> None:
        script = (
            "sudo sh -c 'trap \"echo got; exit 9\" TERM; echo ready; while :; do sleep 0.05; done' > log & "
            "until grep -q ready log; do sleep 0.05; done; kill -TERM $!; wait $!; echo $?; cat log"
        )
        assert out(sandbox, script).splitlines() == ["9", "ready", "got"]

    def test_a_killed_client_ends_its_command(self, sandbox: Sandbox, manager: RunningManager) -> None:
        handle = sandbox.commands.run("exec sudo sleep 971243", background=True)
        wait_for(lambda: _uids(manager, "sleep 971243"))
        wait_for(lambda: "sleep 971243" in out(sandbox, "pgrep -af '^sleep 971243' || true"))
        handle.kill()
        wait_for(lambda: not out(sandbox, "pgrep -f '^sleep 971243' || true"))

    def test_long_arguments_and_many_at_once(self, sandbox: Sandbox) -> None:
        assert out(sandbox, "sudo sh -c 'echo ${#1}' - $(printf 'x%.0s' $(seq 100000))") == "100000"
        many = "for i in $(seq 30); do sudo echo $i & done; wait"
        assert sorted(map(int, out(sandbox, many).split())) == list(range(1, 31))

    def test_a_shell_in_a_terminal(self, sandbox: Sandbox) -> None:
        terminal = sandbox.pty.create(PtySize(33, 90), timeout=30)
        events = iter(terminal)
        shown = b""
        for line, answer in (
            (b"sudo bash", b"# "),
            (b"stty size; whoami", b"33 90\r\nroot\r\n"),
            (b"tty", b"/dev/pts/"),
            (b"sh -c 'echo go-$((1+1)); exec sleep 60'", b"go-2\r\n"),
            (b"\x03", b"# "),
            (b"exit 5", b"$ "),
            (b"echo code=$?", b"code=5\r\n"),
        ):
            sandbox.pty.send_stdin(terminal.pid, line + b"\n")
            while answer not in shown:
                shown += next(events)[2] or b""
            shown = shown.partition(answer)[2]
        sandbox.pty.send_stdin(terminal.pid, b"exit\n")
        assert terminal.wait().exit_code == 0

    def test_requests_that_make_no_sense_harm_nobody(self, sandbox: Sandbox) -> None:
        sandbox.files.write(
            "probe.py",
            "import array, os, socket\n"
            "for files, payload in ((0, b''), (1, b'{}'), (5, b'{}'), (5, b'[1]'), (5, b'{\"user\": 1}'), (3, b'x')):\n"
            "    s = socket.socket(socket.AF_UNIX)\n"
            "    s.connect('/run/kruise-agents/sudo')\n"
            "    f = os.memfd_create('x'); os.write(f, payload)\n"
            "    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [f] * files))] if files else []\n"
            "    s.sendmsg([b'r'], ancillary)\n"
            "    print(b'error' in s.recv(1000))\n",
        )
        assert out(sandbox, "python probe.py").splitlines() == ["True"] * 6
        assert out(sandbox, "sudo whoami") == "root"


@pytest.fixture(scope="module", params=["bubblewrap", "process"])
def single(request: pytest.FixtureRequest) -> RunningManager:
    """A manager whose sandboxes have one user."""
    if request.param == "bubblewrap" != available_runtime():
        pytest.skip("this machine permits no namespaces")
    running: RunningManager = request.getfixturevalue("bare" if request.param == "process" else "one_user_manager")
    return running


class TestOneUser:
    @pytest.fixture
    def only(self, single: RunningManager, patched: None) -> Iterator[Sandbox]:
        with Sandbox.create(domain=single.domain, api_key=single.api_key) as running:
            yield running

    def test_programs_that_ask_for_root_work(self, only: Sandbox) -> None:
        only.files.write("f", "1", user="root")
        assert out(only, "cat f; sudo cat f; sudo -E -u root -i true && echo done", user="root") == "11done"
        assert only.files.get_info("f").owner == "user"
        assert only.run_code("open('f').read()").text == "1"
        assert out(only, "id -u", user="root") == out(only, "sudo id -u") == out(only, "id -u")

    def test_other_users_do_not_exist(self, only: Sandbox) -> None:
        with pytest.raises(AuthenticationException):
            only.commands.run("true", user="bob")

    def test_sudo_says_what_it_cannot_start(self, only: Sandbox) -> None:
        with pytest.raises(CommandExitException, match="sudo: nosuchprogram: command not found"):
            only.commands.run("sudo nosuchprogram")

    def test_the_health_report_names_it(self, single: RunningManager) -> None:
        report = httpx.get(f"{single.api_url}/health", headers={"Accept": "application/json"}).json()
        assert (report["status"], report["users"]) == ("OK", "one")


def test_the_health_report_is_text_for_who_wants_no_more(manager: RunningManager) -> None:
    answer = httpx.get(f"{manager.api_url}/health")
    assert (answer.status_code, answer.text) == (200, "OK")
    report = httpx.get(f"{manager.api_url}/health", headers={"Accept": "application/json"}).json()
    assert report["runtime"] == available_runtime()
    assert report["users"] == ("one" if one_user_because() else "several")


def _uids(manager: RunningManager, marker: str) -> list[int]:
    """Return the host's user ids of the processes below this manager whose command line begins with ``marker``."""
    found = []
    for process in (Path(f"/proc/{pid}") for pid in descendants(manager.process.pid)):
        with contextlib.suppress(OSError):  # it has just ended
            if (process / "cmdline").read_bytes().replace(b"\0", b" ").startswith(marker.encode()):
                found.append(process.stat().st_uid)
    return found
