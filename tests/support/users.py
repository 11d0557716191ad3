"""Managers whose sandboxes have one user, whatever ids this machine has to give."""

from __future__ import annotations

NO_IDENTITIES = """
import kruise_agents.manager.runtime.bubblewrap as runtime
def find_identities():
    raise runtime.NoIdentitiesError("a test says so")
runtime.find_identities = find_identities
"""
"""What such a manager runs first; see :func:`.managers.running_manager`."""
