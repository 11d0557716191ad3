"""Templates of one's own: a folder of TOML files, read, checked and prepared when the manager starts."""

from .building import Builder
from .fitting import require_fitting
from .reading import MAX_POOL, TemplateFile, read_templates

__all__ = ["MAX_POOL", "Builder", "TemplateFile", "read_templates", "require_fitting"]
