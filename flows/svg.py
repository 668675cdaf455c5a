"""What every drawing here is made of: scales, ticks, axes and escaped texts of an inline SVG."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from flows.figures import number

__all__ = ["GLYPH", "Frame", "anchor", "axes", "finite", "svg", "text", "ticks"]

GLYPH = 6.2  # px: the mean width of a character of 11 px system text


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart and its scales."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 460
    height: int = 260
    left: int = 56
    right: int = 14
    top: int = 12
    bottom: int = 44

    def px(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1.0) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Vertical place of a value."""
        low, high = self.y
        return (
            self.height
            - self.bottom
            - (value - low) / ((high - low) or 1.0) * (self.height - self.top - self.bottom)
        )


def anchor(kind: str, name: object) -> str:
    """The place in the page that tells of a thing.

    >>> anchor("table", "sales 2025")
    'table-sales-2025'
    """
    return f"{kind}-{re.sub(r'[^A-Za-z0-9_-]', '-', str(name))}"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values inside [low, high], about as many as wanted.

    >>> ticks(0.0, 1.0), ticks(3.0, 97.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [20.0, 40.0, 60.0, 80.0])
    """
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda nice: abs(nice * power - rough))
    first = math.ceil(low / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(at * step, digits) + 0.0 for at in range(first, math.floor(high / step + 1e-9) + 1)]


def axes(frame: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    """The axes with their ticks, grid lines and labels; tick labels that would touch are left out."""
    floor, parts = frame.height - frame.bottom, []
    for tick in y_ticks:
        y = frame.py(tick)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(text(frame.left - 7, y + 4, _compact(tick), "tick end"))
    parts.append(
        f'<line class="axis" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{floor}" y2="{floor}"/>'
    )
    for tick in _thinned(x_ticks, frame):
        parts.append(
            f'<line class="axis" x1="{frame.px(tick):.1f}" x2="{frame.px(tick):.1f}" y1="{floor}" y2="{floor + 4}"/>'
        )
        parts.append(text(frame.px(tick), floor + 17, _compact(tick), "tick mid"))
    middle = frame.left + (frame.width - frame.left - frame.right) / 2
    if x_label:
        parts.append(text(middle, frame.height - 6, x_label, "label mid"))
    if y_label:
        height = frame.top + (floor - frame.top) / 2
        parts.append(
            f'<text class="label mid" transform="translate(13 {height:.1f}) rotate(-90)">{escape(y_label)}</text>'
        )
    return "".join(parts)


def _thinned(values: Sequence[float], frame: Frame) -> list[float]:
    """Those ticks whose labels do not touch."""
    kept: list[float] = []
    for value in values:
        room = (len(_compact(value)) + 2) * GLYPH
        if not kept or frame.px(value) - frame.px(kept[-1]) >= room:
            kept.append(value)
    return kept


def text(x: float, y: float, words: str, kind: str) -> str:
    """Words at a place, escaped; `kind` is their CSS class."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def svg(width: int, height: int, title: str, description: str, parts: Iterable[str]) -> Markup:
    """The whole drawing, with a title and a description for those who do not see it.

    `parts` are trusted: they come from the functions of this package, which escape every text.
    """
    inside = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}"
    head = f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    return Markup(f"{head}{inside}</svg>")  # noqa: S704 - see above


def _compact(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{number(value / (1e3 if letter == 'k' else limit), 3)}{letter}"
    return number(value, 3)


def finite(*values: Any) -> bool:
    """Whether all values are numbers that can be drawn."""
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
