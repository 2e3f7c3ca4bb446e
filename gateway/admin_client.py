"""The admin API as programs ask it: the command line, the demo, load tests."""

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_WAIT_S = 10.0
_PAGE = 200
_FIRST_ERROR = 400


class AdminError(Exception):
    """The admin API answered with an error, or not at all; the text says what to do."""


class AdminClient:
    """Asks one gateway; a connection for each request, so there is nothing to close."""

    def __init__(self, admin_url: str, token: str) -> None:
        self._url = urlsplit(admin_url)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def task(self, task: str) -> Any:
        """Return everything that is known of a task."""
        return self._ask("GET", f"/admin/v1/tasks/{quote(task)}")

    def tasks(self, wanted: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the summaries of all tasks, or of those that the API's filters name."""
        cursor = ""
        while True:
            query = {
                "limit": str(_PAGE),
                **(wanted or {}),
                **({"cursor": cursor} if cursor else {}),
            }
            page = self._ask("GET", f"/admin/v1/tasks?{urlencode(query)}")
            yield from page["tasks"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def override(self, task: str, **fields: Any) -> Any:
        """Change what a task may spend; returns the override and the task."""
        return self.act(task, "overrides", fields)

    def act(self, task: str, what: str, fields: Mapping[str, Any]) -> Any:
        """Do something to a task (`kill`, `resume`, `complete`, `gate`, ...); return the answer."""
        return self._ask("POST", f"/admin/v1/tasks/{quote(task)}/{what}", json.dumps(fields))

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection(
            self._url.hostname or "127.0.0.1", self._url.port, timeout=_WAIT_S
        )
        try:
            connection.request(method, path, body, self._headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(
                f"{self._url.geturl()} does not answer ({error}). Remedy: start the gateway, or "
                "name its admin plane."
            ) from None
        finally:
            connection.close()
        if status >= _FIRST_ERROR:
            raise AdminError(_told(text) or f"{method} {path}: {status} {text}")
        return json.loads(text)


def _told(text: str) -> str:
    """Return the message of an error body, which names the field and the remedy."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
