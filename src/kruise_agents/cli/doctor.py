"""The command ``kruise-agents doctor``. Its options are read in ``doctor/``, so that it also runs as a module."""

from __future__ import annotations

from ..doctor.command import main as main
from ..doctor.command import parser as parser
