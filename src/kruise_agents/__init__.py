"""Tools to run E2B programs on your own cluster over one plain domain, or on a laptop without a cluster.

Importing this package does not import ``e2b``, so a program can still set the variables that ``e2b`` reads when it is
imported, such as ``E2B_MAX_CONNECTIONS``.
"""

__version__ = "0.1.0"
