"""Makes click's commands of the table's operations."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from gateway.admin_cli.operation import Operation
from gateway.admin_cli.operations import OPERATIONS

_ASKING = (
    click.Option(
        ["--config", "config_file"],
        type=click.Path(path_type=Path, dir_okay=False),
        help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
    ),
    click.Option(
        ["--url"],
        default="",
        envvar="TOLLGATE_ADMIN_URL",
        help="The admin plane [default: TOLLGATE_ADMIN_URL, else as configured].",
    ),
    click.Option(
        ["--token"],
        default="",
        envvar="TOLLGATE_ADMIN_TOKEN",
        help="The admin token [default: TOLLGATE_ADMIN_TOKEN, else as configured].",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Show the API's answer."),
)
_PAGING = (
    click.Option(["--limit"], type=click.IntRange(1), help="How many at most [default: 50]."),
    click.Option(["--cursor"], default="", help="Go on where an answer's next_cursor says."),
    click.Option(["--all", "every"], is_flag=True, help="All there are."),
)
_WATCHING = (click.Option(["--count"], type=click.IntRange(1), help="End after so many."),)


def command_of(operation: Operation) -> click.Command:
    """Return an operation's command."""
    more = _PAGING if operation.paged else _WATCHING if operation.streams else ()
    return click.Command(
        operation.verb,
        callback=partial(_run, operation),
        params=[*operation.parameters, *more, *_ASKING],
        help=operation.help,
        short_help=operation.help.partition(";")[0].removesuffix("."),
    )


def group_of(words: str, told: str) -> click.Group:
    """Return the group of the commands that begin with `words`; `told` is its help."""
    commands = [command_of(each) for each in OPERATIONS if each.group == words]
    return click.Group(words.rpartition(" ")[2], commands=commands, help=told)


def _run(operation: Operation, **said: Any) -> None:
    for name, value in said.items():
        if isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
            raise click.UsageError(f"{name}: {value!a} is not text. Remedy: write it in UTF-8.")
    from gateway.admin_cli.desk import run

    run(operation, said)
