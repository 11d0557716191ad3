"""Entry point of ``python -m kruise_agents.doctor``, which works with the base install."""

from __future__ import annotations

import sys

from .command import main

main(sys.argv[1:])
