"""Cases of policies: the shipped ones hold, a wrong one is told, a malformed one is named."""

from pathlib import Path

import pytest
import yaml

from gateway.policy_cases.check import check_cases
from gateway.rule_files import load_policies
from gateway.rule_files.check import Checked
from gateway.rule_files.policy_kinds import POLICY_KINDS

SHIPPED = Path(__file__).parents[1] / "policies"
FOLDERS = [SHIPPED, SHIPPED / "examples", *sorted(SHIPPED.glob("rollout/*"))]
ALL = {"allow", "flag", "refuse"}
STOP_LOSS = "kind: stop_loss\nname: stop-loss\nmode: enforce\n"
ALLOWED = "cases:\n  - {name: one, call: {}, expect: {decision: allow}}\n"


def policy_files() -> list[Path]:
    return [file for folder in FOLDERS for file in sorted(folder.glob("*.yaml"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_shipped_case_holds(folder: Path) -> None:
    checked = list(check_cases(folder))
    assert [fault for one in checked for fault in one.faults] == []
    files = sorted(file.name for file in folder.glob("*.yaml"))
    assert [Path(one.file).name for one in checked] == files


def test_every_kind_has_cases_that_allow_flag_and_refuse() -> None:
    decided: dict[str, set[str]] = {kind: set() for kind in POLICY_KINDS}
    for file in policy_files():
        kind = yaml.safe_load(file.read_text())["kind"]
        cases = yaml.safe_load((file.parent / "cases" / file.name).read_text())["cases"]
        expected = [case["expect"] for case in cases]
        decided[kind] |= {one["decision"] for one in expected if "decision" in one}
    assert decided == dict.fromkeys(POLICY_KINDS, ALL)


def put(folder: Path, cases: str, policy: str = STOP_LOSS, name: str = "a.yaml") -> list[Checked]:
    (folder / "cases").mkdir()
    (folder / "a.yaml").write_text(policy)
    (folder / "cases" / name).write_text(cases)
    return list(check_cases(folder))


def fault_of(folder: Path, cases: str, **files: str) -> str:
    [checked] = put(folder, cases, **files)
    [fault] = checked.faults
    return fault.removeprefix(str(folder / "cases"))


def test_a_good_file_says_how_many_cases_it_has(tmp_path: Path) -> None:
    assert put(tmp_path, ALLOWED) == [
        Checked(str(tmp_path / "cases/a.yaml"), detail="1 case"),
    ]


def test_a_case_that_does_not_hold_says_what_was_expected_and_what_came(tmp_path: Path) -> None:
    cases = ALLOWED.replace("allow", "refuse, code: task_killed, clamp: 5")
    [checked] = put(tmp_path, cases)
    assert [fault.partition(".yaml")[2] for fault in checked.faults] == [
        f":2: case 'one': {text}. Remedy: correct the policy, or what the case expects."
        for text in (
            "decision: expected refuse, got allow",
            "clamp: expected 5, got none",
            "code: expected task_killed, got none",
        )
    ]


def test_a_would_be_refusal_has_to_be_expected(tmp_path: Path) -> None:
    cases = ALLOWED.replace(
        "call: {}", "mode: observe, given: {state: killed}, call: {phase: PLAN}"
    ).replace("allow", "flag")
    fault = fault_of(tmp_path, cases)
    assert "decision: expected flag, got refuse" in fault  # an operator's kill holds in every mode


@pytest.mark.parametrize(
    ("old", "new", "key", "remedy"),
    [
        ("call: {}", "call: {fase: PLAN}", "call.fase: unknown key", "did you mean 'phase'?"),
        ("call: {}", "call: {phase: BUILD}", "call.phase: 'BUILD' is not", "known here: STRAT"),
        ("call: {}", "call: {input_tokens: many}", "call.input_tokens: must", "a whole number"),
        ("call: {}", "mode: watch, call: {}", "mode: 'watch' is not allowed", "known here: off"),
        ("call: {}", "given: {tripped: time}, call: {}", "given.tripped: 'time'", "known here"),
        (
            "call: {}",
            "given: {task: {tokens: {settled: 1}}}, call: {}",
            "given.task.tokens.limit: a value is required",
            "add it",
        ),
        ("call: {}", "notice: {kind: bang}", "notice.kind: 'bang'", "known here: 50, 80"),
        ("call: {}", "override: {kind: grant, phase: PLAN}", "override: a phase goes", "both or"),
        ("call: {}", "override: {kind: multiplier}", "override: a factor goes", "both or neither"),
        ("call: {}, ", "", "cases.0: a case is of one thing", "one of call, override, notice"),
        ("decision: allow", "", "cases.0: what is expected lacks a decision", "decision: allow"),
        ("allow", "refuse", "expect: a refusal has a code", "add `code: ...`"),
        ("allow", "allow, notices: 80", "expect.notices: must be a list", "write it like"),
        ("call: {}", "notice: {kind: trip}", "cases.0: expects decision", "leave that out"),
        ("allow", "allow, colour: red", "expect.colour: unknown key", "known here: decision"),
    ],
)
def test_a_malformed_case_is_named_with_its_key_and_the_remedy(
    tmp_path: Path, old: str, new: str, key: str, remedy: str
) -> None:
    assert old in ALLOWED
    fault = fault_of(tmp_path, ALLOWED.replace(old, new))
    assert fault.startswith("/a.yaml:2: case 'one': cases.0")
    assert key in fault
    assert remedy in fault.partition("Remedy: ")[2]


@pytest.mark.parametrize("key", ["clamp: 1", "posted_to: []"])
def test_an_override_has_no_clamp_and_is_not_posted(tmp_path: Path, key: str) -> None:
    cases = ALLOWED.replace("call: {}", "override: {kind: resume}")
    fault = fault_of(tmp_path, cases.replace("allow", f"allow, {key}"))
    assert f"expects {key.partition(':')[0]}, which it has not" in fault


@pytest.mark.parametrize(
    ("cases", "problem"),
    [
        ("cases: []\n", "cases: "),
        ("kases: 1\n", "kases: unknown key. Remedy: did you mean 'cases'?"),
        ("cases: [1]\n", "cases.0: must be"),
        ("cases: [{call: {}}]\n", "cases.0.name: a value is required"),
        ("cases: {\n", "is not valid YAML"),
        (ALLOWED + ALLOWED.partition("\n")[2], "two cases are called 'one'"),
    ],
)
def test_a_malformed_file_is_told(tmp_path: Path, cases: str, problem: str) -> None:
    [checked] = put(tmp_path, cases)
    assert problem in "\n".join(checked.faults)


def test_a_file_of_cases_is_named_as_its_policy(tmp_path: Path) -> None:
    assert "has no policy file" in fault_of(tmp_path, ALLOWED, name="b.yaml")


def test_a_file_that_would_not_be_read_is_told(tmp_path: Path) -> None:
    assert "is not read. Remedy: name it a.yaml" in fault_of(tmp_path, ALLOWED, name="a.yml")


def test_without_policies_in_order_no_case_is_run(tmp_path: Path) -> None:
    """Their faults are told already."""
    assert put(tmp_path, ALLOWED, policy="kind: stop_loss\n") == []


def test_a_change_that_the_policy_cannot_take_is_told(tmp_path: Path) -> None:
    cases = ALLOWED.replace("call: {}", "change: {efect: flag}, call: {}")
    fault = fault_of(tmp_path, cases)
    assert "case 'one': change.efect: unknown key. Remedy: did you mean 'effect'?" in fault


def test_a_window_is_of_a_spend_limit_of_the_folder(tmp_path: Path) -> None:
    cases = ALLOWED.replace("call: {}", "given: {windows: {daily: {}}}, call: {}")
    fault = fault_of(tmp_path, cases)
    assert "case 'one': given.windows.daily: is no spend limit of this folder" in fault


def test_the_folder_is_no_policy(tmp_path: Path) -> None:
    """And neither is what stands in it."""
    put(tmp_path, "kind: nonsense\n")
    assert [policy.name for policy in load_policies(tmp_path).stop_loss] == ["stop-loss"]
