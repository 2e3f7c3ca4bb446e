"""What `config/gateway.yaml` may say: sections, types, bounds and defaults."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.core.credentials import AUTH_HEADERS
from gateway.core.disconnect import Disconnect
from gateway.core.headers import KEY_HEADERS
from gateway.core.match import DEFAULT_TENANT
from gateway.core.policy import Mode
from gateway.core.routing import CONNECT, FAMILIES, SERVER_ERRORS
from gateway.core.sessions import SESSION_HEADERS
from gateway.findings import rule, suggestion
from gateway.settings.api_keys import checked_key, read_key_file

ENV_PREFIX = "TOLLGATE_"
ENV_DELIMITER = "__"
_DAY_MS = 86_400_000
_ORIGIN = re.compile(r"(?i)https?://[a-z0-9._-]+(?::[0-9]{1,5})?/?")
_LONGEST_PATTERN = 128  # characters
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CREDENTIALS = frozenset(name.decode() for name in KEY_HEADERS)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ERROR_STATUS = re.compile("[45][0-9]{2}")


def _switch(value: object) -> object:
    """Return a boolean for YAML 1.1's words: an operator in a hurry writes `off` or `no`."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _mode(value: object) -> object:
    """Return the mode that a word names; a boolean False is what YAML 1.1 makes of `off`."""
    word = "off" if value is False else value
    known = {mode.value: mode for mode in Mode}
    if isinstance(word, str):
        if word.strip().lower() not in known:
            raise rule(f"{word!r} is not a mode", suggestion(word, known))
        return known[word.strip().lower()]
    return word


def _disconnect(value: object) -> object:
    known = {word.value: word for word in Disconnect}
    if isinstance(value, str):
        if value.strip().lower() not in known:
            remedy = "write cancel or drain, or leave the key out to do as the provider bills"
            raise rule(f"{value!r} is neither cancel nor drain", remedy)
        return known[value.strip().lower()]
    return value


def _path(value: object) -> object:
    if value == "":
        raise rule("is empty", "name a path, or leave the key out for its default")
    return Path(value) if isinstance(value, str) else value


def _base_url(value: str) -> str:
    """Return an origin plus optional path, without its trailing slash."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid, parts = False, urlsplit("")
    if not valid or value != value.strip():
        raise rule("is not an http(s) origin", "write it like https://api.example.com")
    if parts.username is not None or parts.password is not None:
        raise rule("holds credentials", "send them in the calls' headers instead")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise rule("has a query or fragment", "give the origin and, if needed, a path")
    return value.rstrip("/")


def _tenant(value: str) -> str:
    if not _TENANT.fullmatch(value):
        remedy = "use up to 63 lower-case letters, digits and hyphens, a letter or digit first"
        raise rule(f"{value!r} cannot name a tenant", remedy)
    return value


def _collector(value: str) -> str:
    return _base_url(value) if value else ""


def _header_list(value: str) -> str:
    """Return text like `name=value,name=value`, as OpenTelemetry writes headers."""
    for part in filter(None, value.split(",")):
        name, equals, text = part.strip().partition("=")
        if not (equals and _HEADER_NAME.fullmatch(name) and text.isprintable() and text.isascii()):
            raise rule("is no list of headers", "write it like name=value,name=value")
    return value


def _pem_file(value: str) -> str:
    if value and not Path(value).is_file():
        raise rule(f"{value} is no file", "name a PEM file, or leave the key empty")
    return value


def _proxy(value: str) -> str:
    word = value.strip().lower()
    if word in ("env", "none"):
        return word
    try:
        parts = urlsplit(value)
        valid = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or value != value.strip():
        raise rule("is no HTTP proxy", "write env, none, or http://host:port")
    return value


def _store_url(value: str) -> str:
    if value and not value.startswith(("redis://", "rediss://", "unix://")):
        raise rule("has an unknown scheme", "use redis://, rediss:// or unix://, or leave it empty")
    return value


def _ledger_url(value: str) -> str:
    if value and not value.startswith(("postgresql://", "sqlite:///")):
        raise rule(
            "is not a database's URL", "write postgresql://..., sqlite:///..., or leave it empty"
        )
    return value


def _words(value: object) -> object:
    """Return words for one, or for several with commas or as JSON: so a variable has them."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise rule("is no JSON list", "write words with commas between them") from None
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, list | tuple):
        return tuple(
            str(word) if isinstance(word, int) and not isinstance(word, bool) else word
            for word in value
        )
    return value


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(word.lower() for word in value)
    for name in names:
        if not UPSTREAM_NAME.fullmatch(name):
            raise rule(f"{name!r} cannot be an upstream's name", "name keys of upstreams")
    if len(set(names)) < len(names):
        raise rule("names an upstream twice", "name each once, in the order to try them")
    return names


def _header_names(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _CREDENTIALS:
            raise rule(f"{name!r} cannot carry a session's id", "name other headers, or none")
    return tuple(name.lower() for name in value)


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in value:
        if not pattern or len(pattern) > _LONGEST_PATTERN or pattern != pattern.strip():
            raise rule(
                f"{pattern[:_LONGEST_PATTERN]!r} is no pattern of model names",
                "write a name, with * for any text, like claude-*",
            )
    return value


def _families(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for word in value or ():
        if word not in FAMILIES:
            raise rule(f"{word!r} is no family of dialects", suggestion(word, FAMILIES))
    return value


def _auth_header(value: object) -> object:
    if isinstance(value, str):
        if value.lower() not in AUTH_HEADERS:
            raise rule(f"{value!r} holds no provider's key", suggestion(value, AUTH_HEADERS))
        return value.lower()
    return value


def _failures(value: tuple[str, ...]) -> tuple[str, ...]:
    for word in value:
        if word not in (CONNECT, SERVER_ERRORS) and not _ERROR_STATUS.fullmatch(word):
            raise rule(
                f"{word!r} is no failure", f"write {CONNECT}, {SERVER_ERRORS}, or a status like 429"
            )
    return value


def _key_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _key_file(value: str) -> str:
    if value:
        read_key_file(value)
    return value


Switch = Annotated[bool, BeforeValidator(_switch)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Place = Annotated[Path, BeforeValidator(_path)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Milliseconds = Annotated[int, Field(gt=0, le=_DAY_MS)]
Bytes = Annotated[int, Field(ge=1_024, le=1 << 32)]
Host = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _origins(value: str) -> str:
    """Return origins, comma-separated: what a browser says of the page that asks."""
    for origin in filter(None, map(str.strip, value.split(","))):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            remedy = "write https://host or https://host:port, several with commas, or * for any"
            raise rule(f"{origin!r} is no origin", remedy)
    return value


class ServerSection(_Section):
    """The data plane's listener."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    unsafe_bind: Switch = False
    tls_cert_file: Annotated[str, AfterValidator(_pem_file)] = ""
    tls_key_file: Annotated[str, AfterValidator(_pem_file)] = ""
    websocket_origins: Annotated[str, AfterValidator(_origins)] = ""


def _mapping(value: object) -> object:
    """Return a mapping, for a variable from its JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise rule("is not JSON", 'write it like {"ada": {"role": "viewer", ...}}') from None


class AdminTokenSection(_Section):
    """A token beside `admin.token`: the file that holds it, or its SHA-256 in hexadecimal."""

    role: Literal["viewer", "operator", "admin"]
    token_file: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""


class AdminSection(_Section):
    """The admin plane's listener, and who may use it; `tokens` are by their owners' names."""

    host: Host = "127.0.0.1"
    port: Port = 8081
    token: Annotated[str, Field(repr=False)] = ""
    tokens: Annotated[dict[str, AdminTokenSection], NoDecode, BeforeValidator(_mapping)] = Field(
        default_factory=dict
    )


class UpstreamSection(_Section):
    """A provider; see `core.configuration.UpstreamSettings`.

    `disconnect` None does as the provider bills; `dialects`, `auth_header` and `drop_v1` None do
    what its provider and base URL need. `translate` names the provider's dialect where calls
    must be translated for it, empty where they speak it themselves.
    """

    base_url: Annotated[str, AfterValidator(_base_url)]
    provider: str = ""
    translate: Literal["", "anthropic", "bedrock", "gemini", "openai"] = ""
    include_usage: Switch = True
    forward_tags: Switch = False
    ca_file: str = ""
    max_connections: Annotated[int, Field(ge=1, le=65_535)] = 1_000
    connect_timeout_ms: Milliseconds = 10_000
    read_timeout_ms: Milliseconds = 600_000
    keepalive_ms: Milliseconds = 75_000
    queue_timeout_ms: Milliseconds | None = None
    max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    disconnect: Annotated[Disconnect | None, BeforeValidator(_disconnect)] = None
    drain_ms: Milliseconds = 120_000
    drain_max_bytes: Bytes = 32 * 1024 * 1024
    max_draining: Annotated[int, Field(ge=0, le=65_535)] = 100
    proxy: Annotated[str, AfterValidator(_proxy), Field(repr=False)] = "env"
    allow_link_local: Switch = False
    models: Annotated[Words, AfterValidator(_patterns)] = ()
    dialects: Annotated[
        tuple[str, ...] | None, NoDecode, BeforeValidator(_words), AfterValidator(_families)
    ] = None
    api_key: Annotated[
        str, BeforeValidator(_key_text), AfterValidator(checked_key), Field(repr=False)
    ] = ""
    api_key_file: Annotated[str, AfterValidator(_key_file)] = ""
    auth_header: Annotated[str, BeforeValidator(_auth_header)] | None = None
    drop_v1: Switch | None = None
    fallback: Annotated[Words, AfterValidator(_names)] = ()
    fallback_on: Annotated[Words, AfterValidator(_failures)] = (CONNECT, "429", SERVER_ERRORS)


class RedisSection(_Section):
    """Where balances live; empty for the embedded store."""

    url: Annotated[str, AfterValidator(_store_url), Field(repr=False)] = ""


class LedgerSection(_Section):
    """Where the ledger is, who writes it, how long it is kept.

    `url` empty is SQLite in the state folder. `writer` None writes it where that is safe.
    """

    url: Annotated[str, AfterValidator(_ledger_url), Field(repr=False)] = ""
    writer: Switch | None = None
    rebuild: Literal["auto", "manual"] = "auto"
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90
    size_alert_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 50)] = 1 << 30
    stream_cap: Annotated[int, Field(ge=1_000, le=100_000_000)] = 500_000


class PoliciesSection(_Section):
    """Where policies are, and a mode that replaces each one's."""

    dir: Place = Path("policies")
    mode: Annotated[Mode | None, BeforeValidator(_mode)] = None


class BudgetsSection(_Section):
    """Where the phase budgets are."""

    file: Place = Path("config/phase_budgets.yaml")


class PricesSection(_Section):
    """Where the price overrides are."""

    file: Place = Path("config/prices.yaml")


class RemediationSection(_Section):
    """Where the task that mends a breach is put; empty: it is only listed, and told to webhooks."""

    roadmap_file: str = ""


class ReportsSection(_Section):
    """Whether budget reports are written, and where; empty: into `evidence` under `state_dir`."""

    enabled: Switch = True
    dir: str = ""


class BreakerSection(_Section):
    """When the gateway steps aside because it is too slow itself (RBK-3)."""

    enabled: Switch = True
    percent: Annotated[int, Field(ge=110, le=10_000)] = 200
    minutes: Annotated[int, Field(ge=1, le=1_440)] = 10
    least_ms: Annotated[int, Field(ge=0, le=60_000)] = 10
    baseline_ms: Annotated[float | None, Field(gt=0, le=60_000)] = None


class TelemetrySection(_Section):
    """Where metrics and spans go by OTLP; empty: nowhere. Prometheus scrapes the admin plane."""

    otlp_endpoint: Annotated[str, AfterValidator(_collector)] = ""
    otlp_headers: Annotated[str, AfterValidator(_header_list), Field(repr=False)] = ""
    interval_s: Annotated[int, Field(ge=1, le=3_600)] = 10
    statistics_minutes: Annotated[int, Field(ge=0, le=1_440)] = 15
    running_cost_usd: Annotated[float | None, Field(gt=0, le=10_000_000)] = None
    include_task_id: Switch = False


class LimitsSection(_Section):
    """What one connection may cost, and all of a worker's together."""

    max_body_bytes: Bytes = 64 * 1024 * 1024
    max_head_bytes: Bytes = 65_536
    header_timeout_ms: Milliseconds = 10_000
    idle_timeout_ms: Milliseconds = 75_000
    max_headers: Annotated[int, Field(ge=16, le=10_000)] = 256
    body_grace_ms: Milliseconds = 10_000
    min_body_bytes_per_s: Annotated[int, Field(ge=0, le=1 << 30)] = 1_000
    write_stall_ms: Milliseconds = 120_000
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    max_bytes_in_flight: Annotated[int, Field(ge=1_024, le=1 << 40)] = 256 * 1024 * 1024
    max_loop_lag_ms: Milliseconds = 500
    drain_ms: Milliseconds = 30_000
    drain_idle_ms: Milliseconds = 1_000
    socket_ping_ms: Milliseconds = 30_000
    socket_idle_ms: Milliseconds = 3_600_000


class KeysSection(_Section):
    """Gateway keys."""

    required: Switch = False


class StoreSection(_Section):
    """How the store is used. `timeout_ms` None means 250 embedded, 50 remote.

    `valkey_binary` names the server that the embedded store runs; empty finds one.
    """

    timeout_ms: Milliseconds | None = None
    lease_ms: Milliseconds = 30_000
    heartbeat_ms: Milliseconds = 10_000
    tombstone_ms: Annotated[int, Field(gt=0, le=7 * _DAY_MS)] = 3_600_000
    sweep_ms: Milliseconds = 5_000
    valkey_binary: str = ""


class TasksSection(_Section):
    """How tasks are followed."""

    phase_idle_close_ms: Milliseconds = 60_000
    idle_complete_ms: Annotated[int, Field(ge=1_000, le=365 * _DAY_MS)] | None = _DAY_MS
    roadmap_file: str = ""
    session_headers: Annotated[Words, AfterValidator(_header_names)] = SESSION_HEADERS
    budget_comment: Switch = False

    @property
    def roadmap_path(self) -> Path | None:
        """Return where the roadmap is, None for none."""
        return Path(self.roadmap_file) if self.roadmap_file else None


class TrackingSection(_Section):
    """Whether calls are followed at all; without, the gateway is a proxy and nothing else."""

    enabled: Switch = True


class LogSection(_Section):
    """What is logged, and how."""

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    calls: Switch = True


DEFAULT_UPSTREAMS: Mapping[str, Mapping[str, str]] = {
    "openai": {"base_url": "https://api.openai.com", "provider": "openai"},
    "anthropic": {"base_url": "https://api.anthropic.com", "provider": "anthropic"},
    "gemini": {"base_url": "https://generativelanguage.googleapis.com", "provider": "gemini"},
}


def _default_upstreams() -> dict[str, UpstreamSection]:
    return {name: UpstreamSection(**keys) for name, keys in DEFAULT_UPSTREAMS.items()}  # type: ignore[arg-type]


class GatewayFile(BaseModel):
    """What `config/gateway.yaml` may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[str, AfterValidator(_tenant)] = DEFAULT_TENANT
    server: ServerSection = ServerSection()
    admin: AdminSection = AdminSection()
    upstreams: dict[str, UpstreamSection] = Field(default_factory=_default_upstreams)
    redis: RedisSection = RedisSection()
    ledger: LedgerSection = LedgerSection()
    policies: PoliciesSection = PoliciesSection()
    budgets: BudgetsSection = BudgetsSection()
    prices: PricesSection = PricesSection()
    remediation: RemediationSection = RemediationSection()
    reports: ReportsSection = ReportsSection()
    breaker: BreakerSection = BreakerSection()
    telemetry: TelemetrySection = TelemetrySection()
    state_dir: Place = Path("state")
    limits: LimitsSection = LimitsSection()
    keys: KeysSection = KeysSection()
    store: StoreSection = StoreSection()
    tasks: TasksSection = TasksSection()
    tracking: TrackingSection = TrackingSection()
    refusal_status: Annotated[int, Field(ge=400, le=499)] = 400
    log: LogSection = LogSection()


class Settings(GatewayFile, BaseSettings):
    """The settings in force. `enforcement_disabled` can come from the environment only."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,
        env_parse_none_str="null",
    )

    enforcement_disabled: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing by itself: `loading.load_settings` lays the sources over each other."""
        return (init_settings,)
