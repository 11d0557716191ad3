"""Facts that the client, the manager and the sandboxes share. The modules need the standard library only.

A request names either a sandbox and a port (in its path, host or headers) or an API route (in its path). Private
addresses (``/kruise/...``) follow the protocol of OpenKruise's sandbox-manager, as of August 2026.

This file imports nothing, so that each side loads only the modules that it uses.
"""
