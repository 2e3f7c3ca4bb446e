"""What `tollgate serve` prints once it is up: what to set, and what is in force."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.core.configuration import Rules
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class AdminToken:
    """The admin plane's bearer token; the file it is kept in, if it was generated."""

    secret: str
    file: Path | None = None
    is_new: bool = False


def banner(settings: Settings, rules: Rules, data: Any, admin: Any, token: AdminToken) -> str:
    """Return the text; `data` and `admin` are socket addresses."""
    base = _origin(data, "https" if settings.server.tls_cert_file else "http")
    admin_url = _origin(admin)
    source = settings.budgets.file if rules.budgets_source == "file" else "built-in defaults"
    policies = ", ".join(
        f"{policy.name} ({policy.mode.value})" for policy in rules.policies.stop_loss
    )
    lines = [
        "",
        "Tollgate is up. Point a client at it and name a task:",
        "",
        f"  export OPENAI_BASE_URL={base}/v1",
        f"  export ANTHROPIC_BASE_URL={base}",
        "  header X-Task-Id: my-task    (and X-Task-Phase: IMPLEMENT, or the URL prefix "
        "/t/my-task/IMPLEMENT)",
        "",
        f"  budgets   {source} (hash {rules.budgets.config_hash})",
        f"  policies  {policies or 'none'}",
        f"  store     {'redis.url' if settings.redis.url else 'embedded, under'} "
        f"{'' if settings.redis.url else settings.state_dir}".rstrip(),
        f"  admin     {admin_url}/admin/v1/tasks, {admin_url}/readyz, {admin_url}/metrics",
    ]
    if token.is_new:
        lines.append(f"  token     {token.secret} (shown once, kept in {token.file})")
    elif token.file is not None:
        lines.append(f"  token     in {token.file}")
    if settings.enforcement_disabled:
        lines.append("  ENFORCEMENT IS DISABLED by DISABLE_BUDGET_ENFORCEMENT")
    lines += [
        "",
        "The default budgets are small: one call of a coding agent sends 15,000 tokens.",
        "For realistic ones: TOLLGATE_BUDGETS__FILE=config/presets/coding_agent.yaml",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def _origin(address: Any, scheme: str = "http") -> str:
    host, port = address[0], address[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
