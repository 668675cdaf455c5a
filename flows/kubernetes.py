"""Workers on Kubernetes, brought to a number for a run by the machine's own `kubectl`, and back afterwards.

The scheduler and the group of workers are there already (deploy/kubernetes). Anything that can be scaled is a group: a
DaskWorkerGroup of the Dask operator, a Deployment.
"""

import subprocess
import sys

from flows.cluster_kind import Kubernetes

__all__ = ["ScaledGroup"]

_CALL_S = 30.0  # for one call of kubectl; end and lifeline leave room for one


class ScaledGroup:
    """A group that has `workers` replicas, or as many more as it had, until `close`.

    Raises: RuntimeError with what kubectl has said if it refuses.
    """

    def __init__(self, asked: Kubernetes, workers: int) -> None:
        self._asked = asked
        self.scheduler_address = asked.scheduler
        said = self._kubectl("get", "--subresource=scale", "--output=jsonpath={.spec.replicas}")
        if not said.isdigit():
            raise RuntimeError(f"kubectl get {asked.group}: replicas are {said!r}, expected a number")
        self._before, self._now = int(said), max(int(said), workers)
        self._scale(self._before, self._now)

    def close(self) -> None:
        """Give it the replicas that it had; a group that someone else has scaled since is left as it is."""
        try:
            self._scale(self._now, self._before)
        except RuntimeError as error:
            print(f"{error}; it is left as it is", file=sys.stderr, flush=True)  # noqa: T201

    def _scale(self, current: int, wanted: int) -> None:
        if current != wanted:
            self._kubectl("scale", f"--current-replicas={current}", f"--replicas={wanted}")

    def _kubectl(self, verb: str, *options: str) -> str:
        asked = self._asked
        where = {"--namespace": asked.namespace, "--context": asked.context}
        chosen = [f"{name}={value}" for name, value in where.items() if value is not None]
        command = [
            "kubectl",
            verb,
            *options,
            *chosen,
            f"--request-timeout={_CALL_S / 2:g}s",
            "--",
            asked.group,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_CALL_S, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"kubectl {verb} {asked.group}: no answer within {_CALL_S:g} s") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RuntimeError(f"kubectl {verb} {asked.group}: {last}")
        return done.stdout.strip()
