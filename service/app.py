"""The application: its routes, what every request passes, and its life from start to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.api import batches, bundles, gallery, health, jobs, problems, recognize
from service.api.access import OPEN_BELOW, Authenticate
from service.api.middleware import Attend, Head, LimitBody, Observe, TurnAway
from service.parts import Service
from service.settings import Settings

_DESCRIPTION = """
Which of the shop's products is being shown in this clip?

1. `POST /gallery` stores a product with its pictures; it can be found as soon as it is answered.
2. `POST /recognize` takes a short clip (or its frames) and names the product, or honestly none.

Every error is `application/problem+json`: a stable `type`, a `detail` that says what to do.
"""


def create_app(settings: Settings, on_failure: Callable[[BaseException], None]) -> FastAPI:
    """The ASGI application; `app.state.service` is its `Service`.

    It answers from the start, its store open by then, and is ready later; `on_failure` is told if
    it never will be. Raises KeysError.
    """
    service = Service(settings)
    app = FastAPIOffline(  # /docs brings its script along: machines that serve reach no internet
        static_url=OPEN_BELOW,
        title="LPR: livestreaming product recognition",
        version=version("lpr"),
        description=_DESCRIPTION,
        lifespan=_life(service, on_failure),
        redoc_url=None,
        redirect_slashes=False,  # its redirects lead to whatever host the request names
        # Its span of each request is ours too; the rest is told by `service.telemetry`.
        telemetry={"operation_spans": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    problems.install(app)
    app.add_middleware(Attend, within_s=settings.deadline_s)
    larger = {"/gallery/batch": settings.jobs.max_batch_bytes}
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes, larger=larger)
    doors = {
        "/recognize": service.recognitions,
        "/gallery": service.posts,
        "/gallery/batch": service.posts,
    }
    app.add_middleware(TurnAway, doors=doors)
    app.add_middleware(Authenticate, keys=service.keys)
    app.add_middleware(Observe, telemetry=service.telemetry)
    app.add_middleware(Head)  # the outermost, added last: all within know it as GET
    for resource in (recognize, gallery, batches, jobs, bundles, health):
        app.include_router(resource.router)
    return app


def _life(
    service: Service, on_failure: Callable[[BaseException], None]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The parts are opened on a thread while requests are answered already, and closed at last."""

    def opened(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not service.draining.is_set():
            on_failure(error)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.create_task(asyncio.to_thread(service.open))
        opening.add_done_callback(opened)
        try:
            yield
        finally:
            service.drain()
            await asyncio.wait([opening])
            await asyncio.to_thread(service.close)

    return life
