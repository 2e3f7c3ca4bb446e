"""Bodies of requests that act on a task: strict models, and the error that names the field."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.admin.answers import ApiError
from gateway.admin.override_requests import Approver, Phase, Reason
from gateway.core.phases import WorkPhase
from gateway.findings import explain, suggestion

KeyId = Annotated[str, Field(pattern=r"^[a-z0-9]{8}$")]


class ActRequest(BaseModel):
    """Who does it and why."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    approver: Approver
    reason: Reason


class PhaseRequest(BaseModel):
    """Who says so; nothing else is needed, for this changes nothing that is allowed."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    by: Approver = "admin"


class GateRequest(BaseModel):
    """Which phase the task is to leave, VERIFY if left out, and for which one.

    `key` is the id of the gateway key that pays for the task's calls.
    """

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)

    phase: Phase | None = None
    to: Phase | None = None
    key: KeyId | None = None

    @property
    def leaving(self) -> WorkPhase:
        """Return the phase to leave."""
        return self.phase or WorkPhase.VERIFY


Request = TypeVar("Request", bound=BaseModel)


def parse_request(model: type[Request], body: object) -> Request:
    """Return what a body asks for. Raises ApiError (`invalid_request`) naming the field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        known = [*model.model_fields]
        field = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            problem, remedy = "is not a field here", f"remove it; {suggestion(field or '', known)}"
        elif field is None:
            problem, remedy = "must be a JSON object", f"give {', '.join(known)}"
        else:
            problem, remedy = explain(first, known)
        message = f"{field or 'the body'}: {problem}. Remedy: {remedy}."
        raise ApiError(422, "invalid_request", message, field=field) from None
