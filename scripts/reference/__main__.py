"""`make reference`: writes the generated pages of docs/reference.

With ``--check`` nothing is written; the exit code says whether each page is what the code says.
"""

from __future__ import annotations

import sys

from generated import main

from .pages import texts

if __name__ == "__main__":
    sys.exit(main(texts(), "the code says", "make reference"))
