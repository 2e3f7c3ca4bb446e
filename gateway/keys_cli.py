"""`tollgate keys create | list | rotate | revoke`, on the store itself: who reaches that, may.

`tollgate keys remote` does the same over the admin API. Exit codes: 0 done, 1 impossible.
"""

import asyncio
import getpass
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from gateway.admin_cli.commands import group_of
from gateway.admin_cli.parameters import once_each
from gateway.command_store import open_store
from gateway.core.acts import Act
from gateway.core.errors import KeyIsOver, StoreError
from gateway.core.identity import ID_PATTERN
from gateway.core.keys import (
    TAG_NAMES,
    GatewayKey,
    TagTexts,
    changed,
    public_fields,
    rotated,
    secret_digest,
)
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase, allowed_terms, parse_term
from gateway.settings import load_settings
from gateway.store.key_making import key_text, new_id, new_secret
from gateway.store.key_store import KeyStore

_EXIT_IMPOSSIBLE = 1
_HOUR_MS = 3_600_000
_VOCABULARIES: dict[str, Any] = {
    "phase": WorkPhase,
    "complexity": Complexity,
    "importance": ImportanceTier,
}
_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The gateway's configuration [default: config/gateway.yaml, if it exists].",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
_REASON = click.option("--reason", default="", help="Why, for the audit.")
Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])


def _login() -> str:
    """Return who works here, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "tollgate keys"


_BY = click.option("--by", default=_login, help="Who says so, for the audit [default: your login].")


@click.group()
def keys() -> None:
    """Gateway keys: who pays for a call, where it may go, what it may say."""


keys.add_command(group_of("keys remote", "The same over the admin API, where no store is reached."))


class _TagType(click.ParamType[tuple[str, object]]):
    """A tag and its value, such as phase=PLAN."""

    name = "tag=value"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        name, _, text = value.partition("=")
        if name == "task":
            if not ID_PATTERN.fullmatch(text):
                self.fail(f"{text!r} cannot be a task's id", param, ctx)
            return name, text
        if name not in _VOCABULARIES:
            known = ", ".join(("task", *_VOCABULARIES))
            self.fail(f"{name!r} is no tag that a key can bring along: {known}", param, ctx)
        vocabulary = _VOCABULARIES[name]
        term = parse_term(vocabulary, text)
        if term is None:
            self.fail(
                f"{text!r} is no {name}: {allowed_terms(vocabulary)}",
                param,
                ctx,
            )
        return name, term


def _tags(flag: str, name: str, told: str) -> Callable[[Command], Command]:
    """Return the option for tags and their values, each tag once."""
    kind = _TagType()
    return click.option(flag, name, multiple=True, type=kind, callback=once_each, help=told)


@keys.command()
@_CONFIG
@_JSON
@click.option("--team", default="", help="Whose budget it counts for.")
@click.option(
    "--upstream", "upstreams", multiple=True, help="Allow this upstream alone, repeatable."
)
@click.option("--model", "models", multiple=True, help="Allow models like gpt-*, repeatable.")
@click.option(
    "--may-set",
    multiple=True,
    type=click.Choice([*TAG_NAMES, "none"]),
    help="Let its calls set this tag alone, repeatable [default: all tags].",
)
@_tags("--pin", "pins", "Bind its calls: task=T-1.")
@_tags("--default", "defaults", "For calls without one.")
@click.option("--critical", is_flag=True, help="Let its calls claim importance critical.")
@click.option("--refusal-status", type=click.IntRange(400, 499), help="Status of its refusals.")
@click.option("--tasks-per-hour", type=click.IntRange(1), help="New tasks within an hour, at most.")
@click.option("--open-tasks", type=click.IntRange(1), help="Open tasks at a time, at most.")
@click.option("--days", type=click.IntRange(1, 3650), help="Valid that long [default: for good].")
@_BY
@_REASON
@click.argument("name")
def create(config_file: Path | None, as_json: bool, name: str, **said: Any) -> None:
    """Make a key called NAME. Its text is shown now and never again."""
    now_ms, secret = _now_ms(), new_secret()
    days, may_set = said["days"], said["may_set"]
    key = GatewayKey(
        id=new_id(),
        secret_sha256=secret_digest(secret.encode()),
        name=name,
        tenant=load_settings(config_file, {}).tenant,
        team=said["team"],
        created_ms=now_ms,
        expires_ms=now_ms + days * 24 * _HOUR_MS if days is not None else None,
        upstreams=said["upstreams"],
        models=said["models"],
        may_set=tuple(tag for tag in may_set if tag != "none") if may_set else None,
        pins=TagTexts(**said["pins"]),
        defaults=TagTexts(**said["defaults"]),
        may_claim_critical=said["critical"],
        refusal_status=said["refusal_status"],
        tasks_per_hour=said["tasks_per_hour"],
        open_tasks=said["open_tasks"],
    )
    act = _act("create", key, said["by"], said["reason"])
    _with_store(config_file, lambda store: store.add(key, act))
    _show_once(key, secret, as_json=as_json)


@keys.command(name="list")
@_CONFIG
@_JSON
def list_keys(config_file: Path | None, as_json: bool) -> None:
    """Show all keys of the gateway's tenant, without their secrets."""
    every = _with_store(config_file, lambda store: store.read_all())
    tenant = load_settings(config_file, {}).tenant
    found = [key for key in every if key.tenant == tenant]
    if as_json:
        click.echo(_json([public_fields(key) for key in found]))
        return
    now_ms = _now_ms()
    for key in found:
        click.echo(
            f"{key.id}  {key.state_at(now_ms):8}{key.name}{f'  ({key.team})' if key.team else ''}"
        )


@keys.command()
@_CONFIG
@_JSON
@click.option("--grace-hours", default=24, show_default=True, type=click.IntRange(0, 720))
@_BY
@_REASON
@click.argument("key_id")
def rotate(
    config_file: Path | None, as_json: bool, grace_hours: int, key_id: str, **said: str
) -> None:
    """Give key KEY_ID a new secret, shown now; the old one is good for the hours of grace."""
    secret, now_ms = new_secret(), _now_ms()

    def change(key: GatewayKey) -> GatewayKey:
        return rotated(key, secret.encode(), now_ms=now_ms, grace_ms=grace_hours * _HOUR_MS)

    try:
        key = _changed(config_file, key_id, change, "rotate", said)
    except KeyIsOver as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)
    _show_once(key, secret, as_json=as_json)


@keys.command()
@_CONFIG
@_BY
@_REASON
@click.argument("key_id")
def revoke(config_file: Path | None, key_id: str, **said: str) -> None:
    """Stop key KEY_ID for good: its next call is answered 401 on every gateway."""
    now_ms = _now_ms()
    _changed(config_file, key_id, lambda key: changed(key, revoked_ms=now_ms), "revoke", said)
    click.echo(f"ok: {key_id} is revoked")


# Parts --------------------------------------------------------------------------------------------


def _act(verb: str, key: GatewayKey, by: str, reason: str) -> Act:
    """Return what is put on record, as the admin API does."""
    return Act(f"key.{verb}", by, reason, {"name": key.name})


def _changed(
    config_file: Path | None,
    key_id: str,
    change: Callable[[GatewayKey], GatewayKey],
    verb: str,
    said: Mapping[str, str],
) -> GatewayKey:
    tenant = load_settings(config_file, {}).tenant

    async def work(store: KeyStore) -> GatewayKey | None:
        known = await store.read(key_id)
        if known is None or known.tenant != tenant:
            return None
        return await store.change(key_id, change, _act(verb, known, said["by"], said["reason"]))

    key = _with_store(config_file, work)
    if key is None:
        click.echo(f"error: there is no key {key_id}. Remedy: see `tollgate keys list`.", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)
    return key


def _show_once(key: GatewayKey, secret: str, *, as_json: bool) -> None:
    text = key_text(key, secret)
    if as_json:
        click.echo(_json({**public_fields(key), "key": text}))
    else:
        click.echo(f"{text}\nKeep it now: only its digest is stored. Send it as the API key.")


def _json(value: object) -> str:
    return json.dumps(json.loads(msgspec.json.encode(value)), indent=2)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _with_store(config_file: Path | None, work: Callable[[KeyStore], Awaitable[Answer]]) -> Answer:
    """Return what `work` makes of the keys; a store that fails is told to the user, exit code 1."""
    settings = load_settings(config_file, {})

    async def run() -> Answer:
        connection = await open_store(settings)
        try:
            return await work(KeyStore(connection))
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except StoreError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)
