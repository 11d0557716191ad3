"""Charts of figures as the SDK's chart classes, made by the package e2b-charts."""

from __future__ import annotations

from typing import Any

import pytest
from e2b_code_interpreter import Sandbox, charts

pytest.importorskip("e2b_charts", reason="the extra `data` is not installed")
pytest.importorskip("matplotlib", reason="the extra `data` is not installed")

SETUP = "import matplotlib.pyplot as plt, datetime\n"
FIGURES: dict[str, tuple[str, type, dict[str, Any]]] = {
    "line": (
        "plt.plot([1, 2], [3, 4], label='a'); plt.title('T'); plt.xlabel('Time (s)'); plt.ylabel('Size [kB]')",
        charts.LineChart,
        {"title": "T", "x_label": "Time (s)", "x_unit": "s", "y_unit": "kB", "x_scale": charts.ScaleType.LINEAR},
    ),
    "dates": (
        "plt.plot([datetime.date(2024, 1, d) for d in (1, 2)], [3, 4])",
        charts.LineChart,
        {"x_scale": charts.ScaleType.DATETIME},
    ),
    "categories": ("plt.plot(['a', 'b'], [3, 4])", charts.LineChart, {"x_scale": charts.ScaleType.CATEGORICAL}),
    "logarithmic": ("plt.plot([1, 10]); plt.yscale('log')", charts.LineChart, {"y_scale": charts.ScaleType.LOG}),
    "not a number": ("plt.plot([1, 2], [float('nan'), 4])", charts.LineChart, {}),
    "scatter": ("plt.scatter([1, 2], [3, 4])", charts.ScatterChart, {"title": None}),
    "bar": ("plt.bar(['a', 'b'], [1, 2]); plt.ylabel('n')", charts.BarChart, {"y_label": "n"}),
    "horizontal bar": ("plt.barh(['a', 'b'], [1, 2]); plt.xlabel('n')", charts.BarChart, {"y_label": "n"}),
    "pie": ("plt.pie([1, 3], labels=['a', 'b'])", charts.PieChart, {}),
    "boxes": ("plt.boxplot([[1, 2, 3, 4, 5], [2, 3, 4, 5]], patch_artist=True)", charts.BoxAndWhiskerChart, {}),
    "several": (
        "f, (a, b) = plt.subplots(1, 2); a.plot([1]); b.bar(['x'], [1]); f.suptitle('S')",
        charts.SuperChart,
        {"title": "S"},
    ),
    "image": ("plt.imshow([[1, 2], [3, 4]])", charts.Chart, {"type": charts.ChartType.UNKNOWN}),
}


def figure(sandbox: Sandbox, code: str) -> Any:
    execution = sandbox.run_code(f"{SETUP}{code}\nplt.show()")
    assert execution.error is None
    assert execution.logs.stderr == []
    (result,) = (one for one in execution.results if one.png)
    return result


@pytest.mark.parametrize("name", FIGURES)
def test_each_kind_of_chart(name: str, sandbox: Sandbox) -> None:
    code, kind, expected = FIGURES[name]
    result = figure(sandbox, code)
    assert type(result.chart) is kind
    assert {key: getattr(result.chart, key) for key in expected} == expected
    assert result.extra == {}
    assert result.text.startswith("<Figure size")


def test_the_numbers(sandbox: Sandbox) -> None:
    line = figure(sandbox, "plt.plot([1, 2], [3, 4], label='a')").chart
    assert [(one.label, one.points) for one in line.elements] == [("a", [(1.0, 3.0), (2.0, 4.0)])]
    bar = figure(sandbox, "plt.barh(['a', 'b'], [1, 2])").chart
    assert [(one.label, float(one.value)) for one in bar.elements] == [("a", 1.0), ("b", 2.0)]
    pie = figure(sandbox, "plt.pie([1, 3], labels=['a', 'b'])").chart
    assert [(one.label, round(one.angle), one.radius) for one in pie.elements] == [("a", 90, 1.0), ("b", 270, 1.0)]
    boxes = "plt.boxplot([[1, 2, 3, 4, 5, 20], [2, 3, 4, 5]], patch_artist=True, tick_labels=['a', 'b'])"
    first, second = figure(sandbox, boxes).chart.elements
    assert (first.label, first.min, first.first_quartile, first.median) == ("a", 1.0, 2.25, 3.5)
    assert (first.third_quartile, first.max, first.outliers) == (4.75, 5.0, [20.0])
    assert (second.label, second.median, second.outliers) == ("b", 3.5, [])
    inner = figure(sandbox, "f, (a, b) = plt.subplots(1, 2); a.plot([1, 2]); b.scatter([1], [2])").chart
    assert [type(one) for one in inner.elements] == [charts.LineChart, charts.ScatterChart]


def test_an_empty_figure_has_no_chart(sandbox: Sandbox) -> None:
    assert figure(sandbox, "plt.subplot()").chart is None


def test_what_cannot_be_read_costs_no_picture(sandbox: Sandbox) -> None:
    """e2b-charts 1.0.0 cannot read a single box."""
    result = figure(sandbox, "plt.boxplot([[1, 2, 3, 4, 20]], patch_artist=True)")
    assert result.png
    assert result.chart is None
    assert result.extra == {}


def test_other_objects_may_say_what_their_chart_is(sandbox: Sandbox) -> None:
    code = "class C:\n def _repr_e2b_chart_(self): return {'type': 'pie', 'title': 'mine', 'elements': []}\nC()"
    (result,) = sandbox.run_code(code).results
    assert (type(result.chart), result.chart.title) == (charts.PieChart, "mine")


def test_nothing_is_imported_before_it_is_needed(sandbox: Sandbox, context: Any) -> None:
    code = "import sys; [name for name in ('matplotlib', 'pandas', 'e2b_charts', 'pydantic') if name in sys.modules]"
    assert sandbox.run_code(code, context=context).text == "[]"
