"""Start of each Python process below ``kruise-agents run``: installs the import hook, and runs the next sitecustomize.

The folder of this file is the first one of PYTHONPATH, so any Python of the machine may read the file, old ones too.
Every process pays for the file, which therefore imports nothing of ``kruise_agents``.
"""

import sys

if sys.version_info[0] > 2:  # noqa: UP036 - any Python may run this file
    __import__("kruise_agents_hook").install()

# Without this file Python would have run another sitecustomize. The folder leaves the path for that import only,
# because programs hand their path on to their children.
_folder = __file__.rpartition("/")[0]
_this = sys.modules.pop("sitecustomize")
_index = sys.path.index(_folder)
del sys.path[_index]
try:
    __import__("sitecustomize")
except ImportError as _error:
    if getattr(_error, "name", "sitecustomize") != "sitecustomize":
        raise
    sys.modules["sitecustomize"] = _this
finally:
    sys.path.insert(_index, _folder)
