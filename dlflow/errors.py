"""The errors of dlflow; a leaf exists only where a caller would act differently.

    DlflowError
    +-- ModelError          the model or its data do not fit together: correct the layers, the loss or the labels
    +-- ModelFileError      a model or checkpoint file is damaged or foreign: take another one
    +-- NonFinite           nan or inf in a loss or gradient: lower the learning rate, look at the batch
    +-- PeerLost            a rank is gone or silent: the supervisor re-forms the gang
    +-- GangFailed          the gang could not be kept together: see the reasons, run again to resume

Exit codes of the command line: 2 for ModelError and NonFinite, 3 for the others.
"""

__all__ = ["DlflowError", "GangFailed", "ModelError", "ModelFileError", "NonFinite", "PeerLost"]


class DlflowError(Exception):
    """Base of all errors of dlflow."""

    exit_code = 3


class ModelError(DlflowError):
    """The model, its loss and its data do not fit together. Correct the layers, the loss or the labels."""

    exit_code = 2


class ModelFileError(DlflowError):
    """A model or checkpoint file is damaged or foreign. Take another one."""


class NonFinite(DlflowError):
    """A loss or gradient is nan or inf; training has diverged. Lower the learning rate or look at the batch."""

    exit_code = 2


class PeerLost(DlflowError):
    """A rank is gone or silent. The supervisor re-forms the gang at the last completed step."""


class GangFailed(DlflowError):
    """The gang could not be kept together. Run again: training resumes at the last checkpoint."""
