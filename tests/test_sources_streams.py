"""A packed file is one stream: who reads its parts one after the other unpacks it once, and any order gives the same rows."""

import gzip
import random

import pytest

from pipelines import sources
from pipelines.sources import head, records, stream
from tests.sources_reading import declared, values, write

ROWS = 3_000


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A packed file of many parts, and how many bytes of it are unpacked."""
    monkeypatch.setattr(stream, "CHUNK", 1_000)
    monkeypatch.setattr(head, "SMALL", 100)
    monkeypatch.setattr(head, "STREAM_PART", (4_000, 8_000))
    monkeypatch.setattr(records, "STREAM_PART", (4_000, 8_000))
    unpacked = []

    def counted(path, codec, size, unpack=stream._unpacked):
        for chunk in unpack(path, codec, size):
            unpacked.append(len(chunk))
            yield chunk

    monkeypatch.setattr(stream, "_unpacked", counted)
    content = "id,s\n" + "".join(f'{at},"line {at}\nand more"\n' for at in range(ROWS))
    path = write(tmp_path / "in.csv.gz", gzip.compress(content.encode(), mtime=0))
    source = declared({"id": "int64", "s": "string"}, path=str(path), kind="csv")
    [file] = sources.files(source)
    parts = sources.cut(source, file, 0)
    unpacked.clear()
    return source, parts, unpacked, len(content)


def test_parts_in_their_order_unpack_the_file_once(packed):
    source, parts, unpacked, size = packed

    found = [row for part in parts for row in values(sources.read(source, part))]

    assert len(parts) > 8
    assert [row[0] for row in found] == list(range(ROWS))
    assert sum(unpacked) == size
    assert not stream._streams  # the last part closes what is left


@pytest.mark.parametrize("seed", range(2))
def test_any_order_gives_the_same_rows(packed, seed):
    source, parts, _, _ = packed
    order = [*parts, *random.Random(seed).sample(parts, len(parts) // 2)]
    random.Random(seed).shuffle(order)
    whole = {part.start: sources.read(source, part).kept for part in parts}

    assert all(sources.read(source, part).kept.equals(whole[part.start]) for part in order)


def test_a_file_that_was_replaced_is_not_read_from_the_stream_of_the_old_one(packed):
    source, parts, _, _ = packed
    sources.read(source, parts[0])
    content = "id,s\n" + "".join(f'{-at},"line {at}\nand more"\n' for at in range(ROWS))
    write(parts[0].path, gzip.compress(content.encode(), mtime=0))
    [file] = sources.files(source)

    made = [row for part in sources.cut(source, file, 0) for row in values(sources.read(source, part))]

    assert [row[0] for row in made] == [-at for at in range(ROWS)]
