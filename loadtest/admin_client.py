"""What an operator's script does: the gateway's admin API over a plain HTTP client."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

_WAIT_S = 10.0
_PAGE = 200


class AdminError(Exception):
    """The admin API answered with an error."""


class AdminClient:
    """Asks one gateway; a connection for each request, so there is nothing to close."""

    def __init__(self, admin_url: str, token: str) -> None:
        self._url = urlsplit(admin_url)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def task(self, task: str) -> Any:
        """Return everything that is known of a task."""
        return self._ask("GET", f"/admin/v1/tasks/{quote(task)}")

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Yield the summaries of all tasks."""
        path = f"/admin/v1/tasks?limit={_PAGE}"
        cursor = ""
        while True:
            page = self._ask("GET", path + (f"&cursor={quote(cursor)}" if cursor else ""))
            yield from page["tasks"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def override(self, task: str, **fields: Any) -> Any:
        """Change what a task may spend; returns the override and the task."""
        return self._ask("POST", f"/admin/v1/tasks/{quote(task)}/overrides", json.dumps(fields))

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection(
            self._url.hostname or "127.0.0.1", self._url.port, timeout=_WAIT_S
        )
        try:
            connection.request(method, path, body, self._headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                raise AdminError(f"{method} {path}: {answer.status} {text.decode()}")
            return json.loads(text)
        finally:
            connection.close()
