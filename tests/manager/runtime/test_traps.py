"""Traps in the file tree from which a sandbox boots: none runs before the sandbox's rights and limits are in place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime import MIB
from kruise_agents.protocol.names import ID_COUNT
from kruise_agents.sandbox.linux.user_namespace import KEPT
from support.managers import NO_IDENTITIES, RunningManager, running_manager, serve_command
from support.templates import make_root_file_system

pytestmark = [
    pytest.mark.needs("namespaces"),
    pytest.mark.usefixtures("patched"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed, which compiles the trap"),
]
WITHOUT_OPENSSL_SETTINGS = """
import kruise_agents.manager.runtime.rootfs.skeleton as skeleton
skeleton._BOUND_FROM_HOST = tuple(name for name in skeleton._BOUND_FROM_HOST if name != "ssl/openssl.cnf")
"""
"""A prelude for a manager on a host without settings of OpenSSL, so that those of the file tree count."""
TRAP = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static const char *files[] = {"/proc/self/cmdline", "/proc/self/uid_map", "/proc/self/status", "/proc/self/limits"};
static const char *facts[] = {"Cap", "NoNewPrivs", "Seccomp:", "Max data", "Max file", "Max proc", "Max core", " "};
static void spring(void) {
    char name[64], line[512];
    snprintf(name, sizeof name, "/var/tmp/caught-%d", getpid());
    FILE *record = fopen(name, "w");
#ifndef QUIET
    if (record == NULL) record = fdopen(2, "w");
#endif
    if (record == NULL) return;
    for (int i = 0; i < 4; i++) {
        FILE *file = fopen(files[i], "r");
        while (file != NULL && fgets(line, sizeof line, file) != NULL)
            for (int fact = 0; fact < 8; fact++)
                if (i == 0 || strncmp(line, facts[fact], strlen(facts[fact])) == 0) {
                    fputs(line, record);
                    break;
                }
        fputs("\n", record);
        if (file != NULL) fclose(file);
    }
    fclose(record);
}
#ifdef SHELL
int main(int count, char **words) {
    spring();
    execv(SHELL, words);
    return 127;
}
#else
__attribute__((constructor)) static void loaded(void) { spring(); }
#endif
"""
"""Records the rights and limits of the process that loads it, or of the shell that it stands for."""
LAY = r"""
set -e
mkdir -p /home/user/libnss_trap "$packages" /etc/ssl
cp /opt/trap.so /home/user/libnss_trap/x.so.2
cp /opt/trap.so /lib/libnss_trap.so.2 2>/dev/null || true
printf 'passwd: trap/x trap files\ngroup: trap/x trap files\nhosts: trap/x files dns\n' > /etc/nsswitch.conf
printf 'openssl_conf=o\n[o]\nproviders=p\nengines=p\n[p]\ntrap=t\n[t]\nmodule=/opt/trap.so\n' > /etc/ssl/openssl.cnf
printf 'dynamic_path=/opt/trap.so\ninit=0\nactivate=1\n' >> /etc/ssl/openssl.cnf
for name in trap.pth sitecustomize.py usercustomize.py; do
    echo "import ctypes; ctypes.CDLL('/opt/trap.so')" > "$packages/$name"
done
cp "$packages/sitecustomize.py" /home/user/sitecustomize.py
(cp -a /etc /etc.new && mv /etc /etc.old && mv /etc.new /etc) 2>/dev/null || true
for name in ld.so.preload ld.so.cache; do
    (rm -f "/etc/$name"; cp /opt/ld.so.preload "/etc/$name") 2>/dev/null || true
done
"""
"""Lays every trap, as root of the sandbox."""
SPRING = "python -c 'import ssl'; python -c 'import pwd; pwd.getpwnam(\"nobody\")'"
"""Springs traps in the end, which shows that they are armed."""
LIMITS = ("Max processes", "Max data size", "Max file size", "Max core file size")


@dataclass(frozen=True)
class Host:
    manager: RunningManager
    several: bool

    def create(self, template: str | None = None) -> Sandbox:
        return Sandbox.create(template, domain=self.manager.domain, api_key=self.manager.api_key)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("trap"), "-shared", "-fPIC").read_bytes()


def compiled(folder: Path, *options: str) -> Path:
    (folder / "trap.c").write_text(TRAP)
    subprocess.run(["gcc", *options, "-o", folder / "trap", folder / "trap.c"], check=True)
    return folder / "trap"


@pytest.fixture(scope="module", params=["forked", "executed"])
def host(request: pytest.FixtureRequest, users: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    options = ["--no-prefork"] if request.param == "executed" else []
    prelude = WITHOUT_OPENSSL_SETTINGS + (NO_IDENTITIES if users == "one user" else "")
    with running_manager(folder, *options, prelude=prelude, python=with_bash_for_sh(folder)) as running:
        yield Host(running, users == "several users")


def with_bash_for_sh(folder: Path) -> Path:
    """Return a program that runs Python where ``/bin/sh`` is bash, as far as root runs the tests."""
    real, bash = Path("/bin/sh").resolve(), shutil.which("bash")
    if os.geteuid() != 0 or real.name == "bash" or bash is None or shutil.which("unshare") is None:
        return Path(sys.executable)
    program = folder / "python"
    program.write_text(
        f"#!{bash}\nexec unshare --mount --propagation private {bash} -c "
        f'\'mount --bind {bash} {real} && exec "$0" "$@"\' {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return program


def lay_traps(sandbox: Sandbox, library: bytes) -> None:
    packages = f"/home/user/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sandbox.files.write("/opt/trap.so", library, user="root")
    sandbox.files.write("/opt/ld.so.preload", "/opt/trap.so\n", user="root")
    sandbox.commands.run(LAY, envs={"packages": packages}, user="root", timeout=60)


def caught(sandbox: Sandbox) -> dict[str, str]:
    """Return what the traps have recorded so far, by name of the record."""
    entries = [entry.name for entry in sandbox.files.list("/var/tmp") if entry.name.startswith("caught-")]
    return {name: sandbox.files.read(f"/var/tmp/{name}", user="root") for name in entries}


def excess(record: str, own: str, *, several: bool) -> list[str]:
    """Return the rights of a process that the sandbox's own root has not, and the limits that it is without.

    ``own`` is the map of user ids and the limits of a command of the sandbox's root.
    """
    too_much = [] if _uid_map(own) == _uid_map(record) else [_uid_map(record)]
    kept = sum(1 << number for number in KEPT) if several else 0
    for kind, held in re.findall(r"^(Cap(?:Inh|Prm|Eff|Bnd|Amb)):\s+(\w+)$", record, re.MULTILINE):
        if int(held, 16) & ~kept and not (kind == "CapBnd" and not several):
            too_much.append(f"{kind} {held}")
    too_much += [f"not {fact}" for fact in ("NoNewPrivs:\t1", "Seccomp:\t2") if fact not in record]
    for limit in LIMITS:
        # The manager changes the soft limit of files while the disk fills.
        hard = [re.search(rf"^{limit}\s+\S+\s+(\S+)", text, re.MULTILINE) for text in (record, own)]
        if None in hard or len({found[1] for found in hard if found}) != 1:
            too_much.append(f"{limit}: {[found and found[1] for found in hard]}")
    return too_much


def require_no_excess(sandbox: Sandbox, *, several: bool) -> None:
    own = sandbox.commands.run("cat /proc/self/uid_map /proc/self/limits", user="root").stdout
    records = caught(sandbox)
    assert records, "no trap is armed"
    for name, record in records.items():
        assert excess(record, own, several=several) == [], f"{name}: {record.partition(chr(10))[0]!r}"


def _uid_map(record: str) -> str:
    found = re.search(r"^(?: +\d+ +\d+ +\d+\n)+", record, re.MULTILINE)
    return " ".join(found[0].split()) if found else "no map"


@pytest.fixture
def boots(host: Host, library: bytes) -> Iterator[dict[str, Callable[[], Sandbox]]]:
    """Yield ways to boot a sandbox from a file tree with traps."""
    sandbox = host.create()
    lay_traps(sandbox, library)
    ended = [sandbox]

    def from_snapshot() -> Sandbox:
        sandbox.commands.run("rm -f /var/tmp/caught-*", user="root")
        ended.append(host.create(sandbox.create_snapshot().snapshot_id))
        return ended[-1]

    def after_a_pause() -> Sandbox:
        sandbox.commands.run("rm -f /var/tmp/caught-*", user="root")
        with host.manager.api() as api:
            api.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json={"memory": False}).raise_for_status()
        return Sandbox.connect(sandbox.sandbox_id, domain=host.manager.domain, api_key=host.manager.api_key)

    yield {"snapshot": from_snapshot, "pause": after_a_pause}
    for one in ended:
        one.kill()


@pytest.mark.parametrize("way", ["snapshot", "pause"])
def test_no_trap_runs_before_the_last_right_is_gone(
    host: Host, boots: dict[str, Callable[[], Sandbox]], way: str
) -> None:
    sandbox = boots[way]()
    records = caught(sandbox)
    sandbox.commands.run(f"{SPRING}; true")
    assert set(caught(sandbox)) - set(records), "no trap is armed"
    require_no_excess(sandbox, several=host.several)


@pytest.mark.parametrize("options", [[], ["--no-prefork"]])
def test_no_trap_in_a_root_file_system_runs_before_the_last_right_is_gone(
    users: str, options: list[str], tmp_path: Path
) -> None:
    folder = template_with_trapped_shell(tmp_path)
    quiet = folder / "small/usr/bin/quiet"
    quiet.rename(folder / "small/usr/bin/sh")
    prelude = NO_IDENTITIES if users == "one user" else ""
    with running_manager(tmp_path, "--templates", str(folder), *options, prelude=prelude) as manager:
        host = Host(manager, users == "several users")
        with host.create("small") as sandbox:
            require_no_excess(sandbox, several=host.several)
            with host.create(sandbox.create_snapshot().snapshot_id) as again:
                require_no_excess(again, several=host.several)


def test_the_trial_of_a_root_file_system_gives_its_programs_no_rights(users: str, tmp_path: Path) -> None:
    folder = template_with_trapped_shell(tmp_path)
    command = serve_command("--port", "0", "--templates", str(folder), "--state-dir", str(tmp_path / "state"))
    prelude = NO_IDENTITIES if users == "one user" else ""
    command[1:3] = ["-c", f"{prelude}\nfrom kruise_agents.cli import main\nmain()"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "its /bin/sh does not run" in done.stderr
    several = users == "several users"
    limit = f"Max file size {10240 * MIB} {10240 * MIB}\n"
    wanted = f"         0          1      {ID_COUNT}\n" if several else "      1000          0          1\n"
    found = excess(done.stderr, wanted + limit, several=several)
    assert [fact for fact in found if not fact.startswith(("Max processes", "Max data", "Max core"))] == []


def template_with_trapped_shell(folder: Path) -> Path:
    """Make a template whose shell records its rights in ``/var/tmp``, or on standard error. ``quiet`` never does that.

    Return the folder of the template.
    """
    templates = folder / "templates"
    programs = make_root_file_system(templates / "small") / "usr/bin"
    (programs / "sh").rename(programs / "real-sh")
    for name, options in (("quiet", ["-DQUIET"]), ("sh", [])):
        compiled(folder, "-static", '-DSHELL="/usr/bin/real-sh"', *options).rename(programs / name)
    (templates / "small.toml").write_text('rootfs = "small"\n')
    return templates
