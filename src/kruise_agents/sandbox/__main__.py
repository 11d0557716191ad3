"""The entry point ``python -m kruise_agents.sandbox`` of a sandbox's program that is executed instead of forked."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main(sys.argv[1:]))
