"""A source that changes while it is read fails the run by name: every kind, whatever happens to the file, before or in a part."""

import importlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from pipelines import sources
from pipelines.errors import SourceChanged
from tests.sources_reading import declared, write
from tests.test_sources_fuzz import KINDS, good

DOCUMENT = ({"text": "string", "label": "string"}, {"kind": "text", "documents": True})
FORMS = {**KINDS, "documents": DOCUMENT, "zip": DOCUMENT}


def zipped(names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, f"the text of {name}")
    return out.getvalue()


def made(folder, kind):
    """What is read, and the file that changes."""
    if kind == "documents":
        (folder / "in" / "ham").mkdir(parents=True)
        return folder / "in", write(folder / "in" / "ham" / "1.txt", "one")
    content = zipped(["ham/1.txt", "spam/2.txt"]) if kind == "zip" else good(kind)
    path = write(folder / f"in.{kind}", content)
    return path, path


def rewritten(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def rewritten_unseen(path):
    """As a program does that sets the time back."""
    before = path.stat()
    rewritten(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grown(path):
    with path.open("ab") as file:
        file.write(b"1")


def replaced(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def removed(path):
    path.unlink()


@pytest.mark.parametrize("change", [rewritten, rewritten_unseen, truncated, grown, replaced, removed])
@pytest.mark.parametrize("kind", FORMS)
def test_a_file_that_is_not_the_planned_one_any_more_is_named(tmp_path, monkeypatch, kind, change):
    columns, settings = FORMS[kind]
    path, changing = made(tmp_path, kind)
    source = declared(columns, path=str(path), **{"kind": kind.partition(".")[0], **settings})
    [file] = sources.files(source)
    [part, *_] = sources.cut(source, file, 0)
    module = importlib.import_module(sources.KINDS[source.reader])
    read = module.read

    def read_and_change(*given):
        rows = read(*given)
        change(changing)
        return rows

    assert sources.read(source, part).kept.num_rows
    monkeypatch.setattr(module, "read", read_and_change)
    with pytest.raises(
        SourceChanged, match=rf"{Path(path).name}.*: (changed|is gone) since the run was planned"
    ):
        sources.read(source, part)  # changed while it was read
    monkeypatch.setattr(module, "read", read)
    with pytest.raises(
        SourceChanged, match=rf"{Path(path).name}.*: (changed|is gone) since the run was planned"
    ):
        sources.read(source, part)  # and before the next part
    with pytest.raises(SourceChanged):
        sources.cut(source, file, 0)
