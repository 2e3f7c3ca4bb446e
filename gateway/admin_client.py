"""The admin API as programs ask it: the command line, the demo, load tests."""

import http.client
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_WAIT_S = 10.0
_SILENCE_S = 60.0  # of a feed, which says something every 15 s
_PAGE = 200
_GOOD = range(200, 300)
_SHOWN_CHARACTERS = 200


class AdminError(Exception):
    """The admin API answered with an error, or not at all; the text says what to do.

    `body` is the answer's own, where it was JSON.
    """

    def __init__(self, message: str, body: Any = None) -> None:
        super().__init__(message)
        self.body = body


@dataclass(frozen=True)
class AdminAnswer:
    """An answer: its status, its text, and what that says if it is JSON (else None)."""

    status: int
    text: str
    body: Any


class AdminClient:
    """Asks one gateway; a connection for each request, so there is nothing to close.

    Every method raises AdminError.
    """

    def __init__(self, admin_url: str, token: str) -> None:
        try:
            self._url = urlsplit(admin_url)
            known = self._url.scheme in ("http", "https") and self._url.hostname
            self._port = self._url.port
        except ValueError:
            known = None
        if not known:
            raise AdminError(
                f"{admin_url!r} is not the URL of an admin plane. Remedy: give one such as "
                "http://127.0.0.1:8081."
            )
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def task(self, task: str) -> Any:
        """Return everything that is known of a task."""
        return self.ask("GET", f"/admin/v1/tasks/{quote(task, safe='')}").body

    def tasks(self, wanted: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the summaries of all tasks, or of those that the API's filters name."""
        for page in self.pages("/admin/v1/tasks", wanted or {}):
            yield from page["tasks"]

    def override(self, task: str, **fields: Any) -> Any:
        """Change what a task may spend; returns the override and the task."""
        return self.ask(
            "POST", f"/admin/v1/tasks/{quote(task, safe='')}/overrides", {}, fields
        ).body

    def pages(
        self, path: str, query: Mapping[str, str], most: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list, as long as there are any and they have less than `most`."""
        cursor: str | None = query.get("cursor", "")
        found = 0
        while most is None or found < most:
            limit = _PAGE if most is None else min(_PAGE, most - found)
            asked = {**query, "limit": str(limit), **({"cursor": cursor} if cursor else {})}
            answer = self.ask("GET", path, asked)
            page = answer.body
            if not isinstance(page, dict):
                raise _not_ours(self._url.geturl(), answer.text)
            yield page
            found += sum(len(rows) for rows in page.values() if isinstance(rows, list))
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        fields: Mapping[str, Any] | None = None,
        also: Collection[int] = (),
    ) -> AdminAnswer:
        """Return the answer to a request; `also` are statuses that are none of an error."""
        with self._asked(method, _target(path, query), fields, _WAIT_S) as answer:
            status, text = answer.status, answer.read().decode(errors="replace")
        body = _parsed(text)
        if status not in _GOOD and status not in also:
            raise AdminError(_told(body) or _untold(method, path, status, text), body)
        if body is None and "json" in (answer.getheader("Content-Type") or "json"):
            raise _not_ours(self._url.geturl(), text)
        return AdminAnswer(status, text, body)

    def events(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Any]:
        """Yield the objects of a feed of server-sent events, until the gateway ends it."""
        with self._asked("GET", _target(path, query), None, _SILENCE_S) as answer:
            if answer.status not in _GOOD:
                text = answer.read().decode(errors="replace")
                body = _parsed(text)
                raise AdminError(_told(body) or _untold("GET", path, answer.status, text), body)
            for line in answer:
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))

    @contextmanager
    def _asked(
        self, method: str, target: str, fields: Mapping[str, Any] | None, wait_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        made = (
            http.client.HTTPSConnection
            if self._url.scheme == "https"
            else http.client.HTTPConnection
        )
        connection = made(self._url.hostname or "", self._port, timeout=wait_s)
        body = None if fields is None else json.dumps(fields)
        try:
            connection.request(method, self._url.path.rstrip("/") + target, body, self._headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise AdminError(
                f"{self._url.geturl()} does not answer ({reason}). Remedy: start the gateway, or "
                "name its admin plane."
            ) from None
        except ValueError as error:  # of a token with line breaks, or text that is no JSON
            raise AdminError(
                f"{self._url.geturl()} cannot be asked, or understood ({error}). Remedy: see that "
                "it is the admin plane's URL, and the token one line of plain letters."
            ) from None
        finally:
            connection.close()


def _target(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _told(body: Any) -> str:
    """Return the message of an error body, which names the field and the remedy.

    Errors with a `type` are in providers' shapes: the data plane answered, or somebody else.
    """
    try:
        error = body["error"]
        return "" if "type" in error else str(error["message"])
    except (KeyError, TypeError):
        return ""


def _untold(method: str, path: str, status: int, text: str) -> str:
    return (
        f"{method} {path} was answered {status} {text[:_SHOWN_CHARACTERS]!r}. Remedy: see that the "
        "URL is that of the gateway's admin plane."
    )


def _not_ours(url: str, text: str) -> AdminError:
    return AdminError(
        f"{url} answers, but not as an admin plane does: {text[:_SHOWN_CHARACTERS]!r}. Remedy: "
        "name the admin plane; calls have another port."
    )
