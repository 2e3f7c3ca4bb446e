"""A task is added to a roadmap, and not a byte of what people wrote is changed."""

import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.core.budget import TaskProfile
from gateway.dispatch.roadmap import RoadmapError, with_task
from gateway.rule_files.roadmap import read_roadmap

TASK = {
    "id": "FIX-BUDGET-BREACH-T",
    "title": "Task T exceeded token budget: 31,600 / 23,400 (135%)",
    "budget_breach": {"task": "T", "episode": 1, "worst_phases": [{"phase": "PLAN", "used": 1}]},
}

LISTED = """\
# Our roadmap
version: 2

tasks:   # in order
  - id: A        # first
    title: "quoted:  twice"
    notes: |
      keeps
        its shape
  # between
  - {id: B, title: 'inline'}   # behind
  # add more here

owners: [ann,   bob]   # odd spaces
"""
SHAPES = {
    "a list below tasks": LISTED,
    "a list at the same column": "tasks:\n- id: A\n- id: B\nother: 1\n",
    "the whole file is a list": "# head\n- id: A\n  x: 1\n\n# tail\n",
    "deeply indented": "tasks:\n      - id: A\n        deep:\n          - 1\n          -   2\nend: yes\n",
    "without a newline at the end": "tasks:\n  - id: A",
    "an empty value last": "tasks:\n  - id: A\n    due:\n# end\n",
    "block text last": "tasks:\n  - id: A\n    notes: |\n      one\n\n      two\n\n\n# end\nmore: 1\n",
    "block text at the end of the file": "tasks:\n  - id: A\n    notes: >-\n      one\n      two",
    "windows lines": "tasks:\r\n  - id: A\r\n    x: 1\r\nmore: 1\r\n",
    "a mapping": "tasks:\n  A:\n    title: a\n  B: {title: b}\nmore: 1\n",
    "no file": "",
    "comments only": "# nothing yet\n",
    "no tasks": "version: 1\n",
    "an empty key": "version: 1\ntasks:   # none\nmore: 1\n",
    "an empty list": "tasks: []   # none\nmore: 1\n",
    "an empty key at the end": "tasks:",
    "anchors": "base: &b {x: 1}\ntasks:\n  - id: A\n    <<: *b\n  - *b\n",
    "own tags": "tasks:\n  - id: A\n    at: !moment 2026\n",
    "unicode": "tasks:\n  - id: Ä\n    title: 予算\n",
    "a document's marks": "---\ntasks:\n  - id: A\n...\n",
}


def tasks_in(text: str) -> Any:
    root = yaml.load(text.replace("!moment ", ""), Loader=yaml.SafeLoader)
    return root["tasks"] if isinstance(root, dict) else root


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_a_task_is_put_behind_the_last_one(text: str) -> None:
    """SL-6: comments and formatting are kept, and a second time changes nothing."""
    made = with_task(text, TASK)
    assert made is not None
    tasks = tasks_in(made)
    if isinstance(tasks, dict):
        assert tasks["FIX-BUDGET-BREACH-T"] == {k: v for k, v in TASK.items() if k != "id"}
    else:
        assert tasks[-1] == TASK
    lost = [line for line in difflib.ndiff(text.splitlines(), made.splitlines()) if line[0] == "-"]
    assert lost in ([], ["- tasks: []   # none"])
    assert "\n" not in made.replace("\r\n", "") or "\r\n" not in text
    assert with_task(made, TASK) is None
    again = with_task(made, {**TASK, "id": "FIX-BUDGET-BREACH-T-2"})
    assert again is not None
    assert len(tasks_in(again)) == len(tasks) + 1


def test_the_place_is_behind_the_last_task_and_before_what_follows() -> None:
    made = with_task(LISTED, TASK) or ""
    head, _, tail = made.partition("  - id: FIX-BUDGET-BREACH-T\n")
    assert LISTED.startswith(head)
    assert head.endswith("# behind\n")
    assert tail.endswith("        used: 1\n" + LISTED.removeprefix(head))


def test_a_comment_beside_an_empty_list_is_kept() -> None:
    assert (with_task("tasks: []   # none\n", TASK) or "").startswith(
        "tasks:   # none\n  - id: FIX"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [{id: A}]\n", "in brackets"),
        ("tasks: {A: {}}\n", "in brackets"),
        ("tasks: 5\n", "no list of tasks"),
        ("just words\n", "no list of tasks"),
        ("[]\n", "empty list"),
        ("a: 1\n---\nb: 2\n", "no YAML in line 2"),
        ("tasks:\n\t- id: A\n", "no YAML in line 2"),
        ("[" * 1_000, "no YAML"),
        ("tasks:\n  - &a\n    id: A\n    self: *a\n", "does not take another"),
        (
            "tasks:\n  - id: FIX-BUDGET-BREACH-T\n    budget_breach: {task: X, episode: 1}\n"
            "  - id: FIX-BUDGET-BREACH-T.episode-1\n    budget_breach: {task: Y, episode: 1}\n",
            r"FIX-BUDGET-BREACH-T\.episode-1 about another breach \(Y 1\)",
        ),
    ],
)
def test_a_roadmap_that_takes_no_task_says_why(text: str, message: str) -> None:
    with pytest.raises(RoadmapError, match=message) as raised:
        with_task(text, TASK)
    assert "Remedy: " in str(raised.value)


def test_SL6_two_breaches_of_one_name_are_told_apart() -> None:
    """`A` has it in its second episode, and `A-2` in its first; each is there once, at last."""
    breaches = [
        {"id": "FIX-BUDGET-BREACH-A-2", "budget_breach": {"task": task, "episode": episode}}
        for task, episode in (("A", 2), ("A-2", 1))
    ]
    text = "tasks:\n"
    for breach in breaches * 2:
        text = with_task(text, breach) or text
    found = {task["id"]: task["budget_breach"]["task"] for task in yaml.safe_load(text)["tasks"]}
    assert found == {"FIX-BUDGET-BREACH-A-2": "A", "FIX-BUDGET-BREACH-A-2.episode-1": "A-2"}


def test_a_task_of_that_name_without_details_is_taken_for_it() -> None:
    """Somebody has shortened it."""
    assert with_task("tasks:\n  - id: FIX-BUDGET-BREACH-T\n", TASK) is None


def test_the_shipped_example_takes_one_and_is_read_with_it(tmp_path: Path) -> None:
    """The file may be the one that tells of tasks: the remediation has a budget like any other."""
    text = (Path(__file__).parents[2] / "config/roadmap.yaml").read_text()
    file = tmp_path / "roadmap.yaml"
    file.write_text(with_task(text, TASK) or "")
    tasks, findings = read_roadmap(file)
    assert findings == []
    assert tasks is not None
    assert list(tasks)[-1] == "FIX-BUDGET-BREACH-T"
    assert tasks["FIX-BUDGET-BREACH-T"].profile == TaskProfile()
