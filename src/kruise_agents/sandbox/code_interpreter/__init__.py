"""The code interpreter of a sandbox (port 49999)."""
# Python runs this file in each kernel too, because this package contains the package ``kernel``. So this file imports
# nothing of the server.
