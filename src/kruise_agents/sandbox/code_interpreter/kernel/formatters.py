"""The MIME types that the template's kernel adds: ``application/json``, ``e2b/data`` and ``e2b/chart``.

They are registered by name, so that neither pandas nor matplotlib is loaded for their sake.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from .json_values import json_value

__all__ = ["ChartFormatter", "DataFormatter", "install"]


class DataFormatter(BaseFormatter):
    """Tables as ``{column: [values]}``. Other objects may define ``_repr_e2b_data_``."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict,)


class ChartFormatter(BaseFormatter):
    """What a figure shows, as numbers. Other objects may define ``_repr_e2b_chart_``."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict,)

    def pop(self, typ: Any, default: Any = None) -> Any:
        """Keeps the printer: matplotlib's inline backend takes those of figures from every formatter, for pictures."""
        return default


def install(shell: Any) -> None:
    """Registers the formatters at an IPython shell."""
    formatters = shell.display_formatter.formatters
    json_formatter = formatters["application/json"]
    json_formatter.for_type(list, json_or_nothing)
    json_formatter.for_type(dict, json_or_nothing)

    data_formatter: Any = DataFormatter(parent=shell.display_formatter)
    # pandas 3 says that the class lives in the package, earlier releases name its module.
    data_formatter.for_type_by_name("pandas", "DataFrame", table)
    data_formatter.for_type_by_name("pandas.core.frame", "DataFrame", table)
    formatters["e2b/data"] = data_formatter

    chart_formatter: Any = ChartFormatter(parent=shell.display_formatter)
    chart_formatter.for_type_by_name("matplotlib.figure", "Figure", chart)
    formatters["e2b/chart"] = chart_formatter


def json_or_nothing(value: object) -> Any:
    """The value for ``application/json``, or None when a part of it has no JSON form."""
    try:
        return json_value(value)
    except (TypeError, ValueError, RecursionError):
        return None


def table(frame: Any) -> dict[str, list[Any]]:
    """A DataFrame by columns; a value that JSON has no form for appears as its text."""
    # By position, because columns may share a name and then cannot be asked for by it.
    columns = (frame.iloc[:, position] for position in range(frame.shape[1]))
    return {
        str(name): [json_value(value, otherwise=str) for value in column.tolist()]
        for name, column in zip(frame.columns, columns, strict=True)
    }


def chart(figure: Any) -> dict[str, Any] | None:
    """The chart of a figure; ``{}`` where there is none or it cannot be read, None without the package for it."""
    try:
        from e2b_charts import chart_figure_to_dict
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            # Its models are stricter than numpy's numbers; the values are right all the same.
            warnings.simplefilter("ignore")
            found: dict[str, Any] = json_value(chart_figure_to_dict(figure), otherwise=str)
    except Exception as error:  # whatever it is, the picture must not be lost with it
        logging.getLogger(__name__).debug("no chart of a figure: %s", error)
        return {}
    return found
