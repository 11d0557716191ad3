"""The Filesystem service of envd."""
