"""`tollgate calibrate`. Exit codes: 0 proposed, 1 impossible, 3 too few executions of any phase."""

import sys
from pathlib import Path

import click

from gateway.core.errors import LedgerError
from gateway.ledger.database import ledger_errors, open_ledger
from gateway.ledger_cli import MomentType
from gateway.reports.calibrate import PERCENTILES, document, read_uses
from gateway.rule_files import budgets_or_defaults
from gateway.settings import ledger_url, load_settings

_EXIT_IMPOSSIBLE = 1
_EXIT_TOO_FEW = 3


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
)
@click.option("--since", type=MomentType(), help="Executions that ended from this time on.")
@click.option("--until", type=MomentType(), help="And before this time.")
@click.option("--percentile", type=click.Choice([*map(str, PERCENTILES)]), default="75")
@click.option("--least", type=click.IntRange(1), default=20, show_default=True,
              help="A phase with fewer executions keeps its base.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A new file.")
def calibrate(
    config_file: Path | None,
    since: int | None,
    until: int | None,
    percentile: str,
    least: int,
    out: Path | None,
) -> None:
    """Propose base budgets from what phases have used. Nothing that exists is overwritten."""
    settings = load_settings(config_file, {})
    config, _, _ = budgets_or_defaults(settings.budgets.file, lambda *_, **__: None)
    try:
        with ledger_errors(), open_ledger(ledger_url(settings)) as connection:
            uses = read_uses(connection, settings.tenant, since, until, least)
        if not any(use.enough for use in uses):
            most = max(use.executions for use in uses)
            click.echo(
                f"error: too few executions: no phase has {least}, the most is {most}. Remedy: "
                "wait for more, choose a longer period, or lower --least.",
                err=True,
            )
            sys.exit(_EXIT_TOO_FEW)
        text = document(config, uses, int(percentile))
        if out is None:
            click.echo(text, nl=False)
            return
        with out.open("x") as file:
            file.write(text)
    except FileExistsError:
        click.echo(f"error: {out} exists. Remedy: name a new file.", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)
    except OSError as error:
        click.echo(
            f"error: {out} cannot be written ({error.strerror}). Remedy: name a file in a folder "
            "that is there.",
            err=True,
        )
        sys.exit(_EXIT_IMPOSSIBLE)
    except LedgerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)
    click.echo(f"ok: proposed in {out}; try it with tollgate explain, then put it in place")
