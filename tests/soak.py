"""How much is tried: a little in `make test`, everything that was promised in `make soak`.

`pytest --soak` chooses the full sizes: those below for tests that take the fixture `sizes`, and for
tests over random input the hypothesis profile `soak`.
"""

from dataclasses import dataclass

from hypothesis import HealthCheck, settings

PROFILE = "soak"
settings.register_profile(PROFILE, print_blob=True)


@dataclass(frozen=True)
class Sizes:
    """What the acceptance cases are run with."""

    calls: int
    slow_reader_s: int
    store_stall_s: float
    ledger_calls: int
    idle_clients: int
    slow_clients: int
    api_requests: int


SHORT = Sizes(
    calls=600,
    slow_reader_s=6,
    store_stall_s=1.5,
    ledger_calls=600,
    idle_clients=300,
    slow_clients=50,
    api_requests=3,
)
FULL = Sizes(
    calls=10_000,
    slow_reader_s=60,
    store_stall_s=10,
    ledger_calls=20_000,
    idle_clients=2_000,
    slow_clients=200,
    api_requests=200,
)


def fuzz(examples: int, in_a_soak: int = 30_000) -> settings:
    """Return settings for so many examples, always the same; for those of a soak, always new."""
    soaks = settings.get_current_profile_name() == PROFILE
    return settings(
        max_examples=in_a_soak if soaks else examples,
        derandomize=not soaks,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
