"""What the parts of the gateway need, made of the settings."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from gateway.core.breaker import BreakerRule
from gateway.core.budget import NANO_USD_PER_USD
from gateway.core.configuration import DataPlane, UpstreamSettings
from gateway.core.disconnect import disconnect_of
from gateway.settings.routing import dialects_of, held_key
from gateway.settings.sections import Settings, UpstreamSection
from gateway.socket_path import socket_path

_NS_PER_MS = 1_000_000
_EMBEDDED_STORE_TIMEOUT_MS = 250  # its process shares the cores with the workers
_REMOTE_STORE_TIMEOUT_MS = 50


def translator_socket(settings: Settings) -> str:
    """Return where the translator serves: in the state folder, or a short private place."""
    return socket_path(settings.state_dir.absolute() / "translator.sock")


def ledger_url(settings: Settings) -> str:
    """Return the URL of the ledger's database; by default a file in the state folder."""
    return settings.ledger.url or f"sqlite:///{(settings.state_dir / 'ledger.db').absolute()}"


def evidence_dir(settings: Settings) -> Path:
    """Return the root of tasks' evidence: reports, and what links to them."""
    named = settings.reports.dir
    return Path(named) if named else settings.state_dir / "evidence"


def monthly_nano_usd(settings: Settings) -> int | None:
    """Return what the gateway costs to run for a month, None if nobody said."""
    said = settings.telemetry.running_cost_usd
    return None if said is None else int(Decimal(str(said)) * NANO_USD_PER_USD)


def breaker_rule(settings: Settings) -> BreakerRule:
    """Return when the gateway steps aside for being too slow."""
    said = settings.breaker
    baseline_ns = None if said.baseline_ms is None else round(said.baseline_ms * _NS_PER_MS)
    return BreakerRule(
        limit_percent=said.percent,
        sustained_ms=said.minutes * 60_000,
        least_ns=said.least_ms * _NS_PER_MS,
        baseline_ns=baseline_ns,
    )


def writes_reports(settings: Settings) -> bool:
    """Return whether there are reports; without tracking there is nothing to report (RBK-2)."""
    return settings.reports.enabled and settings.tracking.enabled


def _no_proxy(_base_url: str) -> str:
    return ""


def data_plane(
    settings: Settings, store_url: str, environment_proxy: Callable[[str], str] = _no_proxy
) -> DataPlane:
    """Return what a worker needs of the settings, for the store at `store_url`.

    `environment_proxy` tells the proxy to an upstream's base URL, where the setting is `env`.
    """
    limits, store = settings.limits, settings.store
    default_timeout = _REMOTE_STORE_TIMEOUT_MS if settings.redis.url else _EMBEDDED_STORE_TIMEOUT_MS
    return DataPlane(
        store_url=store_url,
        journal_dir=str(settings.state_dir / "journal"),
        tenant=settings.tenant,
        upstreams={
            name: _upstream(section, environment_proxy, translator_socket(settings))
            for name, section in settings.upstreams.items()
        },
        refusal_status=settings.refusal_status,
        max_body_bytes=limits.max_body_bytes,
        max_head_bytes=limits.max_head_bytes,
        header_timeout_ms=limits.header_timeout_ms,
        idle_timeout_ms=limits.idle_timeout_ms,
        max_headers=limits.max_headers,
        body_grace_ms=limits.body_grace_ms,
        min_body_bytes_per_s=limits.min_body_bytes_per_s,
        write_stall_ms=limits.write_stall_ms,
        max_connections=limits.max_connections,
        max_connections_per_address=limits.max_connections_per_address,
        max_bytes_in_flight=limits.max_bytes_in_flight,
        max_loop_lag_ms=limits.max_loop_lag_ms,
        store_timeout_ms=default_timeout if store.timeout_ms is None else store.timeout_ms,
        lease_ms=store.lease_ms,
        heartbeat_ms=store.heartbeat_ms,
        tombstone_ms=store.tombstone_ms,
        phase_idle_close_ms=settings.tasks.phase_idle_close_ms,
        session_headers=settings.tasks.session_headers,
        tracking=settings.tracking.enabled,
        budget_comment=settings.tasks.budget_comment,
        drain_ms=limits.drain_ms,
        drain_idle_ms=limits.drain_idle_ms,
        socket_ping_ms=limits.socket_ping_ms,
        socket_idle_ms=limits.socket_idle_ms,
        websocket_origins=tuple(
            origin.strip().lower().rstrip("/")
            for origin in settings.server.websocket_origins.split(",")
            if origin.strip()
        ),
        log_calls=settings.log.calls,
        log_format=settings.log.format,
        log_level=settings.log.level,
        enforcement_disabled=settings.enforcement_disabled,
        keys_required=settings.keys.required,
    )


def _upstream(
    section: UpstreamSection, environment_proxy: Callable[[str], str], translator: str
) -> UpstreamSettings:
    values = section.model_dump()
    proxy = values.pop("proxy")
    if proxy == "env":
        proxy = environment_proxy(section.base_url)
    del values["api_key_file"]
    values["api_key"] = held_key(section)
    values["dialects"] = dialects_of(section)
    values["auth_header"] = section.auth_header or ""
    values["provider"] = section.provider or section.translate
    values["disconnect"] = section.disconnect or disconnect_of(values["provider"])
    if section.translate:
        values["translator_socket"], values["drop_v1"] = translator, False
    return UpstreamSettings(**values, proxy_url="" if proxy == "none" else proxy)
