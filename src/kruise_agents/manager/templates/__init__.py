"""The operator's own templates: a folder of TOML files, read, checked and prepared when the manager starts."""

from .building import Builder, require_supported
from .reading import MAX_POOL, TemplateFile, read_templates

__all__ = ["MAX_POOL", "Builder", "TemplateFile", "read_templates", "require_supported"]
