"""The base of every value that is stored, hashed or sent between processes."""

import hashlib
from typing import Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable, validated, hashable value with an exact JSON round trip; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed, validated anew (pydantic's ``model_copy`` would not validate)."""
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the value across processes, machines and Python versions."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()
