"""The program of a Jupyter kernel: ipykernel with the settings of E2B's template."""
# This package and the rest of the code interpreter do not import each other.
