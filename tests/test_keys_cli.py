"""`tollgate keys` on a real store: what it makes, shows once, changes and refuses."""

import json
from pathlib import Path

import msgspec
import pytest
import redis
from click.testing import CliRunner, Result

from gateway.core.keys import GatewayKey, find_credential
from gateway.core.phases import WorkPhase
from gateway.keys_cli import keys
from gateway.store.keys import KEYS_KEY, TenantKeys


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLGATE_REDIS__URL", valkey)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(keys, arguments)


def made(*arguments: str) -> dict[str, object]:
    result = run("create", "--json", *arguments)
    assert result.exit_code == 0, result.output
    shown: dict[str, object] = json.loads(result.output)
    return shown


def listed(key_id: object) -> dict[str, object]:
    found: list[dict[str, object]] = json.loads(run("list", "--json").output)
    return next(key for key in found if key["id"] == key_id)


def proves(text: object, key_id: object, client: redis.Redis, now_ms: int = 2**52) -> bool:
    """Whether the text is that of a key as it is stored."""
    credential = find_credential([(b"x-api-key", str(text).encode())])
    assert credential is not None
    assert credential.key_id == key_id
    stored = msgspec.json.decode(client.hget(KEYS_KEY, str(key_id)), type=GatewayKey)
    return stored.has_secret(credential.secret, now_ms)


def test_a_key_is_shown_once(redis_client: redis.Redis) -> None:
    result = run("create", "an agent")
    assert result.exit_code == 0
    text = result.output.split()[0]
    key_id = text.split("-")[1]
    assert proves(text, key_id, redis_client)
    assert "Keep it now" in result.output
    assert text.rpartition("-")[2] not in run("list", "--json").output
    assert text.rpartition("-")[2] not in str(redis_client.hgetall(KEYS_KEY))
    assert f"{key_id}  ok      an agent" in run("list").output


def test_what_a_key_is_made_with() -> None:
    key = made(
        *("--team", "search", "--upstream", "openai", "--model", "gpt-*", "--may-set", "phase"),
        *("--pin", "task=T-1", "--default", "phase=plan", "--critical"),
        *("--refusal-status", "402", "--days", "30", "ci"),
    )
    assert key["key"]
    key = listed(key["id"])
    assert key["team"] == "search"
    assert (key["upstreams"], key["models"], key["may_set"]) == (["openai"], ["gpt-*"], ["phase"])
    assert key["pins"] == {"task": "T-1"}
    assert key["defaults"] == {"phase": WorkPhase.PLAN.value}
    assert (key["may_claim_critical"], key["refusal_status"]) == (True, 402)
    assert int(str(key["expires_ms"])) - int(str(key["created_ms"])) == 30 * 86_400_000


def test_a_key_that_may_set_nothing() -> None:
    assert made("--may-set", "none", "x")["may_set"] == []
    assert made("x")["may_set"] is None


def test_rotation_has_a_time_of_grace(redis_client: redis.Redis) -> None:
    old = made("x")
    new = json.loads(run("rotate", "--json", "--grace-hours", "1", str(old["id"])).output)
    assert new["version"] == 2
    assert proves(new["key"], old["id"], redis_client)
    until_ms = int(new["previous_until_ms"])
    assert proves(old["key"], old["id"], redis_client, until_ms - 1)
    assert not proves(old["key"], old["id"], redis_client, until_ms)


def test_a_revoked_key_is_listed_as_such() -> None:
    key_id = str(made("gone")["id"])
    assert run("revoke", key_id).output == f"ok: {key_id} is revoked\n"
    assert f"{key_id}  revoked gone" in run("list").output


def test_a_revoked_key_gets_no_new_secret() -> None:
    key_id = str(made("gone")["id"])
    run("revoke", key_id)
    result = run("rotate", key_id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: The key {key_id} is revoked: a new secret would not be good either. Remedy: make "
        "another key.\n"
    )


def test_every_act_is_on_record(redis_client: redis.Redis) -> None:
    """Who and why, as with the API; the login, if nobody says who."""
    key_id = str(made("--by", "ann", "--reason", "a new runner", "ci")["id"])
    assert run("rotate", "--by", "bob", "--reason", "leaked", key_id).exit_code == 0
    assert run("revoke", key_id).exit_code == 0
    told = [
        (json.loads(fields["d"]), json.loads(fields["k"]))
        for _, fields in redis_client.xrange(TenantKeys("default").ledger)
        if fields["e"].split(" ")[2] == f"key:{key_id}"
    ]
    assert [(act["action"], act["actor"], act["reason"]) for act, _ in told[:2]] == [
        ("key.create", "ann", "a new runner"),
        ("key.rotate", "bob", "leaked"),
    ]
    assert told[2][0]["action"] == "key.revoke"
    assert told[2][0]["actor"]
    assert [act["details"] for act, _ in told] == [{"name": "ci"}] * 3
    assert "secret" not in str([act for act, _ in told])
    assert [key.get("version", 1) for _, key in told] == [1, 2, 3]


def test_a_login_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user may have no name."""

    def unknown() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert made("x")["name"] == "x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "nobody"), "there is no key nobody"),
        (("rotate", "nobody"), "tollgate keys list"),
        (("create", "--pin", "mood=good", "x"), "task, phase, complexity, importance"),
        (("create", "--pin", "phase=NAP", "x"), "STRATEGIZE"),
        (("create", "--default", "task=a b", "x"), "cannot be a task's id"),
        (("create", "--pin", "task=T", "--pin", "task=U", "x"), "task is given twice"),
    ],
)
def test_what_cannot_be_done(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert said in result.output


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOLLGATE_REDIS__URL", f"unix://{tmp_path}/nobody")
    result = run("list")
    assert result.exit_code == 1
    assert "Remedy: start the gateway, or correct redis.url." in result.output


def test_each_tenant_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `tenant` says; another's is not shown, changed or revoked."""
    monkeypatch.setenv("TOLLGATE_TENANT", "acme")
    key = made("an agent")
    assert key["tenant"] == "acme"
    monkeypatch.setenv("TOLLGATE_TENANT", "default")
    assert str(key["id"]) not in run("list").output
    for command in ("rotate", "revoke"):
        result = run(command, str(key["id"]))
        assert (result.exit_code, "there is no key" in result.output) == (1, True)
    monkeypatch.setenv("TOLLGATE_TENANT", "acme")
    assert listed(key["id"])["revoked_ms"] is None
