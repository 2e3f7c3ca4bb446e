"""What `config/gateway.yaml` may say: sections, types, bounds and defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.core.match import DEFAULT_TENANT
from gateway.core.routing import CONNECT, SERVER_ERRORS
from gateway.core.sessions import SESSION_HEADERS
from gateway.settings.values import (
    DAY_MS,
    ApiKey,
    AuthHeader,
    BaseUrl,
    ByName,
    Bytes,
    CollectorUrl,
    DisconnectWord,
    Failures,
    Families,
    HeaderList,
    HeaderNames,
    Host,
    KeyFile,
    LedgerUrl,
    Milliseconds,
    ModelPatterns,
    Origins,
    PemFile,
    Place,
    PolicyMode,
    Port,
    Proxy,
    StoreUrl,
    Switch,
    Tenant,
    UpstreamNames,
)

ENV_PREFIX = "TOLLGATE_"
ENV_DELIMITER = "__"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(_Section):
    """The data plane's listener."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    unsafe_bind: Switch = False
    tls_cert_file: PemFile = ""
    tls_key_file: PemFile = ""
    websocket_origins: Origins = ""


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
    tokens: ByName[AdminTokenSection] = Field(default_factory=dict)


class UpstreamSection(_Section):
    """A provider; see `core.configuration.UpstreamSettings`.

    `disconnect` None does as the provider bills; `dialects`, `auth_header` and `drop_v1` None do
    what its provider and base URL need. `translate` names the provider's dialect where calls
    must be translated for it, empty where they speak it themselves.
    """

    base_url: BaseUrl
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
    disconnect: DisconnectWord | None = None
    drain_ms: Milliseconds = 120_000
    drain_max_bytes: Bytes = 32 * 1024 * 1024
    max_draining: Annotated[int, Field(ge=0, le=65_535)] = 100
    proxy: Annotated[Proxy, Field(repr=False)] = "env"
    allow_link_local: Switch = False
    models: ModelPatterns = ()
    dialects: Families = None
    api_key: Annotated[ApiKey, Field(repr=False)] = ""
    api_key_file: KeyFile = ""
    auth_header: AuthHeader | None = None
    drop_v1: Switch | None = None
    fallback: UpstreamNames = ()
    fallback_on: Failures = (CONNECT, "429", SERVER_ERRORS)


class RedisSection(_Section):
    """Where balances live; empty for the embedded store."""

    url: Annotated[StoreUrl, Field(repr=False)] = ""


class LedgerSection(_Section):
    """Where the ledger is, who writes it, how long it is kept.

    `url` empty is SQLite in the state folder. `writer` None writes it where that is safe.
    """

    url: Annotated[LedgerUrl, Field(repr=False)] = ""
    writer: Switch | None = None
    rebuild: Literal["auto", "manual"] = "auto"
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90
    size_alert_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 50)] = 1 << 30
    stream_cap: Annotated[int, Field(ge=1_000, le=100_000_000)] = 500_000


class PoliciesSection(_Section):
    """Where policies are, and a mode that replaces each one's."""

    dir: Place = Path("policies")
    mode: PolicyMode | None = None


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

    otlp_endpoint: CollectorUrl = ""
    otlp_headers: Annotated[HeaderList, Field(repr=False)] = ""
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
    tombstone_ms: Annotated[int, Field(gt=0, le=7 * DAY_MS)] = 3_600_000
    sweep_ms: Milliseconds = 5_000
    valkey_binary: str = ""


class TasksSection(_Section):
    """How tasks are followed."""

    phase_idle_close_ms: Milliseconds = 60_000
    idle_complete_ms: Annotated[int, Field(ge=1_000, le=365 * DAY_MS)] | None = DAY_MS
    roadmap_file: str = ""
    session_headers: HeaderNames = SESSION_HEADERS
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

    tenant: Tenant = DEFAULT_TENANT
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
