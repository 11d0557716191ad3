"""What runs inside one sandbox: envd (port 49983) and the code interpreter (port 49999)."""
