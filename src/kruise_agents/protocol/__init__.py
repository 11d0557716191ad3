"""The agreements between two sides, in the standard library only.

A request says with its path, its host or its headers which sandbox and port, or which API route, it is meant for.
Source: the OpenKruise private protocol (sandbox-manager, state of August 2026).

Nothing is imported here: each side pays only for the modules that it uses.
"""
