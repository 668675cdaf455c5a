"""Do these versions of Prefect, FastAPI, SQLAlchemy and Dask work together? An import does not show it.

Two sets that install without complaint do not: prefect 3.8.8 with fastapi 0.155 and later runs no flow at all; with
sqlalchemy 2.1 it runs flows, and schedules never fire, silently.
"""

import re
import time
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement


def test_a_flow_with_a_task_on_dask_runs(prefect_server, local_cluster):
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.orchestration import get_client

    @task(cache_policy=NO_CACHE)
    def step():
        return local_cluster.submit(sum, [1, 2]).result()

    @flow
    def smoke():
        return step()

    state = smoke(return_state=True)

    assert state.result() == 3
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).state.is_completed()


def test_a_cron_schedule_makes_runs(prefect_server):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.schedules import CronSchedule

    @flow
    def nightly():
        pass

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(nightly)
        deployment = client.create_deployment(
            flow_id, "smoke", schedules=[_schedule(CronSchedule(cron="* * * * *"))]
        )
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))

        end = time.monotonic() + 60
        while not (runs := client.read_flow_runs(deployment_filter=wanted)):
            assert time.monotonic() < end, "no run was scheduled in 60 s"
            time.sleep(0.1)  # the server looks at new deployments every 5 s

    assert all(run.state.is_scheduled() for run in runs)


def _schedule(schedule):
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    return DeploymentScheduleCreate(schedule=schedule, active=True)


@pytest.mark.parametrize("name", ["dask", "distributed", "fastapi", "prefect", "sqlalchemy"])
def test_what_is_installed_is_within_the_declared_bounds(name, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    declared = {
        re.sub(r"[-_.]+", "-", bound.name): bound for bound in map(Requirement, project["dependencies"])
    }

    assert version(name) in declared[name].specifier
