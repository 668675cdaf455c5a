"""The steps that move rows, learn, or run the user's code leave the same bytes on workers as in this process."""

import numpy as np

from tests import projects

FILE = """[sources.s]
kind = "csv"
path = "s-*.csv"
[sources.s.columns]
id = "int64"
sensor = { type = "string", privacy = "direct" }
at = "timestamp"
temp = "float64"
weight = "string"
note = "string"
[tables.clean]
source = "s"
steps = [
  { do = "units", column = "weight", to = "kg", units = { g = 0.001 } },
  { do = "fill", columns = ["temp"], with = "interpolate", by = ["sensor"], order_by = ["at"] },
  { do = "clip", columns = ["temp"], method = "mad", factor = 4 },
  { do = "window", by = ["sensor"], order_by = ["at"], columns = { mean = "mean(temp, 3)", past = "history(temp, weight, 4)", next = "lead(temp, 1)" }, incomplete = "leave out" },
  { do = "python", function = "mine:warm", takes = ["temp"], columns = { warm = "bool" } },
  { do = "pseudonymise", columns = ["sensor"], key_env = "SENSOR_KEY" },
]
[tables.inputs]
table = "clean"
steps = [
  { do = "split", by = ["id"], test = 0.3, stratify = ["warm"] },
  { do = "features", label = "warm", key = ["id"], columns = { mean = "quantile", note = { encode = "target", smoothing = 3 }, past = { encode = "tensor", scale = "standard" }, at = { encode = "date", parts = ["hour"] } } },
]
partition_by = ["split"]
[tables.tokens]
table = "clean"
steps = [
  { do = "split", by = ["id"], test = 0.3 },
  { do = "features", label = "next", columns = { note = { encode = "tokens", length = 3 } } },
]
"""
WARM = """import pyarrow as pa
import pyarrow.compute as pc

def warm(table):
    return pa.table({"warm": pc.greater(table["temp"], 20.0)})
"""


def make(folder):
    folder.mkdir()
    rng = np.random.default_rng(4)
    for file in range(3):
        lines = ["id,sensor,at,temp,weight,note"]
        for row in range(200):
            at = np.datetime64("2026-01-01T00:00:00") + np.timedelta64(int(rng.integers(10**6)), "s")
            temp = "" if rng.random() < 0.1 else f"{rng.normal(20, 3):.2f}"
            lines.append(
                f"{file * 200 + row},s{rng.integers(5)},{at},{temp},{rng.choice(['3 kg', '700 g'])},{rng.choice(['a b', 'b', 'c a'])}"
            )
        (folder / f"s-{file}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "mine.py").write_text(WARM, "utf-8")
    (folder / "pipeline.toml").write_text(FILE, "utf-8")
    return folder


def test_workers_make_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSOR_KEY", "a key that is long enough")
    here, there = make(tmp_path / "here"), make(tmp_path / "there")

    record = projects.run(here)
    projects.run(there, workers=2)

    assert [one["name"] for one in record["tables"] if not one["rows_out"]] == []
    for name in ("clean", "inputs", "tokens"):
        assert projects.content(here, name) == projects.content(there, name), name
