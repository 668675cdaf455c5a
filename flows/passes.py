"""How the rows of a table move, as a picture: its passes from left to right, with what ends each between them.

+--------+  sketch   +------------+  exchange   +---------+
| read   | --------> | fill price | ----------> | resolve |
| trim   |           |            |             | write   |
+--------+           +------------+             +---------+
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from flows.svg import GLYPH, svg

__all__ = ["passes"]

BOX, GAP, LINE, HEAD, EDGE = 172, 76, 16, 26, 4


def passes(name: str, found: Sequence[Mapping[str, Any]]) -> Markup:
    """The drawing of the passes of a table; empty where none are known."""
    if not found:
        return Markup()
    heights = [HEAD + LINE * len(one["steps"]) + 8 for one in found]
    parts = [
        _box(number, one, height) for number, (one, height) in enumerate(zip(found, heights, strict=True))
    ]
    parts += [_arrow(number, one) for number, one in enumerate(found[:-1])]
    width = len(found) * (BOX + GAP) - GAP + 2 * EDGE
    told = "; ".join(
        f"pass {number}: {', '.join(one['steps'])}{f', then {ends}' if (ends := one['ends']) else ''}"
        for number, one in enumerate(found, 1)
    )
    return svg(width, max(heights) + 2 * EDGE, f"Passes of {name}", f"{told}.", parts)


def _box(number: int, one: Mapping[str, Any], height: int) -> str:
    x = EDGE + number * (BOX + GAP)
    parts = [f'<rect x="{x}" y="{EDGE}" width="{BOX}" height="{height}" rx="6"/>']
    parts.append(f'<text class="kind" x="{x + 12}" y="{EDGE + 17}">pass {number + 1}</text>')
    for at, step in enumerate(one["steps"]):
        words = f'<text class="detail" x="{x + 12}" y="{EDGE + HEAD + 11 + at * LINE}">{escape(_fit(step, BOX - 24))}'
        parts.append(f"{words}<title>{escape(step)}</title></text>")
    return f'<g class="node table">{"".join(parts)}</g>'


def _arrow(number: int, one: Mapping[str, Any]) -> str:
    """What ends a pass: only summaries move (sketch), or the rows themselves (exchange)."""
    x, y = EDGE + number * (BOX + GAP) + BOX, EDGE + HEAD + 8
    why = "; ".join([one["ends"], *one["why"]])
    kind = str(one["ends"]).partition(" ")[0]
    return (
        f'<path class="arrow" d="M{x} {y}H{x + GAP - 7}"/>'
        f'<path class="arrowhead" d="M{x + GAP - 8} {y - 4}L{x + GAP} {y}L{x + GAP - 8} {y + 4}z"/>'
        f'<text class="mid label" x="{x + GAP / 2}" y="{y - 7}">{escape(kind)}<title>{escape(why)}</title></text>'
    )


def _fit(text: str, width: int) -> str:
    most = int(width / GLYPH)
    return text if len(text) <= most else text[: most - 1] + "…"
