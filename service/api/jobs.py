"""`/jobs`: what became of products that were accepted to be indexed later."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.access import Admin, Reader
from service.api.problems import documented
from service.api.schemas import JobAnswer, JobPage
from service.api.state import looked_up
from service.errors import JobNotFoundError, ShopNotFoundError
from service.jobs.records import Job, Jobs
from service.keys import Grant
from service.parts import Parts

PAGE_ITEMS = 100

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "",
    summary="List the jobs that were given up",
    responses=documented(401, 403, 422, 429, 503, 504),
)
async def list_jobs(
    request: Request,
    key: Admin,
    state: Annotated[Literal["dead"], Query(description="only these are listed")],
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobPage:
    """The latest first. A job is dead if something of it failed five times, by no fault of the
    caller's; the log says why. Its products are stored, and posting them again tries again."""
    return JobPage(jobs=await looked_up(request, lambda parts: parts.jobs.dead(limit)))


@router.get(
    "/{job_id}", summary="Get a job", responses=documented(401, 403, 404, 422, 429, 503, 504)
)
async def get_job(
    request: Request,
    key: Reader,
    job_id: str,
    limit: Annotated[int, Query(ge=1, le=1000, description="items in this answer")] = PAGE_ITEMS,
    after: Annotated[int | None, Query(ge=0, description="`next` of the page before")] = None,
) -> JobAnswer:
    """How far it is, and what became of each item. An item that is `done` is found by
    `/recognize`, on every replica. Jobs are kept for a day, unless it is set otherwise."""

    def look(parts: Parts) -> JobAnswer:
        job = parts.jobs.get(job_id)
        _check_shops(key, job)
        return JobAnswer.of(job, parts.jobs.items(job, limit=limit, after=after))

    return await looked_up(request, look)


def job_body(jobs: Jobs, job: Job) -> str:
    """What `GET /jobs/{id}` would answer just now."""
    return JobAnswer.of(job, jobs.items(job, limit=PAGE_ITEMS)).model_dump_json()


def job_response(body: str) -> Response:
    """202, for work whose job has this body."""
    headers = {"location": f"/jobs/{json.loads(body)['job_id']}"}
    return Response(body, 202, headers, media_type="application/json")


def _check_shops(key: Grant, job: Job) -> None:
    """Another's job looks absent. Raises JobNotFoundError."""
    try:
        for shop_id in job.shops:
            key.check_shop(shop_id)
    except ShopNotFoundError as error:
        raise JobNotFoundError(job.job_id) from error
