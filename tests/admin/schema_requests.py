"""Requests that schemathesis draws from the API's description, and its judgement of the answers.

A module of its own: schemathesis takes a second to import, and one test process needs it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.admin.from_schema import DOCUMENT

STREAMS = "/admin/v1/events"  # its answer ends when the client leaves
JUDGED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def exercise(base_url: str, token: str, valid: int, invalid: int) -> dict[str, set[int]]:
    """Ask every operation with so much data that its description allows, and with so much other.

    Returns the statuses by operation, such as `GET /admin/v1/tasks`. Raises what a check found.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    seen: dict[str, set[int]] = {}
    with requests.Session() as session:
        session.trust_env = False
        for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
            operation = result.ok()
            if operation.path == STREAMS:
                continue
            statuses = seen[operation.label] = set()

            def answered(case: Any) -> int:
                response = case.call(base_url=base_url, headers=headers, session=session)
                case.validate_response(response, checks=JUDGED)
                return int(response.status_code)

            _draw(operation.as_strategy(GenerationMode.POSITIVE), answered, statuses, valid)
            if invalid:
                with suppress(Unsatisfiable):  # what takes nothing can be given nothing wrong
                    wrong = operation.as_strategy(GenerationMode.NEGATIVE)
                    _draw(wrong, answered, statuses, invalid)
    return seen


def _draw(strategy: Any, answered: Callable[[Any], int], statuses: set[int], examples: int) -> None:
    """Ask so many times, the same each run."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def ask(case: Any) -> None:
        statuses.add(answered(case))

    ask()
