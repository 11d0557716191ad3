"""The promises of the SDK's ``run_code``, on a real kernel."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Context, Sandbox


def test_state_is_kept_between_cells(sandbox: Sandbox) -> None:
    sandbox.run_code("kept = 20")
    execution = sandbox.run_code("print('a')\nkept + 1")
    assert execution.text == "21"
    assert "".join(execution.logs.stdout) == "a\n"
    assert execution.error is None


def test_the_async_sdk_gets_the_same(served: Any) -> None:
    async def run() -> Any:
        return await served.async_sandbox().run_code("1 + 1")

    assert asyncio.run(run()).text == "2"


def test_output_arrives_in_order_while_the_code_runs(sandbox: Sandbox, context: Context) -> None:
    code = (
        "import sys\nsys.stdout.write('a'); sys.stdout.flush(); sys.stdout.write('bc\\n'); sys.stdout.flush()\n"
        "print('e', file=sys.stderr)\n'last'"
    )
    seen: list[tuple[str, str]] = []
    execution = sandbox.run_code(
        code,
        context=context,
        on_stdout=lambda message: seen.append(("stdout", message.line)),
        on_stderr=lambda message: seen.append(("stderr", message.line)),
        on_result=lambda result: seen.append(("result", str(result.text))),
    )
    assert seen == [("stdout", "a"), ("stdout", "bc\n"), ("stderr", "e\n"), ("result", "last")]
    assert execution.logs.stdout == ["a", "bc\n"]
    assert execution.logs.stderr == ["e\n"]


def test_two_prints_are_one_message(sandbox: Sandbox, context: Context) -> None:
    assert sandbox.run_code("print('a'); print('b')", context=context).logs.stdout == ["a\nb\n"]


def test_prints_with_pauses_are_messages_of_their_own(sandbox: Sandbox, context: Context) -> None:
    code = "import time\nfor word in 'abc': print(word); time.sleep(0.4)"
    assert sandbox.run_code(code, context=context).logs.stdout == ["a\n", "b\n", "c\n"]


def _waiting_for(gate: Path, before: str, after: str) -> str:
    """Code that waits in its middle for a file, and then has in ``seen`` whether that came."""
    wait = f"while not os.path.exists({str(gate)!r}) and time.monotonic() < end: time.sleep(0.01)"
    return (
        f"import os, time\n{before}\nend = time.monotonic() + 20\n{wait}\nseen = os.path.exists({str(gate)!r})\n{after}"
    )


def test_a_program_that_never_pauses_is_told_of_in_whole_lines(sandbox: Sandbox, context: Context) -> None:
    code = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: print('thinking')"
    messages = sandbox.run_code(code, context=context).logs.stdout
    assert len(messages) > 1
    assert [message[-20:] for message in messages if not message.endswith("\n")] == []


def test_a_line_without_an_end_does_not_wait_for_it(sandbox: Sandbox, context: Context, tmp_path: Any) -> None:
    """The code waits for a file that is made when the text of its unfinished line arrives."""
    gate = tmp_path / "gate"
    code = _waiting_for(gate, "print('whole'); print('begun', end='')", "print('', seen)")
    execution = sandbox.run_code(
        code, context=context, on_stdout=lambda message: gate.touch() if "begun" in message.line else None
    )
    assert execution.logs.stdout == ["whole\n", "begun", " True\n"]


def test_characters_of_a_subprocess_are_whole(sandbox: Sandbox, context: Context) -> None:
    code = "import os\nfor byte in ('a€' * 2 + chr(10)).encode(): os.write(1, bytes([byte]))"
    code += "\nimport subprocess\nsubprocess.run(['printf', '€%.0s', *map(str, range(20_000))]).returncode"
    execution = sandbox.run_code(code, context=context)
    assert "".join(execution.logs.stdout) == "a€a€\n" + 20_000 * "€"


def test_an_exit_by_exception_is_warned_of(sandbox: Sandbox, context: Context) -> None:
    assert "To exit" in "".join(sandbox.run_code("raise SystemExit(3)", context=context).logs.stderr)


def test_output_comes_before_the_code_is_done(sandbox: Sandbox, context: Context, tmp_path: Any) -> None:
    """The code waits for a file that is made when its first output arrives."""
    gate = tmp_path / "gate"
    code = _waiting_for(gate, "print('first', flush=True)", "print('seen', seen)")
    execution = sandbox.run_code(code, context=context, on_stdout=lambda message: gate.touch())
    assert "".join(execution.logs.stdout) == "first\nseen True\n"


@pytest.mark.parametrize("code", ["x = 5", "None", "x = 1; y = 3", "exit()"])
def test_no_value_is_no_result(sandbox: Sandbox, code: str) -> None:
    execution = sandbox.run_code(code)
    assert execution.results == []
    assert execution.error is None
    assert sandbox.run_code("1").text == "1"


@pytest.mark.parametrize("end", ["exit()", "quit()", "exit", "exit(True)", "raise SystemExit(3)"])
def test_the_kernel_goes_on_after(end: str, sandbox: Sandbox, context: Context) -> None:
    pid = sandbox.run_code("import os; os.getpid()", context=context).text
    execution = sandbox.run_code(f"kept = 7\n{end}\nprint('the rest')", context=context)
    raised = end.startswith("raise")
    assert (execution.error.name if execution.error else None) == ("SystemExit" if raised else None)
    assert execution.results == []
    assert "".join(execution.logs.stdout) == ("" if raised else "the rest\n")
    # A kernel that is about to end takes one more cell within a tenth of a second.
    assert sandbox.run_code("import time; time.sleep(0.3); kept", context=context).text == "7"
    assert sandbox.run_code("os.getpid()", context=context).text == pid


def test_lone_surrogates_are_replaced_and_the_rest_arrives(sandbox: Sandbox, context: Context) -> None:
    code = (
        "print('before')\nprint('a\\ud83d')\nprint('b\\udcff')\nimport sys\nprint('c\\udfff', file=sys.stderr)\n"
        "display({'text/html': 'd\\ud83d', 'application/json': {'\\ud83d': ['\\ud83d', '😀']}}, raw=True)\n"
        "print('after 😀')\nraise ValueError('e\\ud83d')"
    )
    execution = sandbox.run_code(code, context=context)
    assert "".join(execution.logs.stdout) == "before\na\ufffd\nb\ufffd\nafter 😀\n"
    assert "".join(execution.logs.stderr) == "c\ufffd\n"
    (result,) = execution.results
    assert (result.html, result.json) == ("d\ufffd", {"\ufffd": ["\ufffd", "😀"]})
    assert execution.error is not None
    assert execution.error.value == "e\ufffd"
    assert sandbox.run_code("1", context=context).text == "1"


def test_an_error_has_name_value_and_traceback_without_colours(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("1", context=context)
    error = sandbox.run_code("xyz", context=context).error
    assert error is not None
    assert (error.name, error.value) == ("NameError", "name 'xyz' is not defined")
    assert error.traceback.startswith("-" * 75 + "\nNameError ")
    assert "Traceback (most recent call last)\nCell In[2], line 1\n----> 1 xyz\n" in error.traceback
    assert "\x1b" not in error.traceback


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("def f(:", "SyntaxError", None),
        ("input()", "StdinNotImplementedError", None),
        ("raise SystemExit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    ],
)
def test_exceptions_end_the_cell_and_not_the_kernel(sandbox: Sandbox, code: str, name: str, value: str | None) -> None:
    sandbox.run_code("survivor = 'here'")
    error = sandbox.run_code(code).error
    assert error is not None
    assert error.name == name
    assert value is None or error.value == value
    assert sandbox.run_code("survivor").text == "here"


def test_each_execution_counts_one(sandbox: Sandbox, context: Context) -> None:
    counts = [
        sandbox.run_code("1", context=context, envs={"A": "1"}).execution_count,
        sandbox.run_code("nope", context=context).execution_count,
        sandbox.run_code("1", context=context).execution_count,
    ]
    assert counts == [1, 2, 3]


def test_top_level_await_magics_and_indented_cells_work(sandbox: Sandbox) -> None:
    assert sandbox.run_code("import asyncio\nawait asyncio.sleep(0, 'awaited')").text == "awaited"
    assert "".join(sandbox.run_code("!echo from a shell").logs.stdout) == "from a shell\r\n"
    assert "".join(sandbox.run_code("%%bash\necho one\necho two").logs.stdout) == "one\ntwo\n"
    assert sandbox.run_code("    y = 1\n    y + 1").text == "2"
    assert sandbox.run_code("%cd /\nimport os\nos.getcwd()").text == "/"


def test_the_name_space_holds_nothing_of_ours(sandbox: Sandbox, context: Context) -> None:
    execution = sandbox.run_code("sorted(n for n in dir() if not n.startswith('_'))", context=context)
    assert execution.results[0].json == ["In", "Out", "exit", "get_ipython", "open", "quit"]


def test_a_module_in_the_working_directory_can_be_imported(sandbox: Sandbox, served: Any) -> None:
    (served.state.home / "mine.py").write_text("value = 7")
    context = sandbox.create_code_context()
    assert sandbox.run_code("import mine; mine.value", context=context).text == "7"


def test_nothing_of_the_servers_environment_leaks_in(
    sandbox: Sandbox, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KA_SECRET_OF_THE_SERVER", "1")
    context = sandbox.create_code_context()
    environment = sandbox.run_code("import os\ndict(os.environ)", context=context).results[0].json
    assert environment is not None
    assert "KA_SECRET_OF_THE_SERVER" not in environment
    assert environment["HOME"] == str(served.state.home)
    assert (environment["USER"], environment["PATH"]) == ("user", served.state.path)


def test_home_holds_nothing_of_ours(sandbox: Sandbox, served: Any) -> None:
    sandbox.run_code("1")
    assert not (served.state.home / ".ipython").exists()


def test_fifty_megabytes_of_output_arrive_complete(sandbox: Sandbox, context: Context) -> None:
    length = 0

    def count(message: Any) -> None:
        nonlocal length
        length += len(message.line)

    sandbox.run_code("for _ in range(500_000): print('x' * 99)", context=context, on_stdout=count)
    assert length == 50_000_000


def test_nothing_is_dropped_while_a_client_does_not_read(served: Any, until: Callable[..., Any]) -> None:
    """The output is far larger than all queues and buffers on the way, so the code itself has to wait."""
    progress = served.state.home / "progress"
    code = (
        "for i in range(400):\n    display({'text/html': f'{i} ' + 'x' * 100_000}, raw=True)\n"
        f"    with open({str(progress)!r}, 'w') as file: print(i, file=file)"
    )
    last_change = (time.monotonic(), "")

    def stands_still() -> bool:
        nonlocal last_change
        now, text = time.monotonic(), progress.read_text() if progress.exists() else ""
        if text != last_change[1]:
            last_change = (now, text)
        return bool(text) and now - last_change[0] > 0.5

    with served.client() as client, client.stream("POST", "/execute", json={"code": code}) as response:
        lines = response.iter_lines()
        next(lines)
        until(stands_still, "the code waits for the client")
        assert int(progress.read_text()) < 399
        results = [json.loads(line) for line in lines]
    assert [int(one["html"].split()[0]) for one in results if one["type"] == "result"] == list(range(400))


def test_output_of_a_thread_after_the_end_of_its_cell_belongs_to_nobody(sandbox: Sandbox) -> None:
    code = (
        "import threading\nstop = threading.Event()\n"
        "def chatter():\n    while not stop.wait(0.001): print('x' * 100, flush=True)\n"
        "thread = threading.Thread(target=chatter)\nthread.start()"
    )
    sandbox.run_code(code)
    execution = sandbox.run_code("import time\ntime.sleep(1)\nstop.set()\nthread.join()\n'quiet'")
    assert execution.text == "quiet"


def test_output_of_a_child_after_the_end_of_its_cell_belongs_to_nobody(
    sandbox: Sandbox, context: Context, tmp_path: Any, until: Callable[..., Any]
) -> None:
    script = f"while ! test -e {tmp_path}/go; do sleep 0.01; done; echo late; touch {tmp_path}/said"
    started = f"import subprocess\nchild = subprocess.Popen(['sh', '-c', {script!r}])"
    assert sandbox.run_code(started, context=context).error is None
    (tmp_path / "go").touch()
    until((tmp_path / "said").exists, "the child has written")
    execution = sandbox.run_code("child.wait()", context=context)
    assert (execution.text, execution.logs.stdout) == ("0", [])


def test_unusual_characters_arrive_unchanged(sandbox: Sandbox) -> None:
    text = "é \u2028 \x85 \x0b 中 \U0001f600"
    assert "".join(sandbox.run_code(f"print({text!a})").logs.stdout) == text + "\n"


def test_data_behind_a_result_is_the_bytes_that_were_displayed(sandbox: Sandbox) -> None:
    code = "from IPython.display import Image\nImage(data=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(20), format='png')"
    png = sandbox.run_code(code).results[0].png
    assert png is not None
    assert base64.b64decode(png).startswith(b"\x89PNG")
