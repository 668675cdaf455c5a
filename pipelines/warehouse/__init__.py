"""Tables of Parquet files under a Delta log: atomic, versioned, readable by DuckDB, Polars, Spark and pandas.

Workers write files (`write_file`: pyarrow only) and hand back receipts; the driver commits them in one log entry.
deltalake is imported inside the functions that need it: a worker never pays for it.

    names        what tables and columns may be called, where tables lie
    columns      Arrow columns as Delta declares them
    partition    partition values as text
    statistics   bounds for pruning, from the footer
    file         one data file: write, read, receipt
    receipt      receipts checked before the log is touched
    log          the Delta log: the one place that commits
    snapshot     one version of a table as a value
    lineage      what a commit says of itself
    commit       plan, check, compare-and-swap
    operation    create, append, replace, replace partitions
    split        rows as files, one or more per partition
    keys         key columns, and which row has the key of which
    ranges       rows sorted by a key over all workers
    merge        rows changed by key: upsert, deletion (by key, by condition), compaction, restoration
    rewriting    what workers do for that
    prune        the files that a condition needs
    loads        which source files a table's rows are from
    fitted, by_group   what steps have fitted, beside the table
    sealed       small files that a commit names by their digest
    reading, frame   rows of a version, filtered: Arrow, units for training, Dask DataFrame
    series       time series: gaps, coarser steps, what was known when
    feed         rows added, removed, updated between two versions
    dimension    dimensions with history: valid from, valid to
    releases     names for versions of several tables that belong together
    pins         versions that somebody still needs
    moment       versions by number, time or release
    companion    a table beside a table, seen with it
    quarantine, evidence   the rejected rows, and the contradictions, beside a table
    catalog      tables and their history
    sql          read-only SQL over all tables
    vacuum       files that nobody can need
    upkeep       compaction, checkpoints and vacuum of all tables
    restated     log entries that state the columns anew
    sweep        what a vacuum is about to remove from an object store
    lock, preflight, disk
"""

from pipelines.warehouse.catalog import history, newest_build, tables
from pipelines.warehouse.commit import Committed, commit, current_fingerprint_is
from pipelines.warehouse.compaction import compact
from pipelines.warehouse.deletion import delete, delete_keys
from pipelines.warehouse.dimension import history_schema, record_changes
from pipelines.warehouse.evidence import commit_evidence, read_evidence, tidy_evidence, write_evidence
from pipelines.warehouse.feed import Feed, changes
from pipelines.warehouse.file import LiveFile, Receipt, read_file, row_groups, write_file
from pipelines.warehouse.fitted import file_groups, fitted_of, prune_fitted
from pipelines.warehouse.frame import dask_frame
from pipelines.warehouse.lineage import Lineage, source_transactions
from pipelines.warehouse.loads import LoadedFile, Manifest, load, loaded, prune_manifests
from pipelines.warehouse.lock import lock
from pipelines.warehouse.merge import Changed
from pipelines.warehouse.moment import open_at, version_at
from pipelines.warehouse.names import evidence_uri, quarantine_uri, table_uri
from pipelines.warehouse.operation import append, create, replace, replace_partitions
from pipelines.warehouse.partition import periods
from pipelines.warehouse.pins import LEASE_S, Pin, held, pin, pins, unpin
from pipelines.warehouse.preflight import preflight
from pipelines.warehouse.quarantine import carry_rejects, commit_rejects, read_quarantine, tidy, write_rejects
from pipelines.warehouse.reading import Unit, read, read_matrix, read_unit, units
from pipelines.warehouse.releases import (
    Release,
    drop_release,
    make_release,
    open_release,
    release_versions,
    releases,
)
from pipelines.warehouse.restoration import restore
from pipelines.warehouse.series import as_of, gaps, resample
from pipelines.warehouse.snapshot import RELEASED, Snapshot
from pipelines.warehouse.split import write_rows
from pipelines.warehouse.sql import sql
from pipelines.warehouse.upkeep import FileSizes, Upkeep, maintain
from pipelines.warehouse.upsert import upsert
from pipelines.warehouse.vacuum import retained, vacuum

__all__ = [
    "LEASE_S",
    "RELEASED",
    "Changed",
    "Committed",
    "Feed",
    "FileSizes",
    "Lineage",
    "LiveFile",
    "LoadedFile",
    "Manifest",
    "Pin",
    "Receipt",
    "Release",
    "Snapshot",
    "Unit",
    "Upkeep",
    "append",
    "as_of",
    "carry_rejects",
    "changes",
    "commit",
    "commit_evidence",
    "commit_rejects",
    "compact",
    "create",
    "current_fingerprint_is",
    "dask_frame",
    "delete",
    "delete_keys",
    "drop_release",
    "evidence_uri",
    "file_groups",
    "fitted_of",
    "gaps",
    "held",
    "history",
    "history_schema",
    "load",
    "loaded",
    "lock",
    "maintain",
    "make_release",
    "newest_build",
    "open_at",
    "open_release",
    "periods",
    "pin",
    "pins",
    "preflight",
    "prune_fitted",
    "prune_manifests",
    "quarantine_uri",
    "read",
    "read_evidence",
    "read_file",
    "read_matrix",
    "read_quarantine",
    "read_unit",
    "record_changes",
    "release_versions",
    "releases",
    "replace",
    "replace_partitions",
    "resample",
    "restore",
    "retained",
    "row_groups",
    "source_transactions",
    "sql",
    "table_uri",
    "tables",
    "tidy",
    "tidy_evidence",
    "units",
    "unpin",
    "upsert",
    "vacuum",
    "version_at",
    "write_evidence",
    "write_file",
    "write_rejects",
    "write_rows",
]
