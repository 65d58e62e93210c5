"""What is said of a product, said wrongly: in a form, in JSON, and by addresses of pictures."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from service.client import Client
from tests.integration.material import Shop
from tests.integration.problems import KIND, PRODUCT, Refusal, assert_refused, body
from tests.service.media.material import Listener


def invalid(pointer: str) -> Refusal:
    return Refusal(422, "validation", pointer)


def deep(levels: int) -> str:
    """An object that is so many levels deep, with itself."""
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


FORMS: dict[str, tuple[dict[str, str], Refusal]] = {
    "no id": ({"product_id": ""}, invalid("/product_id")),
    "over-long id": ({"product_id": "x" * 129}, invalid("/product_id")),
    "control-character id": ({"shop_id": "a\x00b"}, invalid("/shop_id")),
    "id that turns the text around": ({"product_id": "a\u202eb"}, invalid("/product_id")),
    "slash in id": ({"product_id": "../x"}, invalid("/product_id")),
    "dots as id": ({"product_id": ".."}, invalid("/product_id")),
    "line break in title": ({"title": "a\nb"}, invalid("/title")),
    "over-long title": ({"title": "x" * 501}, invalid("/title")),
    "unknown field": ({"colour": "red"}, invalid("/colour")),
    "broken metadata": ({"metadata": "{"}, invalid("/metadata")),
    "metadata that is a list": ({"metadata": "[1]"}, invalid("/metadata")),
    "NaN price": ({"metadata": '{"price": NaN}'}, invalid("/metadata")),
    "infinite price": ({"metadata": '{"price": 1e999}'}, invalid("/metadata")),
    "lone surrogate": ({"metadata": '{"a": "\\ud800"}'}, invalid("/metadata")),
    "lone surrogate as a name": ({"metadata": '{"\\ud800": 1}'}, invalid("/metadata")),
    **{
        f"metadata {depth} levels deep": ({"metadata": deep(depth)}, invalid("/metadata"))
        for depth in (33, 230, 300, 8_000)
    },
    "over 16 KB": (
        {"metadata": json.dumps({"a": "x" * 16_384})},
        Refusal(422, "metadata-too-large", "/metadata"),
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_refused_in_a_form(http: httpx.Client, shop: Shop, case: str) -> None:
    fields, refusal = FORMS[case]
    files = {"images": shop.pictures["product-0"]}
    assert_refused(http.post("/gallery", data=PRODUCT | fields, files=files), refusal)
    assert http.get("/gallery/refused").status_code == 404, "nothing was stored"


BY_URL = PRODUCT | {"images": ["http://127.0.0.1/a.jpg"]}
NOT_ALLOWED = Refusal(422, "url-not-allowed", "/images/0")
BODIES: dict[str, tuple[dict[str, Any], Refusal]] = {
    "no id": ({"product_id": ""}, invalid("/product_id")),
    "over-long id": ({"product_id": "x" * 129}, invalid("/product_id")),
    "control-character id": ({"shop_id": "a\x00b"}, invalid("/shop_id")),
    "a number as id": ({"shop_id": 1}, invalid("/shop_id")),
    "unknown field": ({"colour": "red"}, invalid("/colour")),
    "metadata that is a text": ({"metadata": "{}"}, invalid("/metadata")),
    "deep metadata": ({"metadata": json.loads(deep(230))}, invalid("/metadata")),
    "over 16 KB": (
        {"metadata": {"a": "x" * 16_384}},
        Refusal(422, "metadata-too-large", "/metadata"),
    ),
    "no pictures": ({"images": []}, invalid("/images")),
    "65 pictures": ({"images": ["http://a/"] * 65}, invalid("/images")),
    "over-long address": ({"images": ["http://a/" + "x" * 2_048]}, invalid("/images/0")),
}


@pytest.mark.parametrize("case", BODIES)
def test_refused_in_json(http: httpx.Client, case: str) -> None:
    fields, refusal = BODIES[case]
    assert_refused(http.post("/gallery", json=BY_URL | fields), refusal)
    assert http.get("/gallery/refused").status_code == 404, "nothing was stored"


TEXTS = {
    "infinite price": '{"shop_id": "refused", "metadata": {"price": 1e999}}',
    "lone surrogate": '{"shop_id": "\\ud800"}',
    "lone surrogate as a name": '{"\\udfff": 1}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_refused_as_json_that_cannot_be_kept(http: httpx.Client, case: str) -> None:
    kind = {"content-type": "application/json"}
    response = http.post("/gallery", content=TEXTS[case], headers=kind)
    assert_refused(response, Refusal(422, "validation"))


@pytest.mark.parametrize("shop_id", ['x" or id!="', "x' or '1'=='1", "x\\", "%", "{}", "été 夏"])
def test_an_id_is_taken_literally_never_in_a_filter(
    client: Client, shop: Shop, shop_id: str
) -> None:
    """Whatever an id means to a query language, it names one shop, and one product in it."""
    other = uuid.uuid4().hex
    client.put_product(other, "theirs", [shop.pictures["product-1"]])
    client.put_product(shop_id, "a", [shop.pictures["product-0"]])
    client.put_product(shop_id, shop_id, [shop.pictures["product-2"]])
    answer = client.recognize(shop_id, shop.clips["product-1"], top_k=100)
    assert {c["product_id"] for c in answer["candidates"]} == {"a", shop_id}
    client.delete_product(shop_id, shop_id)
    answer = client.recognize(shop_id, shop.clips["product-1"], top_k=100)
    assert {c["product_id"] for c in answer["candidates"]} == {"a"}
    client.delete_shop(shop_id)
    assert client.product(other, "theirs")["product_id"] == "theirs"


# --- addresses of pictures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://[::1]/a.jpg",
        "http://example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "http://user:secret@example.com/a.jpg",
        "//example.com/a.jpg",
        "a.jpg",
        "",
        "http://",
        "http://a b/",
        "http://\u202e/",
        "data:image/png;base64,AAAA",
    ],
)
def test_url_not_allowed(http: httpx.Client, url: str) -> None:
    assert_refused(http.post("/gallery", json=PRODUCT | {"images": [url]}), NOT_ALLOWED)
    assert http.get("/gallery/refused").status_code == 404, "nothing was stored"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_url_not_allowed_makes_no_connection(http: httpx.Client, name: str) -> None:
    with Listener() as listener:
        url = f"http://{name}:{listener.port}/a.jpg"
        assert_refused(http.post("/gallery", json=PRODUCT | {"images": [url]}), NOT_ALLOWED)
        parts = [(field, value.encode()) for field, value in PRODUCT.items()]
        parts.append(("images", url.encode()))
        response = http.post("/gallery", content=body(*parts), headers={"content-type": KIND})
        assert_refused(response, Refusal(422, "url-not-allowed", "/images"))
    assert listener.connections == 0


def test_an_address_in_metadata_is_kept_and_never_fetched(client: Client, shop: Shop) -> None:
    shop_id = uuid.uuid4().hex
    with Listener() as listener:
        metadata = {"image": f"http://127.0.0.1:{listener.port}/a.jpg", "page": "file:///x"}
        client.put_product(shop_id, "p", [shop.pictures["product-0"]], metadata=metadata)
        assert client.product(shop_id, "p")["metadata"] == metadata
        client.recognize(shop_id, shop.clips["product-0"])
    assert listener.connections == 0
