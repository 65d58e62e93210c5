"""Who may call what: a key is asked for before anything else is done, a right where it is needed.

`Authenticate` stands before all routes, so one that was forgotten is closed, not open; `OPEN` lists
those for everybody. A route says which right it needs by the type of a parameter: `key: Reader`.
That also checks the shop of its path; a shop that comes in a form is checked by the handler, with
`key.check_shop`. Every write is told to the audit log by `audited`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem_response
from service.errors import LPRError, UnauthorizedError
from service.keys import Grant, KeyRing, Right

audit_log = logging.getLogger("service.audit")

# Probes and Prometheus have no key (no metric tells of a shop); the documentation is of the code.
OPEN = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
OPEN_BELOW = "/docs/static"  # script and style of the documentation

_scheme = HTTPBearer(
    scheme_name="key",
    bearerFormat="lpr_...",
    description="A key from `lpr keys create`; not needed while the service has none.",
    auto_error=False,  # `Authenticate` has the say
)


class Authenticate:
    """Refuses by its head, body unread, each request without a valid key."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            try:
                grant = self._keys.grant(_secret(Headers(scope=scope)))
            except UnauthorizedError as error:
                await problem_response(error, scope)(scope, receive, send)
                return
            scope.setdefault("state", {})["grant"] = grant
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(f"{OPEN_BELOW}/")


def _secret(headers: Headers) -> str | None:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def needs(*any_of: Right) -> Any:
    """A dependency: the caller's grant, which has one of these rights, and the path's shop.

    Raises ForbiddenError, ShopNotFoundError.
    """

    async def granted(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)]
    ) -> Grant:
        grant = cast(Grant, request.state.grant)
        grant.check_right(*any_of)
        shop_id = request.path_params.get("shop_id")
        if shop_id is not None:
            grant.check_shop(shop_id)
        return grant

    return Security(granted)


Caller = Annotated[Grant, needs(*Right)]
Recognizing = Annotated[Grant, needs(Right.RECOGNIZE)]
Reader = Annotated[Grant, needs(Right.RECOGNIZE, Right.INDEX)]
Writer = Annotated[Grant, needs(Right.INDEX)]
Admin = Annotated[Grant, needs(Right.ADMIN)]


@dataclass
class Write:
    """A write while it is done; what it came to, if not simply done."""

    result: str = "done"


@contextmanager
def audited(
    request: Request, key: Grant, action: str, shop_id: str | None, product_id: str | None = None
) -> Iterator[Write]:
    """Tell the audit log who wrote what, and how it ended: a word, or its problem's slug."""
    write = Write()
    try:
        yield write
    except asyncio.CancelledError:  # its thread may finish all the same
        write.result = "unknown"
        raise
    except Exception as error:
        write.result = error.slug if isinstance(error, LPRError) else LPRError.slug
        raise
    finally:
        audit_log.info(
            "write",
            extra={
                "action": action,
                "key_id": key.key_id,
                "key_name": key.name,
                "shop_id": shop_id,
                "product_id": product_id,
                "result": write.result,
                "request_id": request.state.request_id,
            },
        )
