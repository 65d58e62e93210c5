"""`/bundles`: which model bundle is served, and changing it while the service runs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from service import deadlines
from service.api.access import Admin, Caller, audited
from service.api.problems import documented
from service.api.schemas import BundleList
from service.api.state import service_of

_OPEN_S = 300.0  # a large bundle is read, hashed, loaded, tried and warmed before the answer

router = APIRouter(prefix="/bundles", tags=["bundles"])


@router.get("", summary="List the bundles there are", responses=documented(401, 503))
async def list_bundles(request: Request, key: Caller) -> BundleList:
    """`active` answers; `previous` is kept up to date to go back to; `coming` is being filled from
    the catalogue and takes over when it is done; the others are `available` to be activated."""
    return BundleList.of(await run_in_threadpool(service_of(request).parts.bundles.state))


@router.post(
    "/back",
    summary="Go back to the bundle before",
    status_code=202,
    responses=documented(401, 403, 404, 409, 422, 503, 507),
)
async def go_back(request: Request, key: Admin) -> BundleList:
    """At once, for its index was kept up to date."""
    bundles = service_of(request).parts.bundles
    deadlines.extend(_OPEN_S)
    with audited(request, key, "bundle-back", None):
        return BundleList.of(await run_in_threadpool(bundles.go_back))


@router.post(
    "/{bundle_id}/activate",
    summary="Serve another bundle",
    status_code=202,
    responses=documented(401, 403, 404, 422, 503, 507),
)
async def activate(request: Request, key: Admin, bundle_id: str) -> BundleList:
    """The bundle is verified before this is answered. Then its index is filled from the catalogue,
    while the active one goes on answering; and then it takes over, on every replica."""
    bundles = service_of(request).parts.bundles
    deadlines.extend(_OPEN_S)
    with audited(request, key, f"bundle-activate {bundle_id}", None):
        return BundleList.of(await run_in_threadpool(bundles.activate, bundle_id))


@router.delete(
    "/{bundle_id}",
    summary="Keep a bundle's index no longer",
    status_code=204,
    responses=documented(401, 403, 404, 409, 503, 507),
)
async def drop(request: Request, key: Admin, bundle_id: str) -> None:
    """Of the previous bundle, or of one that is coming; the bundle itself stays on its shelf."""
    bundles = service_of(request).parts.bundles
    with audited(request, key, f"bundle-drop {bundle_id}", None):
        await run_in_threadpool(bundles.drop, bundle_id)
