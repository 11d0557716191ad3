"""``Accept-Encoding`` of downloads.

Source: RFC 9110, section 12.5.3.
"""

from __future__ import annotations

import math
from typing import Literal

Coding = Literal["identity", "gzip"]


class NotAcceptableError(ValueError):
    """The client takes none of the codings that there are; the text is for it."""


def chosen_coding(header: str) -> Coding:
    """How the content goes out.

    As it is, which is fastest for whoever is near, unless the client asks for gzip alone (as e2b's ``read`` does with
    ``gzip=True``) or refuses everything else. What HTTP libraries send by themselves is a list of several.

    Raises:
        NotAcceptableError: the header cannot be read, or permits neither.
    """
    weights = _weights(header)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    identity = weights.get("identity", weights.get("*", 1.0))
    if gzip and (not identity or set(weights) == {"gzip"}):
        return "gzip"
    if not identity:
        raise NotAcceptableError("no acceptable encoding, supported: identity, gzip")
    return "identity"


def _weights(header: str) -> dict[str, float]:
    weights = {}
    for item in header.lower().split(","):
        coding, _, parameter = (part.strip() for part in item.partition(";"))
        if not coding:
            continue
        name, _, value = parameter.replace(" ", "").partition("=")
        try:
            weight = float(value) if name == "q" else 1.0
        except ValueError:
            weight = math.nan
        if not 0 <= weight <= 1:
            raise NotAcceptableError(f"invalid quality value {value!r}")
        weights[coding] = weight
    return weights
