"""Pictures of figures: horizontal bars as SVG, without any other file, readable on a phone, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 400
EDGE = 16
BAR = 10
LETTER = 8
"""An upper bound for the mean width of a letter, in heads and labels."""
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328 }
  .head { font-size: 14px; font-weight: 600 }
  .value { text-anchor: end; font-weight: 600 }
  .card { fill: #ffffff; stroke: #d0d7de }
  .groove { fill: #eaeef2 }
  .ours { fill: #2757dd }
  .other { fill: #848d97 }
  .mark { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 3 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .card { fill: #161b22; stroke: #3d444d }
    .groove { fill: #2a313c }
    .ours { fill: #7aa2ff }
    .other { fill: #848d97 }
    .mark { stroke: #e6edf3 }
  }
"""


@dataclass(frozen=True)
class Bar:
    """A figure: of this package if ``ours``, otherwise of another program for comparison."""

    label: str
    value: float
    ours: bool = True


@dataclass(frozen=True)
class Panel:
    """A group of bars with one unit and one scale, which starts at zero."""

    head: str
    unit: str
    bars: Sequence[Bar]
    mark: float | None = None
    """The value at which a dashed line crosses the bars."""

    def text_of(self, bar: Bar) -> str:
        return f"{figure(bar.value)} {self.unit}"


def figure(value: float) -> str:
    """Return a figure for readers: with three significant digits, or from 100 on as a whole number."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def picture(title: str, panels: Sequence[Panel]) -> str:
    """Return an SVG with the panels one below the other."""
    top = EDGE + 16
    body: list[str] = []
    for panel in panels:
        body += _text(EDGE, top, panel.head, "head")
        top += 24
        first = top
        scale = (WIDTH - 2 * EDGE) / max([bar.value for bar in panel.bars] + [panel.mark or 0])
        for bar in panel.bars:
            body += _text(EDGE, top, bar.label)
            body += _text(WIDTH - EDGE, top, panel.text_of(bar), "value")
            body += _bar(top + 6, WIDTH - 2 * EDGE, "groove")
            body += _bar(top + 6, max(bar.value * scale, 1), "ours" if bar.ours else "other")
            top += 38
        if panel.mark is not None:
            body += [_mark(EDGE + panel.mark * scale, first + 4 + 38 * number) for number in range(len(panel.bars))]
        top += 12
    height = top - 18
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="desc">{escape(description(panels))}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *body,
            "</svg>\n",
        ]
    )


def description(panels: Sequence[Panel]) -> str:
    """Return the picture's figures in words."""
    return " ".join(
        f"{panel.head}: {'; '.join(f'{bar.label} {panel.text_of(bar)}' for bar in panel.bars)}." for panel in panels
    )


def _text(x: float, y: float, text: str, name: str = "") -> list[str]:
    kind = f' class="{name}"' if name else ""
    return [f'<text{kind} x="{x:g}" y="{y:g}">{escape(text)}</text>']


def _bar(y: float, width: float, name: str) -> list[str]:
    return [f'<rect class="{name}" x="{EDGE}" y="{y:g}" width="{width:.1f}" height="{BAR}" rx="2"/>']


def _mark(x: float, y: float) -> str:
    return f'<line class="mark" x1="{x:.1f}" y1="{y:g}" x2="{x:.1f}" y2="{y + BAR + 4:g}"/>'
