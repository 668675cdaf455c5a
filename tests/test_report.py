"""The report is one file that a real browser shows without a complaint, whatever the record holds."""

import copy
import html
import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.passes import passes
from flows.record import complete
from flows.report import render, write
from tests.browser import needs_browser, visit
from tests.records import bare_record, demo_record, unchanged_record

SECTIONS = [
    "headline",
    "drawing",
    "tables",
    "ledger",
    "quarantine",
    "evidence",
    "checks",
    "profile",
    "models",
    "lineage",
    "environment",
]
HOSTILE = """<script>document.title="owned"</script><img src=http://example.invalid/x onerror=alert(1)>"'&{{ 7*7 }}</style>"""


class Reader(HTMLParser):
    """Collects elements and their attributes; complains of elements that are not closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)

    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]


def hostile(value):
    """The record with every text in it, names included, turned into an attack."""
    match value:
        case str():
            return value + HOSTILE
        case dict():
            return {key: hostile(one) for key, one in value.items()}
        case list():
            return [hostile(one) for one in value]
        case _:
            return value


def hostile_record():
    record = demo_record()
    kinds = {"status", "severity", "kind", "started"}
    for table in record["tables"]:
        table["profile"] = {name + HOSTILE: hostile(column) for name, column in table["profile"].items()}
        for part in ("steps", "inputs", "rejects", "checks", "why", "partition_by"):
            kept = [
                {key: one[key] for key in kinds & set(one)} if isinstance(one, dict) else {}
                for one in table[part]
            ]
            table[part] = [
                {**hostile(one), **same} if isinstance(one, dict) else hostile(one)
                for one, same in zip(table[part], kept, strict=True)
            ]
        table["name"] += HOSTILE
    for model in record["models"]:
        for key in (
            "name",
            "table",
            "loss",
            "optimizer",
            "verdict",
            "architecture",
            "baselines",
            "restarts",
            "path",
            "why",
        ):
            model[key] = hostile(model[key])
        model["restarts"] = [HOSTILE]
        model["classes"] = [HOSTILE, "no"]
        model["slices"] = {HOSTILE: [{"value": HOSTILE, "auc": 0.5, "rows": 1}]}
    for key in ("pipeline", "plan", "versions", "driver", "run", "file"):
        record[key] = hostile(record[key])
    return record


@pytest.mark.parametrize(
    "record",
    [demo_record(), unchanged_record(), bare_record(), {}],
    ids=["demo", "unchanged", "bare", "empty"],
)
def test_every_section_is_there_in_order_whatever_is_missing(record):
    page = Reader(render(record))

    assert [name for name in page.ids() if name in SECTIONS] == SECTIONS
    assert len(set(page.ids()) - {"arrow"}) == len([name for name in page.ids() if name != "arrow"])


def test_every_link_leads_to_a_place_in_the_page_and_none_out_of_it():
    page = Reader(render(demo_record()))

    places = {"#" + name for name in page.ids()}
    links = {
        attrs[key] for _, attrs in page.elements for key in ("href", "src", "xlink:href") if key in attrs
    }
    assert links - places == {"data:,"}


@given(
    dropped=st.sets(st.sampled_from(sorted(demo_record()["tables"][2])), max_size=20),
    lost=st.sets(st.sampled_from(sorted(demo_record()["models"][0])), max_size=20),
    nulled=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_any_part_of_a_record_may_be_missing(dropped, lost, nulled):
    record = demo_record()
    for holder, keys in ((record["tables"][2], dropped - {"name"}), (record["models"][0], lost - {"name"})):
        for key in keys:
            if nulled:
                holder[key] = None
            else:
                del holder[key]

    page = Reader(render(record))

    assert set(SECTIONS) <= set(page.ids())


def test_a_table_of_zero_rows_with_an_empty_profile_is_shown():
    record = demo_record()
    record["tables"] = [
        {
            "name": "none", "status": "built", "rows_in": 0, "rows_out": 0,
            "profile": {"x": {"type": "int64", "rows": 0, "nulls": 0, "histogram": {"edges": [], "counts": []}}},
        }
    ]  # fmt: skip
    record["models"] = []

    text = render(record)

    assert "none: 1 column, 0 rows" in text
    assert "The pipeline has no model." in text


def test_the_record_is_left_as_it_was():
    record = demo_record()
    before = copy.deepcopy(record)

    render(record)

    assert record == before


def test_hostile_values_stay_text():
    page = Reader(render(hostile_record()))

    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [
        name for _, attrs in page.elements for name in attrs if name.startswith("on") or name == "style"
    ]
    assert "".join(page.text).count("{{ 7*7 }}") > 40


def test_the_ledger_of_the_page_is_added_up_by_the_page_itself():
    record = demo_record()
    record["tables"][2]["rows_out"] -= 1

    text = render(record)

    assert re.search(r"✘</span>\s*no", text)


def test_paths_are_told_from_the_folder_of_the_pipeline_file():
    record = demo_record()
    record["file"] = "/projects/shop/pipeline.toml"
    record["models"][0]["path"] = "/projects/shop/models/returns/1"

    whole = complete(record)

    assert "/projects/shop" not in render(record)
    assert whole["models"][0]["path"] == "models/returns/1"


def test_a_long_list_of_files_is_cut_and_the_rest_counted():
    record = demo_record()
    item = record["tables"][2]["inputs"][0]
    record["tables"][2]["inputs"] = [{**item, "path": f"data/{n:05d}.csv"} for n in range(5000)]

    text = render(record)

    assert len(text) < 200_000
    assert "4,960 more files" in text
    assert "5,000 files" in text


def test_writing_replaces_the_old_report_at_once_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "report.html"
    write(bare_record(), path)
    old = path.read_text()

    written = write(demo_record(), path)

    assert written == path
    assert path.read_text() != old
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_reader_who_has_the_old_report_open_keeps_all_of_it(tmp_path):
    path = write(bare_record(), tmp_path / "report.html")
    old = path.read_text()

    with path.open() as reader:
        write(demo_record(), path)

        assert reader.read() == old


def test_a_report_that_cannot_be_made_or_put_in_place_leaves_what_was_there(tmp_path):
    path = write(bare_record(), tmp_path / "report.html")
    old = path.read_text()
    folder = tmp_path / "folder.html"
    folder.mkdir()

    with pytest.raises(TypeError):
        write({"tables": [{"name": "x", "steps": 3}]}, path)
    with pytest.raises(IsADirectoryError):
        write(bare_record(), folder)

    assert path.read_text() == old
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder.html", "report.html"]


def test_bytes_that_are_no_text_are_shown_escaped(tmp_path):
    record = demo_record()
    record["tables"][1]["rejects"][0]["samples"][0]["raw"] = "bad \udcff byte"

    path = write(record, tmp_path / "report.html")

    assert "bad \\udcff byte" in path.read_text("utf-8")


def section(page, name):
    """The words of one section, without markup."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)[1]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found)).split())


def test_the_passes_of_a_table_are_drawn_with_what_moves_between_them_and_why():
    page = render(demo_record())

    assert (
        "pass 1: read [exchange for resolve region, tier]" in page
    )  # on the box of the drawing of the pipeline
    said = section(page, "tables")
    assert (
        "Passes of customers pass 1: read, then exchange for resolve region, tier; pass 2: resolve region, tier"
        in said
    )
    assert "pass 1: resolve region, tier: exchange, rows of equal customer_id must meet" in said


def test_a_difference_of_columns_is_one_change_a_line():
    record = demo_record()
    record["tables"][0]["why"] = [
        "its steps changed",
        "columns:\n  - price float64\n  + price string",
        "and so on",
    ]

    page = render(record)

    assert "Why it ran:</span> its steps changed; and so on.</p>" in page
    assert "<pre>columns:\n  - price float64\n  + price string</pre>" in page


def test_many_passes_stand_in_rows_that_a_page_can_show():
    """Every box is inside the drawing, none upon another, and the drawing is no wider than the page."""
    steps = [{"steps": ["read"] * (1 + number % 3), "ends": "sketch for x", "why": ()} for number in range(9)]

    drawn = str(passes("sales", steps))

    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups())
    boxes = [
        tuple(map(int, one))
        for one in re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', drawn)
    ]
    assert width <= 1000
    assert len(boxes) == 9
    assert len({y for _, y, _, _ in boxes}) == 3
    assert all(x + wide <= width and y + high <= height for x, y, wide, high in boxes)
    for (x, y, wide, high), (x2, y2, _, _) in itertools.combinations(boxes, 2):
        assert x2 >= x + wide or y2 >= y + high or x2 < x
    assert drawn.count('class="arrow"') == 8


def test_every_contradiction_is_counted_and_some_are_told():
    said = section(render(demo_record()), "evidence")

    assert "customers 62 contradictions" in said
    assert "tier trust 62 124 trust: 60, first: 2" in said
    assert "key 17: gold was chosen gold data/customers.jsonl, line 4, crm" in said
    assert "basic data/customers.jsonl, line 9, shop, 2025-01-02; lost by trust" in said


def test_what_the_checks_found_in_earlier_builds_is_beside_what_they_found_now():
    said = section(render(demo_record()), "checks")

    assert "customers: what the checks found in its last 2 builds" in said
    assert "check version 4 2025-11-21 10:45 version 3 2025-11-20 10:45" in said
    assert "unique \u2714 0 rows \u2718 2 rows late \u25b2 3 rows not declared" in said


@needs_browser
def test_the_browser_check_sees_a_broken_page(tmp_path):
    path = tmp_path / "broken.html"
    path.write_text(
        '<!DOCTYPE html><title>x</title><script>console.error("broken")</script><img src="http://example.invalid/x">'
    )

    page = visit(path)

    assert page.console == ["broken"]
    assert page.fetched == ["http://example.invalid/x"]


@needs_browser
@pytest.mark.parametrize("record", [demo_record(), hostile_record(), {}], ids=["demo", "hostile", "empty"])
def test_a_real_browser_shows_it_without_complaint_or_fetch(tmp_path, record):
    path = write(record, tmp_path / "report.html")

    page = visit(path)

    assert page.console == []
    assert page.fetched == []
    assert [name for name in re.findall(r'id="(\w+)"', page.dom) if name in SECTIONS] == SECTIONS
    assert "<script" not in page.dom
    assert "<img" not in page.dom
    assert "<title>owned" not in page.dom


@needs_browser
def test_the_policy_of_the_page_stops_what_a_missed_escape_would_let_in(tmp_path):
    path = write(bare_record(), tmp_path / "report.html")
    attack = '<script>document.title="owned"</script><img src="http://example.invalid/x"><style>body { display: none }</style>'
    path.write_text(path.read_text().replace("<main>", f"<main>{attack}"))

    page = visit(path)

    assert page.fetched == []
    assert "<title>owned" not in page.dom
    assert len(page.console) == 3


MEASURE = """<!DOCTYPE html><meta charset="utf-8"><title>not measured</title>
<iframe srcdoc="{page}" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("details").forEach(one => one.open = true);
  document.title = `${{page.documentElement.scrollWidth}} of ${{page.documentElement.clientWidth}}`;
}});
</script>"""


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_no_value_makes_the_page_wider_than_its_window(tmp_path, width):
    record = demo_record()
    long = "long" * 120
    record["tables"][2]["profile"][long] = {"type": long, "rows": 1, "nulls": 0, "top": [[long, 2]]}
    record["tables"][2]["rejects"][0] = {
        "rule": long,
        "column": long,
        "count": 1,
        "samples": [{"source": long, "line": 1, "message": long, "raw": long}],
    }
    record["models"][0] |= {"verdict": long, "path": long, "architecture": [long]}
    record |= {"pipeline": long, "plan": long, "versions": {long: long}}
    path = tmp_path / "measure.html"
    path.write_text(MEASURE.format(page=html.escape(render(record)), width=width))

    page = visit(path, width=width + 100)

    scroll, client = re.search(r"<title>(\d+) of (\d+)", page.dom).groups()
    assert int(scroll) <= int(client)
