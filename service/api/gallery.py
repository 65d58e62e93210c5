"""`/gallery`: the products of a shop, one at a time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.access import Reader, Writer, audited
from service.api.bodies import media_type, read_json
from service.api.forms import MAX_FILES, files_schema, multipart_schema, read_form
from service.api.jobs import job_body, job_response
from service.api.problems import documented
from service.api.retries import IdempotencyKey, marked
from service.api.schemas import JobAnswer, Product, ProductPage
from service.api.state import looked_up, service_of
from service.coordination.idempotency import Answer
from service.errors import BadInputError, NotIndexedYetError
from service.fields import Identifier, Metadata, MetadataText, Title
from service.indexing import NewProduct
from service.media.remote_images import RemoteImages
from service.parts import Parts, Service

router = APIRouter(prefix="/gallery", tags=["gallery"])


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shop_id: Identifier
    product_id: Identifier
    title: Annotated[Title | None, Field(description="shown with answers")] = None


class ProductForm(_Fields):
    metadata: MetadataText | None = None


class ProductByUrl(_Fields):
    metadata: Metadata | None = None
    images: Annotated[
        list[Annotated[str, Field(max_length=2_048)]],
        Field(
            min_length=1,
            max_length=MAX_FILES,
            description="addresses of the pictures, of hosts that the operator has listed",
        ),
    ]


@dataclass(frozen=True)
class _Posted:
    """A product as it was posted: its pictures are here, or at addresses."""

    fields: ProductForm | ProductByUrl
    images: tuple[bytes, ...] = ()
    image_urls: tuple[str, ...] = ()

    def product(self, remote_images: RemoteImages) -> NewProduct:
        """Raises as `RemoteImages.fetch`."""
        return NewProduct(
            shop_id=self.fields.shop_id,
            product_id=self.fields.product_id,
            title=self.fields.title or None,
            metadata=self.fields.metadata,
            images=self.images or remote_images.fetch(self.image_urls),
        )

    def fingerprint(self) -> str:
        """The same for the same content, whatever multipart boundary it came in."""
        pictures = [hashlib.sha256(data).hexdigest() for data in self.images]
        content = json.dumps([self.fields.model_dump(), pictures], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def _request_body() -> dict[str, Any]:
    files = {"images": files_schema(f"1 to {MAX_FILES} pictures of the product")}
    body = multipart_schema(ProductForm, files, required=["images"])
    body["content"]["application/json"] = {"schema": ProductByUrl.model_json_schema()}
    return body


@router.post(
    "",
    status_code=201,
    summary="Store or replace a product",
    response_model=Product,
    responses={
        202: {"model": JobAnswer, "description": "Stored, and searchable soon"},
        **documented(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 504, 507),
    },
    openapi_extra={"requestBody": _request_body()},
)
async def put_product(
    request: Request,
    key: Writer,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[
        list[str] | None, Header(description="`respond-async`: answer 202 as soon as it is stored")
    ] = None,
) -> Response:
    """When this is answered with 201, the product is stored durably and `/recognize` finds it; with
    202, it is stored durably, and the job at `Location` tells when it is found. That is the answer
    where it is preferred, and while the index is away.

    Send the pictures as files of a form, or as JSON with their addresses. The same `shop_id` and
    `product_id` again replace the product, its pictures and all. A replayed
    answer (Idempotency-Key) carries the header `idempotency-replayed: true`.
    """
    service = service_of(request)
    parts = service.parts
    with service.posts.admit():
        settings = service.settings
        posted = await _read(request, settings.body_timeout_s, settings.spool_dir)
        shop_id, product_id = posted.fields.shop_id, posted.fields.product_id
        key.check_shop(shop_id)
        post = _Post(service, parts, posted, later=_prefers_async(prefer))
        with audited(request, key, "put-product", shop_id, product_id) as write:
            answer = await service.posts.run(lambda: post.once(idempotency_key))
            status, body = json.loads(answer.body)
            done = "done" if status == 201 else "accepted"
            write.result = "replayed" if answer.replayed else done
    response = marked(_response(status, body), answer)
    response.headers["x-queue-time"] = f"{post.queue_ms:.3f}"
    if post.later and status == 202:
        response.headers["preference-applied"] = "respond-async"
    return response


@router.get(
    "/{shop_id}",
    summary="List a shop's products, page by page",
    response_model=ProductPage,
    responses=documented(401, 403, 404, 422, 429, 503, 504),
)
async def list_products(
    request: Request,
    key: Reader,
    shop_id: Identifier,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    def page(parts: Parts) -> str:
        """Written where it was read: a long one takes its time, which others would wait for."""
        records, following = parts.catalogue.page(shop_id, limit=limit, after=after)
        products = [Product.of(record) for record in records]
        return ProductPage(shop_id=shop_id, products=products, next=following).model_dump_json()

    return Response(await looked_up(request, page), media_type="application/json")


@router.get(
    "/{shop_id}/{product_id}",
    summary="Get a product",
    responses=documented(401, 403, 404, 422, 429, 503, 504),
)
async def get_product(
    request: Request, key: Reader, shop_id: Identifier, product_id: Identifier
) -> Product:
    return Product.of(
        await looked_up(request, lambda parts: parts.catalogue.get(shop_id, product_id))
    )


@router.get(
    "/{shop_id}/{product_id}/images/{image_id}",
    summary="Get a picture as it was posted",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}, **documented(401, 403, 404, 422, 429, 503, 504)},
)
async def get_image(
    request: Request, key: Reader, shop_id: Identifier, product_id: Identifier, image_id: str
) -> Response:
    record, data = await looked_up(
        request, lambda parts: parts.catalogue.picture(shop_id, product_id, image_id)
    )
    headers = {
        # An image id stands for its bytes.
        "cache-control": "private, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
    }
    return Response(data, 200, headers, media_type=record.media_type)


@router.delete(
    "/{shop_id}/{product_id}",
    status_code=204,
    summary="Delete a product",
    responses=documented(401, 403, 404, 422, 429, 503, 504),
)
async def delete_product(
    request: Request, key: Writer, shop_id: Identifier, product_id: Identifier
) -> None:
    """When this is answered, nobody finds the product any more. The shop stays, even empty."""
    service = service_of(request)
    indexer = service.parts.indexer
    with service.posts.admit(), audited(request, key, "delete-product", shop_id, product_id):
        await service.posts.run(lambda: indexer.delete(shop_id, product_id))


@router.delete(
    "/{shop_id}",
    status_code=204,
    summary="Delete a shop and all its products",
    responses=documented(401, 403, 404, 422, 429, 503, 504),
)
async def delete_shop(request: Request, key: Writer, shop_id: Identifier) -> None:
    service = service_of(request)
    indexer = service.parts.indexer
    with service.posts.admit(), audited(request, key, "delete-shop", shop_id):
        await service.posts.run(lambda: indexer.delete_shop(shop_id))


async def _read(request: Request, within_s: float, folder: Path) -> _Posted:
    if media_type(request) == "application/json":
        product = await read_json(request, ProductByUrl, within_s)
        return _Posted(product, image_urls=tuple(product.images))
    form = await read_form(request, ProductForm, {"images": MAX_FILES}, within_s, folder)
    if not form.files["images"]:
        raise BadInputError("/images: send at least one picture", pointer="/images")
    return _Posted(form.fields, images=form.files["images"])


class _Post:
    """A product on its way into the gallery."""

    def __init__(self, service: Service, parts: Parts, posted: _Posted, *, later: bool) -> None:
        """`later`: it may become searchable after the answer."""
        self.later = later
        self.queue_ms = 0.0
        self._service = service
        self._parts = parts
        self._posted = posted
        self._asked = time.perf_counter()

    def once(self, idempotency_key: str | None) -> Answer:
        """The answer's status and body, as JSON; on any thread."""
        self.queue_ms = 1e3 * (time.perf_counter() - self._asked)
        posted = self._posted
        return self._parts.idempotency.once(
            posted.fields.shop_id,
            idempotency_key,
            posted.fingerprint(),
            lambda: json.dumps(self._store(posted.product(self._parts.remote_images))),
        )

    def _store(self, product: NewProduct) -> tuple[int, str]:
        """The product's answer, or that of the job that makes it searchable."""
        parts, telemetry = self._parts, self._service.telemetry
        if self.later or parts.bundles.serving.index.breaker.is_open:
            return 202, job_body(parts.jobs, parts.acceptance.one(product))
        parts.acceptance.check_backlog()
        try:
            with telemetry.indexing_seconds.time():
                record = parts.indexer.put(product)
        except NotIndexedYetError:
            job = parts.acceptance.stored(product.shop_id, product.product_id)
            return 202, job_body(parts.jobs, job)
        telemetry.indexed_pictures.inc(len(record.images))
        return 201, Product.of(record).model_dump_json()


def _response(status: int, body: str) -> Response:
    if status == 202:
        return job_response(body)
    return Response(body, status, media_type="application/json")


def _prefers_async(prefer: Sequence[str] | None) -> bool:
    """As RFC 7240 writes preferences; those that are not known here are to be ignored."""
    words = (word for line in prefer or () for word in line.split(","))
    return any(word.partition(";")[0].strip().lower() == "respond-async" for word in words)
