"""One table from its plan to its commit: passes over the parts, the ledger, the checks, then one atomic commit.

    passes (on the workers)  ->  receipts  ->  ledger balances  ->  checks pass  ->  quarantine commit  ->  data commit

Only receipts come back. A crash at any moment leaves either the old version or the new one; running again reuses
every receipt of the same fingerprint whose files are whole.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pipelines import evolution, publish, warehouse
from pipelines.engine import Runner
from pipelines.errors import CommitConflict, InputError
from pipelines.newcomers import refuse_known
from pipelines.passes import Passes, Told
from pipelines.places import Place, modified_s, place, remove_tree
from pipelines.plan import TablePlan, listed, with_load
from pipelines.publish import Built
from pipelines.sources import Source, columns
from pipelines.storage import TableRef

__all__ = ["build"]

_ABANDONED_S = 24 * 3600.0


def build(
    plan: TablePlan,
    runner: Runner,
    *,
    reference: Callable[[str], TableRef],
    run: str,
    progress: Told = lambda *_: None,
    lock_s: float = 600.0,
) -> Built:
    """Build and commit one table.

    `reference(name)` gives the version of another table that is read; `lock_s` is how long to wait for another run
    that builds this one.

    Raises: InputError, TooManyRejects, CheckFailed, LedgerImbalance: nothing is committed then.
    """
    root = place(plan.uri).parent
    with warehouse.lock(str(root), plan.name, wait_s=lock_s, run=run):
        plan = _as_it_is_now(plan)
        if plan.current:  # another run was quicker
            return publish.already(plan)
        work = root / "_dlflow" / "work" / f"{plan.name}-{plan.work}"
        for other in work.parent.glob(f"{plan.name}-*"):
            if other != work and _is_left(other):
                remove_tree(other)
        work.mkdir(parents=True, exist_ok=True)
        made = Passes(plan, runner, work, reference, progress, run)
        finished = made.finish()
        refuse_known(plan, finished)
        built = publish.publish(plan, finished, run=run, runner=runner)
        remove_tree(work)
        return built


def _is_left(work: Place) -> bool:
    """Whether an interrupted build of something else has left it: in a store another machine may be at it."""
    return isinstance(work, Path) or time.time() - modified_s(work) > _ABANDONED_S


def _as_it_is_now(plan: TablePlan) -> TablePlan:
    """The plan, made again if another run has changed the table since.

    Raises: InputError if files that were loaded changed, and the policy says so.
    """
    if plan.load is None:
        return replace(plan, current=warehouse.current_fingerprint_is(plan.uri, plan.fingerprint))
    if warehouse.loaded(plan.uri)[0] != plan.load.base:
        used = {one.name: one.source for one in plan.inputs if one.source is not None}
        declared = plan.load.declared
        plan = with_load(
            plan, declared, {name: listed(plan.spec, one, None) for name, one in declared.items()}, used
        )
        _check_columns(plan, used)
    if plan.load is not None and plan.load.problem is not None:
        raise InputError(plan.load.problem)
    return plan


def _check_columns(plan: TablePlan, used: Mapping[str, Source]) -> None:
    """Raises: CommitConflict if what is left to load has columns that this run has not planned with."""
    before = None if plan.load is None else plan.load.before
    for name, files in ({} if plan.load is None else plan.load.new).items():
        source = used[name]
        if source.contract != "evolve" or plan.current:
            continue
        known = before.evolved.get(name, {}) if before else {}
        if evolution.grown(source, known, [(one.path, columns(source, one)) for one in files]) != source:
            raise CommitConflict(
                f"table {plan.name!r}: another run has loaded files with other columns meanwhile; run again"
            )
