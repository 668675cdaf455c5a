"""scikit-learn estimators as models: made by name, fitted, kept as files without pickle (pip install "dlflow[sklearn]").

    <root>/<name>/1/estimator.skops     what skops writes: a zip of JSON and arrays; nothing in it is executed
                    model.json          the class, the digest of the file, metadata; as of a network

Only types of scikit-learn, NumPy and SciPy are read back: a file with any other is refused.
"""

import contextlib
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlflow import registry
from dlflow.errors import ModelError, ModelFileError
from dlflow.nn.choice import suggestion
from dlflow.nn.params import Array
from dlflow.training.numerics import one_blas_thread

__all__ = [
    "dumps",
    "estimator_from",
    "fit",
    "is_estimator",
    "load",
    "loads",
    "save_version",
    "scores",
    "task_of",
    "words",
]

FORMAT = "dlflow-estimator"
FORMAT_VERSION = 1
FILE, DESCRIPTION = "estimator.skops", "model.json"
KEY = "class"  # in a dict: this is no setting but another estimator
TRUSTED = ("sklearn.", "numpy.", "scipy.")


def estimator_from(name: str, settings: Mapping[str, Any], seed: int = 0) -> Any:
    """An estimator by its full name, such as "sklearn.tree.DecisionTreeClassifier".

    Settings that are a dict with a key "class" are estimators themselves, also in lists: the steps of a Pipeline. Where one
    has a `random_state` that is not set, it is the seed.

    Raises: ModelError with a "did you mean" for a name or setting that is not there, or if scikit-learn is not installed.
    """
    kind = _class(name)
    if not all(hasattr(kind, needed) for needed in ("fit", "get_params", "set_params")):
        raise ModelError(f"{name} is no estimator of scikit-learn; take a class with fit")
    known = sorted(kind._get_param_names())  # noqa: SLF001 - what get_params asks, before there is an object
    if unknown := sorted(set(settings) - set(known)):
        raise ModelError(f"{name}: no setting {unknown[0]!r}; {suggestion(unknown[0], known)}")
    try:
        made = kind(**{key: _setting(value, seed) for key, value in settings.items()})
    except TypeError as error:
        raise ModelError(f"{name}: {error}; give what it needs") from error
    if "random_state" in known and settings.get("random_state") is None:
        made.set_params(random_state=seed)
    return made


def _setting(value: Any, seed: int) -> Any:
    if isinstance(value, Mapping) and KEY in value:
        rest = {key: item for key, item in value.items() if key != KEY}
        return estimator_from(str(value[KEY]), rest, seed)
    if isinstance(value, (list, tuple)):
        made = [_setting(item, seed) for item in value]
        # the steps of a Pipeline are pairs, which TOML writes as lists
        return tuple(made) if len(made) == 2 and isinstance(made[0], str) else made
    return value


def _class(name: str) -> Any:
    module, _, kind = name.rpartition(".")
    if not name.startswith("sklearn.") or not kind:
        raise ModelError(
            f'estimator {name!r}: expected the full name of a class of scikit-learn, such as "sklearn.tree.DecisionTreeClassifier"'
        )
    try:
        importlib.import_module("sklearn")
    except ImportError as error:
        raise ModelError(f'{name} needs scikit-learn; pip install "dlflow[sklearn]"') from error
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"estimator {name!r}: scikit-learn has no module {module!r}; look at its API"
        ) from error
    if not isinstance(getattr(found, kind, None), type):
        known = [each for each in getattr(found, "__all__", dir(found)) if each[:1].isupper()]
        raise ModelError(f"estimator {name!r}: {module} has no {kind!r}; {suggestion(kind, known)}")
    return getattr(found, kind)


def task_of(estimator: Any, classes: int | None) -> str:
    """The task: "binary", "classes" or "regression"; `classes` is how many the label has, None for a value.

    Raises: ModelError if estimator and label do not go together, or it gives no probabilities.
    """
    from sklearn.base import is_classifier, is_regressor  # noqa: PLC0415 - an extra

    name = type(estimator).__name__
    if classes is None:
        if not is_regressor(estimator):
            raise ModelError(f"{name} is no regressor, and the label is a value; take one that is")
        return "regression"
    if not is_classifier(estimator):
        raise ModelError(
            f'{name} is no classifier, and the label is a class; take one that is, or set task = "regression" in the features step'
        )
    if not hasattr(estimator, "predict_proba"):
        raise ModelError(
            f"{name} gives no probabilities; put it into another that does: "
            f'estimator = "sklearn.calibration.CalibratedClassifierCV", settings = {{ estimator = {{ class = "...{name}" }} }}'
        )
    return "binary" if classes == 2 else "classes"


def fit(estimator: Any, X: Array, y: Array) -> Any:
    """The estimator, fitted on rows made flat. Shapes: X (n, ...), y (n,).

    Raises: ModelError with what scikit-learn says.
    """
    with _asking(estimator):
        return estimator.fit(X.reshape(len(X), -1), y)


def scores(estimator: Any, X: Array, task: str, classes: int) -> Array:
    """What metrics take: probabilities of label 1 (n,), of all classes (n, classes), or values (n,).

    A class that no training row has gets no probability.

    Raises: ModelError with what scikit-learn says.
    """
    flat = X.reshape(len(X), -1)
    with _asking(estimator):
        if task == "regression":
            return np.asarray(estimator.predict(flat), np.float64).reshape(len(X))
        found = np.asarray(estimator.predict_proba(flat), np.float64)
    made = np.zeros((len(X), classes))
    made[:, np.asarray(estimator.classes_, np.intp)] = found
    return made[:, 1] if task == "binary" else made


@contextlib.contextmanager
def _asking(estimator: Any) -> Iterator[None]:
    """One BLAS thread, so that the bits are the same wherever this runs; what scikit-learn refuses is a ModelError."""
    with one_blas_thread():
        try:
            yield
        except (ValueError, TypeError) as error:
            raise ModelError(f"{type(estimator).__name__}: {error}") from error


def words(name: str, settings: Mapping[str, Any]) -> str:
    """The estimator in words: "DecisionTreeClassifier max_depth 3"."""
    told = [f"{key} {_told(value)}" for key, value in settings.items()]
    return " ".join([name.rpartition(".")[2], *told])


def _told(value: Any) -> str:
    if isinstance(value, Mapping) and KEY in value:
        return f"({words(value[KEY], {key: item for key, item in value.items() if key != KEY})})"
    return f"[{', '.join(_told(item) for item in value)}]" if isinstance(value, (list, tuple)) else str(value)


def dumps(estimator: Any) -> bytes:
    """The estimator as a file.

    Raises: ModelError if skops is not installed, or the estimator holds what it could not read back.
    """
    data: bytes = _skops().dumps(estimator)
    if foreign := _foreign(data):
        raise ModelError(
            f"{type(estimator).__name__} holds {', '.join(foreign)}, expected only types of scikit-learn, NumPy and SciPy; it cannot be kept"
        )
    return data


def loads(data: bytes, where: str = "estimator") -> Any:
    """The estimator of a file.

    Raises: ModelFileError if it is no such file, or holds types that are not of scikit-learn, NumPy or SciPy.
    """
    skops = _skops()
    try:
        foreign = _foreign(data)
        if not foreign:
            return skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    except Exception as error:  # a damaged zip fails in many ways
        raise ModelFileError(
            f"{where}: cannot be read ({type(error).__name__}: {error}); take another copy"
        ) from error
    raise ModelFileError(
        f"{where}: holds {', '.join(foreign)}, expected only types of scikit-learn, NumPy and SciPy; it is refused"
    )


def is_estimator(folder: str | Path) -> bool:
    """Whether a version of a model is an estimator, and not a network."""
    return (Path(folder) / FILE).is_file()


def _foreign(data: bytes) -> list[str]:
    return [name for name in _skops().get_untrusted_types(data=data) if not name.startswith(TRUSTED)]


def _skops() -> Any:
    try:
        from skops import io  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ModelError('models of scikit-learn are kept by skops; pip install "dlflow[sklearn]"') from error
    return io


def save_version(
    root: str | Path, name: str, data: bytes, *, estimator: str, metadata: Mapping[str, Any]
) -> tuple[int, Path]:
    """Write what `dumps` gave as the next version of a named model; give its number and folder."""
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "estimator": estimator,
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "metadata": dict(metadata),
    }
    text = json.dumps(description, indent=1, allow_nan=False, ensure_ascii=False)
    return registry.save_files(root, name, {FILE: data, DESCRIPTION: text.encode()})


def load(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """The estimator of a folder, its file checked against the digest, and its metadata.

    Raises: ModelFileError if a file is not there, changed or foreign.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_bytes())
        data = (folder / FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{folder}: cannot be read ({error}); give the folder of one version") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelFileError(f"{path}: this is no estimator; registry.load reads networks")
    if description["format_version"] != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {description['format_version']!r}, expected {FORMAT_VERSION}; install a newer dlflow"
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != description["file_sha256"]:
        raise ModelFileError(
            f"{folder / FILE}: SHA-256 is {digest[:16]}..., expected {description['file_sha256'][:16]}...; the file is damaged, take another copy"
        )
    return loads(data, str(folder / FILE)), description["metadata"]
