"""Reading a request's query: known parameters, each once."""

import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from gateway.admin.answers import ApiError

DEFAULT_LIMIT = 50
MOST = 200
_SHOWN_CHARACTERS = 130

LIMIT_PARAMETER: dict[str, Any] = {
    "name": "limit",
    "in": "query",
    "description": "How many a page has at most.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT},
}
CURSOR_PARAMETER: dict[str, Any] = {
    "name": "cursor",
    "in": "query",
    "description": "`next_cursor` of the page before.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}
PLACE_PARAMETER: dict[str, Any] = {**CURSOR_PARAMETER, "schema": {"type": "string"}}


class Query:
    """The parameters of a request. Every method raises ApiError (`invalid_query`)."""

    def __init__(self, request: web.Request, known: Sequence[str]) -> None:
        self._texts: dict[str, str] = {}
        for name, text in request.query.items():
            if name not in known:
                raise invalid_query(name[:_SHOWN_CHARACTERS], f"choose from {', '.join(known)}")
            if name in self._texts:
                raise invalid_query(name, "give it once")
            self._texts[name] = text

    def text(self, name: str) -> str:
        """Return a parameter's text, '' if it is not given."""
        return self._texts.get(name, "")

    def one_of(self, name: str, words: Sequence[str]) -> str:
        """Return one of `words`, in any letter case; '' if it is not given."""
        word = self.text(name).lower()
        if word and word not in words:
            raise invalid_query(name, f"choose one of {', '.join(words)}")
        return word

    def limit(self) -> int:
        """Return how many are wanted at most."""
        text = self.text("limit") or str(DEFAULT_LIMIT)
        if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MOST:
            raise invalid_query("limit", f"give a number from 1 to {MOST}")
        return int(text)

    def cursor(self) -> int | None:
        """Return the number below which to go on, None for the first page."""
        text = self.text("cursor")
        if text and not re.fullmatch("[0-9]{1,18}", text):
            raise invalid_query("cursor", "give the next_cursor of an answer, or leave it out")
        return int(text) if text else None


def invalid_query(name: str, remedy: str) -> ApiError:
    """Return the error of a parameter that cannot be."""
    message = f"The query parameter {name!r} is not valid. Remedy: {remedy}."
    return ApiError(400, "invalid_query", message, field=name)
