"""Charts are well-formed, escaped, inside their frame, and their labels do not touch."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import charts, drawing
from flows.svg import GLYPH, Frame, ticks
from tests.records import bare_record, demo_record

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"),
    max_size=40,
)


def parsed(markup):
    """The drawing as a tree; raises where it is not well-formed."""
    return ET.fromstring(str(markup))  # noqa: S314 - our own text


def texts(tree):
    return [
        (float(one.get("x", "nan")), float(one.get("y", "nan")), one.text or "", one.get("class"))
        for one in tree.iter("text")
    ]


def told(tree):
    return tree.find("title").text, tree.find("desc").text


@given(low=NUMBERS, span=st.floats(1e-6, 1e12), wanted=st.integers(2, 8))
def test_ticks_are_inside_the_range_evenly_spaced_and_few(low, span, wanted):
    high = low + span
    if not high > low or span < abs(low) * 1e-9:
        return

    found = ticks(low, high, wanted)

    slack = (high - low) * 1e-6
    assert 1 <= len(found) <= 2 * wanted + 2
    assert all(low - slack <= tick <= high + slack for tick in found)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert all(math.isclose(gap, gaps[0], rel_tol=1e-3) for gap in gaps)


@given(
    counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=40), low=NUMBERS, width=st.floats(0.01, 1e9)
)
def test_a_histogram_has_a_bar_for_every_bin_that_is_not_empty(counts, low, width):
    edges = [low + width * at for at in range(len(counts) + 1)]

    tree = parsed(charts.histogram(edges, counts, title="x"))

    bars = list(tree.iter("rect"))
    assert len(bars) == sum(n > 0 for n in counts)
    assert all(float(bar.get("height")) >= 1 and float(bar.get("y")) >= 0 for bar in bars)
    assert f"{sum(counts):,} rows" in told(tree)[1]


def test_the_heights_of_a_histogram_are_the_counts():
    tree = parsed(charts.histogram([0, 1, 2, 3], [10, 40, 20], title="x"))

    heights = [float(bar.get("height")) for bar in tree.iter("rect")]
    assert heights == pytest.approx([heights[1] / 4, heights[1], heights[1] / 2], abs=0.2)


@pytest.mark.parametrize(
    ("edges", "labels"),
    [
        (
            ["2025-01-01T07:00:00+00:00", "2025-06-01T00:00:00+00:00", "2025-12-31T00:00:00+00:00"],
            ["2025-01-01", "2025-12-31"],
        ),
        (
            ["2025-01-01T07:00:00+00:00", "2025-01-01T08:00:00+00:00", "2025-01-01T09:00:00+00:00"],
            ["2025-01-01 07:00:00", "2025-01-01 09:00:00"],
        ),
        (["same", "same", "same"], ["same"]),
        ([3, 3, 3], ["3"]),
        (["a" * 90, "b", "c" * 90], ["a" * 22, "c" * 22]),
    ],
)
def test_edges_that_are_no_scale_are_named_at_both_ends_without_touching(edges, labels):
    tree = parsed(charts.histogram(edges, [1, 2], title="x"))

    found = [(x, words, kind) for x, y, words, kind in texts(tree) if y > 120]
    assert [words for _, words, _ in found] == labels
    if len(found) == 2:
        (left, first, _), (right, last, _) = found
        assert left + len(first) * GLYPH < right - len(last) * GLYPH


@given(values=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=50))
def test_lines_stay_inside_their_frame(values):
    tree = parsed(
        charts.lines({"train": values, "validation": values[:1]}, title="x", x_label="epoch", y_label="loss")
    )

    frame = Frame((0, 1), (0, 1), width=340, height=320, right=78)
    for dot in tree.iter("circle"):
        assert frame.left - 0.1 <= float(dot.get("cx")) <= frame.width - frame.right + 0.1
        assert 0 <= float(dot.get("cy")) <= frame.height - frame.bottom + 0.1


def test_names_at_the_ends_of_lines_do_not_touch():
    tree = parsed(
        charts.lines(
            {"a": [(0, 1), (1, 1)], "b": [(0, 1), (1, 1)]}, title="x", x_label="epoch", y_label="loss"
        )
    )

    first, second = (y for _, y, words, _ in texts(tree) if words in {"a", "b"})
    assert abs(first - second) >= 12


@given(low=st.floats(-1e9, 1e9), span=st.floats(1e-3, 1e9))
def test_labels_of_an_axis_do_not_touch(low, span):
    tree = parsed(
        charts.lines({"a": [(low, 0.0), (low + span, 1.0)]}, title="x", x_label="", y_label="", whole_x=False)
    )

    labels = sorted((x, words) for x, _, words, kind in texts(tree) if kind == "tick mid")
    for (left, first), (right, second) in itertools.pairwise(labels):
        assert left + len(first) * GLYPH / 2 < right - len(second) * GLYPH / 2


@given(
    items=st.lists(st.tuples(NAMES, st.integers(0, 10**9)), min_size=1, max_size=12),
    total=st.none() | st.just(10**9),
)
def test_bars_show_every_name_escaped_and_cut_to_its_place(items, total):
    tree = parsed(charts.bars(items, title="x", total=total))

    assert len(list(tree.iter("rect"))) == len(items)
    for x, _, words, kind in texts(tree):
        if kind == "label end":
            assert x - len(words) * GLYPH >= -GLYPH


@given(name=NAMES)
def test_titles_and_names_are_escaped(name):
    tree = parsed(charts.lines({name or "a": [(1, 1)]}, title=name, x_label=name, y_label=name))

    assert (told(tree)[0] or "") == name


def test_a_roc_starts_and_ends_in_the_corners_and_tells_its_area():
    tree = parsed(charts.roc([[0, 0], [0.2, 0.7], [1, 1]], title="ROC", auc=0.75))

    path = [tuple(map(float, point.split(","))) for point in tree.find("polyline").get("points").split()]
    chance = tree.find("line[@class='chance']")
    assert path[0] == (float(chance.get("x1")), float(chance.get("y1")))
    assert path[-1] == (float(chance.get("x2")), float(chance.get("y2")))
    assert "0.75" in told(tree)[1]


def test_a_perfect_calibration_lies_on_the_diagonal():
    bins = [{"predicted": share, "observed": share, "rows": 10} for share in (0.1, 0.5, 0.9)]

    tree = parsed(charts.calibration(bins, title="calibration"))

    chance = {key: float(tree.find("line[@class='chance']").get(key)) for key in ("x1", "y1", "x2", "y2")}
    slope = (chance["y2"] - chance["y1"]) / (chance["x2"] - chance["x1"])
    for dot in tree.iter("circle"):
        assert float(dot.get("cy")) == pytest.approx(
            chance["y1"] + slope * (float(dot.get("cx")) - chance["x1"]), abs=0.2
        )


def test_a_confusion_matrix_tells_the_share_of_each_true_class():
    table = parsed(charts.confusion([[90, 10], [25, 75]], ["<no>", "yes"]))

    assert [(cell.text, cell.find("small").text) for cell in table.iter("td") if cell.text] == [
        ("90", "90 %"), ("10", "10 %"), ("25", "25 %"), ("75", "75 %"),
    ]  # fmt: skip
    assert [head.text for head in table.iter("th")] == ["<no>", "yes", "<no>", "yes"]


@pytest.mark.parametrize(
    "nothing",
    [
        charts.lines({}, title="", x_label="", y_label=""),
        charts.lines({"a": [(1, math.nan)]}, title="", x_label="", y_label=""),
        charts.histogram([], [], title=""),
        charts.histogram([1, 2], [1, 2], title=""),
        charts.bars([], title=""),
        charts.roc([], title=""),
        charts.calibration([{"predicted": None, "observed": 1}], title=""),
        charts.confusion([]),
        charts.confusion([[1, 2]]),
        drawing.pipeline(bare_record()),
        drawing.pipeline({}),
    ],
)
def test_nothing_to_draw_is_no_drawing(nothing):
    assert nothing == ""


def boxes(tree):
    return {
        (group.get("class").split()[1], group.find("text[@class='title']").text): [float(group.find("rect").get(key)) for key in ("x", "y", "width", "height")]
        for group in tree.iter("g")
        if (group.get("class") or "").startswith("node")
    }  # fmt: skip


def test_the_drawing_of_the_demo_has_a_box_for_everything_and_an_arrow_for_every_reading():
    tree = parsed(drawing.pipeline(demo_record()))

    found = boxes(tree)
    assert {name for kind, name in found if kind == "table"} == {
        "products",
        "customers",
        "orders",
        "sales",
        "features",
    }
    assert {name for kind, name in found if kind == "source"} == {"products", "customers", "orders"}
    assert ("model", "returns") in found
    arrows = [path.find("title").text for path in tree.iter("path") if path.get("class") == "arrow"]
    assert sorted(arrows) == sorted(
        [
            "orders to orders: 100,000 rows", "customers to customers: 4,104 rows", "products to products: 120 rows",
            "orders to sales: 98,680 rows", "customers to sales: 4,000 rows", "products to sales: 120 rows",
            "sales to features: 98,600 rows", "features to returns: 98,600 rows",
        ]
    )  # fmt: skip


@given(st.data())
def test_boxes_of_any_pipeline_never_overlap_and_arrows_lead_to_the_right(data):
    count = data.draw(st.integers(1, 9))
    tables = []
    for number in range(count):
        above = data.draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        inputs = [{"name": f"t{one}", "kind": "table", "rows": 1} for one in above]
        if not inputs:
            inputs = [{"name": f"s{number % 3}", "kind": "source", "path": f"{number}", "rows": 1}]
        tables.append({"name": f"t{number}", "status": "built", "rows_out": 1, "inputs": inputs})

    tree = parsed(drawing.pipeline({"pipeline": "p", "tables": tables}))

    found = boxes(tree)
    for (x, y, w, h), (X, Y, W, H) in itertools.combinations(found.values(), 2):
        assert x + w <= X or x >= X + W or y + h <= Y or y >= Y + H
    for table in tables:
        for item in table["inputs"]:
            assert found[item["kind"], item["name"]][0] < found["table", table["name"]][0]
    width, height = (float(tree.get(key)) for key in ("width", "height"))
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in found.values())


def test_an_arrow_over_several_layers_passes_between_the_boxes():
    chain = [
        {"name": f"t{n}", "inputs": [{"name": f"t{n - 1}", "kind": "table"}] if n else []} for n in range(4)
    ]
    chain[3]["inputs"].append({"name": "t0", "kind": "table"})

    tree = parsed(drawing.pipeline({"tables": chain}))

    (long,) = (path.get("d") for path in tree.iter("path") if "t0 to t3" in (path.findtext("title") or ""))
    passed = re.findall(r"([\d.]+) ([\d.]+) H([\d.]+)", long)
    assert len(passed) == 2
    for x, y, _ in passed:
        for left, top, width, height in boxes(tree).values():
            assert not (left <= float(x) <= left + width and top <= float(y) <= top + height)


def test_a_table_that_reads_itself_or_a_circle_is_still_drawn():
    tables = [
        {"name": "a", "inputs": [{"name": "a", "kind": "table"}, {"name": "b", "kind": "table"}]},
        {"name": "b", "inputs": [{"name": "a", "kind": "table"}]},
    ]

    assert boxes(parsed(drawing.pipeline({"tables": tables})))
