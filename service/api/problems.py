"""Every error as `application/problem+json` (RFC 9457), the framework's own errors included.

`type` is `/problems/<slug>` with a stable slug, `detail` says what to do, `pointer` is the JSON
pointer of the field at fault, where there is one.
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from service.errors import LPRError
from service.fields import validation_error

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong and what to do about it (RFC 9457)."""

    type: str = Field(examples=["/problems/shop-not-found"])
    title: str = Field(examples=["No such shop"])
    status: int = Field(examples=[404])
    detail: str = Field(
        examples=["there is no shop 'x'; POST /gallery of a first product makes one"]
    )
    instance: str = Field(description="the path that was asked for", examples=["/recognize"])
    request_id: str = Field(description="as in the log and in the header x-request-id")
    pointer: str | None = Field(default=None, description="JSON pointer of the field at fault")


def problem_response(error: LPRError, scope: Scope) -> Response:
    """An answer for `error`."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == http.HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = 'Bearer realm="lpr"'
    if error.status == http.HTTPStatus.REQUEST_TIMEOUT:
        headers["connection"] = "close"  # or the rest of the body would keep it open
    return _response(_problem(error, scope), headers, scope)


def _problem(error: LPRError, scope: Scope) -> Problem:
    return Problem(
        type=f"/problems/{error.slug}",
        title=error.title,
        status=error.status,
        detail=_sayable(error.detail),
        pointer=None if error.pointer is None else _sayable(error.pointer),
        **_occurrence(scope),
    )


def _sayable(text: str) -> str:
    """Without the lone surrogates of a name that the client made up, which no UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def _occurrence(scope: Scope) -> dict[str, str]:
    request_id = scope.get("state", {}).get("request_id", "")
    return {"instance": scope.get("path", ""), "request_id": request_id}


def _response(problem: Problem, headers: Mapping[str, str], scope: Scope) -> Response:
    scope.setdefault("state", {})["problem"] = problem.type.rsplit("/", 1)[-1]  # for the metrics
    body = problem.model_dump_json(exclude={"pointer"} if problem.pointer is None else None)
    return Response(body, problem.status, dict(headers), media_type=MEDIA_TYPE)


async def _on_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, LPRError)  # noqa: S101 - what it is registered for
    return problem_response(error, request.scope)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return problem_response(validation_error(error.errors()), request.scope)


async def _on_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    title = http.HTTPStatus(error.status_code).phrase
    headers, detail = dict(error.headers or {}), str(error.detail)
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request))) or headers["Allow"]
        detail = f"here it is {headers['Allow']}"
    elif error.status_code == http.HTTPStatus.NOT_FOUND:
        detail = "there is no such address; /docs lists those there are"
    problem = Problem(
        type=f"/problems/{title.lower().replace(' ', '-')}",
        title=title,
        status=error.status_code,
        detail=f"{request.method} {request.url.path}: {detail}",
        **_occurrence(request.scope),
    )
    return _response(problem, headers, request.scope)


def _methods(request: Request) -> set[str]:
    """All that are documented at this address; the framework names those of one route."""
    paths = request.app.openapi()["paths"]
    pattern = getattr(request.scope.get("route"), "path", "")
    return {method.upper() for method in paths.get(request.url.path, paths.get(pattern, ()))}


async def _on_bug(request: Request, error: Exception) -> Response:
    """The server's log has the trace; the caller gets nothing of it."""
    return problem_response(
        LPRError("an unexpected error happened; the log has it by this request id"), request.scope
    )


def install(app: FastAPI) -> None:
    """Make every error of the application a problem, and its documentation say so."""
    app.add_exception_handler(LPRError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_framework)
    app.add_exception_handler(Exception, _on_bug)
    documentation = app.openapi

    def with_problem() -> dict[str, Any]:
        document = documentation()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return document

    app.openapi = with_problem  # type: ignore[method-assign]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for the problems an operation may answer with."""
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
