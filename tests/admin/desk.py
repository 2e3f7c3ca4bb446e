"""Commands run in this process, beside the loop that serves the plane they ask."""

import asyncio
import json
from typing import Any

from click.testing import CliRunner, Result

from gateway.cli import tollgate
from tests.admin.plane import TOKEN, Plane


class Desk:
    """Somebody at a terminal; `group` are the first words of each command."""

    def __init__(self, plane: Plane, *group: str) -> None:
        self.url = f"http://127.0.0.1:{plane.client.server.port}"
        self._port = str(plane.client.server.port)
        self._group = group

    async def run(self, *words: str, token: str = TOKEN) -> Result:
        """Run a command to its end."""
        environment = {"TOLLGATE_ADMIN__PORT": self._port, "TOLLGATE_ADMIN__TOKEN": token}
        return await asyncio.to_thread(
            CliRunner().invoke, tollgate, [*self._group, *words], env=environment
        )

    async def done(self, *words: str) -> Any:
        """Run a command that succeeds; return its JSON."""
        result = await self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    async def told(self, *words: str) -> str:
        """Run a command that succeeds; return what a person reads."""
        result = await self.run(*words)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    async def refused(self, *words: str) -> str:
        """Run a command that fails; return why."""
        result = await self.run(*words)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("error: ")
        return str(result.stderr)
