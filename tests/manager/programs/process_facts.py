# What /proc tells about a process of the sandbox. Argument: its number; prints JSON.
import json
import re
import sys
from pathlib import Path

STATUS = "Umask Uid Gid Groups SigBlk SigIgn CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters"
process, own = Path("/proc", sys.argv[1]), Path("/proc/self")


def read(name):
    return (process / name).read_bytes().decode(errors="replace")


def identity(path):
    found = path.stat()
    return found.st_dev, found.st_ino


status = dict(line.split(":\t", 1) for line in read("status").splitlines() if ":\t" in line)
mapped = {line.split(None, 5)[5] for line in read("maps").splitlines() if len(line.split(None, 5)) == 6}
facts = {
    "links": {name: str((process / name).readlink()) for name in ("exe", "cwd", "root")},
    "exe": identity(process / "exe"),
    "root": identity(process / "root" / ".") == identity(Path("/")),
    "name": read("comm"),
    "command line": re.sub(r"-fd\0\d+", "-fd", read("cmdline")),
    "environ": read("environ"),
    "status": {name: status[name] for name in STATUS.split()},
    "limits": read("limits"),
    "mounts": read("mountinfo") == (own / "mountinfo").read_text(),
    "namespaces": {
        one.name: one.readlink() == (own / "ns" / one.name).readlink() for one in (process / "ns").iterdir()
    },
    "group": read("cgroup"),
    # How many depends on what is under way.
    "open": sorted({re.sub(r"\[\d+\]|#\d+", "N", str(one.readlink())) for one in (process / "fd").iterdir()}),
    "mapped elsewhere": sorted(file for file in mapped if file.startswith("/") and not Path(file).exists()),
}
print(json.dumps(facts))
