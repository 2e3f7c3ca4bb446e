"""Policies of kind `override_bounds`, as they stand in files."""

from decimal import Decimal
from pathlib import Path

import pytest

from gateway.core.errors import InvalidConfigError
from gateway.core.override_bounds import OverrideBoundsPolicy
from gateway.core.policy import Mode, PolicySet
from gateway.rule_files import load_policies

EXAMPLE = Path(__file__).parents[1] / "policies" / "examples" / "override-bounds.yaml"


def load(folder: Path, text: str) -> PolicySet:
    (folder / "a.yaml").write_text(text)
    return load_policies(folder)


def test_every_key_is_read(tmp_path: Path) -> None:
    """The example has them all."""
    assert load(tmp_path, EXAMPLE.read_text()).override_bounds == (
        OverrideBoundsPolicy(
            mode=Mode.ENFORCE,
            grant_percent=100,
            phase_percent=200,
            factor=Decimal(2),
            lasting_s=604_800,
            exempt_roles=frozenset({"admin"}),
        ),
    )


def test_without_a_mode_it_enforces(tmp_path: Path) -> None:
    """It is no matter of the stop-loss."""
    (policy,) = load(tmp_path, "kind: override_bounds\nname: a\nfactor: 1.25\n").override_bounds
    assert (policy.mode, policy.factor, policy.grant_percent) == (
        Mode.ENFORCE,
        Decimal("1.25"),
        None,
    )


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("", "bounds nothing"),
        ("factor: 0", "above 0 and at most 10"),
        ("factor: 11", "above 0 and at most 10"),
        ("factor: true", "must be a number"),
        ("grant_percent: -1", "grant_percent"),
        ("lasting_s: 0", "lasting_s"),
        ("factor: 2\nexempt_roles: admin", "must be a list"),
        ("factor: 2\nexempt_roles: [boss]", "'boss' is not a role"),
        ("factor: 2\nmatch: {model: [gpt-5]}", "an override is none"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, keys: str, problem: str) -> None:
    """Naming the key and the remedy."""
    with pytest.raises(InvalidConfigError) as raised:
        load(tmp_path, f"kind: override_bounds\nname: a\n{keys}\n")
    assert problem in "\n".join(raised.value.faults)
