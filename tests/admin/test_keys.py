"""`/admin/v1/keys`: shown once, kept as a digest, audited."""

import json
from typing import Any

import pytest
import redis

from gateway.core.keys import KEY_TEXT, secret_digest
from gateway.store.key_store import KeyStore
from gateway.store.keys import KEYS_KEY
from tests.admin.plane import WHO, Plane, StartPlane
from tests.admin.test_api import PRIVATE_ENDPOINTS, TAKEN, path_of
from tests.admin.test_roles import stored
from tests.store.agent import Agent

PATH = "/admin/v1/keys"


async def made(admin: Plane, **said: Any) -> dict[str, Any]:
    answer = await admin.ask("POST", PATH, json={"name": "ci", **said})
    assert answer.status == 201, answer.text
    body: dict[str, Any] = answer.json
    return body


def secret_of(text: str) -> bytes:
    match = KEY_TEXT.fullmatch(text.encode())
    assert match is not None
    return match[2]


async def test_a_key_is_shown_once_and_kept_as_a_digest(
    plane: StartPlane, redis_client: redis.Redis
) -> None:
    admin = await plane()
    said = {"team": "core", "models": ["gpt-*"], "may_set": ["task"], "pins": {"phase": "plan"}}
    key = await made(admin, **said, days=1, refusal_status=402, may_claim_critical=True)
    text = key.pop("key")
    assert (key["team"], key["models"], key["may_set"]) == ("core", ["gpt-*"], ["task"])
    assert key["pins"]["phase"] == "PLAN"
    assert key["expires_ms"] - key["created_ms"] == 86_400_000
    assert (key["state"], key["refusal_status"], key["may_claim_critical"]) == ("ok", 402, True)
    assert (await admin.get(f"{PATH}/{key['id']}")).json == key
    listed = await admin.get(PATH)
    assert listed.json == {"keys": [key]}
    kept = redis_client.hget(KEYS_KEY, key["id"])
    secret = secret_of(text)
    assert secret.decode() not in f"{kept!r}{listed.text}"
    stored = await KeyStore(admin.parts.connection).read(key["id"])
    assert stored is not None
    assert stored.has_secret(secret, 0)


async def test_a_key_opens_nothing_here(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    """Whoever may only call models can raise no budget: a key is not an admin token."""
    await agent.call("PLAN")
    admin = await plane()
    text = (await made(admin, may_claim_critical=True))["key"]
    before = stored(redis_client, agent.tenant)
    grant = {"kind": "grant", "tokens": 1, **WHO}
    for endpoint in PRIVATE_ENDPOINTS:
        path = path_of(endpoint)
        body = TAKEN.get(path, {"value": grant})["value"]
        for token in (text, text.removeprefix("tg-")):
            headers = {"X-Tollgate-Key": text, "X-Api-Key": text}
            answer = await admin.ask(endpoint.method, path, token=token, headers=headers, json=body)
            assert (answer.status, answer.error["code"]) == (401, "invalid_token"), path
    assert stored(redis_client, agent.tenant) == before


async def test_another_tenant_cannot_be_asked_for(plane: StartPlane) -> None:
    answer = await (await plane()).ask("POST", PATH, json={"name": "ci", "tenant": "other"})
    assert (answer.status, answer.error["field"]) == (422, "tenant")


async def test_a_rotation_leaves_the_old_secret_its_grace(plane: StartPlane) -> None:
    admin = await plane()
    key = await made(admin)
    answer = await admin.ask("POST", f"{PATH}/{key['id']}/rotate", json={"grace_hours": 1})
    assert answer.status == 200
    assert secret_of(answer.json["key"]) != secret_of(key["key"])
    stored = await KeyStore(admin.parts.connection).read(key["id"])
    assert stored is not None
    assert stored.previous_sha256 == secret_digest(secret_of(key["key"]))
    assert stored.secret_sha256 == secret_digest(secret_of(answer.json["key"]))
    assert stored.previous_until_ms == answer.json["previous_until_ms"] > key["created_ms"]


async def test_a_revoked_key_gets_no_new_secret(
    plane: StartPlane, redis_client: redis.Redis
) -> None:
    """One that no call is let through with would be handed on as good."""
    admin = await plane()
    key = await made(admin)
    await admin.ask("POST", f"{PATH}/{key['id']}/revoke", json={})
    before = redis_client.hget(KEYS_KEY, key["id"])
    answer = await admin.ask("POST", f"{PATH}/{key['id']}/rotate", json={})
    assert (answer.status, answer.error["code"], answer.error["field"]) == (
        *(409, "wrong_state"),
        "key",
    )
    assert "is revoked" in answer.error["message"]
    assert redis_client.hget(KEYS_KEY, key["id"]) == before


async def test_a_revocation_is_for_good_and_all_is_audited(
    plane: StartPlane, redis_client: redis.Redis
) -> None:
    """A second one changes nothing, not even the moment; workers see another version."""
    admin = await plane()
    key = await made(admin, by="ada", reason="for the new runner")
    path = f"{PATH}/{key['id']}/revoke"
    first = await admin.ask("POST", path, json={"by": "bob", "reason": "leaked"})
    second = await admin.ask("POST", path, json={})
    assert first.json == second.json
    assert (first.json["state"], first.json["version"]) == ("revoked", 2)
    version = redis_client.hget(admin.parts.names.key_versions, key["id"])
    assert version in (b"2", "2")
    acts = [json.loads(fields["d"]) for _, fields in redis_client.xrange(admin.parts.names.ledger)]
    assert [(act["action"], act["actor"], act["reason"]) for act in acts] == [
        ("key.create", "ada", "for the new runner"),
        ("key.revoke", "bob", "leaked"),
    ]
    assert key["key"] not in json.dumps(acts) + json.dumps(admin.events)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "ci", "may_set": ["colour"]}, "may_set"),
        ({"name": "ci", "pins": {"task": "-T"}}, "pins"),
        ({"name": "ci", "refusal_status": 500}, "refusal_status"),
        ({"name": "ci", "days": 0}, "days"),
        ({"name": "ci", "secret": "mine"}, "secret"),
        ({}, "name"),
    ],
)
async def test_what_is_no_key_is_refused(
    plane: StartPlane, said: dict[str, Any], field: str
) -> None:
    answer = await (await plane()).ask("POST", PATH, json=said)
    assert (answer.status, answer.error["field"]) == (422, field)


@pytest.mark.parametrize(
    ("method", "verb"), [("GET", ""), ("POST", "/rotate"), ("POST", "/revoke")]
)
async def test_a_key_that_is_not_there(plane: StartPlane, method: str, verb: str) -> None:
    answer = await (await plane()).ask(method, f"{PATH}/nobody00{verb}", json={})
    assert (answer.status, answer.error["code"]) == (404, "unknown_key")
