"""The E2BExecutor of smolagents, alone and under an agent whose model is a script.

Runs under pytest in an environment of its own; `ACCESS` says how the sandbox is reached.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy
import PIL.Image
import pytest

if os.environ["ACCESS"] != "native":
    from kruise_agents.patch_e2b import patch_e2b

    patch_e2b(os.environ["ACCESS"] == "https")

from e2b import NotFoundException
from e2b_code_interpreter import Sandbox
from smolagents import CodeAgent, FinalAnswerTool, tool
from smolagents.models import ChatMessage, MessageRole, Model
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import E2BExecutor
from smolagents.serialization import SerializationError
from smolagents.utils import AgentError


@pytest.fixture(scope="module")
def executor() -> Iterator[E2BExecutor]:
    made = E2BExecutor([], AgentLogger(level=LogLevel.ERROR), metadata={"for": "smolagents"}, envs={"CITY": "Ulm"})
    yield made
    made.cleanup()


@pytest.fixture
def trusting() -> Iterator[E2BExecutor]:
    made = E2BExecutor([], AgentLogger(level=LogLevel.ERROR), allow_pickle=True)
    yield made
    made.cleanup()


def test_code_has_a_value_and_logs(executor: E2BExecutor) -> None:
    done = executor("print('one')\nprint('two')\n6 * 7")
    assert (done.output, done.logs, done.is_final_answer) == ("42", "one\ntwo\n", False)


def test_a_statement_has_no_value(executor: E2BExecutor) -> None:
    assert executor("x = 1").output is None


def test_state_is_kept_between_calls(executor: E2BExecutor) -> None:
    executor("import math\ndef area(r):\n    return math.pi * r ** 2")
    assert executor("round(area(2), 2)").output == "12.57"


def test_the_options_of_the_sandbox_are_passed_on(executor: E2BExecutor) -> None:
    assert executor("import os; os.environ['CITY']").output == "Ulm"
    assert executor.sandbox.get_info().metadata == {"for": "smolagents"}


def test_an_error_tells_what_was_printed_and_where_it_went_wrong(executor: E2BExecutor) -> None:
    with pytest.raises(AgentError) as failed:
        executor("print('so far')\n1 / 0")
    message = str(failed.value)
    for part in ("so far", "ZeroDivisionError", "division by zero", "1 / 0"):
        assert part in message
    assert executor("'still here'").output == "still here"


def test_a_syntax_error_is_an_error(executor: E2BExecutor) -> None:
    with pytest.raises(AgentError, match="SyntaxError"):
        executor("def broken(:")


def test_json_values_are_sent(executor: E2BExecutor) -> None:
    when = datetime.datetime(2026, 5, 1, 12, 30)
    sent = {
        "table": numpy.arange(6).reshape(2, 3),
        "when": when,
        "pair": (1, {2, 3}),
        "raw": b"\x00\xff",
        "text": "ä'\n",
    }
    executor.send_variables(sent)
    assert executor("(table.sum(), table.shape, when.year, pair, raw, text)").output == (
        "(np.int64(15), (2, 3), 2026, (1, {2, 3}), b'\\x00\\xff', \"ä'\\n\")"
    )


def test_an_image_is_sent_and_comes_back(executor: E2BExecutor) -> None:
    executor.send_variables({"picture": PIL.Image.new("RGB", (8, 5), (200, 10, 10))})
    came = executor("picture.rotate(90, expand=True)").output
    assert came.size == (5, 8)
    # smolagents prefers the JPEG of the two forms in which an image comes.
    assert came.convert("RGB").getpixel((2, 2)) == pytest.approx((200, 10, 10), abs=4)


def test_what_is_not_json_is_refused_unless_pickles_are_allowed(executor: E2BExecutor, trusting: E2BExecutor) -> None:
    value = {"dialect": csv.excel(), "rates": range(3)}
    with pytest.raises(SerializationError):
        executor.send_variables(value)
    with pytest.warns(FutureWarning, match="insecure pickle"):
        trusting.send_variables(value)
    assert trusting("(dialect.delimiter, list(rates))").output == "(',', [0, 1, 2])"


@pytest.mark.parametrize("answer", ["'done'", "{'n': 1, 'xs': (1, 2)}", "None", "3.5"])
def test_a_final_answer_is_told_from_a_value(executor: E2BExecutor, answer: str) -> None:
    executor.send_tools({"final_answer": FinalAnswerTool()})
    done = executor(f"print('thinking')\nfinal_answer({answer})")
    assert (done.output, done.is_final_answer, done.logs) == (eval(answer), True, "thinking\n")


def test_a_pickled_final_answer_comes_back(trusting: E2BExecutor) -> None:
    trusting.send_tools({"final_answer": FinalAnswerTool()})
    assert trusting("final_answer(range(4))").output == range(4)


def test_a_figure_is_an_image(executor: E2BExecutor) -> None:
    done = executor(
        "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2])\nplt.close()\nfigure"
    )
    assert isinstance(done.output, PIL.Image.Image)
    assert done.output.format == "PNG"


def test_a_frame_comes_as_its_data(executor: E2BExecutor) -> None:
    done = executor("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert done.output == {"a": [1, 2]}


def test_files_are_shared_with_the_sandbox(executor: E2BExecutor) -> None:
    executor.sandbox.files.write("data/in.csv", "a,b\n1,2\n")
    assert executor("open('data/in.csv').read().splitlines()[1]").output == "1,2"
    executor("open('data/out.txt', 'w').write('from the code')")
    assert executor.sandbox.files.read("data/out.txt") == "from the code"


def test_a_package_is_installed(executor: E2BExecutor) -> None:
    executor.sandbox.files.write("packages/greeter-1.0-py3-none-any.whl", wheel("greeter", "GREETING = 'hello'"))
    assert executor.install_packages(["--no-index", "--find-links", "packages", "greeter"])
    assert executor("import greeter; greeter.GREETING").output == "hello"


def test_a_magic_and_a_shell_line_run(executor: E2BExecutor) -> None:
    assert executor("!echo from the shell").logs == "from the shell\r\n"  # of a terminal, as in any Jupyter


def test_an_agent_works_with_its_tools_to_the_end() -> None:
    @tool  # type: ignore[untyped-decorator]  # of a client that is not installed where types are checked
    def population(city: str) -> int:
        """Return how many people live in a city.

        Args:
            city: Its name.
        """
        return {"Ulm": 129_000, "Bonn": 338_000}[city]

    script = Script(
        "cities = [name for name in listed if population(name) > 200_000]\nprint(cities)",
        "missing",
        "final_answer({'big': cities, 'greeting': greeting})",
    )
    with CodeAgent([population], script, executor_type="e2b", verbosity_level=LogLevel.OFF) as agent:
        answer = agent.run("Which are big?", additional_args={"listed": ["Ulm", "Bonn"], "greeting": "hi"})
        sandbox_id = agent.python_executor.sandbox.sandbox_id
    assert answer == {"big": ["Bonn"], "greeting": "hi"}
    assert "['Bonn']" in script.seen[1]
    assert "NameError" in script.seen[2]
    with pytest.raises(NotFoundException):
        Sandbox.connect(sandbox_id)


def test_cleanup_ends_the_sandbox() -> None:
    made = E2BExecutor([], AgentLogger(level=LogLevel.ERROR))
    sandbox = made.sandbox
    made.cleanup()
    assert not sandbox.is_running()


class Script(Model):  # type: ignore[misc]  # the package has no types
    """A model that gives prepared answers, and keeps the messages that it was shown."""

    def __init__(self, *cells: str) -> None:
        super().__init__(model_id="script")
        self._cells = list(cells)
        self.seen: list[str] = []

    def generate(self, messages: list[Any], *arguments: Any, **options: Any) -> ChatMessage:
        self.seen.append(str([message.content for message in messages]))
        return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: next\n<code>\n{self._cells.pop(0)}\n</code>")


def wheel(name: str, source: str) -> bytes:
    files = {
        f"{name}.py": source,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-1.0.dist-info/RECORD"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(record, "".join(f"{path},,\n" for path in [*files, record]))
    return buffer.getvalue()
