"""Asks the gateway for one command, shows the answer, and ends with the exit code."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlunsplit

import click

from gateway.admin_cli.operation import CURSOR, Operation, Request
from gateway.admin_cli.terminal_text import lines, one_line
from gateway.admin_client import AdminAnswer, AdminClient, AdminError

_EXIT_IMPOSSIBLE = 1
_FIRST_FAILURE = 400
_ROWS = 50


def run(operation: Operation, said: dict[str, Any]) -> None:
    """Do what a command says. Exit codes: 0 done, 1 impossible or refused."""
    config_file, url, token, as_json = (
        said.pop(name) for name in ("config_file", "url", "token", "as_json")
    )
    try:
        client = client_of(config_file, url, token, public=operation.public)
        if operation.streams:
            _watch(client, operation, said, as_json=as_json)
        else:
            _ask(client, operation, said, as_json=as_json)
    except AdminError as error:
        if as_json and error.body is not None:
            click.echo(_json(error.body))
        click.echo(f"error: {one_line(str(error))}", err=True)
        sys.exit(_EXIT_IMPOSSIBLE)


def client_of(config_file: Path | None, url: str, token: str, *, public: bool) -> AdminClient:
    """Return who asks the gateway of `url`, else the configured one. Raises AdminError."""
    if url and (token or public):
        return AdminClient(url, token)
    from gateway.settings import load_settings

    settings = load_settings(config_file, {})
    admin = settings.admin
    host = f"[{admin.host}]" if ":" in admin.host else admin.host
    configured = urlunsplit(("http", f"{host}:{admin.port}", "", "", ""))
    known = token or admin.token
    if not known and not public:
        known = _token_in(settings.state_dir / "admin-token")
    return AdminClient(url or configured, known)


def _token_in(file: Path) -> str:
    """Return the token that the gateway made for itself."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise AdminError(
            f"no admin token: {file} cannot be read ({reason}). Remedy: work in the "
            "folder that the gateway was started in, or set TOLLGATE_ADMIN_TOKEN."
        ) from None


def _ask(client: AdminClient, operation: Operation, said: dict[str, Any], *, as_json: bool) -> None:
    if operation.paged:
        answer = _joined(client, operation, said)
    else:
        if operation.text_form:
            said["format"] = "json" if as_json else operation.text_form
        request = operation.request(said)
        answer = client.ask(
            operation.method, request.path, request.query, request.body, operation.also
        )
    if as_json:
        click.echo(_json(answer.body))
    elif operation.text_form:
        click.echo(lines(answer.text))
    else:
        _show(operation, answer.body, said)
    if answer.status >= _FIRST_FAILURE:
        sys.exit(_EXIT_IMPOSSIBLE)


def _joined(client: AdminClient, operation: Operation, said: dict[str, Any]) -> AdminAnswer:
    """Return a list's pages as one: as many rows as are wanted, and the cursor behind them."""
    most = None if said.pop("every") else (said.pop("limit", None) or _ROWS)
    said.pop("limit", None)
    request = operation.request(said)
    body: dict[str, Any] = {}
    for page in client.pages(request.path, request.query, most):
        for name, value in page.items():
            body[name] = body.get(name, []) + value if isinstance(value, list) else value
    return AdminAnswer(200, "", body)


def _watch(
    client: AdminClient, operation: Operation, said: dict[str, Any], *, as_json: bool
) -> None:
    most, seen = said.pop("count"), 0
    request: Request = operation.request(said)
    try:
        for event in client.events(request.path, request.query):
            if as_json:
                click.echo(json.dumps(event))
            else:
                _show(operation, event, said)
            sys.stdout.flush()
            seen += 1
            if seen == most:
                return
    except KeyboardInterrupt:
        return
    raise AdminError("the gateway ended the feed. Remedy: see whether it stopped; watch again.")


def _json(body: Any) -> str:
    """Return what is safe on a terminal, too: all but plain ASCII is escaped."""
    return json.dumps(body, indent=2)


def _show(operation: Operation, body: Any, said: Mapping[str, Any]) -> None:
    from gateway.admin_cli.views import show

    more = f"more: --all, or --cursor {body[CURSOR]}" if operation.paged and body[CURSOR] else ""
    show(operation.view, body, said)
    if more:
        click.echo(one_line(more))
