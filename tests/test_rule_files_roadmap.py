"""The roadmap file, as people write it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.core.budget import Amounts
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.roadmap import NO_OVERRIDES, Roadmap, RoadmapTask
from gateway.findings import Severity
from gateway.rule_files import load_rules
from gateway.rule_files.check import check_all
from gateway.rule_files.roadmap import read_roadmap
from gateway.settings import Settings

SHIPPED = Path(__file__).parents[1]


def read(tmp_path: Path, text: str) -> tuple[Roadmap | None, list[str]]:
    file = tmp_path / "roadmap.yaml"
    file.write_text(text)
    tasks, findings = read_roadmap(file)
    return tasks, [f"{finding.severity.value} {finding.key}" for finding in findings]


def one(tmp_path: Path, text: str) -> RoadmapTask:
    tasks, findings = read(tmp_path, f"- {{id: T, {text}}}")
    assert (findings, list(tasks or ())) == ([], ["T"])
    return (tasks or {})["T"]


def test_the_example() -> None:
    """What is shipped is read without a finding, and means what it says."""
    tasks, findings = read_roadmap(SHIPPED / "config/roadmap.yaml")
    assert tasks is not None
    assert findings == []
    first, second, third = tasks.values()
    assert (first.profile.complexity, first.profile.importance) == (
        *(Complexity.LARGE, ImportanceTier.HIGH),
    )
    assert first.profile.overrides.phases == {WorkPhase.THINK: Amounts(20_000, 300_000)}
    assert (second.profile.complexity, second.parent) == (Complexity.SMALL, "IMP-COST-01")
    assert second.profile.overrides.budget_multiplier == Decimal("1.5")
    assert third.profile.importance is ImportanceTier.CRITICAL


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("tasks:\n- id: A\n- {id: 7, status: open}", ["A", "7"]),
        ("- id: A\n- id: B", ["A", "B"]),
        ("tasks: {A: {complexity: tiny}, B: null}", ["A", "B"]),
        ("title: nothing yet", []),
        ("tasks:", []),
        ("", []),
    ],
)
def test_lists_and_mappings(tmp_path: Path, text: str, ids: list[str]) -> None:
    tasks, findings = read(tmp_path, text)
    assert (list(tasks or ()), findings) == (ids, [])


@pytest.mark.parametrize(
    ("text", "complexity"),
    [
        ("files: 2, changed_lines: 120", Complexity.TINY),
        ("changed_lines: 361", Complexity.MEDIUM),
        ("files: 13", Complexity.LARGE),
        ("files: 13, complexity: SMALL", Complexity.SMALL),
        ("title: x", Complexity.MEDIUM),
    ],
)
def test_CFG10_scope_class_by_size(tmp_path: Path, text: str, complexity: Complexity) -> None:
    assert one(tmp_path, text).profile.complexity is complexity


def test_money_is_exact(tmp_path: Path) -> None:
    task = one(tmp_path, "budget_overrides: {pr: {cost_usd: 0.1}}, budget_multiplier: 1.1")
    assert task.profile.overrides.phases[WorkPhase.PR].nano_usd == 100_000_000
    assert task.profile.overrides.budget_multiplier == Decimal("1.1")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("budget_overrides: {think: {tokens: five thousand}}", "budget_overrides.think.tokens"),
        ("budget_overrides: {think: {tokens: true}}", "budget_overrides.think.tokens"),
        ("budget_overrides: {think: {latency_ms: -1}}", "budget_overrides.think.latency_ms"),
        ("budget_overrides: {think: {cost_usd: .nan}}", "budget_overrides.think.cost_usd"),
        ("budget_overrides: {dance: {tokens: 1}}", "budget_overrides.dance"),
        ("budget_overrides: {PR: {tokens: 1}, pr: {tokens: 1}}", "budget_overrides.pr"),
        ("budget_overrides: {PR: {}}", "budget_overrides.PR"),
        ("budget_overrides: {PR: {dollars: 1}}", "budget_overrides.PR"),
        ("budget_overrides: 3", "budget_overrides"),
        ("budget_multiplier: 11", "budget_multiplier"),
        ("budget_multiplier: '2'", "budget_multiplier"),
        ("budget_multiplier: .inf", "budget_multiplier"),
    ],
)
def test_EC17_a_malformed_budget_blocks_its_task_and_no_other(
    tmp_path: Path, text: str, key: str
) -> None:
    """The problem names task and field."""
    tasks, findings = read(tmp_path, f"- {{id: T, complexity: Large, {text}}}\n- id: U")
    assert tasks is not None
    assert findings == [f"warning T.{key}"]
    assert tasks["T"].problem.startswith(f"task T, {key}: ")
    assert tasks["T"].profile.complexity is Complexity.LARGE
    assert tasks["U"] == RoadmapTask()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("complexity: Huge", "complexity"),
        ("complexity: 3", "complexity"),
        ("importance: vital", "importance"),
        ("files: many", "files"),
        ("changed_lines: -1", "changed_lines"),
        ("parent: -x", "parent"),
    ],
)
def test_other_mistakes_are_told_and_count_as_not_said(tmp_path: Path, text: str, key: str) -> None:
    tasks, findings = read(tmp_path, f"- {{id: T, {text}}}")
    assert findings == [f"warning T.{key}"]
    assert tasks == {"T": RoadmapTask()}


def test_PM6_critical_without_a_justification_is_high(tmp_path: Path) -> None:
    tasks, findings = read(tmp_path, "- {id: T, importance: critical}")
    assert findings == ["warning T.justification"]
    assert tasks is not None
    assert tasks["T"].profile.importance is ImportanceTier.HIGH
    assert tasks["T"].profile.overrides == NO_OVERRIDES


@pytest.mark.parametrize("text", ["- 3", "- id: -x", "- id: true", "- {title: x}"])
def test_what_has_no_id_is_left_out(tmp_path: Path, text: str) -> None:
    tasks, findings = read(tmp_path, f"{text}\n- id: U\n- id: U")
    assert (tasks, findings) == (
        {"U": RoadmapTask()},
        ["warning tasks[0]", "warning tasks[2]"],
    )


@pytest.mark.parametrize("text", ["{", "tasks: 3", "- !!python/object:os.system x", "a: \x00"])
def test_what_cannot_be_read_is_no_roadmap(tmp_path: Path, text: str) -> None:
    tasks, findings = read(tmp_path, text)
    assert tasks is None
    assert [finding.split()[0] for finding in findings] == ["error"]


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    tasks, findings = read(tmp_path, "#" * (16 * 1024 * 1024 + 1))
    assert (tasks, findings) == (None, ["error "])


def test_without_a_file_no_task_is_known(tmp_path: Path) -> None:
    assert read_roadmap(None) == ({}, [])
    tasks, findings = read_roadmap(tmp_path / "none.yaml")
    assert (tasks, [finding.severity for finding in findings]) == ({}, [Severity.WARNING])


def test_it_is_loaded_kept_when_it_breaks_and_checked(tmp_path: Path) -> None:
    """A reload that finds it broken, or gone, is an error: the last one stays in force."""
    file = tmp_path / "roadmap.yaml"
    file.write_text("- id: T")
    tasks: Any = {"roadmap_file": str(file)}
    settings = Settings(tasks=tasks)
    rules, _ = load_rules(settings)
    assert list(rules.roadmap) == ["T"]
    for break_it in (lambda: file.write_text("{"), file.unlink):
        break_it()
        _, findings = load_rules(settings, running=rules)
        assert str(file) in [f.file for f in findings if f.severity is Severity.ERROR]
    config = tmp_path / "gateway.yaml"
    config.write_text(f"tasks: {{roadmap_file: '{file}'}}\n")
    file.write_text("- {id: T, budget_multiplier: 0}")
    (checked,) = [one for one in check_all(config) if one.file == str(file)]
    assert (checked.faults, checked.detail) == ((), "1 tasks")
    assert "T.budget_multiplier" in checked.doubts[0]
