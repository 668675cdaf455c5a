"""Seals: a worker says in a receipt that it has read back the footer of the file from the storage and found it right.

A seal names the program that checked, the columns, the digest of the footer's bytes, and the digest of this and all that
the receipt says. The driver makes it anew from the receipt, from its own columns and from the footer's bytes as they are
now. If the two are the same, the check of the worker holds for this very footer and this very receipt, and need not be
done again: taking a footer apart costs ten times as much as reading it. A footer with another digest is not taken
apart at all: of 7,336 single flipped bits of one, 78 made pyarrow 26.0 abort the process when its statistics were looked
at (an exception of C++ that nothing catches). Without a seal for this the driver checks all by itself.

A seal finds accidents, not forgers: who can write files and receipts can write seals.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

__all__ = ["Seals"]

_CHECK = 2  # raise it with every change of `footer.check_columns` or `statistics`: older seals are void then
_PROGRAM = f"dlflow-{_CHECK}/pyarrow-{pa.__version__}"  # another pyarrow may read a footer otherwise
_encode = json.JSONEncoder(sort_keys=True).encode


class Seals:
    """The seals of files that have these columns (without the partition columns)."""

    def __init__(self, columns: pa.Schema) -> None:
        said = _encode([[field.name, str(field.type), field.nullable] for field in columns])
        self._start = f"{_PROGRAM}:{hashlib.sha256(said.encode()).hexdigest()[:16]}:"

    def make(self, receipt: Mapping[str, Any], footer: bytes) -> str:
        """The seal of a receipt whose file ends with these bytes."""
        start = self._start + hashlib.sha256(footer).hexdigest()
        return f"{start}:{hashlib.sha256((start + _said(receipt)).encode()).hexdigest()}"

    def hold(self, receipt: Mapping[str, Any], footer: bytes) -> bool:
        """Whether the receipt has the seal that it would be given now."""
        try:
            return "seal" in receipt and receipt["seal"] == self.make(receipt, footer)
        except (AttributeError, TypeError, ValueError):  # what the receipt says is not what one says
            return False

    def fit(self, receipt: Mapping[str, Any], footer: bytes) -> bool:
        """Whether the seal of `are_on` was made for these bytes, whatever the receipt says."""
        return str(receipt["seal"]).startswith(self._start + hashlib.sha256(footer).hexdigest())

    def are_on(self, receipt: Mapping[str, Any]) -> bool:
        """Whether there is a seal of this program for these columns, right or wrong."""
        return str(receipt.get("seal", "")).startswith(self._start)


def _said(receipt: Mapping[str, Any]) -> str:
    """All that a receipt says, as text; the digest of the rows is in the path. A fifth of the time of JSON."""
    partition = sorted(receipt["partition"].items())
    return repr(
        (
            receipt["path"],
            receipt["rows"],
            receipt["bytes"],
            partition,
            receipt["row_groups"],
            receipt["stats"],
        )
    )
