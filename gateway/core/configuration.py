"""What a data-plane worker runs on, as plain values that travel from the supervisor to it.

`DataPlane` is read once at start; `Rules` is reloadable as a whole: a call takes one `Rules` and
keeps it to its end, a reload swaps the reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.budget import PhaseBudgetConfig
from gateway.core.disconnect import Disconnect
from gateway.core.policy import PolicySet
from gateway.core.prices import PriceTable
from gateway.core.roadmap import Roadmap
from gateway.core.sessions import SESSION_HEADERS


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """A provider: an origin plus optional path prefix, and how to talk to it.

    `provider` prefixes model names in price look-ups; `include_usage` tells whether it accepts
    `stream_options.include_usage`; `ca_file` replaces the system's certificates. Without
    `queue_timeout_ms` a call waits for a connection as long as it may take to open one. `proxy_url`
    is empty for none. `allow_link_local` allows metadata services' addresses too.

    `disconnect` tells what becomes of a stream whose client has left. An answer is drained for at
    most `drain_ms` and `drain_max_bytes` of body, `max_draining` of a worker's at a time; what is
    beyond a cap is cancelled.

    `models` are patterns of models that come here by name (`core/routing.py`); `dialects` the
    families of wire formats that it takes, none for what its provider does. `api_key` replaces the
    client's credential in `auth_header`, empty for its provider's own; without a key the client's
    passes, and the word `none` sends none at all. `drop_v1` leaves out a call's leading `/v1`; None
    does so where the base URL needs it. `fallback` are the upstreams that are tried when this one
    fails as `fallback_on` says: `connect`, a status, or `5xx`.

    `translator_socket` is empty for none; else connections go to the translator there, which makes
    the call at `base_url`.
    """

    base_url: str
    provider: str = ""
    include_usage: bool = True
    forward_tags: bool = False
    ca_file: str = ""
    max_connections: int = 1_000
    connect_timeout_ms: int = 10_000
    read_timeout_ms: int = 600_000
    keepalive_ms: int = 75_000
    queue_timeout_ms: int | None = None
    max_waiting: int = 1_000
    disconnect: Disconnect = Disconnect.CANCEL
    drain_ms: int = 120_000
    drain_max_bytes: int = 32 * 1024 * 1024
    max_draining: int = 100
    allow_link_local: bool = False
    translate: str = ""
    translator_socket: str = ""
    proxy_url: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    auth_header: str = ""
    drop_v1: bool | None = None
    fallback: tuple[str, ...] = ()
    fallback_on: tuple[str, ...] = ("connect", "429", "5xx")


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Everything static that a worker needs; its secrets are API keys and the URLs of store and
    proxies.

    `refusal_status` answers refusals; `store_timeout_ms` bounds a reserve; `drain_ms` bounds
    finishing open calls at shutdown, those that are read on without a client included. Connections
    and bytes in flight are a worker's own.
    """

    store_url: str
    journal_dir: str = "state/journal"
    tenant: str = "default"
    upstreams: Mapping[str, UpstreamSettings] = field(default_factory=dict)
    refusal_status: int = 400
    max_body_bytes: int = 64 * 1024 * 1024
    max_head_bytes: int = 65_536
    header_timeout_ms: int = 10_000
    idle_timeout_ms: int = 75_000
    max_headers: int = 256
    body_grace_ms: int = 10_000
    min_body_bytes_per_s: int = 1_000
    write_stall_ms: int = 120_000
    max_connections: int = 10_000
    max_connections_per_address: int = 1_000
    max_bytes_in_flight: int = 256 * 1024 * 1024
    max_loop_lag_ms: int = 500
    store_timeout_ms: int = 250
    lease_ms: int = 30_000
    heartbeat_ms: int = 10_000
    tombstone_ms: int = 3_600_000
    phase_idle_close_ms: int = 60_000
    drain_ms: int = 30_000
    drain_idle_ms: int = 1_000
    socket_ping_ms: int = 30_000
    socket_idle_ms: int = 3_600_000
    websocket_origins: tuple[str, ...] = ()
    log_calls: bool = True
    log_format: str = "json"
    log_level: str = "info"
    enforcement_disabled: bool = False
    keys_required: bool = False
    session_headers: tuple[str, ...] = SESSION_HEADERS
    tracking: bool = True
    budget_comment: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything reloadable. `budgets_source` is `file` or `defaults`; `roadmap` is by task id."""

    budgets: PhaseBudgetConfig
    policies: PolicySet
    prices: PriceTable
    budgets_source: str = "defaults"
    roadmap: Roadmap = field(default_factory=dict)
