"""Files: found by name, known by their digest, and read in one state only."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from pipelines import sources
from pipelines.errors import InputError, SourceChanged, SpecError
from pipelines.schema import field
from pipelines.sources import Source, inputs
from tests.sources_reading import declared, write


def source(path, kind="csv", **settings):
    return declared({"a": "int8"}, kind=kind, path=str(path), **settings)


def names(found):
    return [Path(file.path).name for file in found]


def test_a_folder_a_glob_and_a_file_give_sorted_files(tmp_path):
    for name in ("b.csv", "a.CSV", "c.csv.gz", "d.jsonl", ".hidden.csv", "_partial.csv", "e.tsv"):
        write(tmp_path / name, "a\n1\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv" / "z.csv").write_text("a\n1\n")

    assert names(sources.files(source(tmp_path))) == ["a.CSV", "b.csv", "c.csv.gz", "e.tsv"]
    assert names(sources.files(source(tmp_path / "[ab].*"))) == ["a.CSV", "b.csv"]
    assert names(sources.files(source(tmp_path / "**/*.csv"))) == ["_partial.csv", "b.csv", "z.csv"]
    assert names(sources.files(source(tmp_path / "b.csv"))) == ["b.csv"]
    assert names(sources.files(source(tmp_path, "jsonl"))) == ["d.jsonl"]


def test_no_match_says_what_is_there(tmp_path):
    write(tmp_path / "b.csv", "a\n1\n")

    for path, wanted in (
        (tmp_path / "x" / "*.csv", "a file of this name"),
        (tmp_path / "b.cvs", "a file of this name"),
    ):
        with pytest.raises(InputError) as caught:
            sources.files(source(path))
        assert str(caught.value) == f"{path}: no input; expected {wanted}; {tmp_path} has b.csv"
    with pytest.raises(InputError, match=r"expected a file that ends in .jsonl, .ndjson; .* has b.csv"):
        sources.files(source(tmp_path, "jsonl"))


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")

    with pytest.raises(InputError, match="is no regular file"):
        sources.files(source(tmp_path / "pipe.csv"))


def test_digests_are_kept_and_taken_again_when_the_file_is_another(tmp_path, monkeypatch):
    path, cache = write(tmp_path / "a.csv", "a\n1\n"), tmp_path / "state" / "digests.json"
    taken = []
    digest = inputs.digest
    monkeypatch.setattr(inputs, "digest", lambda *file: taken.append(file) or digest(*file))
    monkeypatch.setattr(inputs, "_RECENT_NS", -1)

    [first] = sources.files(source(path), cache)
    [again] = sources.files(source(path), cache)
    assert again == first
    assert len(taken) == 1
    assert first.sha256 == hashlib.sha256(b"a\n1\n").hexdigest()

    path.write_text("a\n2\n")
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    [changed] = sources.files(source(path), cache)
    assert changed.sha256 != first.sha256
    assert [one.name for one in cache.parent.iterdir()] == ["digests.json"]

    cache.write_text("no json")
    assert sources.files(source(path), cache) == [changed]


def test_the_digest_of_a_file_that_was_just_written_is_not_trusted_later(tmp_path):
    path, cache = tmp_path / "a.csv", tmp_path / "digests.json"
    path.write_text("a\n1\n")

    sources.files(source(path), cache)

    assert not cache.exists()


def test_a_file_that_is_rewritten_with_its_size_and_time_is_another(tmp_path, monkeypatch):
    path, cache = write(tmp_path / "a.csv", "a\n1\n"), tmp_path / "digests.json"
    monkeypatch.setattr(inputs, "_RECENT_NS", -1)
    [first] = sources.files(source(path), cache)

    write(path, "a\n2\n")
    [other] = sources.files(source(path), cache)

    assert (first.size, first.mtime_ns) == (other.size, other.mtime_ns)
    assert other.sha256 == hashlib.sha256(b"a\n2\n").hexdigest()
    with pytest.raises(SourceChanged, match=r"a\.csv: changed since the run was planned"):
        sources.cut(source(path), first, 0)


def test_with_identity_hash_a_file_is_known_by_its_bytes_alone(tmp_path, monkeypatch):
    """As where a file system says nothing of when a file was changed."""
    path, cache = write(tmp_path / "a.csv", "a\n1\n"), tmp_path / "digests.json"
    monkeypatch.setattr(inputs, "_state", lambda *_: (4, 1, "1:1"))
    first = sources.files(source(path), cache)
    path.write_text("a\n2\n")

    assert sources.files(source(path), cache) == first
    [found] = sources.files(source(path, identity="hash"), cache)

    assert found.sha256 == hashlib.sha256(b"a\n2\n").hexdigest()


@pytest.mark.parametrize("path", ["s3://bucket/a.csv", "a.csv"])
def test_an_identity_that_cannot_be_is_refused(path):
    told = (
        "identity has no effect here: an object is known by its etag"
        if path[0] == "s"
        else "identity = 'mtime': expected"
    )

    with pytest.raises(SpecError, match=told):
        source(path, identity="hash" if path[0] == "s" else "mtime")


@pytest.mark.parametrize("change", ["more", "same size", "gone"])
def test_r26_a_file_that_changes_between_plan_and_read_is_named(tmp_path, change):
    path = write(tmp_path / "a.csv", "a\n1\n2\n")
    [file] = sources.files(source(path))
    [part] = sources.cut(source(path), file, 0)
    if change == "gone":
        path.unlink()
    else:
        path.write_text("a\n1\n2\n3\n" if change == "more" else "a\n7\n8\n")

    for act in (lambda: sources.read(source(path), part), lambda: sources.cut(source(path), file, 0)):
        with pytest.raises(SourceChanged, match=r"a.csv: (changed|is gone) since the run was planned"):
            act()


def test_r26_a_file_that_changes_while_it_is_read_is_named_whatever_else_goes_wrong(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", "a\n1\n2\n")
    [file] = sources.files(source(path))
    [part] = sources.cut(source(path), file, 0)

    def changes(*_):
        path.write_text("b;c\n")
        raise InputError("the header is another")

    monkeypatch.setattr("pipelines.sources.csv.read", changes)

    with pytest.raises(SourceChanged, match="6 bytes then, 4 now") as caught:
        sources.read(source(path), part)
    assert isinstance(caught.value.__cause__, InputError)


def test_r26_a_file_that_grows_while_it_is_read_well_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", "a\n1\n2\n")
    [file] = sources.files(source(path))
    [part] = sources.cut(source(path), file, 0)
    rows = sources.read(source(path), part)

    def grows(*_):
        path.write_text("a\n1\n2\n3\n")
        return rows

    monkeypatch.setattr("pipelines.sources.csv.read", grows)

    with pytest.raises(SourceChanged, match="6 bytes then, 8 now"):
        sources.read(source(path), part)


def test_a_part_is_small_and_travels(tmp_path):
    path = write(tmp_path / "a.csv", "a\n1\n2\n")
    [part] = sources.cut(source(path), sources.files(source(path))[0], 0)

    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301 - its own bytes
    assert len(pickle.dumps(part)) < 500


def test_parts_of_one_file_are_alike(tmp_path):
    path = write(tmp_path / "a.csv", "a\n" + "1\n" * 1000)
    spec = source(path, part_bytes=1500)

    sizes = [part.stop - part.start for part in sources.cut(spec, sources.files(spec)[0], 0)]

    assert sizes == [1000, 1000]


def test_a_pipeline_file_gives_the_same_source(tmp_path):
    given = {
        "kind": "csv",
        "path": "a.csv",
        "columns": {"a": field({"type": "int8"})},
        "null": ["", "NA"],
        "ignore": ["x"],
    }

    assert TypeAdapter(Source).validate_python(given) == source("a.csv", null=("", "NA"), ignore=("x",))
    with pytest.raises(ValidationError):
        TypeAdapter(Source).validate_python({**given, "delimeter": ";"})
