"""The pipeline as a picture: sources, tables and models as boxes from left to right, arrows where rows go.

layer 0      layer 1       layer 2
[source] --> [table] ----> [table] --> [model]
[source] --------(lane)------^            an arrow over several layers runs in a lane of its own between the boxes
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from flows.facts import headline
from flows.figures import count, number, plural, size
from flows.svg import GLYPH, anchor, svg

__all__ = ["pipeline"]

BOX, HEIGHT, GAP_X, GAP_Y, LANE, EDGE = 166, 62, 42, 16, 14, 4
ARROW = '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="arrowhead" d="M0 0 8 4 0 8z"/></marker></defs>'
SWEEPS = 6  # of ordering by the mean place of the neighbours; more change nothing on drawings of this size


@dataclass
class _Node:
    key: str
    kind: str  # source, table, model, lane
    title: str = ""
    lines: tuple[str, ...] = ()
    link: str = ""
    muted: bool = False
    about: str = ""  # more of it, shown where a pointer rests
    layer: int = 0
    y: float = 0.0
    above: list[str] = field(default_factory=list)  # where its rows come from

    @property
    def height(self) -> int:
        return LANE if self.kind == "lane" else HEIGHT


def pipeline(record: Mapping[str, Any]) -> Markup:
    """The drawing of a run record; empty where there is nothing to draw."""
    nodes = _nodes(record)
    if not nodes:
        return Markup()
    _layer(nodes)
    routes = _lanes(nodes)
    layers = _ordered(nodes)
    height = _place(layers)
    width = len(layers) * (BOX + GAP_X) - GAP_X + 2 * EDGE
    parts = [ARROW]
    parts += [_arrow([nodes[key] for key in route]) for route in routes]
    parts += [_box(node) for node in nodes.values() if node.kind != "lane"]
    told = "; ".join(
        f"{node.title} from {', '.join(nodes[key].title for key in origin)}"
        for node, origin in ((nodes[route[-1]], [route[0]]) for route in routes)
    )
    return svg(width, height, f"Pipeline {record.get('pipeline', '')}", f"{told}.", parts)


def _nodes(record: Mapping[str, Any]) -> dict[str, _Node]:
    nodes: dict[str, _Node] = {}
    sources: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for table in record.get("tables") or []:
        key = f"table {table['name']}"
        kept = table.get("status") == "unchanged"
        rows = plural(table.get("rows_out") or 0, "row")
        version = "" if table.get("version") is None else f"version {table['version']}, "
        state = str(table.get("status") or "")
        node = _Node(
            key,
            "table",
            str(table["name"]),
            (rows, version + state),
            f"#{anchor('table', table['name'])}",
            muted=kept,
            about="".join(
                f"\n{_pass(number, one)}" for number, one in enumerate(table.get("passes") or [], 1)
            ),
        )
        nodes[key] = node
        for item in table.get("inputs") or []:
            if item.get("kind") == "source":
                sources[item["name"]].append(item)
            above = f"{item.get('kind')} {item['name']}"
            if above not in node.above and above != key:
                node.above.append(above)
    for name, files in sources.items():
        distinct = {item.get("path"): item for item in files}
        known = [item["rows"] for item in distinct.values() if item.get("rows") is not None]
        amount = (
            plural(sum(known), "row")
            if known
            else size(sum(item.get("bytes") or 0 for item in distinct.values()))
        )
        nodes[f"source {name}"] = _Node(
            f"source {name}", "source", str(name), (amount, plural(len(distinct), "file"))
        )
    for model in record.get("models") or []:
        first = headline(model)
        about = [f"{count(model['parameters'])} parameters"] if model.get("parameters") else []
        about += [f"{first.split} {first.name} {number(first.value, 3)}"] if first else []
        name, kept = str(model["name"]), model.get("status") == "unchanged"
        node = _Node(f"model {name}", "model", name, tuple(about), f"#{anchor('model', name)}", muted=kept)
        node.above = [f"table {model['table']}"] if model.get("table") else []
        nodes[node.key] = node
    for node in nodes.values():
        node.above = [key for key in node.above if key in nodes]
    return nodes


def _pass(number: int, one: Mapping[str, Any]) -> str:
    ends = f" [{one['ends']}]" if one["ends"] else ""
    return "\n".join(
        [f"pass {number}: {', '.join(one['steps'])}{ends}", *(f"    {why}" for why in one["why"])]
    )


def _layer(nodes: dict[str, _Node]) -> None:
    """Every node one layer after its last origin; a source just before its first reader."""
    for _ in range(len(nodes)):  # ends early: as many rounds as the longest path has arrows
        changed = False
        for node in nodes.values():
            wanted = max((nodes[key].layer + 1 for key in node.above), default=0)
            if wanted > node.layer:
                node.layer, changed = wanted, True
        if not changed:
            break
    for node in nodes.values():
        readers = [other.layer for other in nodes.values() if node.key in other.above]
        if node.kind == "source" and readers:
            node.layer = min(readers) - 1


def _lanes(nodes: dict[str, _Node]) -> list[list[str]]:
    """The way of every arrow, layer by layer; new nodes of kind lane where it passes others."""
    routes = []
    for node in list(nodes.values()):
        for key in node.above:
            route = [key]
            for layer in range(nodes[key].layer + 1, node.layer):
                lane = _Node(f"lane {key} {node.key} {layer}", "lane", layer=layer, above=[route[-1]])
                nodes[lane.key] = lane
                route.append(lane.key)
            routes.append([*route, node.key])
    return routes


def _ordered(nodes: dict[str, _Node]) -> list[list[_Node]]:
    """The nodes of each layer from top to bottom, ordered so that few arrows cross."""
    layers: list[list[_Node]] = [[] for _ in range(max(node.layer for node in nodes.values()) + 1)]
    for node in nodes.values():
        layers[node.layer].append(node)
    beside: dict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        for key in node.above:
            beside[node.key].append(key)
            beside[key].append(node.key)
    for sweep in range(SWEEPS):
        rank = {node.key: at / max(len(layer) - 1, 1) for layer in layers for at, node in enumerate(layer)}
        forward = sweep % 2 == 0
        for layer in layers if forward else layers[::-1]:

            def mean(node: _Node, rank: Mapping[str, float] = rank, forward: bool = forward) -> float:
                near = [key for key in beside[node.key] if (nodes[key].layer < node.layer) == forward]
                return sum(rank[key] for key in near) / len(near) if near else rank[node.key]

            layer.sort(key=mean)
            rank.update({node.key: at / max(len(layer) - 1, 1) for at, node in enumerate(layer)})
    return layers


def _place(layers: Sequence[Sequence[_Node]]) -> int:
    """Give every node its place; the height of the drawing."""
    heights = [sum(node.height + GAP_Y for node in layer) - GAP_Y for layer in layers]
    tallest = max(heights)
    for layer, height in zip(layers, heights, strict=True):
        y = EDGE + (tallest - height) / 2
        for node in layer:
            node.y = y
            y += node.height + GAP_Y
    return round(tallest + 2 * EDGE)


def _arrow(route: Sequence[_Node]) -> str:
    start, end = route[0], route[-1]
    x, y = EDGE + start.layer * (BOX + GAP_X) + BOX, start.y + start.height / 2
    path = [f"M{x} {y:.1f}"]
    for node in route[1:]:
        to_x, to_y = EDGE + node.layer * (BOX + GAP_X), node.y + node.height / 2
        bend = (to_x - x) / 2
        path.append(f"C{x + bend:.1f} {y:.1f} {to_x - bend:.1f} {to_y:.1f} {to_x} {to_y:.1f}")
        x, y = to_x, to_y
        if node.kind == "lane":
            x += BOX
            path.append(f"H{x}")
    tip = escape(f"{start.title} to {end.title}: {start.lines[0] if start.lines else ''}")
    return f'<path class="arrow" d="{" ".join(path)}" marker-end="url(#arrow)"><title>{tip}</title></path>'


def _box(node: _Node) -> str:
    x = EDGE + node.layer * (BOX + GAP_X)
    fits = int((BOX - 24) / (GLYPH * 1.32))
    title = node.title if len(node.title) <= fits else node.title[: fits - 1] + "…"
    parts = [f"<title>{escape(f'{node.kind} {node.title}{node.about}')}</title>"]
    parts.append(f'<rect x="{x}" y="{node.y:.1f}" width="{BOX}" height="{HEIGHT}" rx="6"/>')
    parts.append(
        f'<text class="kind end" x="{x + BOX - 10}" y="{node.y + 18:.1f}">{node.kind if len(title) < 13 else ""}</text>'
    )
    for at, words in enumerate((title, *node.lines)):
        kind = "title" if at == 0 else "detail"
        parts.append(
            f'<text class="{kind}" x="{x + 12}" y="{node.y + 20 + at * 16:.1f}">{escape(words)}</text>'
        )
    inside = f'<g class="node {node.kind}{" muted" if node.muted else ""}">{"".join(parts)}</g>'
    return f'<a href="{escape(node.link)}">{inside}</a>' if node.link else inside
