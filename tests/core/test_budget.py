"""The budget arithmetic against an independent calculation in fractions."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.budget import (
    Amounts,
    BaseBudget,
    BreachStatus,
    BudgetMultipliers,
    Dimension,
    Lines,
    PhaseBudgetConfig,
    StopLoss,
    TaskBudgetOverrides,
    TaskProfile,
    TokenWeights,
    breach_status,
    calculate_phase_budget,
    calculate_task_budgets,
    calculate_total_budget,
    ceil_product,
    completion_lines,
    estimate_remaining_budget,
    floor_product,
    format_budget_breakdown,
    multiply,
    percent,
    task_limits,
)
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase

# CFG-2 and CFG-3 once more, by hand and as fractions: nothing here is taken from the gateway.
BASE = {
    "STRATEGIZE": (3000, 60000, Fraction(3, 2)),
    "SPEC": (1500, 40000, Fraction(1)),
    "PLAN": (2000, 50000, Fraction(6, 5)),
    "THINK": (4000, 90000, Fraction(3, 2)),
    "IMPLEMENT": (3500, 120000, Fraction(1)),
    "VERIFY": (2500, 60000, Fraction(4, 5)),
    "REVIEW": (2000, 50000, Fraction(1)),
    "PR": (1500, 30000, Fraction(3, 5)),
    "MONITOR": (1000, 20000, Fraction(3, 5)),
}
COMPLEXITY = {
    "Tiny": Fraction(1, 2),
    "Small": Fraction(4, 5),
    "Medium": Fraction(1),
    "Large": Fraction(3, 2),
}
IMPORTANCE = {
    "low": Fraction(7, 10),
    "medium": Fraction(1),
    "high": Fraction(3, 2),
    "critical": Fraction(2),
}
COMBINATIONS = [
    (complexity, importance, phase)
    for complexity in COMPLEXITY
    for importance in IMPORTANCE
    for phase in BASE
]


def decimal_of(fraction: Fraction) -> Decimal:
    return Decimal(fraction.numerator) / Decimal(fraction.denominator)


CONFIG = PhaseBudgetConfig(
    base_budgets={WorkPhase(name): BaseBudget(row[0], row[1]) for name, row in BASE.items()},
    complexity_multipliers={Complexity(k): decimal_of(v) for k, v in COMPLEXITY.items()},
    importance_multipliers={ImportanceTier(k): decimal_of(v) for k, v in IMPORTANCE.items()},
    phase_weights={WorkPhase(name): decimal_of(row[2]) for name, row in BASE.items()},
    config_hash="0123456789abcdef",
)


def profile(complexity: str, importance: str, **overrides: object) -> TaskProfile:
    return TaskProfile(
        Complexity(complexity),
        ImportanceTier(importance),
        TaskBudgetOverrides(**overrides),  # type: ignore[arg-type]
    )


def limits_of(complexity: str, importance: str, phase: str) -> tuple[int, int]:
    budget = calculate_phase_budget(CONFIG, WorkPhase(phase), profile(complexity, importance))
    return budget.token_limit, budget.latency_limit_ms


# CAL-1, CAL-2: the formula


@pytest.mark.parametrize(("complexity", "importance", "phase"), COMBINATIONS)
def test_EC5_each_of_the_144_combinations_is_the_exact_product_rounded_up(
    complexity: str, importance: str, phase: str
) -> None:
    """CAL-1, CAL-2, AC1, in both dimensions."""
    tokens, latency_ms, weight = BASE[phase]
    factor = COMPLEXITY[complexity] * IMPORTANCE[importance] * weight
    assert limits_of(complexity, importance, phase) == (
        math.ceil(tokens * factor),
        math.ceil(latency_ms * factor),
    )


def test_there_are_144_combinations() -> None:
    assert len(set(COMBINATIONS)) == 144


@pytest.mark.parametrize(
    ("complexity", "importance", "phase", "tokens", "latency_ms"),
    [
        # 90,000 x 1.5 x 2.0 x 1.5; 270,000 would leave the phase weight out, against CAL-1 and the
        # total of 1,719 s for Large/critical in CAL-4.
        ("Large", "critical", "THINK", 18_000, 405_000),
        ("Small", "low", "PR", 504, 10_080),
        ("Large", "critical", "PR", 2_700, 54_000),
        ("Small", "low", "THINK", 3_360, 75_600),
        ("Tiny", "low", "PR", 315, 6_300),
        ("Medium", "medium", "THINK", 6_000, 135_000),
        ("Large", "high", "STRATEGIZE", 10_125, 202_500),
        ("Large", "high", "THINK", 13_500, 303_750),
        ("Large", "high", "IMPLEMENT", 7_875, 270_000),
    ],
)
def test_golden_values(
    complexity: str, importance: str, phase: str, tokens: int, latency_ms: int
) -> None:
    """CAL-3."""
    assert limits_of(complexity, importance, phase) == (tokens, latency_ms)


@pytest.mark.parametrize(
    ("complexity", "tokens", "seconds"),
    [
        ("Tiny", (8190, 11700, 17550, 23400), ("200.55", "286.5", "429.75", "573")),
        ("Small", (13104, 18720, 28080, 37440), ("320.88", "458.4", "687.6", "916.8")),
        ("Medium", (16380, 23400, 35100, 46800), ("401.1", "573", "859.5", "1146")),
        ("Large", (24570, 35100, 52650, 70200), ("601.65", "859.5", "1289.25", "1719")),
    ],
)
def test_totals_over_nine_phases(
    complexity: str, tokens: tuple[int, ...], seconds: tuple[str, ...]
) -> None:
    """CAL-4, literally."""
    totals = [
        calculate_total_budget(calculate_task_budgets(CONFIG, profile(complexity, importance)))
        for importance in ("low", "medium", "high", "critical")
    ]
    assert tuple(total.tokens for total in totals) == tokens
    assert tuple(total.latency_ms for total in totals) == tuple(
        int(Decimal(second) * 1000) for second in seconds
    )


DIGITS = st.decimals(
    min_value=Decimal("0.0001"), max_value=10, allow_nan=False, allow_infinity=False
)


@given(base=st.integers(1, 10**15), factors=st.lists(DIGITS, min_size=4, max_size=4))
@example(base=1500, factors=[Decimal("0.8"), Decimal("0.7"), Decimal("0.6"), Decimal(1)])
@example(base=1, factors=[Decimal(1) / Decimal(3)] * 4)
def test_ceiling_and_floor_are_exact_for_any_decimals(base: int, factors: list[Decimal]) -> None:
    """CAL-2: however many digits the factors have, nothing is rounded on the way."""
    exact = base * math.prod(Fraction(factor) for factor in factors)
    product = BudgetMultipliers(*factors).product
    assert ceil_product(base, product) == math.ceil(exact)
    assert floor_product(base, product) == math.floor(exact)


def test_arithmetic_does_not_depend_on_the_thread_s_decimal_context() -> None:
    long = Decimal("1." + "1" * 200)
    with localcontext() as context:
        context.prec = 3
        assert multiply(long, long) == multiply(long, long)
        assert Fraction(multiply(long, long)) == Fraction(long) ** 2
        priced = with_costs({"SPEC": "1.23456789"})
        budget = calculate_phase_budget(priced, WorkPhase.SPEC, TaskProfile())
        assert budget.nano_usd_limit == 1_234_567_890


@given(
    base=st.integers(1, 10**9), more=st.integers(0, 10**9), factor=DIGITS, larger=st.decimals(0, 5)
)
def test_limits_grow_with_base_and_factor(
    base: int, more: int, factor: Decimal, larger: Decimal
) -> None:
    assert ceil_product(base, factor) <= ceil_product(base + more, factor)
    assert ceil_product(base, factor) <= ceil_product(base, factor + larger)
    assert floor_product(base, factor) <= ceil_product(base, factor)


@pytest.mark.parametrize("phase", BASE)
def test_limits_grow_with_both_tiers(phase: str) -> None:
    for tiers in zip(list(COMPLEXITY), list(COMPLEXITY)[1:], strict=False):
        lower, higher = (limits_of(tier, "medium", phase) for tier in tiers)
        assert lower[0] < higher[0]
        assert lower[1] < higher[1]
    for tiers in zip(list(IMPORTANCE), list(IMPORTANCE)[1:], strict=False):
        lower, higher = (limits_of("Medium", tier, phase) for tier in tiers)
        assert lower[0] < higher[0]
        assert lower[1] < higher[1]


# CMP-1, CAL-5, CAL-7, OVR: profiles, totals, overrides


def test_a_task_without_tiers_is_medium_medium() -> None:
    """CMP-1."""
    assert TaskProfile() == profile("Medium", "medium")


def test_factors_are_kept_with_each_limit() -> None:
    """CAL-7."""
    budget = calculate_phase_budget(CONFIG, WorkPhase.PR, profile("Small", "low"))
    assert budget.base == BaseBudget(1500, 30000)
    assert budget.multipliers == BudgetMultipliers(Decimal("0.8"), Decimal("0.7"), Decimal("0.6"))
    assert not budget.overridden


def test_an_override_is_absolute_and_never_multiplied() -> None:
    """OVR-1, EC4: neither by tiers nor by the task's own factor; the other dimension is."""
    overrides = {WorkPhase.THINK: Amounts(tokens=10_000)}
    budget = calculate_phase_budget(
        CONFIG,
        WorkPhase.THINK,
        profile("Large", "critical", phases=overrides, budget_multiplier=Decimal(2)),
    )
    assert budget.token_limit == 10_000
    assert budget.latency_limit_ms == 810_000
    assert budget.nano_usd_limit is None
    assert budget.overridden


def test_an_override_may_set_every_dimension_and_be_zero() -> None:
    overrides = {WorkPhase.SPEC: Amounts(tokens=0, latency_ms=1, nano_usd=7)}
    budget = calculate_phase_budget(
        CONFIG, WorkPhase.SPEC, profile("Tiny", "low", phases=overrides)
    )
    assert budget.limits == Amounts(tokens=0, latency_ms=1, nano_usd=7)


def test_the_budget_multiplier_scales_all_calculated_limits() -> None:
    """OVR-2."""
    doubled = calculate_total_budget(
        calculate_task_budgets(CONFIG, profile("Medium", "medium", budget_multiplier=Decimal(2)))
    )
    assert doubled == Amounts(tokens=46_800, latency_ms=1_146_000)


def with_costs(costs: dict[str, str]) -> PhaseBudgetConfig:
    base = {
        phase: replace(budget, cost_usd=Decimal(costs[phase.value]))
        if phase.value in costs
        else budget
        for phase, budget in CONFIG.base_budgets.items()
    }
    return replace(CONFIG, base_budgets=base)


def test_money_limits_follow_the_same_formula_in_nano_dollars() -> None:
    config = with_costs({"PR": "0.1"})
    budget = calculate_phase_budget(config, WorkPhase.PR, profile("Small", "low"))
    assert budget.nano_usd_limit == math.ceil(
        Fraction(1, 10) * 10**9 * Fraction(8, 10) * Fraction(7, 10) * Fraction(6, 10)
    )


def test_a_task_has_a_money_limit_only_if_every_phase_has_one() -> None:
    some = calculate_task_budgets(with_costs({"PR": "1"}), TaskProfile())
    every = calculate_task_budgets(with_costs(dict.fromkeys(BASE, "1")), TaskProfile())
    weights = sum(row[2] for row in BASE.values())
    assert calculate_total_budget(some).nano_usd is None
    assert calculate_total_budget(every).nano_usd == weights * 10**9
    assert calculate_total_budget({}) == Amounts(tokens=0, latency_ms=0)


def test_the_remaining_budget_is_that_of_the_phases_not_completed() -> None:
    """CAL-5."""
    budgets = calculate_task_budgets(CONFIG, TaskProfile())
    done = frozenset(WorkPhase) - {WorkPhase.PR, WorkPhase.MONITOR}
    assert estimate_remaining_budget(budgets, done) == Amounts(tokens=1_500, latency_ms=30_000)
    assert estimate_remaining_budget(budgets, frozenset()) == calculate_total_budget(budgets)


def test_amounts_are_read_by_dimension() -> None:
    amounts = Amounts(1, 2, 3, 4)
    assert [amounts.get(dimension) for dimension in Dimension] == [1, 2, 3, 4]
    assert Amounts(tokens=5).items() == (
        (Dimension.TOKENS, 5),
        (Dimension.LATENCY_MS, None),
        (Dimension.NANO_USD, None),
        (Dimension.CALLS, None),
    )


# CAL-6, SL: the snapshot and its lines


def test_the_snapshot_holds_all_limits_and_lines_of_a_task() -> None:
    """CAL-6, SL-1..3: the figures of a Medium/medium task."""
    limits = task_limits(CONFIG, TaskProfile())
    assert limits.task_lines == {
        Dimension.TOKENS: Lines(23_400, 28_080, 46_800),
        Dimension.LATENCY_MS: Lines(573_000, 687_600, 1_146_000),
    }
    assert limits.phase_lines[WorkPhase.VERIFY] == {
        Dimension.TOKENS: Lines(2_000, 3_000, 3_000),
        Dimension.LATENCY_MS: Lines(48_000, 72_000, 72_000),
    }
    assert set(limits.phase_lines) == set(limits.budgets) == set(WorkPhase)
    assert limits.config_hash == CONFIG.config_hash
    assert limits.stop_loss == CONFIG.stop_loss
    assert limits.token_weights == CONFIG.token_weights


def test_each_line_uses_its_own_threshold() -> None:
    stop_loss = StopLoss(
        cumulative_token_threshold=Decimal("1.1"),
        cumulative_latency_threshold=Decimal("1.3"),
        per_phase_threshold=Decimal("1.7"),
        runaway_threshold=Decimal("1.9"),
    )
    config = replace(with_costs(dict.fromkeys(BASE, "1")), stop_loss=stop_loss)
    limits = task_limits(config, TaskProfile())
    assert limits.task_lines[Dimension.TOKENS] == Lines(23_400, 25_740, 44_460)
    assert limits.task_lines[Dimension.LATENCY_MS] == Lines(573_000, 744_900, 1_088_700)
    money = limits.task_lines[Dimension.NANO_USD]
    assert money.cumulative == math.floor(money.limit * Fraction(11, 10))
    assert limits.phase_lines[WorkPhase.SPEC][Dimension.TOKENS] == Lines(1_500, 2_550, 2_550)


def test_a_line_is_rounded_down_so_that_more_than_it_is_more_than_the_threshold() -> None:
    """SL-1: strictly greater. 504 x 1.2 = 604.8, so 604 is within and 605 is not."""
    line = floor_product(504, Decimal("1.2"))
    assert line == 604
    assert Fraction(line) <= 504 * Fraction(12, 10) < line + 1


# TRK-2, G-3: status


@given(limit=st.integers(1, 10**9), threshold=st.decimals(1, 10, places=2))
def test_status_boundaries_are_exact(limit: int, threshold: Decimal) -> None:
    """TRK-2: 100 % is within, the line itself is a warning, one more is exceeded."""
    line = floor_product(limit, threshold)
    assert breach_status(limit, limit, line) is BreachStatus.WITHIN
    assert breach_status(line + 1, limit, line) is BreachStatus.EXCEEDED
    if line > limit:
        assert breach_status(limit + 1, limit, line) is BreachStatus.WARNING
        assert breach_status(line, limit, line) is BreachStatus.WARNING


def test_a_task_at_125_percent_is_exceeded_though_a_phase_would_be_a_warning() -> None:
    """G-3: the task's line is 1.2, a phase's 1.5."""
    assert breach_status(1250, 1000, 1200) is BreachStatus.EXCEEDED
    assert breach_status(1250, 1000, 1500) is BreachStatus.WARNING


# SL-4, SL-13: percent and notice levels


@given(used=st.integers(0, 10**12), limit=st.integers(1, 10**12))
def test_percent_is_rounded_half_up(used: int, limit: int) -> None:
    assert percent(used, limit) == math.floor(Fraction(100 * used, limit) + Fraction(1, 2))


def test_percent_of_the_message_and_of_no_limit() -> None:
    """SL-4: 15,234 / 12,000 is 127 %."""
    assert percent(15_234, 12_000) == 127
    assert percent(0, 0) == 0
    assert percent(1, 0) == 100


# token weights


@given(counts=st.lists(st.integers(0, 10**9), min_size=4, max_size=4))
def test_equal_weights_count_every_token_once(counts: list[int]) -> None:
    assert TokenWeights().charge(*counts) == sum(counts)


@given(
    counts=st.lists(st.integers(0, 10**9), min_size=4, max_size=4),
    weights=st.lists(st.integers(0, 10_000), min_size=4, max_size=4),
)
def test_weighted_tokens_are_rounded_up(counts: list[int], weights: list[int]) -> None:
    exact = sum(
        Fraction(count * weight, 1000) for count, weight in zip(counts, weights, strict=True)
    )
    assert TokenWeights(*weights).charge(*counts) == math.ceil(exact)


# CAL-5: the table for people


def test_the_breakdown_shows_factors_overrides_and_totals() -> None:
    plain = format_budget_breakdown(task_limits(CONFIG, profile("Large", "critical")))
    ends = {line.index(" ms") for line in plain.splitlines()[1:]}
    assert len(ends) == 1, "the columns are in line"
    assert "THINK          18,000     405,000 ms  4,000 x 1.5 x 2 x 1.5" in plain
    assert plain.splitlines()[-1] == "total          70,200   1,719,000 ms"
    changed = format_budget_breakdown(
        task_limits(
            CONFIG,
            profile(
                "Medium",
                "medium",
                phases={WorkPhase.SPEC: Amounts(tokens=9)},
                budget_multiplier=Decimal("1.5"),
            ),
        )
    )
    assert "SPEC                9      60,000 ms  override (absolute)" in changed
    assert "PR              1,350      27,000 ms  1,500 x 1 x 1 x 0.6 x 1.5" in changed


@pytest.mark.parametrize(
    ("allow", "cumulative", "line"),
    [
        ("1.1", "1.2", 25_739),  # below 1.1 x 23,400 = 25,740
        ("1.1", "1.1", 24_240),  # 25,740 less 900 for PR and 600 for MONITOR
        ("1.0", "1.2", 23_399),
    ],
)
def test_SL9_up_to_where_a_task_may_complete(allow: str, cumulative: str, line: int) -> None:
    """Below the completion threshold, with room for PR and MONITOR; not by latency."""
    stop_loss = StopLoss(
        cumulative_token_threshold=Decimal(cumulative), allow_completion_threshold=Decimal(allow)
    )
    budgets = task_limits(CONFIG, TaskProfile()).budgets
    assert completion_lines(budgets, stop_loss) == {Dimension.TOKENS: line}
