"""How handlers find the service they work for."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from service.parts import Service


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)
