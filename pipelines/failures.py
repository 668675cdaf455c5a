"""Which failures are of the machine, what another try can mend, and how the last one is told."""

import errno

__all__ = ["ATTEMPTS", "FINAL", "is_of_the_machine", "sentence"]

ATTEMPTS = 3  # of a part
# what a second try cannot mend: a full or read-only disk, a forbidden or missing file
FINAL = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EDQUOT, errno.EFBIG}


def is_of_the_machine(error: BaseException) -> bool:
    """Whether neither the data nor a step is to blame."""
    return isinstance(error, OSError) or type(error).__name__ in {
        "KilledWorker",
        "CommClosedError",
        "FutureCancelledError",
        "CancelledError",
        "NoValidWorkerError",
    }


def sentence(name: str, error: BaseException) -> str:
    """What people are told of the last failure of the part with this name."""
    if type(error).__name__ == "KilledWorker":
        return (
            f"{name}: the workers that ran it died ({error}); most often they had too little memory: "
            f"give each worker more (fewer workers), or read smaller parts (part_bytes)"
        )
    return f"{name}: {type(error).__name__}: {error}; finished parts are kept, run again to continue"
