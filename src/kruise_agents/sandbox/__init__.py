"""The program inside a sandbox, with envd (port 49983), the code interpreter (port 49999), ``sudo`` and the relay."""
