"""The documentation says what the code does: links, codes, metrics and step names hold."""

import re
from pathlib import Path

import pytest

from gateway import callers, lifecycle, metering, planner
from gateway.server.refusals import CODES
from gateway.telemetry.names import COUNTERS, GAUGES, HISTOGRAMS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path):
    """Every relative link of a page leads to a file."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_code_of_the_contract_is_explained():
    """Operators find every code that an answer may carry in the operations page."""
    page = (ROOT / "docs/operations.md").read_text()
    assert [code for code in sorted(CODES) if f"`{code}`" not in page] == []


def test_every_metric_is_explained():
    """Every exposed metric stands in the operations page, with its labels."""
    page = (ROOT / "docs/operations.md").read_text()
    for metric in (*COUNTERS, *HISTOGRAMS, *GAUGES):
        row = next((line for line in page.splitlines() if f"| `{metric.name}`" in line), "")
        assert row, metric.name
        assert [label for label in metric.labels if label not in row] == [], metric.name


def test_the_life_of_a_call_names_real_steps():
    """The map and the code use the same names for the steps of a call."""
    page = (ROOT / "docs/life-of-a-call.md").read_text()
    steps = re.findall(r"^## \d (\w+)\n\n`(\w+(?:\.\w+)*)", page, flags=re.MULTILINE)
    assert [step for step, _ in steps] == [
        "identify",
        "read",
        "plan",
        "reserve",
        "decide",
        "forward",
        "relay",
        "settle",
        "record",
    ]
    for _, place in steps:
        name = place.rpartition(".")[2]
        known = (
            hasattr(lifecycle.Lifecycle, name)
            or hasattr(callers.Callers, name)
            or hasattr(metering.Metering, name)
            or hasattr(lifecycle, name)
            or hasattr(planner, name)
            or hasattr(planner.Planner, name)
            or (ROOT / "gateway" / place.replace(".", "/")).with_suffix(".py").exists()
            or (ROOT / f"gateway/{place}").exists()
        )
        assert known, place


def test_the_changelog_speaks_of_the_version_to_come():
    """Changes are told to users in the same change as the code."""
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_page_depends_on_anything_outside_the_project():
    """The project stands alone: no page points above its own root."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).resolve().is_relative_to(ROOT), (page, target)
