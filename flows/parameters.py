"""The parameters of a deployed flow, checked by the Prefect API before a run is made. They are stored in clear: no secret goes here.

No `from __future__ import annotations` here: a deployed flow could not read the types.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.project import Project, open_project
from flows.session import Options

__all__ = ["STEP_TIMEOUT_S", "Parameters"]

STEP_TIMEOUT_S = 24 * 3600.0


class Parameters(BaseModel):
    """Which pipeline file, and how to run it."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="Path of the pipeline file, on the machine where the flow runs.")
    env: str | None = Field(default=None, description="Which [env.NAME] of the file.")
    settings: dict[str, str] = Field(default_factory=dict, description="Values of [params] to override.")
    workers: int | None = Field(
        default=None, ge=0, description="Worker processes of a local cluster; 0: this process."
    )
    scheduler: str | None = Field(
        default=None, pattern=r"^(tcp|tls)://\S+:\d+$", description="A running Dask cluster."
    )
    tls: tuple[str, str, str] | None = Field(default=None, description="Files: authority, certificate, key.")
    step_timeout_s: float = Field(
        default=STEP_TIMEOUT_S, gt=0, description="Seconds after which a step that has not ended is given up."
    )

    @model_validator(mode="after")
    def _one_cluster(self) -> "Parameters":
        if self.scheduler and self.workers is not None:
            raise ValueError("scheduler uses the workers that are there; leave workers out")
        if self.tls and not self.scheduler:
            raise ValueError("tls is for a scheduler; give its address")
        return self

    def project(self) -> Project:
        """The pipeline file, checked.

        Raises: SpecError.
        """
        return open_project(Path(self.file), self.settings, self.env)

    def options(self, project: Project) -> Options:
        """How to run: what is not said here is said by the environment."""
        return Options(workers=self.workers, scheduler=self.scheduler, tls=self.tls).within(
            project.environment
        )
