"""The rules in force: loaded at the start, and anew whenever their files change or somebody asks.

Budgets, policies, prices and roadmap are taken together or not at all: if any is invalid, all stay
as they are.
"""

import asyncio
from collections.abc import Awaitable, Callable

from gateway.core.configuration import Rules
from gateway.core.errors import InvalidConfigError
from gateway.core.prices import ModelsInUse
from gateway.findings import errors_among
from gateway.rule_files import load_rules
from gateway.rule_watch import Signature, file_signature
from gateway.settings import Settings

_WATCH_S = 1.0

Event = Callable[..., None]


class RuleKeeper:
    """Keeps the rules of one gateway. `apply` has everybody go by new ones; `event` tells."""

    def __init__(
        self,
        settings: Settings,
        in_use: ModelsInUse,
        event: Event,
        apply: Callable[[Rules], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._in_use = in_use
        self._event = event
        self._apply = apply
        self._rules: Rules | None = None
        self._files_read: Signature = ()
        self._one_at_a_time = asyncio.Lock()

    def load_first(self, *, strict: bool) -> Rules:
        """Load the rules that the gateway starts with. `strict` raises InvalidConfigError."""
        rules, findings = load_rules(self._settings, self._event)
        errors = errors_among(findings)
        for finding in findings:
            level = "error" if finding in errors else "warning"
            self._event("config_finding", level, finding=str(finding))
        if errors and strict:
            raise InvalidConfigError([str(error) for error in errors])
        self._rules = rules
        return rules

    def in_force(self) -> Rules:
        """Return the rules as they are now."""
        assert self._rules is not None  # loaded before anything is served  # noqa: S101
        return self._rules

    async def reload(self, cause: str) -> list[str]:
        """Load the files anew; return what is wrong with them, nothing if they are in force."""
        async with self._one_at_a_time:
            return await self._reload(cause)

    async def watch_files(self) -> None:
        """Reload whenever a file has changed, until cancelled."""
        self._files_read = file_signature(self._settings)
        while True:
            await asyncio.sleep(_WATCH_S)
            if file_signature(self._settings) != self._files_read:
                await self.reload("file change")

    async def _reload(self, cause: str) -> list[str]:
        self._files_read = file_signature(self._settings)
        rules, findings = await asyncio.to_thread(load_rules, self._settings, running=self._rules)
        errors = errors_among(findings)
        for error in errors:
            self._event("config_finding", "error", finding=str(error))
        problems = list(map(str, errors)) or self._dropped_by(rules)
        if problems:
            self._event("reload_rejected", "error", cause=cause, errors=len(problems))
            return problems
        self._rules = rules
        await self._apply(rules)
        self._event(
            "reloaded",
            cause=cause,
            config_hash=rules.budgets.config_hash,
            policy_hash=rules.policies.policy_hash,
        )
        return []

    def _dropped_by(self, rules: Rules) -> list[str]:
        """Tell of prices that are in use and would be gone; return what is wrong with that."""
        dropped = self._in_use.dropped_by(rules.prices)
        for model in dropped:
            self._event(
                "price_dropped",
                "error",
                model=model,
                remedy="state its price, or restart the gateway to go on without one",
            )
        return [f"the price of {model}, which is in use, is gone" for model in dropped]
