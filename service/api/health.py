"""How the service is, for orchestrators, operators and Prometheus; none of it waits."""

from __future__ import annotations

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.access import Caller
from service.api.problems import documented
from service.api.schemas import Info, Status
from service.api.state import service_of
from service.cores import cores
from service.errors import InferenceError, NotReadyError
from service.inference.manifest import Manifest
from service.parts import Service

router = APIRouter(tags=["health"])

_probes = CapacityLimiter(4)  # threads of their own: however busy the others are, this answers


@router.get("/healthz", summary="Alive?")
async def healthz() -> Status:
    """Answers as long as the process can; says nothing of readiness."""
    return Status(status="alive")


@router.get("/readyz", summary="Ready for requests?", responses=documented(503))
async def readyz(request: Request) -> Status:
    """200 once the model is warm and the index agrees with the catalogue; 503 before that, while a
    model that failed is started again, and as soon as the service is asked to stop.

    It stays 200 while Milvus or Redis are away: they are away for every replica, and hot shops are
    still served. `/info` and `/metrics` tell."""
    service = service_of(request)
    if service.draining.is_set():
        raise NotReadyError("the service is stopping")
    bundles = service.parts.bundles
    if not bundles.serving.model.runs:
        raise InferenceError("the model is started again")
    if bundles.is_behind:
        raise NotReadyError("another bundle is active than can be served here; the log says why")
    return Status(status="ready")


@router.get("/info", summary="What runs here", responses=documented(401, 503))
async def info(request: Request, key: Caller) -> Info:
    service = service_of(request)
    parts, settings = service.parts, service.settings
    serving = parts.bundles.serving
    manifest = serving.model.manifest
    return Info(
        version=request.app.version,
        bundle={
            "id": manifest.bundle_id,
            "model": manifest.model.model_dump(),
            "precision": manifest.precision,
            "dims": manifest.dims.model_dump(),
            "calibration": manifest.calibration.model_dump(),
            "detector": manifest.graphs.detector is not None,
            "text": _text(manifest),
            "metrics": dict(manifest.metrics),
        },
        inference={
            "provider": settings.inference.provider,
            "providers": serving.model.providers,
            "threads": settings.inference.threads or cores(),
        },
        index={
            "embedded": serving.index.embedded,
            "collection": serving.index.collection,
            "up": not serving.index.breaker.is_open,
        },
        coordination={
            "embedded": settings.redis.url is None,
            "up": await _redis_is_up(service),
        },
        decoder=parts.decoder.describe(),
        limits={
            "max_body_bytes": settings.max_body_bytes,
            "max_in_flight": settings.max_in_flight,
            **settings.media.model_dump(),
            **settings.search.model_dump(),
        },
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    service = service_of(request)
    telemetry = service.telemetry
    telemetry.ready.set(service.is_ready)
    telemetry.redis_up.set(await _redis_is_up(service))
    if service.is_ready:
        serving = service.parts.bundles.serving
        telemetry.index_up.set(not serving.index.breaker.is_open)
        shops = serving.shops
        telemetry.index_pending.set(service.parts.indexer.backlog())
        telemetry.index_lag.set(service.parts.indexer.lag_s())
        telemetry.hot_shops_bytes.set(shops.bytes)
        telemetry.hot_shop_lookups.totals = {"hit": shops.hits, "miss": shops.misses}
    body, content_type = telemetry.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


def _text(manifest: Manifest) -> dict[str, int | str] | None:
    """How much of a title, or of speech, is read; None: nothing is."""
    if manifest.text is None:
        return None
    text = manifest.text
    return {"characters": text.max_characters, "tokens": text.max_tokens, "kept": "the beginning"}


async def _redis_is_up(service: Service) -> bool:
    store = service.store
    return store is not None and await anyio.to_thread.run_sync(store.is_up, limiter=_probes)
