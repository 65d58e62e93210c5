"""`/gallery`: the products of a shop, one at a time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.access import Reader, Writer, audited
from service.api.bodies import media_type, read_json
from service.api.forms import (
    MAX_FILES,
    files_schema,
    multipart_schema,
    read_form,
)
from service.api.jobs import job_body, job_response
from service.api.problems import documented
from service.api.schemas import JobAnswer, Product, ProductPage
from service.api.state import service_of
from service.coordination.idempotency import KEY_PATTERN, Answer, check_key
from service.errors import BadInputError, NotIndexedYetError
from service.fields import Identifier, Metadata, MetadataText, Title
from service.indexing import NewProduct
from service.parts import Service

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
    idempotency_key: Annotated[
        str | None,
        Header(
            description="send a post again under its key, and it has one effect and one answer",
            json_schema_extra={"pattern": KEY_PATTERN},
        ),
    ] = None,
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
    if idempotency_key is not None:
        check_key(idempotency_key)
    with service.posts.admit():
        posted = await _read(request, service.settings.body_timeout_s)
        fields = posted.fields
        key.check_shop(fields.shop_id)
        later = _prefers_async(prefer)

        def store() -> str:
            product = _new_product(posted, parts.remote_images.fetch)
            return json.dumps(_store(service, product, later=later))

        admitted = time.perf_counter()
        queue_ms = 0.0

        def work() -> Answer:
            nonlocal queue_ms
            queue_ms = 1e3 * (time.perf_counter() - admitted)
            return parts.idempotency.once(
                fields.shop_id, idempotency_key, _fingerprint(posted), store
            )

        with audited(request, key, "put-product", fields.shop_id, fields.product_id) as write:
            answer = await service.posts.run(work)
            status, body = json.loads(answer.body)
            write.result = (
                "replayed" if answer.replayed else "done" if status == 201 else "accepted"
            )
    response = (
        Response(body, 201, media_type="application/json") if status == 201 else job_response(body)
    )
    response.headers["x-queue-time"] = f"{queue_ms:.3f}"
    if answer.replayed:
        response.headers["idempotency-replayed"] = "true"
    if later and status == 202:
        response.headers["preference-applied"] = "respond-async"
    return response


@router.get(
    "/{shop_id}",
    summary="List a shop's products, page by page",
    responses=documented(401, 403, 404, 422, 429, 503, 504),
)
async def list_products(
    request: Request,
    key: Reader,
    shop_id: Identifier,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> ProductPage:
    service = service_of(request)
    catalogue = service.parts.catalogue
    with service.reads.admit():
        records, following = await service.reads.run(
            lambda: catalogue.page(shop_id, limit=limit, after=after)
        )
    return ProductPage(
        shop_id=shop_id, products=[Product.of(record) for record in records], next=following
    )


@router.get(
    "/{shop_id}/{product_id}",
    summary="Get a product",
    responses=documented(401, 403, 404, 422, 429, 503, 504),
)
async def get_product(
    request: Request, key: Reader, shop_id: Identifier, product_id: Identifier
) -> Product:
    service = service_of(request)
    catalogue = service.parts.catalogue
    with service.reads.admit():
        return Product.of(await service.reads.run(lambda: catalogue.get(shop_id, product_id)))


@router.get(
    "/{shop_id}/{product_id}/images/{image_id}",
    summary="Get a picture as it was posted",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}, **documented(401, 403, 404, 422, 429, 503, 504)},
)
async def get_image(
    request: Request, key: Reader, shop_id: Identifier, product_id: Identifier, image_id: str
) -> Response:
    service = service_of(request)
    catalogue = service.parts.catalogue
    with service.reads.admit():
        record, data = await service.reads.run(
            lambda: catalogue.picture(shop_id, product_id, image_id)
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


async def _read(request: Request, within_s: float) -> _Posted:
    if media_type(request) == "application/json":
        product = await read_json(request, ProductByUrl, within_s)
        return _Posted(product, image_urls=tuple(product.images))
    form = await read_form(request, ProductForm, {"images": MAX_FILES}, within_s)
    if not form.files["images"]:
        raise BadInputError("/images: send at least one picture", pointer="/images")
    return _Posted(form.fields, images=form.files["images"])


def _store(service: Service, product: NewProduct, *, later: bool) -> tuple[int, str]:
    """The answer's status and body: the product's, or that of the job that makes it searchable."""
    parts = service.parts
    if later or parts.bundles.serving.index.breaker.is_open:
        return 202, job_body(parts.jobs, parts.acceptance.one(product))
    parts.acceptance.check_backlog()
    try:
        with service.telemetry.indexing_seconds.time():
            record = parts.indexer.put(product)
    except NotIndexedYetError:
        job = parts.acceptance.stored(product.shop_id, product.product_id)
        return 202, job_body(parts.jobs, job)
    service.telemetry.indexed_pictures.inc(len(record.images))
    return 201, Product.of(record).model_dump_json()


def _prefers_async(prefer: Sequence[str] | None) -> bool:
    """As RFC 7240 writes preferences; those that are not known here are to be ignored."""
    words = (word for line in prefer or () for word in line.split(","))
    return any(word.partition(";")[0].strip().lower() == "respond-async" for word in words)


def _new_product(
    posted: _Posted, fetch: Callable[[Sequence[str]], tuple[bytes, ...]]
) -> NewProduct:
    fields = posted.fields
    return NewProduct(
        shop_id=fields.shop_id,
        product_id=fields.product_id,
        title=fields.title or None,
        metadata=fields.metadata,
        images=posted.images or fetch(posted.image_urls),
    )


def _fingerprint(posted: _Posted) -> str:
    """The same for the same content, whatever multipart boundary it came in."""
    pictures = [hashlib.sha256(data).hexdigest() for data in posted.images]
    content = json.dumps([posted.fields.model_dump(), pictures], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
