"""From a request to the one reserve that is made for it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from gateway import planner as planner_module
from gateway.call import UNTAGGED_TASK, Call, read_call, with_cheaper_model
from gateway.core.budget import Amounts, Dimension, TokenWeights
from gateway.core.configuration import DataPlane, Rules, UpstreamSettings
from gateway.core.errors import BadCall
from gateway.core.estimate import InputEstimate, LearnedInput, LearnedOutput
from gateway.core.grace import GraceCallPolicy, GracePlan
from gateway.core.identity import identify
from gateway.core.keys import GatewayKey
from gateway.core.loops import LoopPolicy
from gateway.core.mark import Mark
from gateway.core.mid_stream_stop import MidStreamStopPolicy
from gateway.core.model_downgrade import ModelDowngradePolicy, SoftLine
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.piece_rates import PieceRates
from gateway.core.policy import Effect, Match, Mode, PolicySet, ReserveKind, StopLossPolicy
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.shaping import AS_ASKED
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy
from gateway.core.untagged import UntaggedCallsPolicy, UntaggedEffect
from gateway.core.velocity import RatePolicy
from gateway.planner import Plan, Planner
from gateway.ports import Request, TaskFacts
from tests.e2e.in_process import ENFORCING, OBSERVING, rules

CHAT = b"/v1/chat/completions"
FACTS = TaskFacts(Complexity.MEDIUM, ImportanceTier.MEDIUM)
BOUNDS = InputEstimate(low=10, expected=100, high=400)
PRICE = ModelPrice(
    input=2_000_000_000,
    output=8_000_000_000,
    cached_read=200_000_000,
    cache_write=2_500_000_000,
    max_output_tokens=16_384,
    max_input_tokens=128_000,
)


def call_of(
    *tags: tuple[bytes, bytes], target: bytes = CHAT, method: bytes = b"POST", **fields: Any
) -> Call:
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    request = Request(method, target, list(tags), body, 0.0)
    return read_call("c1", request, *identify(target, request.headers))


def planner_of(in_force: Rules, *, disabled: bool = False) -> Planner:
    upstream = UpstreamSettings("https://a.example", "openai")
    plane = DataPlane("unix:///s", upstreams={"openai": upstream}, enforcement_disabled=disabled)
    return Planner(plane, in_force, LearnedOutput())


def plan_of(in_force: Rules, call: Call | None = None, facts: TaskFacts = FACTS) -> Plan:
    call = call or call_of((b"X-Task-Id", b"T"), (b"X-Task-Phase", b"PLAN"))
    assert call.asked is not None
    return planner_of(in_force).plan(call, call.asked, facts, BOUNDS)


# Read ---------------------------------------------------------------------------------------------


def test_only_what_is_metered_is_read() -> None:
    """Another route, or another method on the same, passes as it is."""
    assert call_of().asked is not None
    assert call_of(target=b"/v1/moderations").asked is None
    assert call_of(method=b"GET").asked is None
    odd = Request(b"POST", b"/v1/files", [(b"Content-Encoding", b"gzip")], b"\x1f\x8b", 0.0)
    assert read_call("c1", odd, *identify(odd.target, odd.headers)).asked is None


@pytest.mark.parametrize(
    ("target", "method", "models"),
    [
        (CHAT, b"POST", ("m",)),
        (CHAT, b"GET", (None,)),
        (b"/openai/deployments/d/chat/completions", b"POST", ("d", "m")),
        (b"/openai/deployments/d/chat/completions", b"GET", (None,)),
    ],
)
def test_every_name_of_a_model_counts(
    target: bytes, method: bytes, models: tuple[str | None, ...]
) -> None:
    """Azure serves the deployment in the path, whatever the body says."""
    assert call_of(target=target, method=method).models == models


def test_a_deployment_needs_no_other_name() -> None:
    """A body without a model is usual there."""
    assert call_of(target=b"/openai/deployments/d/chat/completions", model="").models == ("d",)
    assert call_of(model="").models == ("",)


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"br, gzip"])
def test_an_encoded_body_cannot_be_budgeted(encoding: bytes) -> None:
    """The client is told to send it plain."""
    with pytest.raises(BadCall) as error:
        call_of((b"content-encoding", encoding))
    assert error.value.code == "unsupported_encoding"
    assert call_of((b"Content-Encoding", b"Identity")).asked is not None


def test_who_names_no_task_is_in_the_bucket() -> None:
    """Its phase counts for nothing but what is learnt of its output."""
    call = call_of((b"X-Task-Phase", b"PLAN"))
    assert (call.task, call.is_untagged, call.phase_tag) == (UNTAGGED_TASK, True, "PLAN")
    call = call_of((b"X-Task-Id", b"T"))
    assert (call.task, call.is_untagged, call.phase_tag) == ("T", False, "-")


# Modes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
def test_the_kill_switches_turn_enforcing_into_observing(mode: Mode) -> None:
    """The environment's and the file's; they never turn anything on."""
    in_force = rules(StopLossPolicy(mode=mode))
    softened = Mode.OBSERVE if mode is Mode.ENFORCE else mode
    stop_loss = replace(in_force.budgets.stop_loss, enabled=False)
    switched_off = replace(in_force, budgets=replace(in_force.budgets, stop_loss=stop_loss))
    policy = in_force.policies.stop_loss[0]
    assert planner_of(in_force).mode_of(policy) is mode
    assert planner_of(in_force, disabled=True).mode_of(policy) is softened
    assert planner_of(switched_off).mode_of(policy) is softened
    assert planner_of(in_force).enforces_tags is (mode is Mode.ENFORCE)
    assert not planner_of(switched_off).enforces_tags


def test_tags_are_enforced_where_any_policy_enforces() -> None:
    """Which policy a call falls under is known only by its tags."""
    policies = PolicySet((OBSERVING, ENFORCING), "h")
    assert planner_of(replace(rules(), policies=policies)).enforces_tags
    assert not planner_of(replace(rules(), policies=PolicySet(()))).enforces_tags


def test_the_policy_is_that_of_the_tasks_tiers() -> None:
    """Not of the call's tags; without a match nothing is compared."""
    large = StopLossPolicy("large", Mode.ENFORCE, Match(complexity=frozenset({Complexity.LARGE})))
    in_force = replace(rules(), policies=PolicySet((large,), "h"))
    plan = plan_of(in_force, facts=replace_facts(complexity=Complexity.LARGE))
    assert (plan.policy.name, plan.mode) == ("large", Mode.ENFORCE)
    plan = plan_of(in_force)
    assert (plan.policy.name, plan.mode) == ("none", Mode.OFF)
    assert plan.reserve.effects.task == {}


def replace_facts(**fields: Any) -> TaskFacts:
    known = {
        "complexity": FACTS.complexity,
        "importance": FACTS.importance,
        "parents": FACTS.parents,
        "weights": FACTS.weights,
    }
    return TaskFacts(**{**known, **fields})


def test_effects_follow_the_mode() -> None:
    """Observing turns refuse into flag."""
    for policy, effect in ((ENFORCING, Effect.REFUSE), (OBSERVING, Effect.FLAG)):
        plan = plan_of(rules(policy))
        assert plan.reserve.effects.task[Dimension.TOKENS] is effect


# What is held -------------------------------------------------------------------------------------


def test_what_is_likely() -> None:
    """Expected input, and the output that is usual: 2,048 while nothing is known."""
    plan = plan_of(rules(ENFORCING))
    need = plan.reserve.need
    assert (need.input_low, need.input_high, need.output, need.output_min) == (100, 100, 2_048, 0)
    assert (plan.price, need.input_nano_usd, need.unit_nano_usd) == (None, 0, 0)
    assert plan.ceiling == 128_000


def test_what_a_price_adds() -> None:
    """Its money, at the dearest rate, and the model's own ceiling."""
    plan = plan_of(rules(ENFORCING, prices=PriceTable({"m": PRICE})))
    need = plan.reserve.need
    assert plan.price == PRICE
    assert need.input_nano_usd == 100 * 2_500
    assert need.unit_nano_usd == 8_000
    assert plan.ceiling == 16_384


def test_the_worst_case() -> None:
    """The input's bounds, and everything that may come out."""
    policy = replace(ENFORCING, reserve=ReserveKind.WORST_CASE)
    call = call_of((b"X-Task-Id", b"T"), max_tokens=3_000, n=2)
    plan = plan_of(rules(policy, prices=PriceTable({"m": PRICE})), call)
    need = plan.reserve.need
    assert (need.input_low, need.input_high) == (10, 400)
    assert (need.output, need.output_min) == (6_000, 1_024)
    assert need.input_nano_usd == 400 * 2_500
    assert plan.reserve.kind is ReserveKind.WORST_CASE


def test_the_worst_case_is_for_those_who_enforce() -> None:
    """Who only observes holds what is likely."""
    policy = replace(OBSERVING, reserve=ReserveKind.WORST_CASE)
    assert plan_of(rules(policy)).reserve.kind is ReserveKind.EXPECTED


@pytest.mark.parametrize("kind", [ReserveKind.EXPECTED, ReserveKind.WORST_CASE])
def test_weights_count_rounded_away_from_nothing(kind: ReserveKind) -> None:
    """A token that counts half counts up where it is held, down where it bounds from below."""
    weights = TokenWeights(input=505, cached_read=105, cache_write=1_255, output=2_000)
    policy = replace(ENFORCING, reserve=kind)
    need = plan_of(rules(policy), facts=replace_facts(weights=weights)).reserve.need
    assert need.output_weight == 2_000
    if kind is ReserveKind.EXPECTED:
        assert (need.input_low, need.input_high) == (51, 51)
    else:
        assert (need.input_low, need.input_high) == (1, 502)


def test_an_untagged_call_is_never_compared() -> None:
    """No limits, no phase, no effects."""
    plan = plan_of(rules(ENFORCING), call_of((b"X-Task-Phase", b"PLAN")))
    reserve = plan.reserve
    assert (plan.mode, reserve.limits, reserve.phase) == (Mode.OFF, None, None)
    assert reserve.effects.task == reserve.effects.phase == {}


@pytest.mark.parametrize(
    ("effect", "mark"),
    [(UntaggedEffect.ALLOW, Mark.PASSES), (UntaggedEffect.FLAG, Mark.FLAGGED)],
)
def test_CMP1_an_untagged_call_is_marked_as_its_policy_says(
    effect: UntaggedEffect, mark: Mark
) -> None:
    """A call with a task never is; nor is one that no policy of the kind matches."""
    ours = UntaggedCallsPolicy(mode=Mode.ENFORCE, effect=effect)
    in_force = rules(policies=replace(rules().policies, untagged_calls=(ours,)))
    assert plan_of(in_force, call_of()).mark is mark
    assert plan_of(in_force).mark is Mark.PASSES
    others = replace(ours, match=Match(complexity=frozenset({Complexity.LARGE})))
    in_force = rules(policies=replace(rules().policies, untagged_calls=(others,)))
    assert plan_of(in_force, call_of()).mark is Mark.PASSES


def test_loops_are_looked_for_only_where_a_policy_matches() -> None:
    """And never among calls without a task: no task's rules refuse them."""
    policy = LoopPolicy(mode=Mode.ENFORCE, calls=5)
    in_force = rules(ENFORCING, policies=replace(rules().policies, loop=(policy,)))
    loop = plan_of(in_force).reserve.loop
    assert loop is not None
    assert (loop.calls, loop.refuses, len(loop.fingerprint)) == (5, True, 24)
    assert plan_of(rules(ENFORCING)).reserve.loop is None
    assert plan_of(in_force, call_of()).reserve.loop is None
    for other in (
        replace(policy, mode=Mode.OFF),
        replace(policy, match=Match(complexity=frozenset({Complexity.LARGE}))),
    ):
        in_force = rules(policies=replace(rules().policies, loop=(other,)))
        assert plan_of(in_force).reserve.loop is None


def test_grace_is_offered_where_trips_refuse() -> None:
    """With the call's own ceiling, and the least that is worth admitting."""
    policy = GraceCallPolicy(mode=Mode.ENFORCE, allowance_tokens=7_000)
    policies = PolicySet((ENFORCING,), "h", grace_call=(policy,))
    in_force = replace(rules(), policies=policies)
    tags = (b"X-Task-Id", b"T"), (b"X-Task-Grace", b"1")
    plan = plan_of(in_force, call_of(*tags, max_tokens=3_000))
    assert plan.reserve.grace == GracePlan(True, 7_000, 3_000, 1_024)
    grace = plan_of(in_force).reserve.grace
    assert grace is not None
    assert not grace.asked
    others = replace(policy, match=Match(complexity=frozenset({Complexity.LARGE})))
    for stop_loss, kind in ((OBSERVING, policy), (ENFORCING, others)):
        policies = PolicySet((stop_loss,), "h", grace_call=(kind,))
        assert plan_of(replace(rules(), policies=policies)).reserve.grace is None
    assert plan_of(in_force, call_of()).reserve.grace is None


def test_a_tasks_plan() -> None:
    """With the limits of its tiers, computed once."""
    planner = planner_of(rules(ENFORCING))
    call = call_of((b"X-Task-Id", b"T"), (b"X-Task-Phase", b"PLAN"))
    assert call.asked is not None
    first, second = (planner.plan(call, call.asked, FACTS, BOUNDS).reserve for _ in range(2))
    assert first.limits is second.limits
    assert first.limits is not None
    assert first.limits.budgets[WorkPhase.PLAN].token_limit == 2_400
    assert (first.call_id, first.task, first.phase) == ("c1", "T", WorkPhase.PLAN)
    assert first.enforce_from is WorkPhase.VERIFY


def test_images_without_a_formula_may_use_the_models_whole_context() -> None:
    """What they are billed, no body length bounds."""
    part = {"type": "image_url", "image_url": {"url": "https://a.example/i.png"}}
    call = call_of(messages=[{"role": "user", "content": [part]}])
    assert call.asked is not None
    planner = planner_of(rules(prices=PriceTable({"m": PRICE})))
    assert planner.estimate(call, call.asked).high == 128_000


def test_what_was_learned_of_a_models_input_is_expected() -> None:
    """The planner of later rules knows it, too: it is the lifecycle's."""
    learned, call = LearnedInput(), call_of(messages=[{"role": "user", "content": "x" * 4_000}])
    assert call.asked is not None
    plane = DataPlane("unix:///s")
    before = Planner(plane, rules(), LearnedOutput(), learned).estimate(call, call.asked)
    learned.learn("m", before, before.text * 2)
    after = Planner(plane, rules(), LearnedOutput(), learned).estimate(call, call.asked)
    assert after.expected == 2 * before.expected
    assert (after.low, after.high) == (before.low, before.high)


def test_prices_are_looked_up_once_but_not_remembered_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients choose the names."""
    monkeypatch.setattr(planner_module, "_MOST_PRICES", 2)
    planner = planner_of(rules(prices=PriceTable({"m": PRICE})))
    call = call_of()
    for name in ("m", "a", "b", "c", "m"):
        assert planner.price_of(call, name) == (PRICE if name == "m" else None)
    elsewhere = call_of(target=b"/u/nobody/v1/chat/completions")
    assert planner.price_of(elsewhere, "m") == PRICE


@pytest.mark.parametrize(("tier", "unit"), [("priority", 16_000), ("flex", 8_000), (None, 8_000)])
@pytest.mark.parametrize("reserve", [ReserveKind.EXPECTED, ReserveKind.WORST_CASE])
def test_a_dearer_service_tier_that_is_asked_for_is_held(
    reserve: ReserveKind, tier: str | None, unit: int
) -> None:
    """A call that asks for flex may be billed on standard terms: those are held."""
    services = (
        ("flex", replace(PRICE, output=4_000_000_000)),
        ("priority", replace(PRICE, input=4_000_000_000, output=16_000_000_000)),
    )
    price = replace(PRICE, services=services)
    call = call_of((b"X-Task-Id", b"T"), service_tier=tier)
    in_force = rules(replace(ENFORCING, reserve=reserve), prices=PriceTable({"m": price}))
    plan = plan_of(in_force, call)
    assert plan.price == price
    assert plan.reserve.need.unit_nano_usd == unit


@pytest.mark.parametrize("reserve", [ReserveKind.EXPECTED, ReserveKind.WORST_CASE])
@pytest.mark.parametrize(
    ("target", "fields", "nano_usd"),
    [
        (b"/v1/images/generations", {"model": "dall-e-3", "n": 3}, 120_000_000),
        (
            b"/v1/images/generations",
            {"model": "dall-e-3", "quality": "hd", "size": "1024x1792"},
            120_000_000,
        ),
        (b"/v1/audio/speech", {"model": "tts-1", "input": "x" * 100}, 1_500_000),
        (CHAT, {"model": "dall-e-3"}, 0),
    ],
)
def test_pieces_that_are_known_before_the_call_are_held(
    reserve: ReserveKind, target: bytes, fields: dict[str, Any], nano_usd: int
) -> None:
    """So that a budget in money stops images and speech too."""
    sizes = (("standard/1024x1024", 4 * 10**13), ("hd/1024x1792", 12 * 10**13))
    image = ModelPrice(0, 0, 0, 0, pieces=PieceRates(image=12 * 10**13, sizes=sizes))
    speech = ModelPrice(0, 0, 0, 0, pieces=PieceRates(character=15 * 10**9))
    prices = PriceTable({"dall-e-3": image, "tts-1": speech})
    call = call_of((b"X-Task-Id", b"T"), target=target, **fields)
    plan = plan_of(rules(replace(ENFORCING, reserve=reserve), prices=prices), call)
    assert plan.reserve.need.input_nano_usd == nano_usd
    assert plan.reserve.need.unit_nano_usd == 0


def test_a_recording_in_a_form_is_held_by_its_length() -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
        + b"." * 160_000
        + b"\r\n--x--\r\n"
    )
    target = b"/v1/audio/transcriptions"
    headers = [(b"X-Task-Id", b"T"), (b"Content-Type", b"multipart/form-data; boundary=x")]
    request = Request(b"POST", target, headers, body, 0.0)
    call = read_call("c1", request, *identify(target, headers))
    price = ModelPrice(0, 0, 0, 0, pieces=PieceRates(second=10**11))
    plan = plan_of(rules(ENFORCING, prices=PriceTable({"whisper-1": price})), call)
    assert plan.reserve.need.input_nano_usd == 10 * 100_000


@pytest.mark.parametrize(
    ("content", "nano_usd"),
    [
        ("Hello", 100 * 2_500),
        ([{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}], 100 * 9_000),
    ],
)
def test_audio_is_held_at_its_own_rate_where_the_prompt_has_any(
    content: object, nano_usd: int
) -> None:
    price = replace(PRICE, pieces=PieceRates(audio_input=9_000_000_000))
    call = call_of((b"X-Task-Id", b"T"), messages=[{"role": "user", "content": content}])
    plan = plan_of(rules(ENFORCING, prices=PriceTable({"m": price})), call)
    assert plan.reserve.need.input_nano_usd == nano_usd


# Another model ------------------------------------------------------------------------------------


SHAPING = PolicySet(
    (ENFORCING,),
    "h",
    model_downgrade=(ModelDowngradePolicy(mode=Mode.ENFORCE, models=(("m", "mini"),)),),
    mid_stream_stop=(MidStreamStopPolicy("stop", Mode.ENFORCE),),
)


def test_GW15_a_plan_with_a_cheaper_model_at_hand_asks_for_the_soft_line() -> None:
    """It is priced anew with that one, and told to the ledger under the name that was asked for."""
    prices = PriceTable({"m": PRICE, "mini": ModelPrice(1_000_000, 2_000_000, 0, 0)})
    in_force = replace(rules(), policies=SHAPING, prices=prices)
    call = call_of((b"X-Task-Id", b"T"))
    plan = plan_of(in_force, call)
    assert plan.reserve.soft_line == SoftLine()
    assert (plan.shape.cheaper_model, plan.shape.stops_stream) == ("mini", True)
    cheaper = with_cheaper_model(call, "mini")
    assert cheaper is not None
    assert cheaper.request.body == call.request.body.replace(b'"m"', b'"mini"')
    again = plan_of(in_force, cheaper)
    assert again.reserve.soft_line is None
    assert again.reserve.about.model == "m"
    assert again.reserve.need.unit_nano_usd < plan.reserve.need.unit_nano_usd
    assert again.reserve.need.input_nano_usd < plan.reserve.need.input_nano_usd


def test_where_no_other_model_can_be_asked_for_there_is_no_soft_line() -> None:
    """A form, a request that only reads, a key that does not allow the model, a stand-in itself."""
    in_force = replace(rules(), policies=SHAPING)
    call = call_of((b"X-Task-Id", b"T"))
    key = GatewayKey("k1", "s", "n", models=("m",))
    form = structs.replace(call, request=structs.replace(call.request, body=b"--b"))
    for other in (
        form,
        structs.replace(call, request=structs.replace(call.request, method=b"GET")),
        structs.replace(call, key=key),
        structs.replace(call, model_asked="m"),
        call_of(target=b"/v1/moderations"),
    ):
        assert with_cheaper_model(other, "mini") is None
    plan = plan_of(in_force, form)
    assert (plan.reserve.soft_line, plan.shape.cheaper_model) == (None, "")
    assert plan.shape.stops_stream


def test_without_policies_that_shape_calls_nothing_is_looked_up() -> None:
    """One shape for all."""
    assert plan_of(rules()).shape is AS_ASKED


# Limits beside the task's own -----------------------------------------------------------------------


def test_a_call_without_such_policies_asks_for_nothing_more() -> None:
    off = SpendLimitPolicy("off", Mode.OFF, hard=Amounts(tokens=1))
    for policies in (PolicySet(), PolicySet(spend_limit=(off,))):
        reserve = plan_of(replace(rules(), policies=policies)).reserve
        assert (reserve.spend, reserve.rate) == ((), None)


@pytest.mark.parametrize("tags", [[(b"X-Task-Id", b"T")], []])
def test_spend_limits_hold_with_or_without_a_task(tags: list[tuple[bytes, bytes]]) -> None:
    """Velocity is a task's; the kill switch turns enforcing into observing here too."""
    limit = SpendLimitPolicy("s", Mode.ENFORCE, per=LimitScope.MODEL, hard=Amounts(tokens=7))
    rate = RatePolicy("v", Mode.ENFORCE, limits=Amounts(calls=3))
    in_force = replace(rules(), policies=PolicySet(spend_limit=(limit,), rate=(rate,)))
    call = call_of(*tags)
    assert call.asked is not None
    for disabled in (False, True):
        plan = planner_of(in_force, disabled=disabled).plan(call, call.asked, FACTS, BOUNDS)
        [held] = plan.reserve.spend
        assert (held.kind, held.name, held.enforced) == (LimitScope.MODEL, "m", not disabled)
        assert held.hard == {Dimension.TOKENS: 7}
        assert (plan.reserve.rate is not None) is bool(tags)
        if plan.reserve.rate is not None:
            assert plan.reserve.rate.refuses is not disabled


def test_who_spends_at_another_rate_has_another_policy() -> None:
    large = RatePolicy("v", Mode.ENFORCE, Match(complexity=frozenset({Complexity.LARGE})))
    in_force = replace(rules(), policies=PolicySet(rate=(large,)))
    assert plan_of(in_force).reserve.rate is None
