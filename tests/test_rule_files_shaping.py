"""The kinds of policy that shape calls, as they stand in files."""

from pathlib import Path

import pytest

from gateway.core.budget import Dimension
from gateway.core.errors import InvalidConfigError
from gateway.core.mid_stream_stop import MidStreamStopPolicy
from gateway.core.model_downgrade import ModelDowngradePolicy, SoftLine
from gateway.core.output_clamp import OutputClampPolicy
from gateway.core.policy import Mode, PolicySet
from gateway.rule_files import load_policies

EXAMPLES = Path(__file__).parents[1] / "policies" / "examples"


def load(folder: Path, text: str) -> PolicySet:
    (folder / "a.yaml").write_text(text)
    return load_policies(folder)


def test_the_examples_are_what_their_defaults_say(tmp_path: Path) -> None:
    """Copied, they act; the stop-loss' mode holds where they state none."""
    for kind in ("output-clamp", "model-downgrade", "mid-stream-stop"):
        (tmp_path / f"{kind}.yaml").write_text((EXAMPLES / f"{kind}.yaml").read_text())
    policies = load_policies(tmp_path)
    assert policies.output_clamp == (OutputClampPolicy(mode=Mode.ENFORCE),)
    assert policies.mid_stream_stop == (MidStreamStopPolicy("mid-stream-stop", Mode.ENFORCE),)
    models = (
        ("gpt-5-mini", "gpt-5-nano"),
        ("gpt-5*", "gpt-5-mini"),
        ("claude-opus-*", "claude-sonnet-4-5"),
    )
    assert policies.model_downgrade == (ModelDowngradePolicy(mode=Mode.ENFORCE, models=models),)


def test_every_key_is_read(tmp_path: Path) -> None:
    """Without a mode, that of the stop-loss: the built-in one observes."""
    text = (
        "kind: model_downgrade\nname: a\nat_percent: 95\nof: phase\ndimension: cost_usd\n"
        "models: {o3: o4-mini}\n"
    )
    line = SoftLine(95, Dimension.NANO_USD, of_phase=True)
    (policy,) = load(tmp_path, text).model_downgrade
    assert policy == ModelDowngradePolicy(
        "a", Mode.OBSERVE, policy.match, line, (("o3", "o4-mini"),)
    )
    (clamp,) = load(tmp_path, "kind: output_clamp\nname: a\nmin_tokens: 7\n").output_clamp
    assert (clamp.min_tokens, clamp.mode) == (7, Mode.OBSERVE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: output_clamp\nname: a\nmin_tokens: 0\n", "min_tokens"),
        ("kind: model_downgrade\nname: a\n", "models"),
        ("kind: model_downgrade\nname: a\nmodels: {}\n", "must be a table"),
        ("kind: model_downgrade\nname: a\nmodels: [a]\n", "must be a table"),
        ("kind: model_downgrade\nname: a\nmodels: {' ': b}\n", "' ' is not a pattern"),
        ("kind: model_downgrade\nname: a\nmodels: {'a*': 'b c'}\n", "'b c' is not a model's name"),
        ("kind: model_downgrade\nname: a\nmodels: {'a*': \"b\\r\\nx: y\"}\n", "not a model's name"),
        ("kind: model_downgrade\nname: a\nmodels: {a: b}\nat_percent: 0\n", "at_percent"),
        ("kind: model_downgrade\nname: a\nmodels: {a: b}\nof: team\n", "of"),
        ("kind: mid_stream_stop\nname: a\nat_percent: 5\n", "at_percent"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Naming the key."""
    with pytest.raises(InvalidConfigError) as raised:
        load(tmp_path, text)
    assert problem in "\n".join(raised.value.faults)
