"""The `dlflow` command; its commands are in `flows/commands`. Results go to stdout; what fails is one sentence and one fix, with the traceback in a log file.

Exit codes: 0 done (or nothing to do), 1 a bug of dlflow, 2 the pipeline file or the data, 3 the machine (workers, disk, cluster),
4 another run won, 130 Ctrl-C, 143 SIGTERM.
"""

import os
import signal
import sys
import warnings
from types import FrameType

# One BLAS thread, for this process and for the workers it starts: more change the bits and slow small products down.
# It has to be said before NumPy is imported for the first time.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import click  # noqa: E402 - see above

from flows.commands.analysis import analyse  # noqa: E402
from flows.commands.certificates import certificates  # noqa: E402
from flows.commands.doctor import doctor  # noqa: E402
from flows.commands.export import export  # noqa: E402
from flows.commands.ingest import evidence, infer, quarantine, replay  # noqa: E402
from flows.commands.models import models, promote  # noqa: E402
from flows.commands.run import check, demo, new, plan, run  # noqa: E402
from flows.commands.schedule import backfill, deploy, serve, status  # noqa: E402
from flows.commands.scoring import explain, export_model, predict, score, score_server  # noqa: E402
from flows.commands.search import search  # noqa: E402
from flows.commands.tables import checks, history, sql, tables  # noqa: E402
from flows.commands.warehouse import changes, maintain, pins, release, releases, restore  # noqa: E402
from flows.failures import show_warning  # noqa: E402
from flows.options import Terminated  # noqa: E402

__all__ = ["main"]


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        del ctx
        return list(self.commands)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="dlflow")
def cli() -> None:
    """From raw rows to a trained model: dirty files in, committed tables and a model out.

    \b
    First steps:
      dlflow demo                 see the whole thing on data made up on the spot
      dlflow new shop             a project of your own that runs at once
      cd shop && dlflow run
    """


for _command in (  # in the order in which people need them
    demo,
    new,
    infer,
    check,
    plan,
    run,
    tables,
    history,
    checks,
    analyse,
    sql,
    export,
    quarantine,
    evidence,
    replay,
    changes,
    restore,
    release,
    releases,
    pins,
    maintain,
    models,
    promote,
    predict,
    score,
    score_server,
    export_model,
    explain,
    search,
    deploy,
    serve,
    status,
    backfill,
    certificates,
    doctor,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point: every known failure is one sentence."""
    _terminate_like_interrupt()
    warnings.showwarning = show_warning
    try:
        code = cli.main(prog_name="dlflow", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort, Terminated) as stop:
        click.echo("stopped; what was committed stays, run again to continue", err=True)
        code = 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # `dlflow sql ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _terminate_like_interrupt() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    main()
