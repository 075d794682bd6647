"""What the page and the process that compares say to each other."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sharpcam.manifest import NAME_PATTERN


class Job(BaseModel):
    """What is to be compared.

    `upload`: pictures of `sizes` bytes follow, the soft one and perhaps the sharp one of the same scene. `scene`:
    the test card at frame `scene`, soft and sharp, with some frames before it for models that remember. With
    `soften`, the picture that follows is the sharp one, and a simulated webcam takes the soft one of it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    source: Literal["upload", "scene"]
    sizes: Annotated[list[Annotated[int, Field(gt=0)]], Field(max_length=2)] = []
    scene: Annotated[int, Field(ge=0, le=100_000)] = 0
    soften: bool = False
    models: Annotated[list[Annotated[str, Field(pattern=NAME_PATTERN)]], Field(max_length=16)]
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0

    def pictures(self, data: bytes) -> list[bytes]:
        """What lies in `data`, one after another."""
        ends = list(accumulate(self.sizes, initial=0))
        return [data[a:b] for a, b in pairwise(ends)]


def record(kind: str, data: bytes = b"", **facts: Any) -> bytes:
    """The length of its JSON (4 bytes, big-endian), the JSON, and `data`, whose length the JSON tells."""
    told = json.dumps({"kind": kind, "bytes": len(data), **facts}, allow_nan=False).encode()
    return len(told).to_bytes(4, "big") + told + data
