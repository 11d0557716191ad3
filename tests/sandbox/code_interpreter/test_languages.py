"""Kernels of other languages: Bash and Deno from the extra `languages`, and whatever a kernel.json leads to."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b.exceptions import SandboxException, TimeoutException
from e2b_code_interpreter import Context, Sandbox

from kruise_agents.sandbox.code_interpreter import languages

LANGUAGES = ("bash", "javascript", "typescript")
PRINT_NUMBERS = {
    "bash": "seq 1 {last}",
    "javascript": "for (let i = 1; i <= {last}; i++) console.log(i)",
    "typescript": "for (let i: number = 1; i <= {last}; i++) console.log(i)",
}
READ = {
    "bash": 'printf "[%s]\\n" "$KA_VAR"',
    "javascript": "process.stdout.write(`[${process.env.KA_VAR ?? ''}]\\n`)",
    "typescript": "process.stdout.write(`[${process.env.KA_VAR ?? ''}]\\n`)",
}
SLEEP = {
    "bash": "echo begun; sleep 60",
    "javascript": "console.log('begun'); for (;;) {}",
    "typescript": "console.log('begun'); for (;;) {}",
}


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def context(sandbox: Sandbox, language: str) -> Iterator[Context]:
    made = sandbox.create_code_context(language=language)
    yield made
    sandbox.remove_code_context(made)


def output(execution: Any) -> str:
    assert execution.error is None
    return "".join(execution.logs.stdout)


def test_bash_keeps_variables_functions_and_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    assert output(sandbox.run_code(f"x=3; f() {{ echo f $1; }}; cd {tmp_path}", language="bash")) == ""
    assert output(sandbox.run_code("echo $x; f 1; pwd; echo e >&2", language="bash")) == f"3\nf 1\n{tmp_path}\ne\n"
    assert output(sandbox.run_code("for i in 1 2; do\n  echo $i\ndone", language=" Bash ")) == "1\n2\n"


def test_a_command_of_bash_that_fails_is_an_error_with_its_exit_code(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("echo before; false", language="bash")
    assert execution.error is not None
    assert (execution.error.value, execution.logs.stdout) == ("1", ["before\n"])


def test_a_shell_that_exits_is_replaced(sandbox: Sandbox) -> None:
    sandbox.run_code("gone=1; exit 3", language="bash")
    assert output(sandbox.run_code('echo "[$gone]"', language="bash")) == "[]\n"


def test_javascript_has_modules_await_and_require(sandbox: Sandbox) -> None:
    assert sandbox.run_code("let kept = 20; kept + 1", language="js").text == "21"
    assert sandbox.run_code("await Promise.resolve(kept + 2)", language="javascript").text == "22"
    assert sandbox.run_code("import path from 'node:path'; path.join('a', 'b')", language="js").text == "a/b"
    assert sandbox.run_code("require('node:path').join('c', 'd')", language="js").text == "c/d"
    execution = sandbox.run_code("console.log('out'); console.error('err'); ({a: [1]})", language="js")
    assert (execution.logs.stdout, execution.logs.stderr) == (["out\n"], ["err\n"])
    assert execution.text == "{ a: [ 1 ] }"


def test_javascript_shows_html_and_says_what_was_thrown(sandbox: Sandbox) -> None:
    (result,) = sandbox.run_code("Deno.jupyter.html`<b>x</b>`", language="js").results
    assert result.html == "<b>x</b>"
    error = sandbox.run_code("throw new TypeError('bad')", language="js").error
    assert error is not None
    assert (error.name, error.value) == ("TypeError", "bad")


def test_typescript_has_types_and_a_context_of_its_own(sandbox: Sandbox) -> None:
    sandbox.run_code("var mine = 'js'", language="js")
    code = "interface P { n: string }\nconst p: P = { n: typeof (globalThis as any).mine }; p.n"
    assert sandbox.run_code(code, language="ts").text == "undefined"
    assert {"javascript", "typescript"} <= {one.language for one in sandbox.list_code_contexts()}


@pytest.mark.live
def test_javascript_is_listed_before_its_kernel_starts(serve: Any) -> None:
    with serve() as served:
        sandbox = served.sandbox()
        assert sandbox.run_code("1").text == "1"
        python, javascript = sandbox.list_code_contexts()
        assert [python.language, javascript.language] == ["python", "javascript"]
        assert python.cwd == javascript.cwd == str(served.state.home)
        assert [file.name for file in served.kernel_folder.glob("*.json")] == ["k1.json"]
        sandbox.run_code("globalThis.kept = 1", language="js")
        assert sandbox.run_code("kept", context=javascript).text == "1"
        assert sandbox.list_code_contexts() == [python, javascript]


def test_the_async_sdk_runs_them_too(served: Any) -> None:
    async def run() -> list[str]:
        sandbox = served.async_sandbox()
        executions = await asyncio.gather(
            *(sandbox.run_code(PRINT_NUMBERS[one].format(last=2), language=one) for one in LANGUAGES)
        )
        return [output(execution) for execution in executions]

    assert asyncio.run(run()) == ["1\n2\n"] * 3


def test_a_context_starts_in_its_folder(sandbox: Sandbox, language: str, tmp_path: Path) -> None:
    code = "pwd" if language == "bash" else "console.log(process.cwd())"
    context = sandbox.create_code_context(language=language, cwd=str(tmp_path))
    assert output(sandbox.run_code(code, context=context)) == f"{tmp_path}\n"
    sandbox.restart_code_context(context)
    assert output(sandbox.run_code(code, context=context)) == f"{tmp_path}\n"
    sandbox.remove_code_context(context)


def test_a_variable_of_a_call_lasts_for_the_call(sandbox: Sandbox, context: Context, language: str) -> None:
    values = ["", "plain", 'it\'s "quoted" $HOME `x`', "two\nlines", "back\\slash", "{é} 😀"]
    for number, value in enumerate(values):
        read = sandbox.run_code(READ[language], context=context, envs={"KA_VAR": value})
        assert output(read) == f"[{value}]\n"
        assert read.execution_count == 2 * number + 1
        without = sandbox.run_code(READ[language], context=context)
        assert output(without) == "[]\n"
        assert without.execution_count == 2 * number + 2


def test_variables_of_the_sandbox_reach_kernels_that_run_already(
    sandbox: Sandbox, context: Context, language: str, served: Any
) -> None:
    try:
        served.state.variables = {"KA_VAR": "global"}
        assert output(sandbox.run_code(READ[language], context=context)) == "[global]\n"
        assert output(sandbox.run_code(READ[language], context=context, envs={"KA_VAR": "call"})) == "[call]\n"
        assert output(sandbox.run_code(READ[language], context=context)) == "[global]\n"
    finally:
        served.state.variables = {}


def test_an_impossible_name_of_a_variable_is_an_error(sandbox: Sandbox, language: str) -> None:
    if language == "bash":
        for name in ("A B", "A=B"):
            assert sandbox.run_code("echo ran", language=language, envs={name: "x", "C": "x"}).error is not None
        assert output(sandbox.run_code('echo "[$A$C]"', language=language)) == "[]\n"
    assert output(sandbox.run_code(PRINT_NUMBERS[language].format(last=1), language=language)) == "1\n"


def test_much_output_arrives_whole_although_the_kernel_would_drop_it(
    sandbox: Sandbox, context: Context, language: str
) -> None:
    text = output(sandbox.run_code(PRINT_NUMBERS[language].format(last=5000), context=context))
    assert text == "".join(f"{number}\n" for number in range(1, 5001))


def test_a_client_that_reads_slowly_gets_everything(served: Any) -> None:
    """The output is far larger than all buffers on the way. A kernel that would drop output is stopped meanwhile."""
    code = "for (let i = 1; i <= 400; i++) console.log(`${i} ${'x'.repeat(100000)}`)"
    with (
        served.client() as client,
        client.stream("POST", "/execute", json={"code": code, "language": "js"}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        # Others get their turn, in the meantime.
        assert served.sandbox().run_code("1").text == "1"
        texts = [json.loads(line).get("text", "") for line in lines]
    assert [int(line.split()[0]) for line in "".join(texts).splitlines()] == list(range(1, 401))


def test_after_a_time_out_the_context_works_and_keeps_its_state(
    sandbox: Sandbox, context: Context, language: str
) -> None:
    sandbox.run_code("kept=5" if language == "bash" else "var kept = 5", context=context)
    with pytest.raises(TimeoutException):
        sandbox.run_code(SLEEP[language], context=context, timeout=0.5)
    code = "echo $kept" if language == "bash" else "console.log(kept)"
    assert output(sandbox.run_code(code, context=context, timeout=20)) == "5\n"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("bash", "trap '' INT; echo begun; sleep 60"),
        ("javascript", "console.log('begun'); await new Promise(() => {})"),
    ],
)
def test_a_kernel_that_does_not_follow_an_interrupt_is_replaced(sandbox: Sandbox, name: str, code: str) -> None:
    context = sandbox.create_code_context(language=name)
    with pytest.raises(TimeoutException):
        sandbox.run_code(code, context=context, timeout=0.5)
    error = sandbox.run_code("echo 1" if name == "bash" else "1", context=context, timeout=20).error
    assert error is not None
    assert error.name == "ContextRestarting"
    assert "did not run" in error.traceback
    execution = sandbox.run_code(PRINT_NUMBERS[name].format(last=1), context=context, timeout=20)
    assert (output(execution), execution.execution_count) == ("1\n", 1)
    sandbox.remove_code_context(context)


def test_a_kernel_that_dies_is_replaced(sandbox: Sandbox, context: Context, language: str) -> None:
    code = "kill -9 $PPID; sleep 60" if language == "bash" else "Deno.exit(1)"
    error = sandbox.run_code(code, context=context).error
    assert error is not None
    assert error.name == "ContextRestarting"
    assert sandbox.run_code(PRINT_NUMBERS[language].format(last=1), context=context).execution_count == 1


def test_a_language_that_is_not_there_says_what_to_install(
    sandbox: Sandbox, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(languages, "_deno", lambda: None)
    monkeypatch.setattr(languages, "_has_bash_kernel", lambda: False)
    monkeypatch.setattr(languages, "_kernel_files", lambda folder: iter(()))
    for name, text in {
        "js": r"language 'javascript' .*pip install 'kruise-agents\[languages\]'",
        "ts": r"language 'typescript' .*pip install 'kruise-agents\[languages\]'",
        "bash": r"language 'bash' .*pip install 'kruise-agents\[languages\]' .*in a clone pip install '.\[languages\]'",
        "R": r"language 'r' .*IRkernel::installspec",
        "java": r"language 'java' .*install a JDK .*pip install jjava",
        "cobol": r"language 'cobol' .*with a kernel.json in /usr/share/jupyter/kernels",
    }.items():
        whole = f"Failed to create context: there is no kernel for {text}"
        with pytest.raises(SandboxException, match=whole):
            served.sandbox().create_code_context(language=name)
        if name not in ("js", "ts", "bash"):
            with pytest.raises(SandboxException, match=whole):
                sandbox.run_code("1", language=name)
            with pytest.raises(SandboxException, match=whole):
                asyncio.run(served.async_sandbox().run_code("1", language=name))


@pytest.mark.skipif(shutil.which("java") is None, reason="no JDK on this machine")
def test_java_runs_from_the_kernel_json_of_its_package(sandbox: Sandbox, tmp_path: Path) -> None:
    context = sandbox.create_code_context(language="Java", cwd=str(tmp_path))
    execution = sandbox.run_code('System.out.println("hi"); int kept = 5; kept + 1', context=context)
    assert (execution.text, execution.logs.stdout) == ("6", ["hi\n"])
    assert sandbox.run_code('System.getProperty("user.dir")', context=context).text == str(tmp_path)
    value = 'it\'s "q" \n é 😀 \\'
    assert sandbox.run_code('System.getProperty("KA")', context=context, envs={"KA": value}).text == value
    assert sandbox.run_code('System.getProperty("KA")', context=context).results == []
    with pytest.raises(TimeoutException):
        sandbox.run_code("while (true);", context=context, timeout=0.5)
    assert sandbox.run_code("kept", context=context, timeout=20).text == "5"
    error = sandbox.run_code('throw new RuntimeException("bad");', context=context).error
    assert error is not None
    assert error.name == "RuntimeException"
    # Less than the 1000 messages that this kernel keeps for sending; what is printed faster it drops by itself.
    text = output(sandbox.run_code("for (int i = 1; i <= 900; i++) System.out.println(i);", context=context))
    assert text == "".join(f"{number}\n" for number in range(1, 901))
    sandbox.remove_code_context(context)


def test_parallel_first_calls_share_one_context(served: Any) -> None:
    async def run() -> list[int | None]:
        sandbox = served.async_sandbox()
        return [
            one.execution_count for one in await asyncio.gather(*(sandbox.run_code("1", language="js") for _ in "abc"))
        ]

    sandbox = served.sandbox()
    for context in sandbox.list_code_contexts():
        if context.language == "javascript":
            sandbox.remove_code_context(context)
    assert sorted(count or 0 for count in asyncio.run(run())) == [1, 2, 3]
    assert [one.language for one in sandbox.list_code_contexts()].count("javascript") == 1


class Installed:
    """A Python kernel with another name, which is found by its kernel.json, like kernels for R and Java."""

    def __init__(self, home: Path) -> None:
        self._folder = home / ".local/share/jupyter/kernels"

    def add(self, name: str, language: str, **others: Any) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        wanted = {"argv": command, "display_name": name, "language": language, **others}
        (folder / "kernel.json").write_text(json.dumps(wanted))

    def add_broken(self, name: str, content: str) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(content)


@pytest.fixture
def installed(served: Any) -> Installed:
    return Installed(served.state.home)


def test_a_kernel_is_found_by_the_language_in_its_kernel_json(sandbox: Sandbox, installed: Installed) -> None:
    installed.add_broken("a-broken", "{")
    installed.add_broken("b-empty", "[]")
    installed.add("ir-by-language", "R", env={"KA_OF_THE_KERNEL": "{1}"})
    assert sandbox.run_code("import os; os.environ['KA_OF_THE_KERNEL']", language="r").text == "{1}"
    (context,) = (one for one in sandbox.list_code_contexts() if one.language == "r")
    sandbox.run_code("kept = 5", context=context)
    with pytest.raises(TimeoutException):
        sandbox.run_code("import time; time.sleep(60)", context=context, timeout=0.5)
    assert sandbox.run_code("kept", context=context, timeout=20).text == "5"
    error = sandbox.run_code("import os; os.kill(os.getpid(), 9)", context=context).error
    assert error is not None
    assert error.name == "ContextRestarting"


def test_a_kernel_that_is_interrupted_by_message(sandbox: Sandbox, installed: Installed) -> None:
    installed.add("messages", "By-Message", interrupt_mode="message")
    sandbox.run_code("kept = 6", language="by-message")
    with pytest.raises(TimeoutException):
        sandbox.run_code("import time; time.sleep(60)", language="by-message", timeout=0.5)
    assert sandbox.run_code("kept", language="by-message", timeout=20).text == "6"


def test_variables_of_a_call_are_refused_where_nobody_knows_how_to_set_them(
    sandbox: Sandbox, installed: Installed
) -> None:
    installed.add("unknown", "unknown")
    error = sandbox.run_code("1", language="unknown", envs={"A": "1"}).error
    assert error is not None
    assert error.value == "variables of a single call cannot be set in unknown here"
    assert sandbox.run_code("1", language="unknown").text == "1"


def test_no_other_user_reads_the_key_of_a_kernel(sandbox: Sandbox, served: Any) -> None:
    sandbox.run_code("1")
    sandbox.run_code("1", language="javascript")
    files = list(served.kernel_folder.glob("*.json"))
    transports = {json.loads(file.read_text())["transport"] for file in files}
    assert transports == {"ipc", "tcp"}
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    assert served.kernel_folder.stat().st_mode & 0o077 == 0
