"""Documents of the kinds that shape calls: `output_clamp`, `model_downgrade`, `mid_stream_stop`."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.core.budget import Dimension
from gateway.core.mid_stream_stop import MidStreamStopPolicy
from gateway.core.model_downgrade import ModelDowngradePolicy, SoftLine
from gateway.core.output_clamp import OutputClampPolicy
from gateway.findings import rule
from gateway.rule_files.policy_document import PolicyDocument

_MODEL = re.compile(r"[A-Za-z0-9][\x21-\x7e]{0,255}")
_DIMENSIONS = {"tokens": Dimension.TOKENS, "cost_usd": Dimension.NANO_USD}


class OutputClampDocument(PolicyDocument):
    """A policy of kind `output_clamp` as it stands in a file."""

    kind: Literal["output_clamp"]
    min_tokens: Annotated[int, Field(ge=1, le=10**9, strict=True)] = 1_024

    def policy(self) -> OutputClampPolicy:
        """Return the policy as a value."""
        return OutputClampPolicy(**self.common(), min_tokens=self.min_tokens)


def _models(value: object) -> object:
    if not isinstance(value, dict) or not value:
        raise rule("must be a table", "write it like {'gpt-5*': gpt-5-mini}")
    for pattern, model in value.items():
        if not isinstance(pattern, str) or not pattern.strip():
            raise rule(f"{pattern!r} is not a pattern", "write it like 'gpt-5*'; * is any rest")
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            raise rule(f"{model!r} is not a model's name", "name one model, such as gpt-5-mini")
    return tuple(value.items())


class ModelDowngradeDocument(PolicyDocument):
    """A policy of kind `model_downgrade` as it stands in a file."""

    kind: Literal["model_downgrade"]
    at_percent: Annotated[int, Field(ge=1, le=1_000, strict=True)] = 80
    of: Literal["task", "phase"] = "task"
    dimension: Literal["tokens", "cost_usd"] = "tokens"
    models: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_models)]

    def policy(self) -> ModelDowngradePolicy:
        """Return the policy as a value."""
        line = SoftLine(self.at_percent, _DIMENSIONS[self.dimension], self.of == "phase")
        return ModelDowngradePolicy(**self.common(), soft_line=line, models=self.models)


class MidStreamStopDocument(PolicyDocument):
    """A policy of kind `mid_stream_stop` as it stands in a file."""

    kind: Literal["mid_stream_stop"]

    def policy(self) -> MidStreamStopPolicy:
        """Return the policy as a value."""
        return MidStreamStopPolicy(**self.common())
