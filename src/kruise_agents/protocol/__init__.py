"""Facts that the client, the manager and the sandboxes share. The modules need the standard library only.

A request names a sandbox and a port, or an API route, in its path, its host or its headers. Source: the OpenKruise
private protocol (sandbox-manager, state of August 2026).

This file imports nothing, so that each side loads only the modules that it uses.
"""
