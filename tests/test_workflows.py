"""The workflows of GitHub: pinned actions, few permissions, and nothing that strangers' changes run with rights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
WRITING = {"publish.yml": ["id-token"], "site.yml": ["id-token", "pages"]}


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def _jobs(text: str) -> list[str]:
    return re.split(r"^  (?=\w[\w-]*:\n)", text.partition("\njobs:\n")[2], flags=re.MULTILINE)[1:]


def test_there_are_workflows() -> None:
    assert {path.name for path in WORKFLOWS} >= {"ci.yml", "drift.yml", "publish.yml", "site.yml"}


def test_every_action_is_pinned_to_a_commit_and_names_its_version(workflow: Path) -> None:
    used = re.findall(r"uses:\s*(.+)", workflow.read_text())
    assert used
    others = [action for action in used if not action.startswith("./")]  # such are of the same commit
    assert [action for action in others if not PINNED.fullmatch(action)] == []


def test_one_action_has_one_commit_everywhere() -> None:
    used = {action for path in WORKFLOWS for action in re.findall(r"uses:\s*(.+)", path.read_text())}
    names = [action.partition("@")[0] for action in used]
    assert sorted(names) == sorted(set(names))


def test_a_workflow_may_read_and_a_job_says_what_more_it_may(workflow: Path) -> None:
    text = workflow.read_text()
    assert "\npermissions:\n  contents: read\n\n" in text
    assert re.findall(r"^ +([\w-]+): write\b", text, re.MULTILINE) == WRITING.get(workflow.name, [])


def test_no_change_of_a_stranger_runs_with_rights(workflow: Path) -> None:
    text = workflow.read_text()
    assert "pull_request_target" not in text
    assert "workflow_run" not in text
    assert "secrets." not in text
    assert [line for line in re.findall(r"run:.*", text) if "${{" in line] == []


def test_a_checkout_leaves_no_credentials(workflow: Path) -> None:
    steps = re.split(r"^      - ", workflow.read_text(), flags=re.MULTILINE)
    checkouts = [step for step in steps if "uses: actions/checkout@" in step]
    assert [step for step in checkouts if "persist-credentials: false" not in step] == []


def test_every_job_ends_in_time_and_old_runs_make_room(workflow: Path) -> None:
    text = workflow.read_text()
    assert "\nconcurrency:\n" in text
    assert _jobs(text)
    assert [job.partition(":")[0] for job in _jobs(text) if "    timeout-minutes: " not in job] == []


def test_ci_runs_on_every_python_that_the_package_names() -> None:
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    (versions,) = (job for job in _jobs((ROOT / ".github/workflows/ci.yml").read_text()) if job.startswith("versions:"))
    assert re.findall(r'"(3\.\d+)"', versions) == named
    assert "dependencies: [lowest, newest]" in versions


def test_make_has_what_the_workflows_call() -> None:
    targets = set(re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for target in targets for name in target.split()}
    called = {name for path in WORKFLOWS for name in re.findall(r"run: make ([a-z-]+)", path.read_text())}
    assert called
    assert called <= known
