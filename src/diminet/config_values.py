"""What settings are made of: kinds of numbers with their bounds, and sections of them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

KIB = 1024
MIB = 1024 * KIB
HOUR = 3600.0
DAY = 24 * HOUR

Port = Annotated[int, Field(ge=0, le=65535)]
Asn = Annotated[int, Field(ge=1, le=4_294_967_294)]
Seconds = Annotated[float, Field(gt=0, le=365 * DAY, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, le=365 * DAY, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
