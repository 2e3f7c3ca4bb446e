"""Validate every configuration file that the gateway could read, without starting it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.core.errors import InvalidConfigError
from gateway.findings import Finding, Findings, Severity
from gateway.rule_files.budgets import read_phase_budgets
from gateway.rule_files.policies import read_policies
from gateway.rule_files.prices import read_prices
from gateway.rule_files.roadmap import read_roadmap
from gateway.settings import DEFAULT_CONFIG_FILE, Settings, environment_doubts, load_settings
from gateway.settings.routing import routing_doubts
from gateway.yaml_source import is_missing

_RETRIED_BY_CLIENTS = (402, 408, 409, 429)


@dataclass(frozen=True, slots=True)
class Checked:
    """A file with what was found in it; `detail` says what a good file gave."""

    file: str
    faults: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    detail: str = ""


def check_all(config_file: Path | None) -> Iterator[Checked]:
    """Yield each file: settings, budgets, presets, policies with their rollouts, prices."""
    config = config_file or DEFAULT_CONFIG_FILE
    try:
        settings = load_settings(config_file, {})
        yield _checked(str(config), _doubts_about(settings, str(config)))
    except InvalidConfigError as error:
        settings = Settings()
        yield Checked(str(config), tuple(error.faults))
    yield from _check_budgets(settings.budgets.file, config.parent)
    yield from _check_policies(settings.policies.dir)
    for folder in _folders(settings.policies.dir / "rollout"):
        yield from _check_policies(folder)
    prices, findings = read_prices(settings.prices.file)
    count = f"{len(prices.models):,} models, {len(prices.overrides)} overrides" if prices else ""
    yield _checked(str(settings.prices.file), findings, count)
    if settings.tasks.roadmap_path is not None:
        roadmap, findings = read_roadmap(settings.tasks.roadmap_path)
        yield _checked(settings.tasks.roadmap_file, findings, f"{len(roadmap or {}):,} tasks")


def _checked(file: str, findings: Iterable[Finding], detail: str = "") -> Checked:
    by_severity: dict[Severity, list[str]] = {severity: [] for severity in Severity}
    for finding in findings:
        by_severity[finding.severity].append(str(finding))
    faults, doubts = by_severity[Severity.ERROR], by_severity[Severity.WARNING]
    return Checked(file, tuple(faults), tuple(doubts), detail)


def _doubts_about(settings: Settings, file: str) -> list[Finding]:
    """Return warnings on settings that are allowed but seldom meant."""
    doubts = Findings(file)
    for name, upstream in settings.upstreams.items():
        if upstream.base_url.endswith("/v1") and not upstream.drop_v1:
            doubts.warning(
                f"upstreams.{name}.base_url",
                None,
                "ends in /v1, which the calls' own path repeats",
                "leave out /v1",
            )
    for key, problem, remedy in routing_doubts(settings.upstreams):
        doubts.warning(key, None, problem, remedy)
    if settings.refusal_status in _RETRIED_BY_CLIENTS:
        doubts.warning(
            "refusal_status",
            None,
            f"{settings.refusal_status} is retried by some clients",
            "use 400 unless all of yours are known not to",
        )
    return [*doubts.items, *environment_doubts()]


def _check_budgets(file: Path, config_folder: Path) -> Iterator[Checked]:
    if is_missing(file):
        doubts = Findings(str(file))
        doubts.warning("", None, "does not exist, the built-in defaults hold", "create it")
        yield _checked(str(file), doubts.items)
    else:
        yield _check_budgets_file(file)
    folders = dict.fromkeys((config_folder / "presets", file.parent / "presets"))
    for preset in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        if preset != file:
            yield _check_budgets_file(preset)


def _check_budgets_file(file: Path) -> Checked:
    config, findings = read_phase_budgets(file)
    return _checked(str(file), findings, f"hash {config.config_hash}" if config else "")


def _check_policies(folder: Path) -> Iterator[Checked]:
    """Yield each file of a policy folder, and the folder itself if something is said about it."""
    _, findings = read_policies(folder)
    files = {str(path): path for path in folder.glob("*.yaml") if not path.name.startswith(".")}
    named = sorted({*files, *(finding.file for finding in findings)})
    for file in named:
        yield _checked(file, (finding for finding in findings if finding.file == file))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())
