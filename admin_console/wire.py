"""The form of everything the admin API reads and answers."""

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """A body, a query or an answer: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
