"""Count words with a command in a sandbox: the program that ``test_word_count.py`` tests."""

from e2b_code_interpreter import Sandbox


def count_words(text: str) -> int:
    with Sandbox.create() as sbx:
        sbx.files.write("text.txt", text)
        return int(sbx.commands.run("wc --words < text.txt").stdout)
