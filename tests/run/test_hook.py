"""The import hook in processes of their own, with small packages in place of ``e2b`` and ``kruise_agents``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kruise_agents.protocol.names import RUN_VERBOSE_VARIABLE
from kruise_agents.run.environment import SITE

pytestmark = pytest.mark.live

SDK = "import threading\npatched = []\nfrom . import part\n"
PATCH = "import sys\ndef patch_sdk():\n    sys.modules['e2b'].patched.append(1)\n"
FILES = {
    "e2b/__init__.py": SDK,
    "e2b/part.py": "",
    "e2b_code_interpreter/__init__.py": "from e2b import *\nfrom e2b import patched\n",
    "kruise_agents/__init__.py": "",
    "kruise_agents/run/__init__.py": "",
    "kruise_agents/run/child.py": PATCH,
}
WITHOUT_INSTALLED = ["-S", "-c"]
"""Options of a Python that finds PYTHONPATH and the standard library, and neither ``e2b`` nor ``kruise_agents``."""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return write(tmp_path / "packages", FILES)


def run(
    *command: str, path: list[Path], executable: str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, path)), **variables}
    return subprocess.run(
        [executable, *command], env=environment, cwd=path[-1], capture_output=True, text=True, check=False, timeout=60
    )


def printed(program: str, packages: Path, **variables: str) -> str:
    done = run("-c", program, path=[SITE, packages], **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_process_without_e2b_imports_nothing_else(packages: Path) -> None:
    program = "import sys; print(*sys.modules)"
    without = set(run("-c", program, path=[packages]).stdout.split())
    assert set(printed(program, packages).split()) - without == {"kruise_agents_hook", "sitecustomize"}


@pytest.mark.parametrize(
    "program",
    [
        "import e2b",
        "import e2b.part; import e2b",
        "import e2b_code_interpreter as e2b",
        "import importlib; e2b = importlib.import_module('e2b')",
        "import threading\ndef load():\n    global e2b\n    import e2b\n"
        "thread = threading.Thread(target=load); thread.start(); thread.join()",
        "import importlib.util as u; u.find_spec('e2b'); import e2b",
        "import sys; before = set(sys.modules)\nimport e2b\n"
        "for name in set(sys.modules) - before: del sys.modules[name]\nimport e2b",
        "import importlib.util as u, sys\nspec = u.find_spec('e2b'); spec.loader = u.LazyLoader(spec.loader)\n"
        "e2b = sys.modules['e2b'] = u.module_from_spec(spec); spec.loader.exec_module(e2b)",
    ],
)
def test_the_sdk_is_patched_once_by_its_import(program: str, packages: Path) -> None:
    assert printed(f"{program}\nprint(e2b.patched)", packages) == "[1]"


def test_a_search_for_the_sdk_imports_nothing(packages: Path) -> None:
    program = (
        "import copy, sys, importlib.util, importlib.resources\n"
        "spec = copy.deepcopy(importlib.util.find_spec('e2b'))\n"
        "print(spec.loader.get_source('e2b') == open(spec.origin).read(), 'e2b' in sys.modules)"
    )
    assert printed(program, packages) == "True False"


def test_the_module_shows_nothing_of_the_hook(packages: Path) -> None:
    program = "import e2b; print(type(e2b.__loader__).__name__, e2b.__spec__.loader is e2b.__loader__)"
    assert printed(program, packages) == "SourceFileLoader True"


def test_a_reloaded_sdk_is_patched_again(packages: Path) -> None:
    program = "import e2b, importlib; e2b.patched.clear(); importlib.reload(e2b); print(e2b.patched)"
    assert printed(program, packages) == "[1]"


def test_no_thread_sees_the_sdk_before_the_patch(packages: Path) -> None:
    slow = PATCH.replace("sys.modules['e2b']", "__import__('time').sleep(0.2) or sys.modules['e2b']")
    write(packages, {"kruise_agents/run/child.py": slow})
    program = (
        "import threading\nseen = []\n"
        "def load(name):\n    __import__(name); import e2b; seen.append(list(e2b.patched))\n"
        "names = ['e2b', 'e2b.part', 'e2b_code_interpreter'] * 3\n"
        "threads = [threading.Thread(target=load, args=(name,)) for name in names]\n"
        "for t in threads: t.start()\nfor t in threads: t.join()\nprint(seen == [[1]] * 9)"
    )
    assert printed(program, packages) == "True"


def test_an_sdk_that_a_pth_file_has_imported_is_patched_at_once(packages: Path) -> None:
    program = (
        f"import e2b, sys; sys.path.append({str(SITE)!r}); import kruise_agents_hook as h; h.install(); h.install()"
    )
    done = run("-c", f"{program}; print(e2b.patched)", path=[packages])
    assert (done.stdout, done.stderr) == ("[1, 1]\n", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_processes_of_multiprocessing_are_patched(method: str, packages: Path) -> None:
    main = (
        "import multiprocessing, sys\n"
        "def work(queue):\n    import e2b; queue.put(e2b.patched)\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({method!r}); queue = context.Queue()\n"
        "    process = context.Process(target=work, args=(queue,)); process.start()\n"
        "    print(queue.get(timeout=50), 'e2b' in sys.modules); process.join()\n"
    )
    write(packages, {"main.py": main})
    done = run("main.py", path=[SITE, packages])
    assert (done.stdout, done.stderr) == ("[1] False\n", "")


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_the_hook_stays_behind_those_of_pytest(mode: str, packages: Path) -> None:
    test = "import e2b\ndef test_it():\n    assert e2b.patched == [1]\n"
    write(packages, {"test_it.py": test, "conftest.py": "import pytest; pytest.register_assert_rewrite('helpers')\n"})
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={mode}"]
    done = run(*command, path=[SITE, packages], PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout


def test_another_sitecustomize_runs_too(packages: Path) -> None:
    write(packages, {"sitecustomize.py": "import sys\nsys.other = __file__\n"})
    program = "import e2b, sys, sitecustomize; print(sys.other == sitecustomize.__file__, e2b.patched, sys.path[1:3])"
    assert printed(program, packages) == f"True [1] {[str(SITE), str(packages)]}"


def test_two_folders_that_run_each_other_s_sitecustomize_both_run(packages: Path, tmp_path: Path) -> None:
    # As the one of ddtrace does.
    text = (
        "import os, sys\nsys.ran = getattr(sys, 'ran', 0) + 1\nfolder = os.path.dirname(__file__)\n"
        "index = sys.path.index(folder); del sys.path[index]; this = sys.modules.pop('sitecustomize')\n"
        "try:\n    import sitecustomize\nexcept ImportError:\n    sys.modules['sitecustomize'] = this\n"
        "finally:\n    sys.path.insert(index, folder)\n"
    )
    other = write(tmp_path / "other", {"sitecustomize.py": text})
    for path in ([SITE, other, packages], [other, SITE, packages]):
        done = run("-c", "import e2b, sys; print(sys.ran, e2b.patched)", path=path)
        assert (done.stdout, done.stderr) == ("1 [1]\n", "")


def test_a_broken_sitecustomize_fails_as_ever(packages: Path) -> None:
    write(packages, {"sitecustomize.py": "import missing_module\n"})
    without, under = (run("-c", "print(1)", path=path) for path in ([packages], [SITE, packages]))
    assert under.stdout == without.stdout == "1\n"
    assert under.stderr.splitlines()[-2:] == without.stderr.splitlines()[-2:]


def test_usercustomize_runs_too(packages: Path) -> None:
    write(packages, {"usercustomize.py": "import sys\nsys.user = 1\n"})
    executable = getattr(sys, "_base_executable", sys.executable)  # environments leave usercustomize out
    done = run("-c", "import sys; print(sys.user)", path=[SITE, packages], executable=executable)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-S"]])
def test_an_interpreter_that_ignores_pythonpath_or_site_is_left_alone(options: list[str], packages: Path) -> None:
    program = "import sys; print('kruise_agents_hook' in sys.modules)"
    done = run(*options, "-c", program, path=[SITE, packages])
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("removed", ["kruise_agents", "kruise_agents/run"])
def test_an_environment_without_the_package_is_left_alone(removed: str, packages: Path) -> None:
    shutil.rmtree(packages / removed)
    program = (
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(SITE)!r}); import sitecustomize, e2b; print(e2b.patched)",
    )
    silent = run(*program, path=[packages])
    assert (silent.stdout, silent.stderr) == ("[]\n", "")
    told = run(*program, path=[packages], **{RUN_VERBOSE_VARIABLE: "true"})
    assert told.stdout == "[]\n"
    assert told.stderr.startswith(f"kruise-agents run: {sys.executable} (process ")
    assert told.stderr.count("\n") == 1
    assert "has no kruise-agents" in told.stderr


def test_an_error_of_the_patch_is_not_hidden(packages: Path) -> None:
    write(packages, {"kruise_agents/run/child.py": "import httpx_that_is_missing\n"})
    done = run("-c", "import e2b", path=[SITE, packages])
    assert done.returncode == 1
    assert "No module named 'httpx_that_is_missing'" in done.stderr


@pytest.mark.parametrize("files", [{"e2b.py": "x = 1"}, {"e2b/notes.txt": ""}])
def test_another_thing_of_that_name_is_left_alone(files: dict[str, str], packages: Path) -> None:
    shutil.rmtree(packages / "e2b")
    write(packages, files)
    program = "import sitecustomize, e2b, sys; print('kruise_agents' in sys.modules)"
    done = run(*WITHOUT_INSTALLED, program, path=[SITE, packages])
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    "name", ["python2.7", "python3.6", "python3.8", "python3.10", "python3.13", "python3.14", "pypy3"]
)
def test_other_interpreters_start_as_ever(name: str, tmp_path: Path) -> None:
    executable = shutil.which(name)
    if executable is None or subprocess.run([executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {name}")
    done = run("-c", "print(1)", path=[SITE, tmp_path], executable=executable, PYTHONDONTWRITEBYTECODE="1")
    assert (done.stdout, done.stderr) == ("1\n", "")
