"""Reads request bodies in time, and those that are JSON; forms are for `service.api.forms`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from service.errors import (
    BadInputError,
    BodyTooLargeError,
    ClientLeftError,
    MalformedJsonError,
    RequestTimeoutError,
)
from service.fields import check_writable, parse_json, validation_error

MAX_JSON_BYTES = 262_144

ModelT = TypeVar("ModelT", bound=BaseModel)


def media_type(request: Request) -> str:
    """What the body says it is, in lower case and without parameters; empty if it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def arriving(within_s: float) -> AsyncIterator[None]:
    """Raises RequestTimeoutError for a body that takes longer, ClientLeftError for one given up."""
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError as error:
        raise RequestTimeoutError(
            f"the body did not arrive within {within_s:g} s; send less, or over a faster line"
        ) from error
    except ClientDisconnect as error:
        raise ClientLeftError("the client left while its body was read") from error


async def read_json(request: Request, model: type[ModelT], within_s: float) -> ModelT:
    """The request's JSON body as a `model`.

    Raises MalformedJsonError, BadInputError, BodyTooLargeError, RequestTimeoutError,
    ClientLeftError.
    """
    body = bytearray()
    async with arriving(within_s):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise BodyTooLargeError(f"a JSON body has at most {MAX_JSON_BYTES} bytes")
    try:
        value = parse_json(body)
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"the body is not JSON: {error}") from error
    try:
        check_writable(value)
        return model.model_validate(value)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from error
    except ValueError as error:
        raise BadInputError(f"the body cannot be kept as JSON: {error}") from error
