"""A policy folder becomes a policy set: whole, in order, hashed."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.budget import Amounts
from gateway.core.errors import InvalidConfigError
from gateway.core.match import CallMatch
from gateway.core.parallel_phases import ParallelPhases
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import (
    DimensionAction,
    Effect,
    FreeRoute,
    Match,
    Mode,
    PolicySet,
    ReserveKind,
    StopLossPolicy,
    StoreFailure,
    UnpricedEffect,
)
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy
from gateway.core.velocity import RatePolicy
from gateway.core.windows import Span
from gateway.rule_files import default_policies, load_policies, read_policies
from gateway.rule_files.policy_kinds import POLICY_KINDS

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "policies"
MINIMAL = "kind: stop_loss\nname: {name}\nmode: enforce\n"
Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def faults(folder: Path) -> list[str]:
    with pytest.raises(InvalidConfigError) as raised:
        load_policies(folder)
    return [fault.replace(f"{folder}/", "") for fault in raised.value.faults]


def doubts(folder: Path) -> list[str]:
    return [str(finding).replace(f"{folder}/", "") for finding in read_policies(folder)[1]]


# the shipped policies


def test_the_shipped_policy_is_the_built_in_one() -> None:
    """G-12: shipped mode is observe. Rollout presets and cases are not loaded with it."""
    policies, findings = read_policies(SHIPPED)
    assert policies == default_policies()
    assert policies is not None
    assert policies.stop_loss == (StopLossPolicy(),)
    assert findings == []


@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_the_shipped_policies_state_every_key(kind: str) -> None:
    """One that is left out on purpose stands in a comment."""
    name = f"{kind.replace('_', '-')}.yaml"
    places = [SHIPPED / name, SHIPPED / "examples" / name]
    text = next(place for place in places if place.exists()).read_text()
    for key in POLICY_KINDS[kind].model_fields:
        assert re.search(rf"^(# )?{key}:", text, re.MULTILINE), key


def test_the_examples_are_valid() -> None:
    """They are not loaded with the shipped policies."""
    policies, findings = read_policies(SHIPPED / "examples")
    assert policies is not None
    assert [str(finding) for finding in findings if "has no stop_loss" not in str(finding)] == []


@pytest.mark.parametrize(
    ("week", "enforced"),
    [
        ("week1", set()),
        ("week2", {ImportanceTier.LOW, ImportanceTier.MEDIUM}),
        ("week3", set(ImportanceTier)),
    ],
)
def test_each_week_of_the_rollout_enforces_for_more(
    week: str, enforced: set[ImportanceTier]
) -> None:
    """ROL-1."""
    policies, findings = read_policies(SHIPPED / "rollout" / week)
    assert findings == []
    assert policies is not None
    for importance in ImportanceTier:
        for complexity in Complexity:
            policy = policies.stop_loss_for(complexity, importance)
            expected = Mode.ENFORCE if importance in enforced else Mode.OBSERVE
            assert policy.mode is expected
            changed = replace(policy, name="stop-loss", mode=Mode.OBSERVE, match=Match())
            assert changed == StopLossPolicy()


# reading


def test_keys_that_are_left_out_have_the_defaults(folder: Write) -> None:
    policies = load_policies(folder(a=MINIMAL.format(name="a")))
    assert policies.stop_loss == (StopLossPolicy(name="a", mode=Mode.ENFORCE),)


def test_every_key_is_read_in_any_letter_case(folder: Write) -> None:
    text = """
kind: stop_loss
name: Strict.one
mode: Enforce
match: {complexity: [large, SMALL], importance: [Critical]}
effect: FLAG
enforce_from: any
reserve: Worst_Case
latency_action: refuse
phase_action: Refuse
token_action: off
cost_action: Flag
store_failure: CLOSED
parallel_phases: Refuse
"""
    assert load_policies(folder(a=text)).stop_loss == (
        StopLossPolicy(
            name="Strict.one",
            mode=Mode.ENFORCE,
            match=Match(
                frozenset({Complexity.LARGE, Complexity.SMALL}),
                frozenset({ImportanceTier.CRITICAL}),
            ),
            effect=Effect.FLAG,
            enforce_from=None,
            reserve=ReserveKind.WORST_CASE,
            latency_action=Effect.REFUSE,
            phase_action=Effect.REFUSE,
            store_failure=StoreFailure.CLOSED,
            token_action=DimensionAction.OFF,
            cost_action=DimensionAction.FLAG,
            parallel_phases=ParallelPhases.REFUSE,
        ),
    )


def test_a_match_may_name_calls(folder: Write) -> None:
    match = (
        "match: {phase: [verify], key: [ci-*], team: [a], tenant: [d], task: [T-*], model: [o3]}"
    )
    policies = load_policies(folder(a=MINIMAL.format(name="a") + match))
    assert policies.stop_loss[0].match == Match(
        calls=(
            CallMatch(
                phase=frozenset({WorkPhase.VERIFY}),
                key=frozenset({"ci-*"}),
                team=frozenset({"a"}),
                tenant=frozenset({"d"}),
                task=frozenset({"T-*"}),
                model=frozenset({"o3"}),
            ),
        )
    )


def test_a_policy_for_some_calls_covers_only_those(folder: Write) -> None:
    """All calls cover some; some do not cover others."""
    search = MINIMAL.format(name="{}") + "match: {{team: [search]}}\n"
    sales = MINIMAL.format(name="{}") + "match: {{team: [sales]}}\n"
    place = folder(
        a=search.format("a"),
        b=sales.format("b"),
        c=search.format("c"),
        d=MINIMAL.format(name="d"),
        e=sales.format("e"),
    )
    assert [doubt[:6] for doubt in doubts(place)] == ["c.yaml", "e.yaml"]


@pytest.mark.parametrize("phase", list(WorkPhase))
def test_enforcement_may_start_at_any_phase(phase: WorkPhase, folder: Write) -> None:
    text = MINIMAL.format(name="a") + f"enforce_from: {phase.value.lower()}\n"
    assert load_policies(folder(a=text)).stop_loss[0].enforce_from is phase


@pytest.mark.parametrize("word", ["off", "OFF", "'off'", "false"])
def test_off_is_a_mode_though_yaml_1_1_calls_it_a_boolean(word: str, folder: Write) -> None:
    text = f"kind: stop_loss\nname: a\nmode: {word}\n"
    assert load_policies(folder(a=text)).stop_loss[0].mode is Mode.OFF


def test_files_are_taken_in_the_order_of_their_names(folder: Write) -> None:
    place = folder(
        **{
            "20-b": MINIMAL.format(name="late"),
            "10-z": MINIMAL.format(name="early") + "match: {complexity: [Tiny]}\n",
        }
    )
    assert [policy.name for policy in load_policies(place).stop_loss] == ["early", "late"]


def test_only_yaml_files_directly_in_the_folder_are_read(folder: Write) -> None:
    place = folder(a=MINIMAL.format(name="a"))
    (place / "inner").mkdir()
    (place / "inner/b.yaml").write_text("broken: [")
    (place / "folder.yaml").mkdir()
    (place / ".#a.yaml").write_text("broken: [")
    (place / "README.md").write_text("text")
    assert [policy.name for policy in load_policies(place).stop_loss] == ["a"]
    assert doubts(place) == []


def test_a_file_whose_name_ends_otherwise_is_doubted(folder: Write) -> None:
    place = folder(a=MINIMAL.format(name="a"))
    (place / "b.yml").write_text(MINIMAL.format(name="b"))
    assert doubts(place) == ["b.yml: is not read. Remedy: name it b.yaml."]


def test_a_policy_that_is_never_reached_is_doubted(folder: Write) -> None:
    place = folder(
        a=MINIMAL.format(name="a") + "match: {importance: [low, medium]}\n",
        b=MINIMAL.format(name="b") + "match: {importance: [low], complexity: [Tiny]}\n",
        c=MINIMAL.format(name="c"),
        d="kind: unmetered_route\nname: d\nmatch: {importance: [low]}\n",
    )
    assert [doubt.partition(":")[0] for doubt in doubts(place)] == ["b.yaml"]
    assert len(load_policies(place).stop_loss) == 3


# unpriced models and unmetered routes

UNPRICED = "kind: unpriced_model\nname: p\n"
UNMETERED = "kind: unmetered_route\nname: r\n"


def test_a_price_to_assume_is_read_exactly(folder: Write) -> None:
    text = (
        UNPRICED + "mode: enforce\neffect: Assume\n"
        "assume: {input_usd_per_million: 0.0375, output_usd_per_million: 15,"
        " cached_read_usd_per_million: 0}\n"
    )
    [policy] = load_policies(folder(a=text)).unpriced_model
    assert policy.effect is UnpricedEffect.ASSUME
    assert policy.mode is Mode.ENFORCE
    price = policy.assume
    assert price is not None
    assert (price.input, price.output) == (37_500_000, 15_000_000_000)
    assert (price.cached_read, price.cache_write) == (0, 37_500_000)


def test_free_routes_are_read(folder: Write) -> None:
    text = UNMETERED + "effect: flag\nfree: [GET /v1/files, '* /v1/files/**']\n"
    policy = load_policies(folder(a=text)).unmetered_route[0]
    assert policy.effect is Effect.FLAG
    assert policy.free == (FreeRoute("GET", "/v1/files"), FreeRoute("*", "/v1/files/**"))


@pytest.mark.parametrize("text", ["", UNMETERED])
def test_without_a_mode_it_acts_in_that_of_the_tasks_stop_loss(text: str, folder: Write) -> None:
    """So does the built-in one, where there is no file of the kind."""
    place = folder(
        a=MINIMAL.format(name="a") + "match: {importance: [low]}\n",
        b="kind: stop_loss\nname: b\nmode: observe\nmatch: {complexity: [Tiny]}\n",
        **({"c": text} if text else {}),
    )
    policies = load_policies(place)
    for complexity in Complexity:
        for importance in ImportanceTier:
            followed = policies.stop_loss_for(complexity, importance)
            assert policies.unmetered_route_for(complexity, importance).mode is followed.mode
            assert policies.unpriced_model_for(complexity, importance).mode is followed.mode


def test_a_mode_of_its_own_stands_above_that_of_the_stop_loss(folder: Write) -> None:
    place = folder(a=MINIMAL.format(name="a"), b=UNMETERED + "mode: off\n")
    assert [policy.mode for policy in load_policies(place).unmetered_route] == [Mode.OFF]
    assert [policy.mode for policy in load_policies(place, Mode.OBSERVE).unmetered_route] == [
        Mode.OBSERVE
    ]


def test_a_folder_without_a_stop_loss_has_the_built_in_one(folder: Write) -> None:
    place = folder(b=UNMETERED)
    assert load_policies(place).stop_loss == (StopLossPolicy(),)
    assert "has no stop_loss" in doubts(place)[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (UNPRICED + "effect: assume\n", "a.yaml:1: effect assume needs a price"),
        (UNPRICED + "effect: refuse\n", "a.yaml:3: effect: 'refuse' is not allowed"),
        (
            UNPRICED + "assume: {input_usd_per_million: 1}\n",
            "a.yaml:3: assume.output_usd_per_million: a value is required",
        ),
        (
            UNPRICED + "assume: {input_usd_per_million: 1, output_usd_per_million: -1}\n",
            "a.yaml:3: assume.output_usd_per_million: must be greater than or equal to 0",
        ),
        (
            UNPRICED + "assume: {input_usd_per_milion: 1, output_usd_per_million: 1}\n",
            "a.yaml:3: assume.input_usd_per_million: a value is required",
        ),
        (UNMETERED + "free: GET /v1/files\n", "a.yaml:3: free: must be a list"),
        (UNMETERED + "free: [/v1/files]\n", "a.yaml:3: free: '/v1/files' is not a method and a"),
        (UNMETERED + "free: [get /v1/files]\n", "a.yaml:3: free: 'get /v1/files' is not a"),
        (UNMETERED + "free: ['GET /v1/**/x']\n", "a.yaml:3: free: 'GET /v1/**/x' is not a"),
        (UNMETERED + "free: ['GET /v1?x=1']\n", "a.yaml:3: free: 'GET /v1?x=1' is not a"),
        (
            UNMETERED + "free: [GTE /v1/x]\n",
            "a.yaml:3: free: 'GTE' is no method. Remedy: did you mean",
        ),
        (UNMETERED + "free: [1]\n", "a.yaml:3: free: 1 is not a method and a path"),
    ],
)
def test_what_cannot_be_meant_is_a_fault(text: str, fault: str, folder: Write) -> None:
    assert faults(folder(a=text))[0].startswith(fault)


# spend limits and velocity

SPEND = "kind: spend_limit\nname: s\nmode: enforce\n"
RATE = "kind: rate\nname: v\n"


def test_a_spend_limit_is_read_exactly(folder: Write) -> None:
    text = SPEND + (
        "per: Team\nwindow: MONTH\ntimezone: Europe/Berlin\n"
        "soft: {cost_usd: 0.1, calls: 5}\nhard: {tokens: 7, cost_usd: 0.300000001}\n"
    )
    assert load_policies(folder(a=text)).spend_limit == (
        SpendLimitPolicy(
            "s",
            Mode.ENFORCE,
            per=LimitScope.TEAM,
            window=Span.MONTH,
            timezone="Europe/Berlin",
            soft=Amounts(nano_usd=100_000_000, calls=5),
            hard=Amounts(tokens=7, nano_usd=300_000_001),
        ),
    )


def test_every_spend_limit_holds(folder: Write) -> None:
    """So none of them is out of reach; a rate is, as in other kinds the first that matches holds."""
    rate = "kind: rate\nname: {}\nlimits: {{calls: 1}}\n"
    place = folder(
        a=SPEND + "hard: {calls: 1}\n",
        b=SPEND.replace("name: s", "name: t") + "hard: {calls: 2}\n",
        c=rate.format("c"),
        d=rate.format("d"),
        e=MINIMAL.format(name="e"),
    )
    assert [doubt[:6] for doubt in doubts(place)] == ["d.yaml"]
    policies = load_policies(place)
    assert [policy.name for policy in policies.spend_limit] == ["s", "t"]
    tiers = Complexity.TINY, ImportanceTier.LOW
    assert policies.rate_for(*tiers) == RatePolicy("c", Mode.ENFORCE, limits=Amounts(calls=1))
    assert PolicySet().rate_for(*tiers) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (SPEND, "a.yaml:1: limits nothing. Remedy: state tokens, cost_usd or calls"),
        (SPEND + "hard: {}\n", "a.yaml:1: limits nothing"),
        (SPEND + "hard: {calls: 0}\n", "a.yaml:4: hard.calls: must be greater than 0"),
        (SPEND + "hard: {cost_usd: -1}\n", "a.yaml:4: hard.cost_usd: must be greater than 0"),
        (SPEND + "hard: {euro: 1}\n", "a.yaml:4: hard.euro: unknown key. Remedy: known here: tok"),
        (SPEND + "hard: {calls: 2}\nsoft: {calls: 2}\n", "a.yaml:1: the soft line of calls is not"),
        (
            SPEND + "hard: {calls: 2}\ntimezone: Mars/Base\n",
            "a.yaml:5: timezone: 'Mars/Base' is not a time zone. Remedy: write it like Europe/Ber",
        ),
        (SPEND + "hard: {calls: 2}\ntimezone: ../etc\n", "a.yaml:5: timezone: '../etc' is not a"),
        (SPEND + "hard: {calls: 2}\nwindow: year\n", "a.yaml:5: window: 'year' is not allowed"),
        (SPEND + "hard: {calls: 2}\nper: task\n", "a.yaml:5: per: 'task' is not allowed"),
        (SPEND.replace("mode: enforce\n", "hard: {calls: 2}\n"), "a.yaml:1: mode: a value is requ"),
        (RATE, "a.yaml:1: limits nothing"),
        (RATE + "limits: {calls: 1}\nwindow_s: 0\n", "a.yaml:4: window_s: must be greater than or"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_a_fault(text: str, fault: str, folder: Write) -> None:
    [found] = faults(folder(a=text))
    assert found.startswith(fault)


# no policies


@pytest.mark.parametrize(("exists", "why"), [(True, "has no stop_loss"), (False, "does not exist")])
def test_no_policy_gives_the_built_in_one_with_a_warning(
    exists: bool, why: str, tmp_path: Path
) -> None:
    place = tmp_path / "policies"
    if exists:
        place.mkdir()
    assert load_policies(place) == default_policies()
    assert load_policies(place, Mode.ENFORCE).stop_loss[0].mode is Mode.ENFORCE
    [finding] = read_policies(place)[1]
    assert finding.severity.value == "warning"
    assert f"{why}, the built-in policy observes" in str(finding)


def test_a_folder_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "policies"
    file.write_text("")
    with pytest.raises(InvalidConfigError, match="cannot be read: Not a directory"):
        load_policies(file)


# mode override and hash


def test_a_mode_replaces_that_of_every_policy(folder: Write) -> None:
    place = folder(
        a=MINIMAL.format(name="a") + "match: {importance: [low]}\n", b=MINIMAL.format(name="b")
    )
    for mode in Mode:
        assert {policy.mode for policy in load_policies(place, mode).stop_loss} == {mode}
    assert {policy.mode for policy in load_policies(place, None).stop_loss} == {Mode.ENFORCE}


def test_the_hash_is_over_what_the_policies_say(folder: Write) -> None:
    place = folder(a=MINIMAL.format(name="a"))
    first = load_policies(place).policy_hash
    assert re.fullmatch(r"[0-9a-f]{12}", first)
    folder(a="# a comment\n" + MINIMAL.format(name="a") + "effect: refuse\n")
    assert load_policies(place).policy_hash == first
    folder(a=MINIMAL.format(name="a") + "match: {importance: [low, high]}\n")
    second = load_policies(place).policy_hash
    folder(a=MINIMAL.format(name="a") + "match: {importance: [high, low]}\n")
    assert load_policies(place).policy_hash == second != first


def test_the_mode_in_force_is_part_of_the_hash(folder: Write) -> None:
    """A recorded decision names the hash, and with it the mode that it was made in."""
    place = folder(a=MINIMAL.format(name="a"))
    hashes = {load_policies(place, mode).policy_hash for mode in Mode}
    assert len(hashes) == 3
    assert load_policies(place).policy_hash == load_policies(place, Mode.ENFORCE).policy_hash


# faults


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mode: enforced", "a.yaml:4: mode: 'enforced' is not allowed. Remedy: did you mean"),
        ("mode: 1", "a.yaml:4: mode: "),
        ("efect: flag", "a.yaml:4: efect: unknown key. Remedy: did you mean 'effect'?"),
        ("effect: block", "a.yaml:4: effect: 'block' is not allowed. Remedy: known here: flag, re"),
        ("effect: null", "a.yaml:4: effect: "),
        ("enforce_from: VERIFFY", "a.yaml:4: enforce_from: 'VERIFFY' is not allowed"),
        ("enforce_from: null", "a.yaml:4: enforce_from: is empty. Remedy: name a phase, or any."),
        ("match: {importance: low}", "a.yaml:4: match.importance: must be a list. Remedy: write"),
        ("match: {importance: [urgent]}", "a.yaml:4: match.importance: 'urgent' is not allowed"),
        ("match: {importance: [1]}", "a.yaml:4: match.importance"),
        ("match: {model: gpt-5}", "a.yaml:4: match.model: must be a list. Remedy: write it like"),
        ("match: {key: ['']}", "a.yaml:4: match.key: '' is not a name. Remedy: write it like"),
        ("match: {team: [1]}", "a.yaml:4: match.team: 1 is not a name"),
        ("match: {phase: [VERIFFY]}", "a.yaml:4: match.phase: 'VERIFFY' is not allowed"),
        ("match: {tier: []}", "a.yaml:4: match.tier: unknown key. Remedy: known here: complexity"),
        ("match: all", "a.yaml:4: match: must be a mapping of keys, not 'all'"),
        ("reserve: worst", "a.yaml:4: reserve: 'worst' is not allowed"),
        ("store_failure: half", "a.yaml:4: store_failure: 'half' is not allowed"),
    ],
)
def test_a_fault_names_file_line_and_key(line: str, fault: str, folder: Write) -> None:
    text = f"# first\nkind: stop_loss\nname: a\n{line}\n"
    if not line.startswith("mode"):
        text += "mode: enforce\n"
    [found] = faults(folder(a=text))
    assert found.startswith(fault)


@pytest.mark.parametrize("name", ["''", "1", "a b", "../x", "a\u00e9", "x" * 65])
def test_a_name_is_a_short_word(name: str, folder: Write) -> None:
    [found] = faults(folder(a=MINIMAL.format(name=name)))
    assert found.startswith("a.yaml:2: name: ")


@pytest.mark.parametrize("key", ["name", "mode"])
def test_name_and_mode_are_required(key: str, folder: Write) -> None:
    text = re.sub(rf"{key}: .*\n", "", MINIMAL.format(name="a"))
    [found] = faults(folder(a=text))
    assert f"{key}: a value is required" in found


def test_an_unknown_kind_lists_the_known_ones(folder: Write) -> None:
    place = folder(a="kind: velocity\n", b="name: x\n", c="kind: [stop_loss]\n")
    found = faults(place)
    assert found[0] == (
        "a.yaml:1: kind: unknown kind 'velocity'. "
        f"Remedy: choose one of: {', '.join(POLICY_KINDS)}."
    )
    assert "b.yaml:1: kind: a kind is required" in found[1]
    assert "unknown kind ['stop_loss']" in found[2]


def test_names_are_unique(folder: Write) -> None:
    [found] = faults(folder(a=MINIMAL.format(name="x"), b=MINIMAL.format(name="x")))
    assert found.startswith("b.yaml: name: 'x' is the name of ")


def test_one_bad_file_refuses_them_all_and_every_fault_is_told(folder: Write) -> None:
    """No half of a policy set is ever in force."""
    place = folder(a=MINIMAL.format(name="a"), b="kind: stop_loss\nmode: x\n", c="- list\n")
    assert read_policies(place)[0] is None
    assert [fault.partition(":")[0] for fault in faults(place)] == ["b.yaml", "b.yaml", "c.yaml"]
