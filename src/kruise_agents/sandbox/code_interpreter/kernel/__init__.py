"""The program of a kernel: ipykernel with the settings of E2B's template.

The rest of ``code_interpreter`` does not import this package, nor the other way round.
"""
