"""Correlations, clusters and pairs are those of all rows, whatever the cut."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.analysis import analysed
from flows.commands.analysis import analyse
from pipelines.analysis import Clusters, Correlations, Pairs
from pipelines.errors import InputError, SpecError
from pipelines.sketch import summarise
from tests import projects
from tests.strategies import cuts

NAMES = ("x", "y", "z")


def numbers(draw, rows):
    cell = st.none() | st.integers(-5, 5).map(float) | st.floats(-1e3, 1e3)
    columns = {
        name: pa.array(draw(st.lists(cell, min_size=rows, max_size=rows)), pa.float64()) for name in NAMES
    }
    return pa.table(columns)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(0, 20))
def test_correlations_are_those_of_pandas_and_of_no_cut(data, rows):
    table = numbers(data.draw, rows)

    found = summarise(Correlations(NAMES), data.draw(cuts(table)))

    assert found == summarise(Correlations(NAMES), [table])
    frame = table.to_pandas().astype(float).dropna()
    assert found["rows"] == len(frame)
    expected = frame.corr()
    for pair, value in found["correlations"].items():
        one, other = pair.split(" ~ ")
        if value is None or np.isnan(expected.loc[one, other]):
            assert value is None or frame[[one, other]].std().min() < 1e-9
        else:
            assert value == pytest.approx(expected.loc[one, other], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), k=st.integers(1, 3))
def test_clusters_do_not_depend_on_the_cut_or_the_order(data, k):
    table = numbers(data.draw, data.draw(st.integers(3, 15)))
    parts = data.draw(cuts(table))

    def clusters(tables):
        try:
            return summarise(Clusters(NAMES, k), tables)
        except InputError as error:
            return str(error)

    assert clusters(parts) == clusters([table])


def test_planted_clusters_are_found():
    rng = np.random.default_rng(1)
    centres = np.array([[0, 0], [10, 0], [0, 300]])
    which = rng.choice(3, 900, p=[0.5, 0.3, 0.2])
    points = centres[which] + rng.normal(0, [0.5, 9], (900, 2))

    found = summarise(Clusters(("x", "y"), 3), [pa.table({"x": points[:, 0], "y": points[:, 1]})])

    assert found["sizes"] == sorted(np.bincount(which).tolist(), reverse=True)
    assert np.array(found["centres"]) == pytest.approx(centres, abs=3)


def test_too_few_rows_for_so_many_clusters_is_an_error():
    with pytest.raises(InputError, match="3 of 2 different rows with a value in all of x"):
        summarise(Clusters(("x",), 3), [pa.table({"x": [1.0, 2.0, 2.0, None]})])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pairs_are_those_of_a_cross_table(data):
    rows = data.draw(st.integers(1, 30))
    cells = {
        name: data.draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=rows, max_size=rows))
        for name in "pq"
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in cells.items()})

    found = summarise(Pairs(("p", "q"), least=1), data.draw(cuts(table)))

    frame = pd.DataFrame(cells)
    for pair in found["pairs"]:
        p, q = pair["a"][4:], pair["b"][4:]
        both = ((frame["p"] == p) & (frame["q"] == q)).sum()
        assert pair["rows"] == both
        assert pair["lift"] == pytest.approx(
            both * rows / ((frame["p"] == p).sum() * (frame["q"] == q).sum())
        )
    assert sum(pair["rows"] for pair in found["pairs"]) == len(frame.dropna())
    assert [pair["rows"] for pair in found["pairs"]] == sorted(
        (pair["rows"] for pair in found["pairs"]), reverse=True
    )


def test_the_command_tells_what_it_has_found_and_no_private_value(tmp_path):
    rows = "".join(f"{n},{2 * n},{n % 3},{'ab'[n % 2]},p{n}\n" for n in range(60))
    (tmp_path / "o.csv").write_text(f"x,y,z,c,who\n{rows}", "utf-8")
    (tmp_path / "pipeline.toml").write_text(
        """[sources.o]
kind = "csv"
path = "o.csv"
columns = { x = "int64", y = "float64", z = "int8", c = "string", who = { type = "string", privacy = "direct" } }
[tables.o]
source = "o"
""",
        "utf-8",
    )
    projects.run(tmp_path)
    root = tmp_path / "warehouse"

    shown = CliRunner().invoke(analyse, ["o", "--warehouse", str(root)])
    read = CliRunner().invoke(
        analyse,
        [
            "o",
            "--column",
            "x",
            "--column",
            "z",
            "--clusters",
            "2",
            "--pair",
            "c",
            "--pair",
            "z",
            "--json",
            "--warehouse",
            str(root),
        ],
    )

    assert shown.stdout.splitlines()[:2] == ["columns  correlation", "x ~ y              1"]
    made = json.loads(read.stdout)
    assert made["clusters"]["rows"] == made["pairs"]["rows"] == 60
    assert made["pairs"]["pairs"][0] == {
        "a": "c = a",
        "b": "z = 0",
        "rows": 10,
        "support": 1 / 6,
        "lift": 1.0,
    }
    with pytest.raises(SpecError, match="column 'who' has a privacy class"):
        analysed(root, "o", columns=(), clusters=None, pairs=("c", "who"))
    with pytest.raises(SpecError, match="did you mean 'x'"):
        analysed(root, "o", columns=("xx", "y"), clusters=None, pairs=())
