"""One operation of the admin API as a command: what is asked, and how the answer is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import click

CURSOR = "next_cursor"
_WITH_QUERY = ("GET", "DELETE")
_MEMBER_OF = "__"  # budget_overrides__tokens: PLAN=9000 is {"budget_overrides": {"PLAN": {...}}}


@dataclass(frozen=True)
class Rows:
    """The answer's list `member` as a table; columns are names, or paths such as `totals.cost`."""

    member: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """What is sent. Members that were not given are in neither `query` nor `body`."""

    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any] | None


@dataclass(frozen=True)
class Operation:
    """One command: `command` is its words after `tollgate`, `help` its help.

    A parameter's name is the API's: of `path`, else of the query (GET, DELETE) or of the body.
    `fixed` is sent always. `view` is a table's rows or the name of a view. `paged` answers have a
    cursor, and get options to go on. `text_form` is the `format` for people, where JSON is another.
    `also` are statuses of failure with a body of the same shape. `streams`: the answer goes on.
    A `public` one needs no token.
    """

    command: str
    operation_id: str
    method: str
    path: str
    help: str
    parameters: tuple[click.Parameter, ...] = ()
    view: Rows | str = "record"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    paged: bool = False
    text_form: str = ""
    also: tuple[int, ...] = ()
    streams: bool = False
    public: bool = False

    @property
    def group(self) -> str:
        """Return the words before the last."""
        return self.command.rpartition(" ")[0]

    @property
    def verb(self) -> str:
        """Return the last word."""
        return self.command.rpartition(" ")[2]

    def request(self, said: Mapping[str, Any]) -> Request:
        """Return what is sent for the values of the parameters."""
        named = {name: f"{{{name}}}" for name in said if f"{{{name}}}" in self.path}
        path = self.path
        for name, place in named.items():
            path = path.replace(place, quote(str(said[name]), safe=""))
        rest = {**self.fixed, **_given(said, named)}
        if self.method in _WITH_QUERY:
            return Request(path, {name: _in_query(value) for name, value in rest.items()}, None)
        return Request(path, {}, rest)


def _given(said: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, Any]:
    """Return what was given beside the path, by the API's names."""
    given: dict[str, Any] = {}
    for name, value in said.items():
        if name in named or value is None or value is False or value in ("", (), {}):
            continue
        outer, _, inner = name.partition(_MEMBER_OF)
        if not inner:
            given[name] = value
            continue
        for key, amount in value.items():
            given.setdefault(outer, {}).setdefault(key, {})[inner] = amount
    return given


def _in_query(value: object) -> str:
    return "true" if value is True else str(value)
