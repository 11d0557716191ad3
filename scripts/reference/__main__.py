"""`make reference`: writes the generated pages of docs/reference.

With ``--check`` nothing is written; the exit code says whether each page is what the code says.
"""

from __future__ import annotations

import sys

from .pages import FOLDER, stale_pages, write_pages


def main() -> int:
    if "--check" not in sys.argv[1:]:
        write_pages()
        return 0
    stale = stale_pages()
    for name in stale:
        print(f"{FOLDER / name} is not what the code says; run `make reference`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
