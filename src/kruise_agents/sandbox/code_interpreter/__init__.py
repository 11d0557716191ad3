"""The code interpreter of a sandbox (port 49999).

Python runs this file in each kernel too, because the package contains ``kernel``. So this file imports nothing of the
server.
"""
