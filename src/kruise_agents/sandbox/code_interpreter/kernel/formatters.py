"""Formatters of the template's kernel for ``application/json``, ``e2b/data`` and ``e2b/chart``.

Types are registered by name, so that neither pandas nor matplotlib is loaded.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from .json_values import json_value


class DataFormatter(BaseFormatter):
    """A formatter of tables as ``{column: [values]}``. Other objects may define ``_repr_e2b_data_``."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict,)


class ChartFormatter(BaseFormatter):
    """A formatter of figures as numbers. Other objects may define ``_repr_e2b_chart_``."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict,)

    def pop(self, typ: Any, default: Any = None) -> Any:
        """Keep the printer: matplotlib's inline backend removes the printers of figures from every formatter."""
        return default


def install(shell: Any) -> None:
    """Register the formatters with an IPython shell."""
    formatters = shell.display_formatter.formatters
    json_formatter = formatters["application/json"]
    json_formatter.for_type(list, json_or_nothing)
    json_formatter.for_type(dict, json_or_nothing)

    data_formatter: Any = DataFormatter(parent=shell.display_formatter)
    # In pandas 3 the class says that it lives in the package; in earlier releases it names its module.
    data_formatter.for_type_by_name("pandas", "DataFrame", table)
    data_formatter.for_type_by_name("pandas.core.frame", "DataFrame", table)
    formatters["e2b/data"] = data_formatter

    chart_formatter: Any = ChartFormatter(parent=shell.display_formatter)
    chart_formatter.for_type_by_name("matplotlib.figure", "Figure", chart)
    formatters["e2b/chart"] = chart_formatter


def json_or_nothing(value: object) -> Any:
    """Return the value for ``application/json``, or None when a part of it has no JSON form."""
    try:
        return json_value(value)
    except (TypeError, ValueError, RecursionError):
        return None


def table(frame: Any) -> dict[str, list[Any]]:
    """Return a DataFrame by columns; a value without a JSON form appears as text."""
    # By position, because columns may share a name.
    columns = (frame.iloc[:, position] for position in range(frame.shape[1]))
    return {
        str(name): [json_value(value, otherwise=str) for value in column.tolist()]
        for name, column in zip(frame.columns, columns, strict=True)
    }


def chart(figure: Any) -> dict[str, Any] | None:
    """Return the chart of a figure: ``{}`` if the figure has none or it is unreadable, None without ``e2b_charts``."""
    try:
        from e2b_charts import chart_figure_to_dict
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            # The package's models are stricter than numpy's numbers, but the values are right.
            warnings.simplefilter("ignore")
            found: dict[str, Any] = json_value(chart_figure_to_dict(figure), otherwise=str)
    except Exception as error:  # no error may cost the picture
        logging.getLogger(__name__).debug("no chart of a figure: %s", error)
        return {}
    return found
