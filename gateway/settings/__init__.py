"""The static side of the configuration: `config/gateway.yaml` and the environment.

Read once at start. What may change while the gateway runs is in `rule_files`.
"""

from gateway.settings.derived import (
    breaker_rule,
    data_plane,
    evidence_dir,
    ledger_url,
    monthly_nano_usd,
    translator_socket,
    writes_reports,
)
from gateway.settings.loading import DEFAULT_CONFIG_FILE, environment_doubts, load_settings
from gateway.settings.sections import GatewayFile, Settings, UpstreamSection

__all__ = [
    "DEFAULT_CONFIG_FILE",
    "GatewayFile",
    "Settings",
    "UpstreamSection",
    "breaker_rule",
    "data_plane",
    "environment_doubts",
    "evidence_dir",
    "ledger_url",
    "load_settings",
    "monthly_nano_usd",
    "translator_socket",
    "writes_reports",
]
