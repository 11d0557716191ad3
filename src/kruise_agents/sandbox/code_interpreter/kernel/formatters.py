"""Formatters for the MIME types ``application/json``, ``e2b/data`` and ``e2b/chart``, as in E2B's template.

Classes are registered by name, so that pandas and matplotlib are not loaded.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from .json_values import json_value


class DataFormatter(BaseFormatter):
    """A formatter that turns tables into ``{column: [values]}``. Other objects may define ``_repr_e2b_data_``."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict,)


class ChartFormatter(BaseFormatter):
    """A formatter that turns figures into the data that they show. Other objects may define ``_repr_e2b_chart_``."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict,)

    def pop(self, typ: Any, default: Any = None) -> Any:
        """Remove nothing. matplotlib-inline pops ``Figure`` from all formatters, and would unregister ``chart``."""
        return default


def install(shell: Any) -> None:
    """Register the formatters with an IPython shell."""
    formatters = shell.display_formatter.formatters
    json_formatter = formatters["application/json"]
    json_formatter.for_type(list, json_or_nothing)
    json_formatter.for_type(dict, json_or_nothing)

    data_formatter: Any = DataFormatter(parent=shell.display_formatter)
    # The class names ``pandas`` as its module since pandas 3, and ``pandas.core.frame`` in earlier releases.
    data_formatter.for_type_by_name("pandas", "DataFrame", table)
    data_formatter.for_type_by_name("pandas.core.frame", "DataFrame", table)
    formatters["e2b/data"] = data_formatter

    chart_formatter: Any = ChartFormatter(parent=shell.display_formatter)
    chart_formatter.for_type_by_name("matplotlib.figure", "Figure", chart)
    formatters["e2b/chart"] = chart_formatter


def json_or_nothing(value: object) -> Any:
    """Return the JSON form of ``value``, or None if a part of ``value`` has no JSON form."""
    try:
        return json_value(value)
    except (TypeError, ValueError, RecursionError):
        return None


def table(frame: Any) -> dict[str, list[Any]]:
    """Return the values of a DataFrame by column. A value without a JSON form appears as text.

    Of columns with the same name, the last is returned.
    """
    # By position, because a name may stand for several columns.
    columns = (frame.iloc[:, position] for position in range(frame.shape[1]))
    return {
        str(name): [json_value(value, otherwise=str) for value in column.tolist()]
        for name, column in zip(frame.columns, columns, strict=True)
    }


def chart(figure: Any) -> dict[str, Any] | None:
    """Return the data of a figure: ``{}`` if ``e2b_charts`` finds no data or fails, None if it is not installed."""
    try:
        from e2b_charts import chart_figure_to_dict
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            # The package warns of numpy's numbers, which its models do not declare. The values are right.
            warnings.simplefilter("ignore")
            found: dict[str, Any] = json_value(chart_figure_to_dict(figure), otherwise=str)
    except Exception as error:  # the picture must be displayed in any case
        logging.getLogger(__name__).debug("no chart of a figure: %s", error)
        return {}
    return found
