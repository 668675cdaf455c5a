"""The same rows in the same order, and the same ledger, however the input is cut and on however many workers."""

import pytest

from pipelines import parts
from pipelines.engine import InProcess, OnDask
from tests import cutting


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    cutting.sources(folder)
    return cutting.outcome(folder, cutting.PIPELINE.format(part_bytes=1 << 20), InProcess(threads=1))


@pytest.mark.parametrize(("size", "buckets"), [(1500, 2), (1 << 20, 2)])
def test_any_cut_gives_the_same_table(tmp_path, monkeypatch, whole, size, buckets):
    cutting.sources(tmp_path)

    assert cutting.outcome(tmp_path, cutting.cut(monkeypatch, size)) == whole
    assert parts.bucket_count(1) == buckets


def test_workers_give_the_same_table(tmp_path, monkeypatch, whole, local_cluster):
    cutting.sources(tmp_path)

    assert cutting.outcome(tmp_path, cutting.cut(monkeypatch, 2500), OnDask(local_cluster)) == whole


def test_hot_keys_that_are_cut_change_no_row_and_no_count(tmp_path, monkeypatch, whole, local_cluster):
    monkeypatch.setattr(parts, "SKEWED_ROWS", 40)
    monkeypatch.setattr(parts, "SKEWED_TIMES", 0)
    for name in ("here", "there"):
        cutting.sources(tmp_path / name)

    here = cutting.outcome(tmp_path / "here", cutting.cut(monkeypatch, 3000))
    there = cutting.outcome(tmp_path / "there", cutting.cut(monkeypatch, 2500), OnDask(local_cluster))

    assert here == there
    assert sorted(map(str, here[0])) == sorted(map(str, whole[0]))
    assert here[1] == whole[1]


def test_the_plan_shows_the_passes_and_why_rows_move(tmp_path):
    from flows.project import open_project
    from flows.session import plan_of

    cutting.sources(tmp_path)
    (tmp_path / "pipeline.toml").write_text(cutting.PIPELINE.format(part_bytes=1 << 20), "utf-8")

    text = plan_of(open_project(tmp_path / "pipeline.toml")).text()

    assert "pass 1: read -> quarantine negative [keys for deduplicate id]" in text
    assert "deduplicate id: keys, those of equal id must meet; the rows stay where they are" in text
    assert "pass 2: deduplicate id [rows that stay]" in text
    assert "pass 3: read again -> derive other [sketch for fill other and clip price]" in text
    assert "pass 4: fill other -> clip price [sketch for fill price]" in text
    assert "pass 5: fill price [exchange for join customers]" in text
    assert 'join customers: exchange, how = "outer" must know all keys' in text
    assert "pass 6: join customers [exchange for window before, level]" in text
    assert "pass 7: window before, level -> quarantine seven -> checks [exchange by month]" in text
    assert "pass 8: write" in text
