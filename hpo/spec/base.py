"""What every part of the specification has in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinities."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def broken_rule(field: str, given: str, allowed: str) -> PydanticCustomError:
    """An error for a validator to raise about a field below its model.

    `field` is the path from the model to the field, empty for the model.
    """
    return PydanticCustomError(
        "broken_rule", "{allowed}", {"field": field, "given": given, "allowed": allowed}
    )


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


NotBoolean = BeforeValidator(_refuse_boolean)
"""YAML's `yes` and `true` are no numbers, though Python takes them for 1."""

PositiveInt = Annotated[int, Field(gt=0), NotBoolean]
NonNegativeInt = Annotated[int, Field(ge=0), NotBoolean]
TwoOrMore = Annotated[int, Field(ge=2), NotBoolean]
PositiveFloat = Annotated[float, Field(gt=0), NotBoolean]
NonNegativeFloat = Annotated[float, Field(ge=0), NotBoolean]
Probability = Annotated[float, Field(ge=0, lt=1), NotBoolean]
