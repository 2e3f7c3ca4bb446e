"""The settings: environment over file over defaults, every fault named."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.core.configuration import DataPlane, UpstreamSettings
from gateway.core.disconnect import Disconnect
from gateway.core.errors import InvalidConfigError
from gateway.core.policy import Mode
from gateway.settings import (
    GatewayFile,
    Settings,
    data_plane,
    environment_doubts,
    ledger_url,
    load_settings,
)
from gateway.settings.loading import environment_names

REPOSITORY = Path(__file__).parents[1]
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _empty_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Start in an empty folder with no variable of ours."""
    for name in list(os.environ):
        if name.upper().startswith("TOLLGATE_") or name == "DISABLE_BUDGET_ENFORCEMENT":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        file = tmp_path / "gateway.yaml"
        file.write_text(text)
        return file

    return write_file


def faults(config_file: Path | None, **overrides: Any) -> list[str]:
    with pytest.raises(InvalidConfigError) as raised:
        load_settings(config_file, overrides)
    return [fault.replace(f"{config_file}", "FILE") for fault in raised.value.faults]


# defaults


def test_without_a_file_the_defaults_hold() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 8081)
    assert settings.policies.mode is None
    assert str(settings.budgets.file) == "config/phase_budgets.yaml"
    assert str(settings.policies.dir) == "policies"
    assert str(settings.state_dir) == "state"
    assert {name: up.base_url for name, up in settings.upstreams.items()} == {
        "openai": "https://api.openai.com",
        "anthropic": "https://api.anthropic.com",
        "gemini": "https://generativelanguage.googleapis.com",
    }


def test_the_shipped_file_says_exactly_the_defaults() -> None:
    assert load_settings(REPOSITORY / "config/gateway.yaml", {}) == Settings()


def test_the_shipped_file_has_every_key() -> None:
    text = (REPOSITORY / "config/gateway.yaml").read_text()
    for name in environment_names():
        if "UPSTREAMS" not in name or "OPENAI" in name:
            assert f"{name.rpartition('__')[2].removeprefix('TOLLGATE_').lower()}:" in text


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    [fault] = faults(tmp_path / "none.yaml")
    assert fault.startswith("FILE: cannot be read: No such file")


def test_the_default_file_is_read_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text("server: {port: 9999}\n")
    assert load_settings(None, {}).server.port == 9999


def test_settings_by_themselves_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test or a child process is not changed by where it runs."""
    monkeypatch.setenv("TOLLGATE_SERVER__PORT", "9")
    assert Settings().server.port == 8080


# precedence


def test_command_line_over_environment_over_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("server: {port: 1, workers: 1, host: 10.0.0.1}\nadmin: {port: 7}\n")
    monkeypatch.setenv("TOLLGATE_SERVER__PORT", "2")
    monkeypatch.setenv("tollgate_server__workers", "2")
    settings = load_settings(file, {"server": {"port": 3}})
    assert settings.server.port == 3
    assert settings.server.workers == 2
    assert settings.server.host == "10.0.0.1"
    assert settings.admin.port == 7
    assert settings.log.level == "info"


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("TOLLGATE_STATE_DIR", "/var/lib/x", lambda s: str(s.state_dir) == "/var/lib/x"),
        ("TOLLGATE_POLICIES__DIR", "p", lambda s: str(s.policies.dir) == "p"),
        ("TOLLGATE_POLICIES__MODE", "off", lambda s: s.policies.mode is Mode.OFF),
        ("TOLLGATE_POLICIES__MODE", "ENFORCE", lambda s: s.policies.mode is Mode.ENFORCE),
        ("TOLLGATE_POLICIES__MODE", "null", lambda s: s.policies.mode is None),
        ("TOLLGATE_POLICIES__MODE", "", lambda s: s.policies.mode is None),
        ("TOLLGATE_BUDGETS__FILE", "b.yaml", lambda s: str(s.budgets.file) == "b.yaml"),
        ("TOLLGATE_REDIS__URL", "redis://[::1]", lambda s: s.redis.url == "redis://[::1]"),
        ("TOLLGATE_LEDGER__URL", "postgresql://l", lambda s: s.ledger.url == "postgresql://l"),
        ("TOLLGATE_ADMIN__TOKEN", "12345", lambda s: s.admin.token == "12345"),
        ("TOLLGATE_REFUSAL_STATUS", "402", lambda s: s.refusal_status == 402),
        ("TOLLGATE_STORE__TIMEOUT_MS", "70", lambda s: s.store.timeout_ms == 70),
        ("TOLLGATE_LOG__CALLS", "no", lambda s: s.log.calls is False),
        ("TOLLGATE_SERVER__UNSAFE_BIND", "1", lambda s: s.server.unsafe_bind is True),
    ],
)
def test_keys_are_set_by_environment(
    variable: str, value: str, read: Callable[[Settings], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert read(load_settings(None, {}))


def test_every_key_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value in each variable is a fault that names it, so each one is read."""
    names = [name for name in environment_names() if "UPSTREAMS" not in name or "OPENAI" in name]
    free_text = {
        "TOLLGATE_SERVER__HOST",
        "TOLLGATE_ADMIN__HOST",
        "TOLLGATE_ADMIN__TOKEN",
        "TOLLGATE_UPSTREAMS__OPENAI__PROVIDER",
        "TOLLGATE_UPSTREAMS__OPENAI__CA_FILE",
        "TOLLGATE_UPSTREAMS__OPENAI__MODELS",
        "TOLLGATE_UPSTREAMS__OPENAI__API_KEY",
        "TOLLGATE_STORE__VALKEY_BINARY",
        "TOLLGATE_POLICIES__DIR",
        "TOLLGATE_BUDGETS__FILE",
        "TOLLGATE_PRICES__FILE",
        "TOLLGATE_REMEDIATION__ROADMAP_FILE",
        "TOLLGATE_REPORTS__DIR",
        "TOLLGATE_TASKS__ROADMAP_FILE",
        "TOLLGATE_STATE_DIR",
    }
    for name in names:
        monkeypatch.setenv(name, "wrong!")
    found = [fault.split(": ")[1] for fault in faults(None)]
    assert sorted(found) == sorted(set(names) - free_text)


def test_one_key_of_one_upstream_leaves_all_others_as_they_are(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("upstreams:\n  Anthropic: {max_connections: 5}\n  Local: {base_url: 'http://l'}\n")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__OPENAI__BASE_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__LOCAL__PROVIDER", "ollama")
    upstreams = load_settings(file, {}).upstreams
    defaults = Settings().upstreams
    assert upstreams["openai"] == defaults["openai"].model_copy(
        update={"base_url": "http://127.0.0.1:9"}
    )
    assert upstreams["anthropic"] == defaults["anthropic"].model_copy(update={"max_connections": 5})
    assert upstreams["gemini"] == defaults["gemini"]
    assert (upstreams["local"].base_url, upstreams["local"].provider) == ("http://l", "ollama")


def test_an_upstream_may_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__MINE__BASE_URL", "http://m/prefix/")
    assert load_settings(None, {}).upstreams["mine"].base_url == "http://m/prefix"


def test_a_section_may_be_left_empty(write: Write) -> None:
    assert load_settings(write("redis:\nlog:\nupstreams:\n"), {}) == Settings()
    assert load_settings(write("upstreams:\n  openai:\n"), {}) == Settings()


@pytest.mark.parametrize("word", ["off", "Off", '"off"', "false"])
def test_mode_off_is_off_though_yaml_1_1_calls_it_a_boolean(word: str, write: Write) -> None:
    assert load_settings(write(f"policies: {{mode: {word}}}\n"), {}).policies.mode is Mode.OFF


@pytest.mark.parametrize(("word", "value"), [("off", False), ("yes", True), ("TRUE", True)])
def test_switches_take_the_words_of_yaml_1_1(word: str, value: bool, write: Write) -> None:
    assert load_settings(write(f"log: {{calls: {word}}}\n"), {}).log.calls is value


# RBK-2: the kill switch


@pytest.mark.parametrize("word", ["1", "true", "YES", "On", " 1 "])
def test_the_kill_switch_is_an_environment_variable(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_BUDGET_ENFORCEMENT", word)
    assert load_settings(None, {}).enforcement_disabled


@pytest.mark.parametrize("word", ["", "0", "false", "no", "off", "disabled?"])
def test_any_other_word_leaves_enforcement_on(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_BUDGET_ENFORCEMENT", word)
    assert not load_settings(None, {}).enforcement_disabled


def test_nothing_else_sets_the_kill_switch(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENFORCEMENT_DISABLED", "true")
    assert not load_settings(None, {"enforcement_disabled": True}).enforcement_disabled
    [fault] = faults(write("enforcement_disabled: true\n"))
    assert fault.startswith("FILE:1: enforcement_disabled: unknown key")


# faults


def test_every_fault_is_named_with_file_line_key_and_remedy(write: Write) -> None:
    file = write(
        "server:\n  prot: 1\n  port: '8080'\nadmin: {token: 123456}\nstor: {}\nlog: text\n"
        "state_dir: ''\npolicies: {mode: on}\n"
    )
    assert faults(file) == [
        "FILE:2: server.prot: unknown key. Remedy: did you mean 'port'? "
        "known here: host, port, workers, unsafe_bind, "
        "tls_cert_file, tls_key_file, websocket_origins.",
        "FILE:3: server.port: must be a valid integer, not '8080'. "
        "Remedy: write a whole number, without quotes.",
        "FILE:4: admin.token: must be a valid string. Remedy: put the value in quotes.",
        "FILE:5: stor: unknown key. Remedy: did you mean 'store'? known here: tenant, server, admin, "
        "upstreams, redis, ledger, policies, budgets, prices, remediation, reports, breaker, telemetry, state_dir, "
        "limits, keys, store, tasks, tracking, refusal_status, log.",
        "FILE:6: log: must be a mapping of keys, not 'text'. Remedy: write `key: value` lines.",
        "FILE:7: state_dir: is empty. Remedy: name a path, or leave the key out for its default.",
        "FILE:8: policies.mode: 'on' is not a mode. Remedy: known here: off, observe, enforce.",
    ]


def test_a_disconnect_that_does_not_exist(write: Write) -> None:
    (fault,) = faults(write("upstreams:\n  openai:\n    disconnect: darin\n"))
    assert fault == (
        "FILE:3: upstreams.openai.disconnect: 'darin' is neither cancel nor drain. "
        "Remedy: write cancel or drain, or leave the key out to do as the provider bills."
    )


@pytest.mark.parametrize(
    "text",
    [
        "server: {port: true}",
        "server: {port: 8080.0}",
        "server: {port: 65536}",
        "server: {port: -1}",
        "server: {workers: 0}",
        "server: {host: ''}",
        "server: {host: 127}",
        "limits: {drain_ms: 0}",
        "limits: {max_body_bytes: 64MB}",
        "store: {timeout_ms: 0}",
        "refusal_status: 500",
        "refusal_status: 200",
        "log: {format: xml}",
        "log: {calls: maybe}",
        "policies: {mode: 1}",
        "state_dir: null",
        "upstreams: [openai]",
        "upstreams: {mine: {provider: x}}",
        "upstreams: {'my upstream': {base_url: 'http://x'}}",
        "upstreams: {openai: {max_connections: '5'}}",
        "upstreams: {openai: {disconnect: 1}}",
        "upstreams: {openai: {drain_ms: 0}}",
        "upstreams: {openai: {drain_max_bytes: 0}}",
        "upstreams: {openai: {max_draining: -1}}",
        "redis: {url: 'http://x'}",
        "ledger: {url: 'ledger.db'}",
    ],
)
def test_wrong_values_are_refused(text: str, write: Write) -> None:
    [fault] = faults(write(f"# a comment\n{text}\n"))
    assert fault.startswith("FILE:2: ")


def test_a_fault_of_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_SERVER__PORT", "http")
    monkeypatch.setenv("TOLLGATE_SERVER__PROT", "1")
    monkeypatch.setenv("TOLLGATE_POLICES__MODE", "off")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS__MINE__PROVIDER", "x")
    assert [fault.partition(". Remedy")[0] for fault in faults(None)] == [
        "environment: TOLLGATE_POLICES__MODE: unknown section",
        "environment: TOLLGATE_SERVER__PORT: must be a valid integer, "
        "unable to parse string as an integer, not 'http'",
        "environment: TOLLGATE_SERVER__PROT: unknown key",
        "environment: TOLLGATE_UPSTREAMS__MINE__BASE_URL: a value is required",
    ]


def test_a_section_that_is_no_json_in_the_environment_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOLLGATE_SERVER", "8080")
    monkeypatch.setenv("TOLLGATE_UPSTREAMS", "{broken")
    assert "TOLLGATE_<SECTION>__<KEY>" in faults(None)[0]


def test_a_fault_of_the_command_line_names_the_key() -> None:
    [fault] = faults(None, server={"port": 70_000})
    assert fault.startswith("command line: server.port: ")


def test_a_wrong_file_and_a_wrong_variable_are_told_together(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_LOG__LEVEL", "loud")
    found = faults(write("server: {port: x}\n"))
    assert [fault.split(": ")[1] for fault in found] == ["server.port", "TOLLGATE_LOG__LEVEL"]


def test_a_wrong_file_is_told_though_a_variable_would_replace_the_value(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_SERVER__PORT", "9000")
    [fault] = faults(write("server: {port: x}\n"))
    assert fault.startswith("FILE:1: server.port: must be a valid integer, not 'x'")


def test_upstream_names_that_differ_only_in_case_are_given_twice(write: Write) -> None:
    [fault] = faults(write("upstreams:\n  OpenAI: {}\n  openai: {}\n"))
    assert fault.startswith("FILE:3: upstreams.openai: is given twice")


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com",
        "ftp://api.openai.com",
        "https://",
        "https://h:99999",
        "https://h:0",
        "https://[::1",
        " https://h",
        "https://h?x=1",
        "https://h?",
        "https://h#f",
        "https://user:secret-word@h",
    ],
)
def test_a_base_url_is_an_origin_with_at_most_a_path(url: str, write: Write) -> None:
    [fault] = faults(write(f"upstreams: {{openai: {{base_url: '{url}'}}}}\n"))
    assert "upstreams.openai.base_url: " in fault
    assert "secret-word" not in fault


def test_a_base_url_may_have_a_port_and_a_path(write: Write) -> None:
    file = write("upstreams: {openai: {base_url: 'http://[::1]:9000/a/b/'}}\n")
    assert load_settings(file, {}).upstreams["openai"].base_url == "http://[::1]:9000/a/b"


def test_values_that_do_not_go_together_are_refused(write: Write) -> None:
    found = faults(
        write("store: {lease_ms: 15000}\nserver: {port: 9}\nadmin: {port: 9}\n"),
    )
    assert [fault.split(": ")[1] for fault in found] == ["store.heartbeat_ms", "admin.port"]
    assert load_settings(write("server: {port: 0}\nadmin: {port: 0}\n"), {}).admin.port == 0


def test_broken_yaml_is_a_fault(write: Write) -> None:
    [fault] = faults(write("server: {port: 1\n"))
    assert "is not valid YAML" in fault


def test_a_variable_with_one_underscore_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets TOLLGATE_ADMIN_PORT=tcp://... for a service named tollgate-admin."""
    monkeypatch.setenv("TOLLGATE_SERVER_PORT", "9000")
    monkeypatch.setenv("TOLLGATE_ADMIN_PORT", "tcp://10.0.0.1:8081")
    monkeypatch.setenv("TOLLGATE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("TOLLGATE_SERVER_HOST", "")  # counts as not set
    monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", "a-token")  # the command line's own
    assert load_settings(None, {}) == Settings()
    assert [str(doubt) for doubt in environment_doubts()] == [
        "environment: TOLLGATE_SERVER_PORT: is not read. "
        "Remedy: write TOLLGATE_SERVER__PORT, with two underscores."
    ]


def test_secrets_are_not_in_the_representation() -> None:
    settings = load_settings(
        None,
        {
            "admin": {"token": "secret-word"},
            "redis": {"url": "redis://:secret-word@r"},
            "ledger": {"url": "postgresql://u:secret-word@l/x"},
        },
    )
    assert "secret-word" not in repr(settings)


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    for target in (settings, settings.server):
        with pytest.raises(ValueError, match="frozen"):
            target.port = 1  # type: ignore[union-attr]


# what the workers get


def test_a_worker_s_defaults_are_those_of_the_settings() -> None:
    plane = data_plane(Settings(), "unix:///s")
    upstreams = {
        "openai": UpstreamSettings("https://api.openai.com", "openai"),
        "anthropic": UpstreamSettings("https://api.anthropic.com", "anthropic"),
        "gemini": UpstreamSettings(
            "https://generativelanguage.googleapis.com", "gemini", disconnect=Disconnect.DRAIN
        ),
    }
    assert plane == DataPlane(store_url="unix:///s", upstreams=upstreams)


def test_every_setting_reaches_the_workers(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 3 item 1: no part that is parsed and never read."""
    monkeypatch.setenv("DISABLE_BUDGET_ENFORCEMENT", "1")
    file = write(
        "refusal_status: 402\n"
        "limits: {max_body_bytes: 2000, max_head_bytes: 2001, header_timeout_ms: 1,"
        " idle_timeout_ms: 2, drain_ms: 3, drain_idle_ms: 2, max_headers: 20, body_grace_ms: 4,"
        " min_body_bytes_per_s: 5, write_stall_ms: 6, max_connections: 7,"
        " max_connections_per_address: 8, max_bytes_in_flight: 9000, max_loop_lag_ms: 9,"
        " socket_ping_ms: 10, socket_idle_ms: 11}\n"
        "server: {websocket_origins: 'https://a.example'}\n"
        "store: {timeout_ms: 4, lease_ms: 50, heartbeat_ms: 6, tombstone_ms: 7}\n"
        "tasks: {phase_idle_close_ms: 8, session_headers: X-Session, budget_comment: true}\n"
        "keys: {required: true}\n"
        "tracking: {enabled: false}\n"
        "log: {calls: false, format: text, level: debug}\n"
        "upstreams: {openai: {provider: azure, include_usage: false, forward_tags: true,"
        " ca_file: ca.pem, max_connections: 1, connect_timeout_ms: 2, read_timeout_ms: 3,"
        " keepalive_ms: 4, queue_timeout_ms: 5, max_waiting: 6, disconnect: Drain, drain_ms: 7,"
        " drain_max_bytes: 2002, max_draining: 8, models: 'gpt-*', dialects: [anthropic],"
        " api_key: sk-1, auth_header: Api-Key, drop_v1: true, fallback: [Anthropic],"
        " fallback_on: [503]}, anthropic: {api_key: sk-2}}\n"
    )
    plane = data_plane(load_settings(file, {}), "u")
    default = data_plane(Settings(), "other")
    same = {f.name for f in fields(DataPlane) if getattr(plane, f.name) == getattr(default, f.name)}
    assert same == {"tenant", "journal_dir"}
    assert plane.upstreams["openai"] == UpstreamSettings(
        "https://api.openai.com",
        "azure",
        False,
        True,
        "ca.pem",
        1,
        2,
        3,
        4,
        5,
        6,
        Disconnect.DRAIN,
        7,
        2002,
        8,
        models=("gpt-*",),
        dialects=("anthropic",),
        api_key="sk-1",
        auth_header="api-key",
        drop_v1=True,
        fallback=("anthropic",),
        fallback_on=("503",),
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("provider: groq", Disconnect.DRAIN),
        ("provider: groq, disconnect: cancel", Disconnect.CANCEL),
        ("provider: openai", Disconnect.CANCEL),
        ("provider: openai, disconnect: drain", Disconnect.DRAIN),
        ("disconnect: null", Disconnect.CANCEL),
    ],
)
def test_what_a_client_that_leaves_means(keys: str, expected: Disconnect, write: Write) -> None:
    """What is written, else what the provider bills."""
    settings = load_settings(write(f"upstreams: {{mine: {{base_url: 'http://m', {keys}}}}}\n"), {})
    assert data_plane(settings, "u").upstreams["mine"].disconnect is expected


def test_the_store_s_timeout_depends_on_where_it_is() -> None:
    remote = load_settings(None, {"redis": {"url": "redis://r"}, "ledger": {"writer": False}})
    assert data_plane(Settings(), "u").store_timeout_ms == 250
    assert data_plane(remote, "redis://r").store_timeout_ms == 50


@pytest.mark.parametrize("redis", ["redis://r:6379", "rediss://10.0.0.5"])
def test_gateways_that_share_a_store_must_share_the_ledger(redis: str) -> None:
    """A SQLite file for each of them would be a ledger of nothing whole."""
    with pytest.raises(InvalidConfigError) as error:
        load_settings(None, {"redis": {"url": redis}})
    (fault,) = error.value.faults
    assert "ledger.writer: is needed" in fault
    assert "ledger.url" in fault
    for ledger in ({"writer": True}, {"writer": False}, {"url": "postgresql://l/l"}):
        assert load_settings(None, {"redis": {"url": redis}, "ledger": ledger})


@pytest.mark.parametrize(
    "redis", ["", "unix:///run/valkey.sock", "redis://localhost", "redis://127.0.0.1:1"]
)
def test_a_store_of_this_machine_needs_no_word_about_the_writer(redis: str) -> None:
    assert load_settings(None, {"redis": {"url": redis}}).ledger.writer is None


def test_the_ledger_is_in_the_state_folder_unless_it_is_named() -> None:
    settings = load_settings(None, {"state_dir": "/s"})
    assert ledger_url(settings) == "sqlite:////s/ledger.db"
    named = load_settings(None, {"ledger": {"url": "postgresql://l/l"}})
    assert ledger_url(named) == "postgresql://l/l"


def test_sections_are_the_ones_of_the_file() -> None:
    assert set(Settings.model_fields) - set(GatewayFile.model_fields) == {"enforcement_disabled"}


def test_admin_tokens_come_from_a_variable_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ADMIN__TOKENS", '{"ada": {"role": "viewer", "token_file": "f"}}')
    assert load_settings(None, {}).admin.tokens["ada"].role == "viewer"


@pytest.mark.parametrize(
    ("tokens", "key"),
    [
        ({"ada": {"role": "viewer"}}, "admin.tokens.ada"),
        ({"ada": {"role": "viewer", "token_file": "f", "sha256": "0" * 64}}, "admin.tokens.ada"),
        ({"Ada!": {"role": "viewer", "token_file": "f"}}, "admin.tokens.Ada!"),
        ({"admin": {"role": "viewer", "token_file": "f"}}, "admin.tokens.admin"),
        ({"ada": {"role": "guest", "token_file": "f"}}, "admin.tokens.ada.role"),
        ({"ada": {"role": "viewer", "sha256": "abc"}}, "admin.tokens.ada.sha256"),
    ],
)
def test_what_is_no_admin_token_is_told(tokens: dict[str, object], key: str) -> None:
    with pytest.raises(InvalidConfigError, match=re.escape(key)):
        load_settings(None, {"admin": {"tokens": tokens}})


def test_a_gateway_is_one_tenant_s(write: Write) -> None:
    """Its name is part of every key in the store; what could leave its place there is none."""
    assert data_plane(load_settings(None, {}), "unix:///s").tenant == "default"
    assert data_plane(load_settings(None, {"tenant": "acme-2"}), "unix:///s").tenant == "acme-2"
    for name in ("", "Acme", "a}b", "_", "a b", "x" * 64):
        [fault] = faults(write(f"tenant: '{name}'\n"))
        assert fault.startswith(f"FILE:1: tenant: {name!r} cannot name a tenant. Remedy: use up to")


TELEMETRY = [
    ("otlp_endpoint: collector:4318", "otlp_endpoint: is not an http(s) origin"),
    ("otlp_endpoint: http://user:pw@collector", "otlp_endpoint: holds credentials"),
    ("otlp_headers: authorization", "otlp_headers: is no list of headers"),
    ("otlp_headers: 'a b=1'", "otlp_headers: is no list of headers"),
    ("interval_s: 0", "interval_s: "),
]


@pytest.mark.parametrize(("line", "fault"), TELEMETRY)
def test_where_telemetry_goes_is_checked(write: Write, line: str, fault: str) -> None:
    [told] = faults(write(f"telemetry:\n  {line}\n"))
    assert told.startswith(f"FILE:2: telemetry.{fault}")


def test_headers_for_the_collector_are_a_secret() -> None:
    settings = load_settings(
        None, {"telemetry": {"otlp_headers": "authorization=Bearer s3cret, x-scope=team"}}
    )
    assert "s3cret" not in repr(settings)
