"""`make docs`: builds the site from docs/ into site/, and checks that its pages fetch nothing from elsewhere."""

from __future__ import annotations

import shutil
import sys

from support.environments import ROOT, tool_environment
from support.site import BuildError, build_site, wrong_fetches

SITE = ROOT / "site"


def main() -> int:
    print("preparing the environment of lock/docs.txt", flush=True)
    tool_environment("docs")
    print(f"building {SITE.name}/", flush=True)
    shutil.rmtree(SITE, ignore_errors=True)
    try:
        build_site(SITE, quiet=False)
    except BuildError as error:
        print(error)
        return 1
    shutil.rmtree(SITE / ".doctrees")
    if wrong := wrong_fetches(SITE):
        print("\n".join(["Pages may fetch nothing from elsewhere:", *wrong]))
        return 1
    print(f"\nThe site is built. Open {(SITE / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
