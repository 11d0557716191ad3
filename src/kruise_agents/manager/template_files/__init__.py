"""Templates of one's own: a folder of TOML files, read, checked and prepared when the manager starts."""

from .building import Builder
from .reading import TemplateFile, read_templates

__all__ = ["Builder", "TemplateFile", "read_templates"]
