"""How the rows of a table move, as a picture: its passes from left to right, with what ends each between them.

+--------+  sketch   +------------+  exchange   +---------+
| read   | --------> | fill price | ----------> | resolve |
| trim   |           |            |             | write   |
+--------+           +------------+             +---------+

Four stand beside each other, which is what a page is wide; the next four are below.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from flows.svg import GLYPH, svg

__all__ = ["passes"]

BOX, GAP, LINE, HEAD, EDGE = 172, 70, 16, 26, 4
ABREAST, BELOW, TURN = (
    4,
    34,
    18,
)  # passes in a row; px between rows, and left of them for the arrow that comes down


def passes(name: str, found: Sequence[Mapping[str, Any]]) -> Markup:
    """The drawing of the passes of a table; empty where none are known."""
    if not found:
        return Markup()
    lines = [found[start : start + ABREAST] for start in range(0, len(found), ABREAST)]
    left = EDGE + (TURN if len(lines) > 1 else 0)
    tops, bottom = [], EDGE
    for line in lines:
        tops.append(bottom)
        bottom += max(map(_height, line)) + BELOW
    places = [
        (left + (number % ABREAST) * (BOX + GAP), tops[number // ABREAST]) for number in range(len(found))
    ]
    parts = [_box(number, one, *places[number]) for number, one in enumerate(found)]
    parts += [_arrow(one, places[number], places[number + 1]) for number, one in enumerate(found[:-1])]
    width = left + min(len(found), ABREAST) * (BOX + GAP) - (10 if len(lines) > 1 else GAP) + EDGE
    told = "; ".join(
        f"pass {number}: {', '.join(one['steps'])}{f', then {ends}' if (ends := one['ends']) else ''}"
        for number, one in enumerate(found, 1)
    )
    return svg(width, bottom - BELOW + EDGE, f"Passes of {name}", f"{told}.", parts)


def _height(one: Mapping[str, Any]) -> int:
    return HEAD + LINE * len(one["steps"]) + 8


def _box(number: int, one: Mapping[str, Any], x: int, y: int) -> str:
    parts = [f'<rect x="{x}" y="{y}" width="{BOX}" height="{_height(one)}" rx="6"/>']
    parts.append(f'<text class="kind" x="{x + 12}" y="{y + 17}">pass {number + 1}</text>')
    for at, step in enumerate(one["steps"]):
        words = f'<text class="detail" x="{x + 12}" y="{y + HEAD + 11 + at * LINE}">{escape(_fit(step, BOX - 24))}'
        parts.append(f"{words}<title>{escape(step)}</title></text>")
    return f'<g class="node table">{"".join(parts)}</g>'


def _arrow(one: Mapping[str, Any], start: tuple[int, int], end: tuple[int, int]) -> str:
    """What ends a pass: only summaries move (sketch), or the rows themselves (exchange)."""
    x, y = start[0] + BOX, start[1] + HEAD + 8
    to_x, to_y = end[0], end[1] + HEAD + 8
    way = f"H{to_x - 7}"
    if to_y != y:  # round the end of the row, between the rows, and into the first box of the next
        way = f"H{x + GAP - 12}V{end[1] - BELOW // 2}H{to_x - TURN}V{to_y}H{to_x - 7}"
    why = "; ".join([one["ends"], *one["why"]])
    kind = str(one["ends"]).partition(" ")[0]
    return (
        f'<path class="arrow" d="M{x} {y}{way}"/>'
        f'<path class="arrowhead" d="M{to_x - 8} {to_y - 4}L{to_x} {to_y}L{to_x - 8} {to_y + 4}z"/>'
        f'<text class="mid label" x="{x + GAP / 2}" y="{y - 7}">{escape(kind)}<title>{escape(why)}</title></text>'
    )


def _fit(text: str, width: int) -> str:
    most = int(width / GLYPH)
    return text if len(text) <= most else text[: most - 1] + "…"
