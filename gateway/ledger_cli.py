"""`tollgate ledger verify | rebuild | export`. Exit codes: 0 done, 1 impossible, 3 differences."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click
from sqlalchemy import Connection

from gateway.command_store import open_store
from gateway.core.errors import LedgerError, StoreError
from gateway.core.identity import ID_PATTERN
from gateway.ledger.database import keep_epoch, ledger_errors, open_ledger
from gateway.ledger.export import FORMATS, TABLES, export
from gateway.ledger.stream import LedgerStream
from gateway.ledger.verify import Comparison, Difference
from gateway.ledger.windows import PREFIX
from gateway.settings import Settings, ledger_url, load_settings
from gateway.store.connection import StoreConnection
from gateway.store.examine import epoch
from gateway.store.keys import TenantKeys

_EXIT_IMPOSSIBLE = 1
_EXIT_DIFFERENT = 3
_CATCH_UP_S = 30.0
_LOOK_S = 0.05
_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
)
Answer = TypeVar("Answer")


@click.group()
def ledger() -> None:
    """Ask the ledger: does it agree with the store, give back what was lost, export."""


class _TaskType(click.ParamType[str]):
    """A task's id, or a bucket of untagged calls (`-` and a key's id)."""

    name = "task"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not ID_PATTERN.fullmatch(value.removeprefix("-")):
            self.fail(
                f"{value!r} cannot be a task's id: a letter or digit, then letters, digits, dots, "
                "underscores, hyphens",
                param,
                ctx,
            )
        return value


class MomentType(click.ParamType[int]):
    """An ISO 8601 date or time, UTC unless it says otherwise, as milliseconds."""

    name = "time"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return milliseconds since the epoch."""
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO 8601 time, such as 2026-11-23T08:00", param, ctx)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)


@ledger.command()
@_CONFIG
@click.option("--task", type=_TaskType(), help="This task alone.")
def verify(config_file: Path | None, task: str | None) -> None:
    """Compare the store's totals with the ledger's sums: tasks, and windows of spend limits.

    Calls may go on meanwhile. Exits with 3 if there are differences, 1 if it cannot be told.
    """
    verified = _with_both(config_file, lambda comparison, _: comparison.verify(task))
    for difference in verified.differences:
        click.echo(_told(difference))
    if verified.differences:
        differ = {difference.task for difference in verified.differences}
        windows = sum(name.startswith(PREFIX) for name in differ)
        click.echo(f"{len(differ) - windows} of {verified.tasks} tasks differ")
        if windows:
            click.echo(f"{windows} of {verified.windows} windows of spend limits differ")
        sys.exit(_EXIT_DIFFERENT)
    beside = f" and {verified.windows} windows of spend limits" if verified.windows else ""
    click.echo(f"ok: {verified.tasks} tasks{beside} agree")


def _told(difference: Difference) -> str:
    return (
        f"{difference.task}: {difference.field}: store {difference.store:,}, "
        f"ledger {difference.ledger:,}"
    )


@ledger.command()
@_CONFIG
def rebuild(config_file: Path | None) -> None:
    """Give the store back what it lost and the ledger knows: totals, limits, keys, bindings.

    Calls may go on meanwhile, and it may be repeated; no total is ever lowered.
    """

    async def work(comparison: Comparison, parts: "_Parts") -> str:
        rebuilt = await comparison.rebuild(parts.settings.store.tombstone_ms)
        tenant = parts.settings.tenant
        keep_epoch(parts.ledger, tenant, await epoch(parts.store, TenantKeys(tenant)))
        return (
            f"ok: {rebuilt.restored} of {rebuilt.tasks} tasks were given something back, "
            f"{rebuilt.tombstones} ended calls are known again; so were {rebuilt.windows} windows "
            f"of spend limits, {rebuilt.keys} gateway keys, {rebuilt.sessions} session bindings"
        )

    click.echo(_with_both(config_file, work))


@ledger.command(name="export")
@_CONFIG
@click.option("--table", type=click.Choice(list(TABLES)), default="calls", show_default=True)
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@click.option("--since", type=MomentType(), help="From this time on (ISO 8601).")
@click.option("--until", type=MomentType(), help="Before this time.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_table(
    config_file: Path | None,
    table: str,
    form: str,
    since: int | None,
    until: int | None,
    file: Path,
) -> None:
    """Write a table of the ledger into FILE. A gateway need not run."""
    settings = load_settings(config_file, {})
    with _told_to_the_user(), open_ledger(ledger_url(settings)) as connection:
        rows = export(
            connection, settings.tenant, table, form, file, since_ms=since, until_ms=until
        )
        click.echo(f"ok: {rows} rows of {table} in {file}")


# Parts --------------------------------------------------------------------------------------------


class _Parts:
    """What a command works with."""

    def __init__(self, settings: Settings, store: StoreConnection, ledger: Connection) -> None:
        self.settings = settings
        self.store = store
        self.ledger = ledger


def _with_both(
    config_file: Path | None, work: Callable[[Comparison, _Parts], Awaitable[Answer]]
) -> Answer:
    """Return what `work` makes of store and ledger."""
    settings = load_settings(config_file, {})

    async def run() -> Answer:
        async with _open_both(settings) as parts:
            stream = LedgerStream(parts.store, settings.tenant)
            catch_up = _catch_up(stream)
            return await work(
                Comparison(parts.store, settings.tenant, parts.ledger, catch_up), parts
            )

    with _told_to_the_user():
        return asyncio.run(run())


def _catch_up(stream: LedgerStream) -> Callable[[str], Awaitable[None]]:
    async def wait(entry_id: str) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + _CATCH_UP_S
        while not await stream.has_all_up_to(entry_id):
            if clock() > deadline:
                raise LedgerError(
                    "entries wait in the stream that nobody writes into the ledger. Remedy: see "
                    "that a gateway with ledger.writer runs and that the database is well, then "
                    "repeat."
                )
            await asyncio.sleep(_LOOK_S)

    return wait


@contextmanager
def _told_to_the_user() -> Iterator[None]:
    try:
        with ledger_errors():
            yield
    except (StoreError, LedgerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)


@asynccontextmanager
async def _open_both(settings: Settings) -> AsyncIterator[_Parts]:
    store = await open_store(settings)
    try:
        with open_ledger(ledger_url(settings)) as connection:
            yield _Parts(settings, store, connection)
    finally:
        await store.close()
