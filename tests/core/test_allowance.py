"""The local allowance bounds what a task may use while the store is away."""

from gateway.core import allowance
from gateway.core.allowance import LocalAllowance


def test_a_task_may_use_up_to_its_allowance():
    """The call that would go over is not let through; one that fits still is."""
    local = LocalAllowance()
    assert local.take("a", 600, 1_000)
    assert not local.take("a", 401, 1_000)
    assert local.take("a", 400, 1_000)
    assert local.take("b", 1_000, 1_000)


def test_the_store_s_answer_renews_it():
    """Each outage starts with a whole allowance; renewing an unused one does nothing."""
    local = LocalAllowance()
    local.take("a", 1_000, 1_000)
    local.renew("a")
    local.renew("never seen")
    assert local.take("a", 1_000, 1_000)


def test_memory_is_bounded(monkeypatch):
    """Clients choose task names: the oldest are forgotten."""
    monkeypatch.setattr(allowance, "_MOST_TASKS", 2)
    local = LocalAllowance()
    for task in "abc":
        local.take(task, 10, 10)
    assert local.take("a", 10, 10)
    assert not local.take("c", 1, 10)
