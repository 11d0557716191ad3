"""Metadata of files: ``X-Metadata-<key>`` headers of an upload, stored as extended attributes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping

from ..errors import HttpError

_HEADER = "x-metadata-"
_ATTRIBUTE = "user.e2b."
_MAX_KEY_BYTES = 246
_MAX_TOTAL_BYTES = 4096
_UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES}


def from_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the metadata of a request, with lower-case keys. Raise HttpError for a wrong key, value or size."""
    metadata = {
        name.lower().removeprefix(_HEADER): value for name, value in headers if name.lower().startswith(_HEADER)
    }
    for key, value in metadata.items():
        if not key:
            raise _invalid("metadata key must not be empty")
        if not _printable(key):
            raise _invalid(f"metadata key {key!r} must be printable ASCII")
        if not _printable(value):
            raise _invalid(f"metadata value of {key!r} must be printable ASCII")
        if len(key) > _MAX_KEY_BYTES:
            raise _invalid(f"metadata key {key!r} is longer than {_MAX_KEY_BYTES} bytes")
    total = sum(len(_ATTRIBUTE) + len(key) + len(value) for key, value in metadata.items())
    if total > _MAX_TOTAL_BYTES:
        raise _invalid(f"metadata of {total} bytes is larger than {_MAX_TOTAL_BYTES} bytes")
    return metadata


def replace(descriptor: int, metadata: Mapping[str, str]) -> dict[str, str]:
    """Replace the metadata of an open file. Return the new metadata, or an empty dict if attributes cannot be set."""
    try:
        for name in os.listxattr(descriptor):
            if name.startswith(_ATTRIBUTE) and name.removeprefix(_ATTRIBUTE) not in metadata:
                os.removexattr(descriptor, name)
        for key, value in metadata.items():
            os.setxattr(descriptor, _ATTRIBUTE + key, value.encode("ascii"))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return {}
        raise
    return dict(metadata)


def read(path: str) -> dict[str, str]:
    """Return the metadata of the file at ``path``. Links are followed. Entries that are not UTF-8 are left out."""
    metadata = {}
    try:
        for name in os.listxattr(path):
            if name.startswith(_ATTRIBUTE):
                try:
                    key = os.fsencode(name).decode().removeprefix(_ATTRIBUTE)
                    metadata[key] = os.getxattr(path, name).decode()
                except UnicodeDecodeError:
                    continue
    except OSError:
        return {}  # attributes are not supported here, or the file has just been removed
    return metadata


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _invalid(text: str) -> HttpError:
    return HttpError(400, f"invalid metadata: {text}")
