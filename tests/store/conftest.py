"""The store in virtual time, an agent that makes calls through it, and a look at the keys."""

import pytest
import redis

from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent, Look


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T; the time is 1,000,000."""
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


@pytest.fixture
def look(redis_client: redis.Redis, tenant: str) -> Look:
    """What stands in the tenant's keys."""
    return Look(redis_client, tenant)
