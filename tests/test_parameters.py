"""The parameters of deployed flows: what Prefect's API refuses before a run is made."""

import pytest
from pydantic import ValidationError

from flows.parameters import Parameters
from flows.session import Options
from tests.test_environment import PROD, file  # noqa: F401


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": -1}, "greater than or equal to 0"),
        ({"scheduler": "head:8786"}, "should match pattern"),
        ({"scheduler": "tcp://head:8786", "workers": 2}, "leave workers out"),
        ({"tls": ("a", "b", "c")}, "tls is for a scheduler"),
        ({"worker": 2}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Parameters(file="pipeline.toml", **given)


def test_what_is_not_said_is_said_by_the_environment(file, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HEAD", "head")
    run = Parameters(file=str(file(PROD)), env="prod")

    assert run.options(run.project()).scheduler == "tls://head:8786"
    own = Parameters(file=run.file, env="prod", workers=2)
    assert own.options(own.project()) == Options(workers=2)


def test_parameters_come_back_from_json_as_they_were():
    run = Parameters(file="f", scheduler="tls://h:1", tls=("a", "b", "c"), settings={"day": "1"})

    assert Parameters(**run.model_dump(mode="json")) == run
