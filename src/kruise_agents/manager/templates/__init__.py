"""Templates: the built-in ones, and the operator's TOML files, which the manager reads and prepares at its start."""

from .building import Builder, require_supported
from .model import template_name
from .reading import MAX_POOL, TemplateFile, read_templates

__all__ = ["MAX_POOL", "Builder", "TemplateFile", "read_templates", "require_supported", "template_name"]
