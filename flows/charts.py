"""Charts as inline SVG: pure functions of numbers, without JavaScript and without a plotting library.

Colours come from the page (CSS classes and variables), so that a chart follows light, dark and print. Every chart has a
title and a description for those who do not see it. All texts are escaped here.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from flows.figures import count, number, percent
from flows.svg import GLYPH, Frame, axes, finite, svg, text, ticks

__all__ = ["bars", "calibration", "confusion", "histogram", "lines", "roc"]

Point = tuple[float, float]
DAY, LONGEST = len("2025-01-31"), 22  # characters of a label below a histogram
HEAT = 5  # shades of the confusion matrix: classes of the page's style sheet


def lines(
    series: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str, whole_x: bool = True
) -> Markup:
    """A line per series, each with its name at its end and in the description; with one point, a dot."""
    kept = {name: [p for p in points if finite(*p)] for name, points in series.items()}
    points = [point for points in kept.values() for point in points]
    if not points:
        return Markup()
    frame = Frame(
        x=_range(x for x, _ in points), y=_padded(y for _, y in points), width=340, height=320, right=78
    )
    x_ticks = [tick for tick in ticks(*frame.x) if not whole_x or float(tick).is_integer()]
    parts = [axes(frame, x_ticks, ticks(*frame.y), x_label, y_label)]
    ends = _apart([frame.py(own[-1][1]) for own in kept.values() if own], gap=14)
    for place, ((name, own), end) in enumerate(
        zip(((name, own) for name, own in kept.items() if own), ends, strict=True), start=1
    ):
        path = " ".join(f"{frame.px(x):.1f},{frame.py(y):.1f}" for x, y in own)
        parts.append(f'<polyline class="series s{place}" points="{path}"/>')
        dots = own if len(own) <= 30 else own[-1:]
        for x, y in dots:
            tip = escape(f"{name}, {x_label} {number(x)}: {number(y)}")
            parts.append(
                f'<circle class="dot s{place}" cx="{frame.px(x):.1f}" cy="{frame.py(y):.1f}" r="3"><title>{tip}</title></circle>'
            )
        parts.append(text(frame.px(own[-1][0]) + 8, end + 4, name[:11], f"name s{place}"))
    told = "; ".join(
        f"{name} from {number(own[0][1])} to {number(own[-1][1])}" for name, own in kept.items() if own
    )
    return svg(frame.width, frame.height, title, f"{told}.", parts)


def histogram(edges: Sequence[Any], counts: Sequence[int], *, title: str, unit: str = "") -> Markup:
    """Counts between edges, as touching bars. Edges that are not numbers (dates) are evenly spaced and named."""
    if not counts or len(edges) != len(counts) + 1:
        return Markup()
    numeric = all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in edges)
    places = (
        [float(edge) for edge in edges]
        if numeric and edges[-1] > edges[0]
        else [float(n) for n in range(len(edges))]
    )
    highest = max(*counts, 1)
    frame = Frame(x=(places[0], places[-1]), y=(0, highest), width=360, height=150, left=50, bottom=34)
    x_ticks = ticks(*frame.x, wanted=4) if numeric and places[-1] == edges[-1] else []
    parts = [axes(frame, x_ticks, ticks(0, highest, 3), unit, "")]
    for left, right, n, low, high in zip(places, places[1:], counts, edges, edges[1:], strict=False):
        if n:
            tip = escape(f"{number(low)} to {number(high)}: {count(n)} rows")
            width = max(frame.px(right) - frame.px(left) - 0.6, 0.8)
            top = min(frame.py(n), frame.py(0) - 1)  # one row among millions is still seen
            parts.append(
                f'<rect class="bar" x="{frame.px(left):.1f}" y="{top:.1f}" width="{width:.1f}" height="{frame.py(0) - top:.1f}"><title>{tip}</title></rect>'
            )
    if not x_ticks:
        parts += [text(*place) for place in _end_labels(frame, str(number(edges[0])), str(number(edges[-1])))]
    peak = max(range(len(counts)), key=lambda at: counts[at])
    told = f"{count(sum(counts))} rows from {number(edges[0])} to {number(edges[-1])}, most between {number(edges[peak])} and {number(edges[peak + 1])}."
    return svg(frame.width, frame.height, title, told, parts)


def _end_labels(frame: Frame, first: str, last: str) -> list[tuple[float, float, str, str]]:
    """Names of the first and the last edge, short enough not to touch; of times as much as tells them apart."""
    y, left, right = frame.height - 14, frame.left, frame.width - frame.right
    if first == last:
        return [((left + right) / 2, y, first[:LONGEST], "tick mid")]
    if first[:DAY] != last[:DAY] and first[4:5] == last[4:5] == "-":
        first, last = first[:DAY], last[:DAY]
    return [(left, y, first[:LONGEST], "tick"), (right, y, last[:LONGEST], "tick end")]


def bars(items: Sequence[tuple[str, float]], *, title: str, total: float | None = None) -> Markup:
    """Horizontal bars with name and count, and the share of `total` where it is given."""
    items = [(str(name) or "(empty)", value) for name, value in items if finite(value)]
    if not items:
        return Markup()
    row, width = 20, 360
    left = int(min(max(max(len(name) for name, _ in items) * GLYPH + 12, 40), 140))
    largest = max(*(value for _, value in items), 1e-12)
    room = width - left - 104
    parts = []
    for place, (name, value) in enumerate(items):
        y = place * row
        label = name if len(name) * GLYPH <= left - 8 else name[: int((left - 8) / GLYPH) - 1] + "…"
        told = number(value) + (f" · {percent(value / total)}" if total else "")
        parts.append(f"<g><title>{escape(f'{name}: {told}')}</title>")
        parts.append(text(left - 8, y + 14, label, "label end"))
        parts.append(
            f'<rect class="bar" x="{left}" y="{y + 4}" width="{max(value / largest * room, 1):.1f}" height="12"/>'
        )
        parts.append(text(left + max(value / largest * room, 1) + 6, y + 14, told, "tick") + "</g>")
    told = "; ".join(f"{name} {number(value)}" for name, value in items)
    return svg(width, row * len(items) + 4, title, f"{told}.", parts)


def roc(points: Sequence[Sequence[float]], *, title: str, auc: float | None = None) -> Markup:
    """The ROC curve over the diagonal of chance."""
    kept = [(x, y) for x, y in points if finite(x, y)]
    if len(kept) < 2:
        return Markup()
    frame = _square()
    share = ticks(0, 1)
    path = " ".join(f"{frame.px(x):.1f},{frame.py(y):.1f}" for x, y in kept)
    floor = f"{frame.px(kept[-1][0]):.1f},{frame.py(0):.1f} {frame.px(kept[0][0]):.1f},{frame.py(0):.1f}"
    parts = [
        axes(frame, share, share, "false positive rate", "true positive rate"),
        f'<polygon class="area" points="{path} {floor}"/>',
        _diagonal(frame),
        f'<polyline class="series s1" points="{path}"/>',
    ]
    if auc is not None:
        parts.append(text(frame.px(0.97), frame.py(0.06), f"AUC {number(auc, 3)}", "name s1 end"))
    told = "" if auc is None else f"Area under the curve {number(auc, 3)}; chance is 0.5."
    return svg(frame.width, frame.height, title, told, parts)


def calibration(bins: Sequence[Mapping[str, Any]], *, title: str) -> Markup:
    """Observed against predicted shares; a perfect model lies on the diagonal. Larger dots hold more rows."""
    kept = [one for one in bins if finite(one.get("predicted"), one.get("observed")) and one.get("rows", 1)]
    if not kept:
        return Markup()
    frame = _square()
    share = ticks(0, 1)
    most = max(one.get("rows") or 1 for one in kept)
    parts = [axes(frame, share, share, "predicted share", "observed share"), _diagonal(frame)]
    places = [(frame.px(one["predicted"]), frame.py(one["observed"])) for one in kept]
    parts.append(
        f'<polyline class="series s1 thin" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    )
    for one, (x, y) in zip(kept, places, strict=True):
        radius = 2.5 + 4.5 * math.sqrt((one.get("rows") or 1) / most)
        tip = escape(
            f"predicted {percent(one['predicted'])}, observed {percent(one['observed'])}, {count(one.get('rows'))} rows"
        )
        parts.append(
            f'<circle class="dot s1" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{tip}</title></circle>'
        )
    worst = max(kept, key=lambda one: abs(one["predicted"] - one["observed"]))
    told = (
        f"Largest difference: predicted {percent(worst['predicted'])}, observed {percent(worst['observed'])}."
    )
    return svg(frame.width, frame.height, title, told, parts)


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str] | None = None) -> Markup:
    """Rows by true class, columns by predicted class, as a table that is shaded by the share of each true class."""
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        return Markup()
    names = list(names) if names and len(names) == len(matrix) else [str(at) for at in range(len(matrix))]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    body = Markup("")
    for at, row in enumerate(matrix):
        total = sum(row)
        cells = Markup("")
        for to, n in enumerate(row):
            share = n / total if total else 0.0
            kind = "right" if at == to else "wrong"
            cells += Markup('<td class="heat {} h{}">{}<small>{}</small></td>').format(
                kind, math.ceil(share * HEAT), count(n), percent(share)
            )
        body += Markup('<tr><th scope="row">{}</th>{}</tr>').format(names[at], cells)
    return Markup(
        '<table class="confusion"><caption>true class down, predicted class across</caption><thead><tr><td></td>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(head, body)


def _square() -> Frame:
    return Frame(x=(0, 1), y=(0, 1), width=340, height=320)


def _diagonal(frame: Frame) -> str:
    return f'<line class="chance" x1="{frame.px(0):.1f}" y1="{frame.py(0):.1f}" x2="{frame.px(1):.1f}" y2="{frame.py(1):.1f}"/>'


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(values: Iterable[float]) -> tuple[float, float]:
    low, high = _range(values)
    space = (high - low) * 0.08
    return low - (space if low - space >= 0 or low < 0 else low), high + space


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The same places, moved down where they would be closer than `gap`."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda at: places[at])
    for above, below in itertools.pairwise(order):
        moved[below] = max(moved[below], moved[above] + gap)
    return moved
