"""The service ``filesystem.Filesystem`` of envd."""
