"""The agreements between two sides, in the standard library only.

``addresses`` builds the addresses of requests, ``routing`` parses them, and ``domains`` reads domains: a request says
with its path, its host or its headers which sandbox and port, or which API route, it is meant for. Source of the facts:
the OpenKruise private protocol (sandbox-manager, state of August 2026).

``names`` has ports, headers, metadata keys and variables, ``control`` what the manager and the program in a sandbox say
to each other, ``keys`` the encoded form of API keys, and ``fields`` the reader of typed JSON.

Nothing is imported here: each side pays only for the modules that it uses.
"""
