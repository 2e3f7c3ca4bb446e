"""What acts make of a task, in the order in which they were told."""

from gateway.ledger.life import Life


def followed(*states: str) -> Life:
    """A task whose acts told these states."""
    life = Life()
    for number, state in enumerate(states, 1):
        life.follow(number, number * 10, "task.act", {"state": state})
    return life


def test_a_state_and_what_stands_behind_it() -> None:
    """As far as it matters: what is open has no fields."""
    for states, fields in (
        ((), {}),
        (("-", "completed"), {"state": "completed", "state_ms": "20"}),
        (("killed",), {"state": "killed", "state_ms": "10"}),
        (("killed", "open"), {}),
        (
            ("completed", "killed"),
            {"state": "killed", "state_ms": "20", "before_kill": "completed"},
        ),
        (("blocked",), {"state": "blocked", "state_ms": "10", "before_block": "open"}),
        (
            ("killed", "killed"),
            {
                **{"state": "killed", "state_ms": "10"},
                **{"before_kill": "blocked", "before_block": "open"},
            },
        ),
        (("killed", "killed", "killed"), {"state": "killed", "state_ms": "10"}),
        (
            ("completed", "blocked", "killed", "blocked"),
            {"state": "blocked", "state_ms": "40", "before_block": "completed"},
        ),
    ):
        assert dict(followed(*states).state_fields(was_nothing=False)) == fields, states


def test_one_that_was_blocked_before_it_was_anything() -> None:
    fields = dict(followed("blocked", "killed").state_fields(was_nothing=True))
    assert fields == {"state": "killed", "state_ms": "20", "before_kill": "blocked"}


def test_each_generation_has_a_latch_of_its_own() -> None:
    """What it was reviewed with before counts for nothing after it was reopened."""
    life = Life({("REVIEW", 1): 5, ("REVIEW", 2): 15, ("REVIEW", 3): 25})
    life.follow(1, 10, "completion.allow", {})
    assert life.generation_fields() == {}
    life.follow(2, 20, "task.reopen", {"state": "open"})
    assert life.generation_fields() == {"generation": 2, "REVIEW.past": 2}
    assert dict(life.phase_fields())["completion"] == "1"
    life.follow(3, 30, "completion.allow", {})
    assert dict(life.phase_fields())["completion"] == "2"


def test_an_act_of_a_phase_without_its_execution_is_none() -> None:
    """As older gateways told it."""
    life = Life({("PLAN", 1): 5})
    life.follow(1, 5, "phase.start", {"state": "-", "phase": "PLAN"})
    assert (life.phase, dict(life.phase_fields())) == (None, {})
