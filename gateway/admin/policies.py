"""`GET /admin/v1/policies` and `POST /admin/v1/policies/reload`: the rules in force."""

from dataclasses import fields
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from pydantic import Field

from gateway.admin.answers import ApiError, json_answer, store_wait
from gateway.admin.auth import own_token, told_by
from gateway.admin.bodies import Body
from gateway.admin.parts import PARTS
from gateway.admin.roles import MAIN_TOKEN
from gateway.core.acts import Act
from gateway.core.configuration import Rules
from gateway.core.policy import Policy
from gateway.store.notes import note_act

_SUBJECT = "files:rules"
_MOST_TOLD = 5


class PolicyBody(Body):
    """A policy as it is in force; `settings` is what its document says, defaults included."""

    kind: str
    name: str
    mode: Literal["off", "observe", "enforce"]
    settings: dict[str, Any] = Field(description="Depends on the kind. Of a URL, the origin alone.")


class PoliciesBody(Body):
    """All policies in the order in which they are asked, with the hashes that answers name."""

    policy_hash: str
    config_hash: str
    budgets_source: str
    enforcement_disabled: bool
    policies: list[PolicyBody]


async def get_policies(request: web.Request) -> web.Response:
    """Return the policies in force."""
    return json_answer(_body(request))


async def post_reload(request: web.Request) -> web.Response:
    """Read budgets, policies, prices and roadmap anew; if any is invalid, all stay as they are."""
    parts = request.app[PARTS]
    problems = await parts.reload("admin API")
    if problems:
        more = f" And {len(problems) - _MOST_TOLD} more." if len(problems) > _MOST_TOLD else ""
        raise ApiError(
            422,
            "invalid_rules",
            f"Nothing was changed: {' '.join(problems[:_MOST_TOLD])}{more} Mend the files "
            "(`tollgate check` shows all), then reload.",
        )
    body = _body(request)
    details = {"policy_hash": body.policy_hash, "config_hash": body.config_hash}
    act = Act("rules.reload", own_token(request) or MAIN_TOKEN, "", details)
    async with store_wait(request):
        await note_act(parts.connection, parts.names, _SUBJECT, told_by(request, act))
    return json_answer(body)


def _body(request: web.Request) -> PoliciesBody:
    parts = request.app[PARTS]
    rules = parts.rules()
    return PoliciesBody(
        policy_hash=rules.policies.policy_hash,
        config_hash=rules.budgets.config_hash,
        budgets_source=rules.budgets_source,
        enforcement_disabled=parts.plane.enforcement_disabled,
        policies=_policies(rules),
    )


def _policies(rules: Rules) -> list[PolicyBody]:
    return [
        PolicyBody(
            kind=kind.name,
            name=policy.name,
            mode=policy.mode.value,
            settings=_settings(policy),
        )
        for kind in fields(rules.policies)
        for policy in _of_kind(getattr(rules.policies, kind.name))
    ]


def _of_kind(value: object) -> list[Policy]:
    return [one for one in value if isinstance(one, Policy)] if isinstance(value, tuple) else []


def _settings(policy: Policy) -> dict[str, Any]:
    """Return a policy's members. A webhook's path may be as good as a password: it is left out."""
    plain = msgspec.to_builtins(policy, order="deterministic", enc_hook=str)
    settings: dict[str, Any] = {
        name: value for name, value in plain.items() if name not in ("name", "mode")
    }
    if settings.get("url"):
        parts = urlsplit(settings["url"])
        settings["url"] = f"{parts.scheme}://{parts.hostname}/..."
    return settings
