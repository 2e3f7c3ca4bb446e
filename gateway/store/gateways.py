"""Which rules the gateways of a tenant run on: policies and budgets are files of each one.

Each writes its hashes into the store and reads those of the others. Two that differ decide the same
call differently, so that is told, unless it ends within a few looks: a change of files reaches one
gateway after the other.
"""

from gateway.core.configuration import Rules
from gateway.ports import Recorder
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import server_ms

LOOK_S = 5.0
_PATIENCE = 3  # looks
_GONE_MS = 30_000  # a gateway that has not looked for so long is not there any more


class GatewayBook:
    """One gateway's page of the book, and its view of the others'. `name` is for people."""

    def __init__(
        self, connection: StoreConnection, names: TenantKeys, recorder: Recorder, name: str
    ) -> None:
        self._connection = connection
        self._key = names.gateways
        self._recorder = recorder
        self._name = name
        self._looks = 0

    async def look(self, rules: Rules) -> tuple[str, ...]:
        """Write what this gateway runs on; return the names of others that run on other rules.

        None are returned before they have differed for some looks. Raises StoreError.
        """
        own = f"{rules.policies.policy_hash} {rules.budgets.config_hash}"
        now_ms = await server_ms(self._connection)
        await self._connection.execute("HSET", self._key, self._name, f"{now_ms} {own}")
        pages = await self._connection.execute("HGETALL", self._key)
        differing = []
        for name, page in zip(pages[::2], pages[1::2], strict=True):
            seen_ms, _, others = str(page).partition(" ")
            if now_ms - int(seen_ms) > _GONE_MS:
                await self._connection.execute("HDEL", self._key, name)
            elif others != own:
                differing.append(str(name))
        return self._told(sorted(differing), rules)

    async def leave(self) -> None:
        """Take this gateway's page out. Raises StoreError."""
        await self._connection.execute("HDEL", self._key, self._name)

    def _told(self, differing: list[str], rules: Rules) -> tuple[str, ...]:
        was_told = self._looks >= _PATIENCE
        self._looks = self._looks + 1 if differing else 0
        if self._looks == _PATIENCE:
            self._recorder.event(
                "rules_differ",
                "error",
                gateways=differing,
                policy_hash=rules.policies.policy_hash,
                config_hash=rules.budgets.config_hash,
                remedy="give all gateways of a store the same policies and budgets, then reload",
            )
        elif was_told and not differing:
            self._recorder.event("rules_agree")
        return tuple(differing) if self._looks >= _PATIENCE else ()
