"""Environment variables as text, read back by those for whom the text is."""

from __future__ import annotations

import json
import subprocess

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.shell_variables import FORMATS, format_variables, print_variables

AWKWARD = {"A_KEY": "e2b_0f", "B": 'it\'s $HOME `date` "x" \\ ü', "C": "two\nlines", "D": "", "E": "a b"}


@pytest.mark.live
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_gets_every_value_unchanged(shell: str) -> None:
    text = format_variables(AWKWARD, "shell")
    program = f'eval "$1"; for name in {" ".join(AWKWARD)}; do eval "printf \'%s\\0\' \\"\\${{$name}}\\""; done'
    done = subprocess.run([shell, "-c", program, shell, text], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == list(AWKWARD.values())


def test_json_has_every_value_unchanged() -> None:
    assert json.loads(format_variables(AWKWARD, "json")) == AWKWARD


def test_a_dotenv_file_has_only_texts_that_every_reader_reads_alike() -> None:
    given = {"E2B_DOMAIN": "localhost:7788", "SSL_CERT_FILE": "/a b/ca.pem", "EMPTY": "", "PRICE": "5$"}
    lines = ["E2B_DOMAIN=localhost:7788", "SSL_CERT_FILE='/a b/ca.pem'", "EMPTY=", "PRICE='5$'"]
    assert format_variables(given, "dotenv").splitlines() == lines


@pytest.mark.parametrize("value", ["it's", "back\\slash", "two\nlines"])
def test_a_value_that_readers_of_dotenv_files_read_differently_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the value of NAME has a quote, .*; use --format json or shell"):
        format_variables({"NAME": value}, "dotenv")


def test_a_workflow_gets_lines_for_its_environment_and_hides_keys(capsys: pytest.CaptureFixture[str]) -> None:
    print_variables({"E2B_DOMAIN": "localhost:7788", "E2B_API_KEY": "secret", "C": "two\nlines"}, "github")
    out, err = capsys.readouterr()
    first, second, third, *rest = out.splitlines()
    assert (first, second) == ("E2B_DOMAIN=localhost:7788", "E2B_API_KEY=secret")
    name, _, end = third.partition("<<")
    assert (name, rest) == ("C", ["two", "lines", end])
    assert len(end) > 16
    assert err == "::add-mask::secret\n"


def test_a_key_with_a_percent_sign_is_hidden_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The runner decodes ``%25``, ``%0A`` and ``%0D`` in what it shall hide."""
    print_variables({"E2B_API_KEY": "a%25b%0Ac"}, "github")
    assert capsys.readouterr().err == "::add-mask::a%2525b%250Ac\n"


def test_only_a_workflow_gets_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for form in set(FORMATS) - {"github"}:
        print_variables({"E2B_API_KEY": "secret"}, form)
    assert "::add-mask" not in "".join(capsys.readouterr())
