"""Parts of templates that tests make: a small root file system from this machine's programs, and a package."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

PROGRAMS = (
    *("sh", "bash", "cat", "cp", "df", "find", "grep", "id", "ls", "mkdir", "mv", "readlink", "rm", "sleep", "sort"),
    *("touch", "env", "dirname", "mount", "ln"),
)
_PATH = re.compile(r"(/\S+) \(0x", re.MULTILINE)


def make_root_file_system(folder: Path) -> Path:
    """Fill a folder with programs and their libraries, settings, accounts and other files, and return the folder."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "etc", "opt/tool", "app", "var/lib/thing", "home/other", "proc"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found is not None, name
        shutil.copy(found, folder / "usr/bin" / name)
        for library in _PATH.findall(subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout):
            place = folder / "usr" / library.removeprefix("/").removeprefix("usr/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
    marker = folder / "usr/bin/only-here"
    marker.write_text("#!/bin/sh\necho a program of its own\n")
    marker.chmod(0o755)
    for name, text in (
        ("etc/os-release", "ID=small\n"),
        ("etc/passwd", "root:x:0:0::/:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nubuntu:x:1000:\nstaff:x:50:\n"),
        ("etc/shadow", "root:secret:1::::::\n"),
        ("opt/tool/data", "of the tool"),
        ("app/readme", "of the application"),
        ("var/lib/thing/state", "of the thing"),
        ("home/other/file", "left out"),
    ):
        (folder / name).write_text(text)
    return folder


def make_wheel(
    folder: Path, version: str = "1.0", greeting: str = "greetings", *, name: str = "greeter", command: str = "greet"
) -> Path:
    """Write the wheel of a package with a module of the same name and three commands, and return the file.

    ``command`` is declared and prints the greeting. The others are scripts: ``<command>-twice`` for Python, and
    ``<command>-shell`` for the shell.
    """
    info, scripts = f"{name}-{version}.dist-info", f"{name}-{version}.data/scripts"
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", f"def main():\n    print({greeting!r})\n")
        for script, text in (
            ("twice", f"#!python\nimport {name}\n\n{name}.main()\n{name}.main()\n"),
            ("shell", "#!/bin/sh\necho from the shell\n"),
        ):
            program = zipfile.ZipInfo(f"{scripts}/{command}-{script}")
            program.external_attr = 0o100755 << 16
            wheel.writestr(program, text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{command} = {name}:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file
