"""`POST /gallery/batch`: many products at once, stored now and searchable soon."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import IO, Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service import deadlines
from service.admission import Admission
from service.api.access import Writer, audited
from service.api.forms import file_schema, multipart_schema, read_upload
from service.api.jobs import job_body, job_response
from service.api.problems import documented
from service.api.retries import IdempotencyKey, marked
from service.api.schemas import JobAnswer
from service.api.state import service_of
from service.coordination.idempotency import Answer, Lease
from service.fields import Identifier
from service.keys import Grant
from service.parts import Parts

router = APIRouter(prefix="/gallery", tags=["gallery"])

_RENEW_S = 20.0  # well within a lease of an Idempotency-Key


class BatchFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shop_id: Annotated[
        Identifier | None, Field(description="of the items that name no shop themselves")
    ] = None


_BATCH = file_schema(
    "JSON lines `{shop_id?, product_id, title?, metadata?, images: [base64]}`; or a zip, tar or "
    "tar.gz archive of pictures with a `products.jsonl` of such lines, whose `images` are names in "
    "the archive; or an archive of pictures alone, named by product: `cola.jpg`, `cola__2.jpg`, "
    "`cola/front.jpg`"
)


@router.post(
    "/batch",
    status_code=202,
    summary="Store or replace up to 10,000 products",
    response_model=JobAnswer,
    responses=documented(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 504, 507),
    openapi_extra={
        "requestBody": multipart_schema(BatchFields, {"batch": _BATCH}, required=["batch"])
    },
)
async def put_batch(
    request: Request,
    key: Writer,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """When this is answered, every item is either stored durably or told as failed, with its
    reason; `Location` is the job that tells when the stored ones are searchable.

    A batch that cannot be read, is too large or has a product twice is refused whole, and nothing
    of it is stored. Where it fails later, what was stored by then stays; send it again.
    """
    service = service_of(request)
    limits = service.settings.jobs
    with service.posts.admit():
        folder = service.settings.spool_dir
        async with read_upload(
            request, BatchFields, "batch", limits.body_timeout_s, folder
        ) as upload:
            shop_id = upload.fields.shop_id
            if shop_id is not None:
                key.check_shop(shop_id)
            deadlines.extend(limits.deadline_s)
            post = _Post(service.parts, key, shop_id, upload.file, idempotency_key)
            with audited(request, key, "put-batch", shop_id) as write:
                answer = await _answered(post, service.posts)
                write.result = "replayed" if answer.replayed else "accepted"
    return marked(job_response(answer.body), answer)


async def _answered(post: _Post, posts: Admission) -> Answer:
    """The answer with the last step, others taking their turn between the steps; or all is given
    up, on a thread, for a step may be on its way still."""
    try:
        answer = await posts.run(post.step)
        while answer is None:
            answer = await posts.run(post.step, begun=True)
    except BaseException:
        threading.Thread(target=post.give_up, name="lpr-give-up").start()
        raise
    return answer


class _Post:
    """A batch on its way into the catalogue, a few items with each step."""

    def __init__(
        self, parts: Parts, key: Grant, shop_id: str | None, file: IO[bytes], word: str | None
    ) -> None:
        """`word` is its Idempotency-Key."""
        self._parts = parts
        self._key = key
        self._shop_id = shop_id
        self._file = file
        self._word = word
        self._lease: Lease | None = None
        self._renew_at = 0.0
        self._turn = threading.Lock()
        self._is_over = False
        self._steps = parts.acceptance.batch(file, shop_id, key.check_shop)

    def step(self) -> Answer | None:
        """The answer with the last step; on any thread, but one step at a time."""
        with self._turn:
            if self._is_over:
                return None
            if self._lease is None:
                begun = self._begin()
                if isinstance(begun, Answer):
                    return begun
                self._lease = begun
            try:
                job = next(self._steps)
                body = None if job is None else job_body(self._parts.jobs, job)
            except BaseException:
                self._lease.give_back()
                raise
            if body is None:
                self._renew()
                return None
            self._lease.hold(body)
            return Answer(body)

    def give_up(self) -> None:
        """Leave nothing behind of what has no answer: once its step has ended, on any thread."""
        with self._turn:
            self._is_over = True
            self._steps.close()
            if self._lease is not None:
                self._lease.give_back()

    def _begin(self) -> Answer | Lease:
        """Raises IdempotencyInProgressError, IdempotencyKeyReusedError."""
        scope = "\0".join(("batch", self._key.key_id, self._shop_id or ""))
        self._file.seek(0)
        content = hashlib.file_digest(self._file, hashlib.sha256).hexdigest()  # type: ignore[arg-type]
        return self._parts.idempotency.begin(scope, self._word, content)

    def _renew(self) -> None:
        if self._lease is not None and time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEW_S
            self._lease.renew()
