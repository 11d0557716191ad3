"""Managers whose sandboxes have one user, whatever ids this machine has to give."""

from __future__ import annotations

NO_IDENTITIES = """
import kruise_agents.manager.runtime.bwrap.self_test as self_test
def find_identities():
    raise self_test.NoIdentitiesError("a test says so")
self_test.find_identities = find_identities
"""
"""What such a manager runs first; see :func:`.managers.running_manager`."""
