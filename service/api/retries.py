"""Posts that may be sent again: the header that says so, and the one that tells of a replay."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header
from pydantic import AfterValidator
from starlette.responses import Response

from service.coordination.idempotency import KEY_PATTERN, Answer, check_key

IdempotencyKey = Annotated[
    Annotated[str, AfterValidator(check_key)] | None,
    Header(
        description="send a post again under its key, and it has one effect and one answer",
        json_schema_extra={"pattern": KEY_PATTERN},
    ),
]


def marked(response: Response, answer: Answer) -> Response:
    """The response, with a word if its answer is an earlier one."""
    if answer.replayed:
        response.headers["idempotency-replayed"] = "true"
    return response
