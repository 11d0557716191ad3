"""The command line: output, exit codes, secrets, and time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kruise_agents.doctor.checks import Check, Finding, Group, Result, Verdict
from kruise_agents.doctor.command import CHECKS, exit_code, main
from kruise_agents.doctor.report import Secrets
from kruise_agents.keys import encode_key
from support.managers import RunningManager
from support.raw_servers import raw_server

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "troubleshooting.md"
COMMAND = [sys.executable, "-m", "kruise_agents.doctor"]


def run(
    folder: Path, variables: Mapping[str, str], *options: str, program: Sequence[str] = COMMAND
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8", **variables}
    return subprocess.run([*program, *options], env=environment, capture_output=True, text=True, timeout=60, cwd=folder)


def test_the_page_has_a_paragraph_for_each_check() -> None:
    headings = re.findall(r"^### `([\w-]+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(CHECKS)


def test_links_in_explanations_lead_to_checks() -> None:
    targets = {target for check in CHECKS.values() for target in re.findall(r"\]\(#([\w-]+)\)", check.explanation)}
    assert targets <= set(CHECKS)


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--explain", "tls-trust"])
    shown = capsys.readouterr().out
    assert "SSL_CERT_FILE" in shown
    assert shown.rstrip().endswith("/docs/guides/troubleshooting.md#tls-trust")


@pytest.mark.parametrize(("name", "hint"), [("tls-trsut", "did you mean 'tls-trust'?"), ("zzz", "there are python, ")])
def test_explain_of_no_check(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--explain", name])
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def _result(verdict: Verdict) -> Result:
    return Result(Check("x", Group.WAY, "x", "x", lambda world: Finding(verdict)), Finding(verdict))


@pytest.mark.parametrize(
    ("found", "code", "strict"),
    [
        ([Verdict.FINE, Verdict.SKIPPED], 0, 0),
        ([Verdict.FINE, Verdict.WARNING], 0, 1),
        ([Verdict.WARNING, Verdict.BROKEN], 2, 2),
    ],
)
def test_exit_codes(found: list[Verdict], code: int, strict: int) -> None:
    results = [_result(verdict) for verdict in found]
    assert exit_code(results, strict=False) == code
    assert exit_code(results, strict=True) == strict


def test_a_healthy_set_up_as_text_and_json(manager: RunningManager, tmp_path: Path) -> None:
    text = run(tmp_path, manager.environment())
    assert (text.returncode, text.stderr) == (0, "")
    assert "√  scheme            scheme: http" in text.stdout
    program = [sys.executable, "-m", "kruise_agents", "doctor"]
    told = run(tmp_path, manager.environment(), "--json", "--strict", program=program)
    assert (told.returncode, told.stderr) == (0, "")
    document = json.loads(told.stdout)
    assert (document["verdict"], document["scheme"], document["domain"]) == ("fine", "http", manager.domain)
    ids = [check["id"] for check in document["checks"]]
    assert ids == [check.id for check in CHECKS.values() if check.group not in (Group.SANDBOX, Group.CLUSTER)]
    assert manager.api_key not in text.stdout + told.stdout


@pytest.mark.live
def test_a_broken_set_up_without_secrets_and_in_ascii(tmp_path: Path) -> None:
    key = "my-secret-key"
    variables = {
        "E2B_DOMAIN": f"http://someone:hunt'er2@{key}.example",
        "E2B_API_KEY": f"'{key}'",
        "E2B_ACCESS_TOKEN": "another-secret",
        "E2B_API_URL": "https://someone:hunter2@nothing.invalid/another-secret",
        "HTTPS_PROXY": "http://someone:hunter2@localhost:9",
        "PYTHONIOENCODING": "ascii",
    }
    for options in ([], ["--json"]):
        shown = run(tmp_path, variables, *options)
        assert (shown.returncode, shown.stderr) == (2, "")
        for secret in (key, encode_key(key), "another-secret", "hunter2", "hunt"):
            assert secret not in shown.stdout
    assert "XX domain-form" in run(tmp_path, variables).stdout


def test_secrets_are_hidden_in_every_form() -> None:
    secrets = Secrets({"E2B_API_KEY": encode_key("raw-key"), "E2B_SANDBOX_TOKEN": "tok-en"})
    assert secrets.hide(f"{encode_key('raw-key')} raw-key tok-en") == "… … …"
    assert secrets.hide("at http://u:p/w@host:1/x, and u:p@host") == "at http://…@host:1/x, and …@host"
    assert secrets.hide("'u:p@host' x @ y") == "…@host' x @ y"


@pytest.mark.live
def test_it_ends_when_everything_hangs(tmp_path: Path) -> None:
    with raw_server(None) as silent, raw_server(None) as other:
        variables = {"E2B_API_KEY": "some-api-key", "E2B_SANDBOX_URL": f"http://{other.domain}/"}
        shown = run(tmp_path, {"E2B_DOMAIN": silent.domain, **variables}, "--timeout", "2", "--json")
    checks = {check["id"]: check for check in json.loads(shown.stdout)["checks"]}
    assert shown.returncode == 2
    assert checks["scheme"]["verdict"] == "broken"
    assert "answer in time" in checks["scheme"]["reason"]


@pytest.mark.parametrize("seconds", ["0", "601", "x"])
def test_wrong_numbers_of_seconds(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--timeout", seconds])
    assert ended.value.code == 2
    assert "--timeout" in capsys.readouterr().err
