"""The session in which the blocks of a page are run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from support.documents import parse
from support.managers import wait_for
from support.page_session import BlockError, PageSession

pytestmark = pytest.mark.live

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(text: str, **variables: str) -> None:
        page = parse(text, "docs/page.md")
        assert page.errors == []
        with PageSession(page, tmp_path, variables) as session:
            session.run_page()

    return run


def test_what_a_block_sets_is_there_for_the_next(run: Run) -> None:
    run(
        "```sh\nexport A=1\nb=2\nf() { echo \"$A$b\"; }\nmkdir x\ncd x\n```\n"
        "```sh\nf\nbasename \"$PWD\"\n```\n<!-- output -->\n```text\n12\nx\n```\n"
        "<!-- file: a/hello.py -->\n```python\nprint('hello')\n```\n"
        "```console\n$ python a/hello.py\nhello\n$ ls ..\nx\n```\n"
        "```python\nimport os\nprint(os.environ['A'])\n```\n<!-- output -->\n```text\n1\n```\n"
    )  # fmt: skip


def test_a_page_begins_with_nothing_of_the_caller(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("E2B_API_KEY", "KRUISE_AGENTS_POOL", "HTTP_PROXY", "https_proxy", "VIRTUAL_ENV", "PYTHONPATH"):
        monkeypatch.setenv(name, "x")
    unwanted = "^(E2B_|KRUISE_AGENTS_POOL|.*proxy|VIRTUAL_ENV|PYTHONPATH)"
    run(f"```sh\nenv | grep -iE '{unwanted}' || true\nls -A\n```\n<!-- output -->\n```text\n```\n")


def test_the_programs_of_the_project_are_on_the_path(run: Run) -> None:
    run("```sh\npython -c 'import kruise_agents'\nkruise-agents --version\n```\n")


def test_the_caller_s_variables_are_there(run: Run) -> None:
    run("```console\n$ echo $E2B_DOMAIN\nhere\n```\n", E2B_DOMAIN="here")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("# A\n\n```sh\necho seen\nfalse\necho unseen\n```\n", "docs/page.md:3: ended with code 1\n"),
        ("```python\nraise SystemExit(3)\n```\n", "docs/page.md:1: ended with code 3\n"),
        ("<!-- exits with: 2 -->\n```sh\nexit 3\n```\n", "docs/page.md:2: ended with code 3 instead of 2\n"),
        ("<!-- exits with: 2 -->\n```sh\ntrue\n```\n", "docs/page.md:2: ended with code 0 instead of 2\n"),
        ("```sh\necho a\n```\n<!-- output -->\n```text\nb\n```\n", "docs/page.md:5: the block before has not printed"),
        ("```console\n$ echo a\nb\n```\n", "docs/page.md:1: `echo a` has not printed this\n"),
        ('<!-- run: in the background until "x" -->\n```sh\nexit 4\n```\n', "docs/page.md:2: ended with code 4 before"),
        ("```sh\npip install nothing\n```\n", "docs/page.md:1: ended with code 1\n"),
    ],
)
def test_a_block_that_does_something_else_is_named(run: Run, text: str, error: str) -> None:
    with pytest.raises(BlockError) as raised:
        run(text)
    assert str(raised.value).startswith(error)
    assert "unseen\n" not in str(raised.value).partition("It printed:")[2]


def test_a_block_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.page_session.DEADLINE", 0.3)
    page = parse("```sh\necho $$ > pid\nsleep 1000\n```\n", "docs/page.md")
    expected = pytest.raises(BlockError, match=r"docs/page\.md:1: did not end within 0\.3 seconds")
    with expected, PageSession(page, tmp_path) as session:
        session.run_page()
    assert not Path("/proc", (tmp_path / "work" / "pid").read_text().strip()).exists()


def test_an_announced_failure_does_not_end_the_session(run: Run) -> None:
    run("<!-- exits with: 2 -->\n```console\n$ (exit 2)\n```\n```sh\necho on\n```\n<!-- output -->\n```text\non\n```\n")


SERVER = (
    "```sh\nexport A=7788\n```\n"
    '<!-- run: in the background until "export" -->\n'
    "```sh\necho $$ > pid\ntrap 'touch interrupted; exit' INT\n"
    'echo "  export B=$A"\necho "  export C=see $D"\nwhile true; do sleep 0.05; done\n```\n'
)


def test_a_block_in_the_background_is_interrupted_at_the_end(run: Run, tmp_path: Path) -> None:
    run(SERVER + '```sh\n[ -n "$A" ] && [ -z "$B" ]\n```\n')
    assert not Path("/proc", (tmp_path / "work" / "pid").read_text().strip()).exists()
    assert (tmp_path / "work" / "interrupted").exists()


def test_printed_exports_are_there_where_a_page_uses_them(run: Run) -> None:
    run("<!-- uses: printed exports -->\n# A\n" + SERVER + '```sh\n[ "$B" = "$A" ]\n```\n')


def test_the_default_port_is_replaced(run: Run) -> None:
    run(
        "```console\n$ echo localhost:7788\nlocalhost:7788\n```\n"
        "```sh\n[ 7788 = \"$KRUISE_AGENTS_PORT\" ]\n[ 7788 -ne $((7787 + 1)) ]\n```\n"
        "<!-- file: a -->\n```text\nport 7788, not 17788\n```\n"
        "```sh\ngrep \"port $KRUISE_AGENTS_PORT, not 17788\" a\n```\n"
    )  # fmt: skip


def test_what_has_left_its_process_group_is_ended(run: Run, tmp_path: Path) -> None:
    run("```sh\nsetsid sh -c 'echo $$ > pid; exec sleep 1000' &\nwhile [ ! -s pid ]; do sleep 0.05; done\n```\n")
    pid = int((tmp_path / "work" / "pid").read_text())
    wait_for(lambda: not _runs(pid), what="the end of the process")


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False


@pytest.mark.needs("namespaces")
def test_a_page_starts_a_manager_and_works_with_it(run: Run) -> None:
    run(
        "<!-- uses: printed exports -->\n"
        '<!-- run: in the background until "export E2B_API_KEY" -->\n'
        "```console\n$ kruise-agents serve\n...\nkruise-agents ...: sandbox-manager on http://localhost:7788\n...\n```\n"
        "```python\nfrom kruise_agents.patch_e2b import patch_e2b\npatch_e2b(False)\n"
        "from e2b import Sandbox\nwith Sandbox.create() as sbx:\n    print(sbx.commands.run('echo hello').stdout)\n"
        "```\n"
        "<!-- output -->\n```text\nhello\n```\n"
    )
