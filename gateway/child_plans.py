"""What children that carry no calls themselves are told: the ledger's writer, the translator."""

from gateway.control import FarSide, LedgerPlan, TelemetryPlan, TranslatorPlan
from gateway.core.configuration import DataPlane, Rules
from gateway.settings import (
    Settings,
    evidence_dir,
    ledger_url,
    monthly_nano_usd,
    translator_socket,
    writes_reports,
)


def ledger_plan(settings: Settings, plane: DataPlane, rules: Rules) -> LedgerPlan:
    """Return what the ledger's writer is told."""
    ledger = settings.ledger
    return LedgerPlan(
        store_url=plane.store_url,
        ledger_url=ledger_url(settings),
        tenants=(plane.tenant,),
        refusal_status=settings.refusal_status,
        rebuilds=ledger.rebuild == "auto",
        retention_days=ledger.retention_days,
        size_alert_bytes=ledger.size_alert_bytes,
        tombstone_ms=settings.store.tombstone_ms,
        log_format=settings.log.format,
        log_level=settings.log.level,
        roadmap_file=settings.remediation.roadmap_file,
        evidence_dir=str(evidence_dir(settings)),
        reports=writes_reports(settings),
        webhooks=rules.policies.webhook,
        telemetry=_telemetry_plan(settings),
    )


def _telemetry_plan(settings: Settings) -> TelemetryPlan:
    said = settings.telemetry
    headers = (part.strip().partition("=") for part in said.otlp_headers.split(",") if part.strip())
    return TelemetryPlan(
        tells=settings.tracking.enabled,
        otlp_endpoint=said.otlp_endpoint,
        otlp_headers={name: text for name, _, text in headers},
        interval_s=said.interval_s,
        include_task_id=said.include_task_id,
        statistics_s=said.statistics_minutes * 60,
        monthly_nano_usd=monthly_nano_usd(settings),
        phase_idle_close_ms=settings.tasks.phase_idle_close_ms,
    )


def translator_plan(settings: Settings) -> TranslatorPlan | None:
    """Return what the translator is told, None if no upstream is translated."""
    far_sides = {
        name: FarSide(section.translate, section.base_url, section.read_timeout_ms / 1000)
        for name, section in settings.upstreams.items()
        if section.translate
    }
    if not far_sides:
        return None
    return TranslatorPlan(
        socket_path=translator_socket(settings),
        far_sides=far_sides,
        max_body_bytes=settings.limits.max_body_bytes,
        max_head_bytes=settings.limits.max_head_bytes,
        log_format=settings.log.format,
        log_level=settings.log.level,
    )
