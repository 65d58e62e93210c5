"""How handlers find the service they work for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from fastapi import Request

from service.parts import Parts, Service

T = TypeVar("T")


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def looked_up(request: Request, look: Callable[[Parts], T]) -> T:
    """What is only read, on threads of its own: storage may take its time, and nothing else waits.

    Raises OverloadedError, DeadlineExceededError, ClientLeftError, and what `look` raises.
    """
    service = service_of(request)
    with service.reads.admit():
        return await service.reads.run(lambda: look(service.parts))
