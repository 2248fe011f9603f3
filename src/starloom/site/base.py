"""The nouns of an AI factory. Every command reads them from one site file, none keeps its own.

Units stand in field names: `_gib` is 2**30 bytes, `_gb_per_s` is 10**9 bytes a second.
Fields that are not known are refused, so that a typing error never becomes a silent default.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Endpoint = Annotated[str, Field(pattern=r"^tcp://.+:[0-9]{1,5}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Noun(BaseModel):
    """The base of all nouns: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
