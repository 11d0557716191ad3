"""The program inside a sandbox: envd (port 49983), the code interpreter (port 49999), ``sudo`` and the relay."""
