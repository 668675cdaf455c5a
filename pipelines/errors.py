"""The errors of pipelines; a leaf exists only where a caller would act differently.

    PipelineError
    +-- SpecError           the pipeline file is wrong: correct it
    +-- InputError          the input is not what was declared: correct the file or the declaration
    |   +-- NoInput         a source has no file: correct its path, or bring files
    |   +-- SourceChanged   a file changed while it was read: run again when it is at rest
    |   +-- TooManyRejects  more bad rows than the limit allows: look at the quarantine, raise the limit
    +-- SchemaMismatch      rows do not fit the table: cast them, or evolve the table
    +-- LedgerImbalance     rows were lost or invented: a bug, nothing was committed
    +-- CheckFailed         a quality check with severity block failed: nothing was committed
    +-- CommitConflict      other writers won every race: run again
    +-- PartFailed          a part could not be done for a reason outside the data: run again to continue

Exit codes of the command line: 2 for SpecError, InputError, SchemaMismatch and CheckFailed; 3 for PartFailed; 4 for
CommitConflict; 1 for LedgerImbalance.
"""

__all__ = [
    "CheckFailed",
    "CommitConflict",
    "InputError",
    "LedgerImbalance",
    "NoInput",
    "PartFailed",
    "PipelineError",
    "SchemaMismatch",
    "SourceChanged",
    "SpecError",
    "TooManyRejects",
]


class PipelineError(Exception):
    """Base of all errors of pipelines."""

    exit_code = 1


class SpecError(PipelineError, ValueError):
    """The pipeline file is wrong. Correct what the message names; `problems` holds all of them.

    A ValueError too, so that pydantic collects it with its place and goes on to the next value.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type["SpecError"], tuple[str, ...]]:
        return type(self), self.problems


class InputError(PipelineError):
    """The input is not what was declared. Correct the file, or the declaration."""

    exit_code = 2


class NoInput(InputError):
    """A source has no file. Correct its path, or bring files."""


class SourceChanged(InputError):
    """A file changed while it was read. Run again when it is at rest."""


class TooManyRejects(InputError):
    """More rows were quarantined than the limit allows. Nothing was committed."""


class SchemaMismatch(PipelineError):
    """Rows do not fit the table. Cast them, or evolve the table first."""

    exit_code = 2


class LedgerImbalance(PipelineError):
    """Rows were lost or invented on the way. This is a bug of a step; nothing was committed."""


class CheckFailed(PipelineError):
    """A quality check with severity block failed. Nothing was committed."""

    exit_code = 2


class CommitConflict(PipelineError):
    """Other writers won every race. Run again."""

    exit_code = 4


class PartFailed(PipelineError):
    """A part could not be done for a reason outside the data. Finished parts are kept: run again to continue."""

    exit_code = 3
