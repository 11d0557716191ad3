"""E2B programs on your own cluster over one plain domain, and on a laptop with no cluster at all.

Importing this package imports nothing else; ``e2b`` reads some of its environment variables when it is imported.
"""

__version__ = "0.1.0"
