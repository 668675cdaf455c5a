"""The rows of a version, one row group at a time: so the memory of an export does not grow with the table."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines import warehouse

__all__ = ["Batches"]


class Batches:
    """Record batches of some columns of a version, in the order of its files."""

    def __init__(self, snapshot: warehouse.Snapshot, columns: tuple[str, ...]) -> None:
        self.snapshot = snapshot
        self.schema = pa.schema([snapshot.schema.field(name).remove_metadata() for name in columns])
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Raises: InputError for a damaged file, PartFailed for one that is gone."""
        for file in self.snapshot.files():
            for group in range(len(warehouse.row_groups(file))):
                rows = warehouse.read_file(
                    file, self.snapshot.schema, names=self.schema.names, groups=[group]
                )
                yield from rows.cast(self.schema).to_batches()

    def reader(self) -> pa.RecordBatchReader:
        """The same for a library in C, which turns an error into text: the error itself is kept in `error`."""
        return pa.RecordBatchReader.from_batches(self.schema, self._kept())

    def _kept(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self
        except Exception as error:
            self.error = error
            raise
