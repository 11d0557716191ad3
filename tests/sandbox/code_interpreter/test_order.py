"""The order of a cell's output: everything arrives as it was made, whatever its kind."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from e2b_code_interpreter import Context, Sandbox

from .test_interruptions import Running


def test_results_stdout_and_stderr_keep_their_order(sandbox: Sandbox, context: Context) -> None:
    code = (
        "import sys\nfor i in range(20):\n    print('out', i)\n    print('err', i, file=sys.stderr)\n"
        "    display({'text/html': f'html {i}'}, raw=True)\n'value'"
    )
    seen: list[str] = []
    execution = sandbox.run_code(
        code,
        context=context,
        on_stdout=lambda message: seen.append(message.line),
        on_stderr=lambda message: seen.append(message.line),
        on_result=lambda result: seen.append(f"{result.html or result.text}\n"),
    )
    expected = "".join(f"out {i}\nerr {i}\nhtml {i}\n" for i in range(20)) + "value\n"
    assert "".join(seen) == expected
    assert [result.is_main_result for result in execution.results] == [False] * 20 + [True]
    assert execution.text == "value"


OF_PROGRAMS = {
    "a print that is flushed": ("subprocess.run(['echo', 'a']); print('b', flush=True)", "a\nb\n"),
    "a print": ("subprocess.run(['echo', 'a']); print('b')", "a\nb\n"),
    "a print before": ("print('a'); subprocess.run(['echo', 'b']); print('c')", "a\nb\nc\n"),
    "a part of a line": ("subprocess.run(['printf', 'a']); print('b'); os.write(1, b'c'); print('d')", "ab\ncd\n"),
    "standard error": ("os.system('echo a >&2'); print('b', file=sys.stderr, flush=True)", "a\nb\n"),
    "more than a pipe holds": (
        "subprocess.run(['head', '-c', '300000', '/dev/zero']); print('b')",
        "\0" * 300_000 + "b\n",
    ),
    "half a character": ("os.write(1, b'\\xc3'); os.write(1, b'\\xa4\\n'); print('b')", "\u00e4\nb\n"),
    "a print of a thread": (
        "subprocess.run(['echo', 'a']); thread = Thread(target=print, args=('b',)); thread.start(); thread.join()",
        "a\nb\n",
    ),
}


@pytest.mark.parametrize("after", OF_PROGRAMS)
def test_output_of_programs_comes_before_what_is_printed_afterwards(
    sandbox: Sandbox, context: Context, after: str
) -> None:
    code, expected = OF_PROGRAMS[after]
    sandbox.run_code("import os, subprocess, sys\nfrom threading import Thread", context=context)
    for _ in range(200):
        execution = sandbox.run_code(code + "; None", context=context)
        assert execution.error is None
        assert "".join(execution.logs.stdout + execution.logs.stderr) == expected


def test_output_of_programs_comes_before_a_result_and_the_end_of_its_cell(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("import subprocess", context=context)
    for number in range(200):
        seen: list[str] = []
        sandbox.run_code(
            f"subprocess.run(['echo', 'a']); display({number}); subprocess.run(['echo', 'b']); None",
            context=context,
            on_stdout=lambda message, seen=seen: seen.append(message.line),
            on_result=lambda result, seen=seen: seen.append(f"{result.text}\n"),
        )
        assert "".join(seen) == f"a\n{number}\nb\n"


def test_a_background_thread_does_not_take_the_output_of_a_later_cells_program(
    sandbox: Sandbox, context: Context
) -> None:
    """The thread prints all the time, and its prints belong to the cell that started the thread."""
    code = (
        "import subprocess, threading\nended = threading.Event()\n"
        "def talk():\n    while not ended.is_set():\n        print('x', end='')\n"
        "talking = threading.Thread(target=talk)\ntalking.start()"
    )
    sandbox.run_code(code, context=context)
    for _ in range(50):
        stdout = "".join(sandbox.run_code("subprocess.run(['echo', 'mine']); None", context=context).logs.stdout)
        assert "mine" in stdout
    sandbox.run_code("ended.set(); talking.join()", context=context)


def test_an_update_of_a_display_is_no_new_result(sandbox: Sandbox, context: Context) -> None:
    code = (
        "shown = display({'text/html': 'first'}, raw=True, display_id='mine')\n"
        "shown.update({'text/html': 'second'}, raw=True)\n"
        "from IPython.display import clear_output\nclear_output()\nprint('done')"
    )
    execution = sandbox.run_code(code, context=context)
    assert [result.html for result in execution.results] == ["first"]
    assert execution.logs.stdout == ["done\n"]


@pytest.mark.parametrize(
    ("made", "field", "value"),
    [
        ("HTML('<b>x</b>')", "html", "<b>x</b>"),
        ("Markdown('# x')", "markdown", "# x"),
        ("Latex('$x$')", "latex", "$x$"),
        ("Math('x')", "latex", r"$\displaystyle x$"),
        ("JSON({'a': [1, None]})", "json", {"a": [1, None]}),
        ("Javascript('alert(1)')", "javascript", "alert(1)"),
    ],
)
def test_ipythons_own_objects_arrive_in_their_fields(sandbox: Sandbox, made: str, field: str, value: Any) -> None:
    (result,) = sandbox.run_code(f"from IPython.display import *\n{made}").results
    assert getattr(result, field) == value
    assert result.is_main_result


def test_an_svg_is_one(sandbox: Sandbox) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><circle r="1"/></svg>'
    (result,) = sandbox.run_code(f"from IPython.display import SVG\nSVG({svg!r})").results
    assert result.svg is not None
    assert "circle" in result.svg


def test_a_figure_of_plotly_arrives_whole(sandbox: Sandbox) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    code = "import plotly.graph_objects as go\nfigure = go.Figure(go.Bar(x=['a'], y=[2]))\nfigure.show()\nfigure"
    execution = sandbox.run_code(code)
    assert execution.error is None
    shown, value = execution.results
    for result in (shown, value):
        (bar,) = result.extra["application/vnd.plotly.v1+json"]["data"]
        assert (bar["type"], bar["x"], bar["y"]) == ("bar", ["a"], [2])


def test_a_result_without_a_text_has_only_its_own_format(sandbox: Sandbox) -> None:
    (result,) = sandbox.run_code("display({'text/latex': r'$x$'}, raw=True)").results
    assert list(result.formats()) == ["latex"]


@pytest.mark.parametrize(
    "end",
    [
        "import ctypes; ctypes.string_at(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["segfault", "SIGSEGV", "SIGKILL"],
)
def test_a_crash_is_an_error_after_what_was_printed(
    sandbox: Sandbox, context: Context, end: str, tmp_path: Any
) -> None:
    """The cell waits until its first output arrives, because output in a process is lost when the process is killed."""
    gate = tmp_path / "gate"
    code = f"import os, time\nprint('before', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    execution = sandbox.run_code(code + end, context=context, on_stdout=lambda message: gate.touch())
    assert execution.error is not None
    assert (execution.error.name, execution.error.value) == ("ContextRestarting", "Context was restarted")
    assert execution.logs.stdout == ["before\n"]
    again = sandbox.run_code("'os' in globals()", context=context)
    assert (again.text, again.execution_count) == ("False", 1)


def test_a_kernel_that_others_kill_in_the_middle_of_a_cell_is_replaced(sandbox: Sandbox, context: Context) -> None:
    """The kernel of the machine kills so when memory runs out."""
    pid = int(sandbox.run_code("import os; os.getpid()", context=context).text or "")
    running = Running(sandbox, context)
    os.kill(pid, signal.SIGKILL)
    error = running.result().error
    assert error is not None
    assert error.name == "ContextRestarting"
    assert sandbox.run_code("1", context=context).execution_count == 1


def test_contexts_have_folders_and_state_of_their_own_in_parallel(sandbox: Sandbox, tmp_path: Any) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    contexts = [sandbox.create_code_context(cwd=str(folder)) for folder in folders]
    found: dict[str, list[str]] = {}

    def work(context: Context) -> None:
        found[context.id] = []
        for number in range(5):
            code = (
                f"seen = globals().get('seen', []) + [{number}]\nimport os\nprint(os.getcwd(), seen, os.environ['KA'])"
            )
            execution = sandbox.run_code(code, context=context, envs={"KA": context.cwd})
            found[context.id] += execution.logs.stdout

    threads = [threading.Thread(target=work, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for context, folder in zip(contexts, folders, strict=True):
        assert found[context.id] == [f"{folder} {list(range(n + 1))} {folder}\n" for n in range(5)]
        sandbox.remove_code_context(context)
