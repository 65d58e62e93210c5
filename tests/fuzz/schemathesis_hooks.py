"""Gives schemathesis files that are pictures and clips, so that it comes further than the door."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from tests.integration.material import clip, picture

PICTURE = picture(0)

schemathesis.openapi.format(
    "binary", st.sampled_from([PICTURE, picture(1), clip(PICTURE)]) | st.binary(max_size=64)
)
