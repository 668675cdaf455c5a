"""Receipts, checked before the log is touched: the Delta commit itself checks nothing at all.

Of each file the size and the bytes of the footer are read, whoever has written it. Where the receipt has the seal of
its worker for just these, nothing more is needed (`seal`); else every statement of the receipt is compared with what
the footer says. A receipt that does not fit is an error of the rows (SchemaMismatch: cast them), a file that is gone,
cut or another than its worker has sealed is an accident (PartFailed: run again).
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipelines.access import is_url
from pipelines.errors import LedgerImbalance, PartFailed, SchemaMismatch
from pipelines.warehouse import columns, footer, partition, sweep
from pipelines.warehouse.disk import make_young
from pipelines.warehouse.file import FOLDER, Receipt, digest_of
from pipelines.warehouse.seal import Seals

__all__ = ["check"]

_AT_ONCE = 16  # files of a store that are looked at


def check(
    uri: str,
    receipts: Iterable[Receipt],
    *,
    schema: pa.Schema,
    partition_by: Sequence[str],
    live: Collection[str] = (),
    rows_out: int | None = None,
) -> None:
    """Nothing, if these files can become part of the table; their age is reset, so that no vacuum takes them now.

    Raises: SchemaMismatch, PartFailed, LedgerImbalance if the rows are not `rows_out`.
    """
    seen = set(live)
    expected = columns.file_schema(schema, partition_by)
    seals = Seals(expected)
    partitions: set[str] = set()  # found right; many files have the same
    rows = 0
    given = list(receipts)
    for receipt in given:
        _check_statement(uri, receipt, seen)
        if (values := repr(receipt["partition"])) not in partitions:
            _check_partition(receipt, schema, partition_by)
            partitions.add(values)
        rows += receipt["rows"]
    if is_url(uri):  # each is some round trips
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            deque(
                pool.map(lambda receipt: _check_file(uri, receipt, expected, seals, stored=True), given),
                maxlen=0,
            )
    else:
        for receipt in given:
            _check_file(uri, receipt, expected, seals, stored=False)
    if rows_out is not None and rows != rows_out:
        raise LedgerImbalance(
            f"{uri}: the files hold {rows} rows, expected {rows_out} by the ledger ({rows - rows_out:+d}); "
            "nothing was committed, this is a bug of a step"
        )


def _check_statement(uri: str, receipt: Receipt, seen: set[str]) -> None:
    if not Receipt.__required_keys__ <= receipt.keys():
        missing = sorted(Receipt.__required_keys__ - receipt.keys())
        raise SchemaMismatch(
            f"{uri}: a receipt has no {missing}, expected all of {sorted(Receipt.__required_keys__)}; write the file with write_file"
        )
    path = receipt["path"]
    if path.rpartition("/")[0] != FOLDER or digest_of(path) != receipt["sha256"]:
        raise SchemaMismatch(
            f"{uri}: file {path!r} is not {FOLDER}/<part>-<sha256>-<random>.parquet; write the file with write_file"
        )
    if path in seen:
        raise SchemaMismatch(
            f"{uri}: file {path!r} is in the table or in this commit already; commit each file once"
        )
    seen.add(path)


def _check_partition(receipt: Receipt, schema: pa.Schema, partition_by: Sequence[str]) -> None:
    found = receipt["partition"]
    if set(found) != set(partition_by):
        raise SchemaMismatch(
            f"{receipt['path']}: partition values are {found}, expected those of {list(partition_by)}; "
            "write the file with all of them"
        )
    for name, text in found.items():
        partition.decode(schema.field(name), text)


def _make_young(uri: str, url: str, receipt: Receipt) -> None:
    """A vacuum that looks now sees a young object, or has said that it removes it."""
    try:
        if make_young(url):
            sweep.check(uri, receipt["path"])
    except FileNotFoundError as error:
        raise PartFailed(
            f"{url}: the file is gone, expected {receipt['bytes']:,} bytes; run the part again"
        ) from error


def _check_file(uri: str, receipt: Receipt, expected: pa.Schema, seals: Seals, *, stored: bool) -> None:
    path = f"{uri}/{receipt['path']}"
    if stored:
        _make_young(uri, path, receipt)
    found = footer.read(path, receipt["bytes"], young=not stored)
    if seals.hold(receipt, found):
        return
    sealed = seals.are_on(receipt)
    if sealed and not seals.fit(receipt, found):
        raise PartFailed(
            f"{path}: the footer is not the one that the worker has checked and sealed, the file was damaged or replaced; "
            "run the part again"
        )
    footer.check(path, footer.parse(path, found), receipt, expected)
    if sealed:  # what the receipt says of the footer is true, what else it says is not what the worker said
        raise PartFailed(
            f"{path}: the receipt is not the one that the worker has sealed; commit receipts as they are, or run the part again"
        )
