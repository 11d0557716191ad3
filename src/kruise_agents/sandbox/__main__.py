"""The entry point ``python -m kruise_agents.sandbox``, for a sandbox program that is not forked from the zygote."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main(sys.argv[1:]))
