"""``gevent.monkey.patch_all()`` in a cell, by gevent if it is installed and otherwise by a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2b_code_interpreter import Context, Sandbox

pytestmark = pytest.mark.live
# As gevent, this gives threads other identifiers, and registers the main thread alone under its new one.
STAND_IN = """\
import threading

_local = threading.local()


def get_ident():
    if not hasattr(_local, "greenlet"):
        _local.greenlet = object()
    return id(_local.greenlet)


def patch_all():
    threading._active[get_ident()] = threading._active.pop(threading.get_ident())
    threading.get_ident = get_ident
"""


def test_a_kernel_works_after_gevent_has_patched_everything(sandbox: Sandbox, context: Context, tmp_path: Path) -> None:
    package = tmp_path / "gevent"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "monkey.py").write_text(STAND_IN)
    patch = f"import sys\nsys.path.append({str(tmp_path)!r})\nfrom gevent import monkey\nmonkey.patch_all()"
    patched = sandbox.run_code(f"import threading\nbefore = threading.get_ident()\n{patch}", context=context)
    assert (patched.error, patched.logs.stderr) == (None, [])
    assert sandbox.run_code("threading.get_ident() != before", context=context, timeout=10).text == "True"
    threads = "names = []\nthread = threading.Thread(target=lambda: names.append(threading.current_thread()))\n"
    threads += "thread.start(); thread.join()\nprint('out')\nnames == [thread], threading.current_thread().name"
    execution = sandbox.run_code(threads, context=context, timeout=10)
    assert (execution.text, execution.logs.stdout) == ("(True, 'MainThread')", ["out\n"])
    error = sandbox.run_code("1 / 0", context=context, timeout=10).error
    assert error is not None
    assert error.name == "ZeroDivisionError"


def test_python_is_unchanged_while_gevent_is_not_imported(sandbox: Sandbox, context: Context) -> None:
    code = (
        "import threading; threading.current_thread.__module__, threading.current_thread() is threading.main_thread()"
    )
    assert sandbox.run_code(code, context=context).text == "('threading', True)"
