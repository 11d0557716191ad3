"""The reader of pages: blocks, their marks, and the mistakes in both."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.documents import Command, Page, commands, matches, parse


def page(text: str) -> Page:
    return parse(text, "docs/page.md")


def the_error(text: str) -> str:
    (error,) = page(text).errors
    return error


def test_blocks_have_their_language_place_and_text() -> None:
    found = page("# A\n\n```sh\necho 1\n```\n\n- b\n  ```python\n  if x:\n      y\n  ```\n").blocks
    assert [(block.language, block.place, block.text) for block in found] == [
        ("sh", "docs/page.md:3", "echo 1\n"),
        ("python", "docs/page.md:8", "if x:\n    y\n"),
    ]


def test_a_longer_fence_holds_a_shorter_one() -> None:
    (block,) = page("````text\n```sh\nexit 1\n```\n````\n").blocks
    assert (block.language, block.text) == ("text", "```sh\nexit 1\n```\n")


def test_other_names_of_a_language_are_the_same_language() -> None:
    assert [block.language for block in page("```bash\n```\n```javascript\n```\n").blocks] == ["sh", "js"]


@pytest.mark.parametrize("language", ["sh", "bash", "console", "python", "js"])
def test_code_without_a_mark_is_run(language: str) -> None:
    (block,) = page(f"```{language}\n$ true\n```\n").blocks
    assert block.is_run


@pytest.mark.parametrize("language", ["text", "toml", "yaml", "{toctree}"])
def test_what_is_no_code_is_not_run(language: str) -> None:
    found = page(f"```{language}\na\n```\n")
    assert ([block.is_run for block in found.blocks], found.errors) == ([False], [])


def test_marks_belong_to_the_block_below_them() -> None:
    first, second, third, fourth = page(
        "<!-- file: a.py -->\n```python\n```\n"
        '<!-- run: in the background until "on http" -->\n```sh\n```\n'
        "<!-- not run: needs a cluster -->\n```sh\n```\n"
        "<!-- exits with: 2 -->\n```sh\n```\n"
    ).blocks
    assert (first.file, first.is_run) == ("a.py", False)
    assert (second.until, second.is_run) == ("on http", True)
    assert third.is_run is False
    assert (fourth.exit_code, fourth.is_run) == (2, True)


def test_an_output_belongs_to_the_block_above() -> None:
    found = page("```sh\necho 1\n```\n\nIt prints:\n\n<!-- output -->\n```text\n1\n```\n")
    assert found.errors == []
    assert found.blocks[0].expected is found.blocks[1]


def test_marks_of_a_page_stand_at_its_top() -> None:
    found = page("<!-- uses: manager, printed exports -->\n<!-- needs: node, curl -->\n\n# Title\n")
    assert (found.uses_manager, found.uses_printed_exports, found.needs) == (True, True, ["node", "curl"])
    assert the_error("# Title\n<!-- uses: manager -->\n") == "docs/page.md:2: `uses` stands before the first heading"


def test_comments_that_are_no_marks() -> None:
    assert page("<!-- Written by `make reference`. -->\n<!-- uses: manager -->\n# A\n").errors == []
    assert page("Write `<!-- not run: REASON -->` before it.\n").errors == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<!-- run by tests/x.py -->\n```sh\n```\n", "1: unknown mark: run by tests/x.py"),
        ("<!-- note: look here -->\n", "1: unknown mark: note: look here"),
        ("<!-- not run: no cluster -->\n\n```sh\n```\n", "1: no block follows this mark"),
        ("<!-- not run: no cluster -->\ntext\n", "1: no block follows this mark"),
        ("<!-- file: a -->\n", "1: no block follows this mark"),
        ("<!-- not run: -->\n```sh\n```\n", "1: `not run` is without its reason"),
        ("<!-- not run -->\n```sh\n```\n", "1: `not run` is without its reason"),
        ("<!-- file -->\n```sh\n```\n", "1: `file` is without its value"),
        ("<!-- file: ../a -->\n```sh\n```\n", "2: a file is written below the page's folder"),
        ("<!-- run: later -->\n```sh\n```\n", '1: a block is run: in the background until "TEXT"'),
        ("<!-- exits with: two -->\n```sh\n```\n", "1: an exit code is a number, not two"),
        ("<!-- uses: cluster -->\n", "1: a page uses: manager, printed exports; not cluster"),
        ("<!-- run by: tests/x/test_y.py -->\n```sh\n```\n", "2: there is no test test_y.py at this place"),
        (
            "<!-- run by: tests/test_house.py -->\n```sh\n```\n",
            "2: test_house.py does not read blocks: it has no `blocks_run_by(__file__)`",
        ),
        ("<!-- output -->\n```text\n```\n", "2: the block before this output is not run"),
        ("```sh\n```\n<!-- output -->\n```sh\n```\n", "4: an output is a `text` block, not `sh`"),
        ("<!-- file: a -->\n<!-- not run: b -->\n```sh\n```\n", "3: `file` and `not run` exclude each other"),
        ("<!-- exits with: 2 -->\n```text\n```\n", "2: only a block that is run has this mark"),
        ("```ts\n```\n", "1: nothing runs `ts`: mark it as `file`, `run by` or `not run`"),
        ("```console\ntrue\n```\n", "1: a `console` block begins with `$ ` and a command"),
        ("```\ntrue\n```\n", "1: a fence names its language; `text` where it is no code"),
        ("```sh\ntrue\n", "1: this fence is not closed"),
        ("a <!-- b --> c\n", "1: a comment stands on a line of its own"),
    ],
)
def test_mistakes_are_named(text: str, error: str) -> None:
    assert the_error(text) == f"docs/page.md:{error}"


def test_the_commands_of_a_record() -> None:
    (block,) = page("```console\n$ echo 1\n1\n\n$ echo \\\n>   2\n2\n$ true\n```\n").blocks
    assert commands(block) == [
        Command(2, "echo 1", "1\n"),
        Command(5, "echo \\\n  2", "2"),
        Command(8, "true", ""),
    ]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("hello\n", "hello\n"),
        ("hello", "hello  \n\n"),
        ("a ... d", "a b c d\n"),
        ("a\n...\nd", "a\nb\nc\nd\n"),
        ("a\n...\nd", "a\nd\n"),
        ("...", "anything\nat all\n"),
        ("...", ""),
        ("", ""),
        ("a\n\nb", "a\n\nb"),
        ("on localhost:7788", "on localhost:40123\n"),
        ("export E2B_API_KEY=e2b_...", f"  export E2B_API_KEY=e2b_{'1f' * 20}"),
        (f"key e2b_{'00' * 20}", f"key e2b_{'1f' * 20}"),
    ],
)
def test_an_output_that_matches(expected: str, printed: str) -> None:
    assert matches(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [("hello", "hello world"), ("hello", ""), ("", "hello"), ("a\nb", "a\n\nb"), ("a ... d", "a\nd"), ("a.c", "abc")],
)
def test_an_output_that_does_not_match(expected: str, printed: str) -> None:
    assert not matches(expected, printed)


def test_a_test_reads_the_blocks_that_name_it(tmp_path: Path) -> None:
    test = tmp_path / "tests" / "test_a.py"
    test.parent.mkdir()
    test.write_text("blocks_run_by(__file__)")
    found = parse("<!-- run by: tests/test_a.py -->\n```sh\nmake\n```\n", "README.md", tmp_path)
    assert (found.errors, found.is_run) == ([], False)
