"""Every request that is wrong gets a problem document that says what is wrong with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.client import Client
from service.launch import running_service
from tests.integration.material import Shop

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
KIND = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module", autouse=True)
def known_shop(client: Client, shop: Shop) -> None:
    client.put_product("known", "p", [shop.pictures["product-0"]])


def assert_problem(response: httpx.Response, status: int, slug: str, pointer: str | None) -> None:
    problem = response.json()
    assert (response.status_code, problem["type"]) == (status, f"/problems/{slug}"), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert "Value error" not in problem["detail"], "pydantic's word, not ours"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["instance"] == response.request.url.path
    assert problem.get("pointer") == pointer


def body(*parts: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """A multipart body by hand; a third element is a file name."""
    out = b""
    for name, content, *file in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file[0]}"' if file else "")
        out += f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return out + b"--b--\r\n"


PRODUCT = {"shop_id": "s", "product_id": "p"}

POSTS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "no shop": ({"product_id": "p"}, 422, "validation", "/shop_id"),
    "empty id": (PRODUCT | {"product_id": ""}, 422, "validation", "/product_id"),
    "long id": (PRODUCT | {"product_id": "x" * 129}, 422, "validation", "/product_id"),
    "control character": (PRODUCT | {"shop_id": "a\x00b"}, 422, "validation", "/shop_id"),
    "line break": (PRODUCT | {"title": "a\nb"}, 422, "validation", "/title"),
    "slash": (PRODUCT | {"product_id": "../x"}, 422, "validation", "/product_id"),
    "dots": (PRODUCT | {"product_id": ".."}, 422, "validation", "/product_id"),
    "long title": (PRODUCT | {"title": "x" * 501}, 422, "validation", "/title"),
    "unknown field": (PRODUCT | {"colour": "red"}, 422, "validation", "/colour"),
    "broken metadata": (PRODUCT | {"metadata": "{"}, 422, "validation", "/metadata"),
    "metadata that is a list": (PRODUCT | {"metadata": "[1]"}, 422, "validation", "/metadata"),
    "NaN price": (PRODUCT | {"metadata": '{"price": NaN}'}, 422, "validation", "/metadata"),
    "infinite price": (PRODUCT | {"metadata": '{"p": 1e999}'}, 422, "validation", "/metadata"),
    "lone surrogate": (PRODUCT | {"metadata": '{"a": "\\ud800"}'}, 422, "validation", "/metadata"),
    "deep metadata": (
        PRODUCT | {"metadata": '{"a":' + "[" * 8_000 + "]" * 8_000 + "}"},
        422,
        "validation",
        "/metadata",
    ),
    "large metadata": (
        PRODUCT | {"metadata": json.dumps({"a": "x" * 17_000})},
        422,
        "metadata-too-large",
        "/metadata",
    ),
}


@pytest.mark.parametrize("case", POSTS)
def test_a_bad_product_is_refused(http: httpx.Client, shop: Shop, case: str) -> None:
    fields, status, slug, pointer = POSTS[case]
    files = {"images": shop.pictures["product-0"]}
    assert_problem(http.post("/gallery", data=fields, files=files), status, slug, pointer)
    assert http.get("/gallery/s").status_code == 404, "nothing was stored"


IMAGES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 422, "image-undecodable"),
    "cut": (PNG_HEAD, 422, "image-undecodable"),
    "vector graphic": (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        415,
        "image-format-unsupported",
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_a_bad_picture_is_refused_by_its_place(http: httpx.Client, shop: Shop, case: str) -> None:
    data, status, slug = IMAGES[case]
    files = [("images", ("0", shop.pictures["product-0"])), ("images", ("1", data))]
    assert_problem(http.post("/gallery", data=PRODUCT, files=files), status, slug, "/images/1")
    assert http.get("/gallery/s").status_code == 404


def test_a_product_without_pictures_is_refused(http: httpx.Client) -> None:
    response = http.post(
        "/gallery",
        content=body(("shop_id", b"s"), ("product_id", b"p")),
        headers={"content-type": KIND},
    )
    assert_problem(response, 422, "validation", "/images")


RECOGNITIONS: dict[str, tuple[dict[str, Any], dict[str, bytes], int, str, str | None]] = {
    "unknown shop": ({"shop_id": "nowhere"}, {"clip": b"x"}, 404, "shop-not-found", None),
    "empty clip": ({"shop_id": "known"}, {"clip": b""}, 422, "clip-empty", None),
    "text as clip": (
        {"shop_id": "known"},
        {"clip": b"hello\n" * 99},
        422,
        "clip-format-unsupported",
        None,
    ),
    "playlist": (
        {"shop_id": "known"},
        {"clip": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"},
        422,
        "clip-format-unsupported",
        None,
    ),
    "neither": ({"shop_id": "known"}, {}, 422, "validation", "/clip"),
    "both": ({"shop_id": "known"}, {"clip": b"x", "frames": b"x"}, 422, "validation", "/clip"),
    "bad frame": (
        {"shop_id": "known"},
        {"frames": PNG_HEAD},
        422,
        "image-undecodable",
        "/frames/0",
    ),
    "speech": (
        {"shop_id": "known", "speech": "a bottle"},
        {"clip": b"x"},
        422,
        "text-unsupported-by-bundle",
        "/speech",
    ),
    "no candidates": (
        {"shop_id": "known", "top_k": "0"},
        {"clip": b"x"},
        422,
        "validation",
        "/top_k",
    ),
    "too many": ({"shop_id": "known", "top_k": "101"}, {"clip": b"x"}, 422, "validation", "/top_k"),
    "not a number": (
        {"shop_id": "known", "top_k": "x"},
        {"clip": b"x"},
        422,
        "validation",
        "/top_k",
    ),
    "not yes or no": (
        {"shop_id": "known", "explain": "perhaps"},
        {"clip": b"x"},
        422,
        "validation",
        "/explain",
    ),
    "unknown field": ({"shop_id": "known", "fps": "2"}, {"clip": b"x"}, 422, "validation", "/fps"),
    "unknown file": ({"shop_id": "known"}, {"video": b"x"}, 422, "validation", "/video"),
}


@pytest.mark.parametrize("case", RECOGNITIONS)
def test_a_bad_recognition_is_refused(http: httpx.Client, case: str) -> None:
    fields, files, status, slug, pointer = RECOGNITIONS[case]
    parts: list[Any] = [(name, value.encode()) for name, value in fields.items()]
    parts += [(name, value, "file.mp4") for name, value in files.items()]
    response = http.post("/recognize", content=body(*parts), headers={"content-type": KIND})
    assert_problem(response, status, slug, pointer)


MANY_FILES = body(*(("images", b"x", "f") for _ in range(65)))
MANY_FIELDS = body(*(("a", b"x") for _ in range(1_001)))
WHOLE = body(("shop_id", b"s"))

BODIES: dict[str, tuple[bytes, dict[str, str], int, str, str | None]] = {
    "json": (b"{}", {"content-type": "application/json"}, 415, "unsupported-media-type", None),
    "no type": (b"x", {}, 415, "unsupported-media-type", None),
    "urlencoded": (
        b"shop_id=s",
        {"content-type": "application/x-www-form-urlencoded"},
        415,
        "unsupported-media-type",
        None,
    ),
    "no boundary": (
        WHOLE,
        {"content-type": "multipart/form-data"},
        400,
        "malformed-multipart",
        None,
    ),
    "other boundary": (
        WHOLE,
        {"content-type": "multipart/form-data; boundary=other"},
        400,
        "malformed-multipart",
        None,
    ),
    "long boundary": (
        WHOLE,
        {"content-type": f"multipart/form-data; boundary={'b' * 4_000}"},
        400,
        "malformed-multipart",
        None,
    ),
    "cut": (WHOLE[:30], {"content-type": KIND}, 400, "malformed-multipart", None),
    "garbage": (b"\x00\xff" * 50, {"content-type": KIND}, 400, "malformed-multipart", None),
    "a part without a name": (
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        {"content-type": KIND},
        400,
        "malformed-multipart",
        None,
    ),
    "endless part headers": (
        b"--b\r\n" + b"X-A: b\r\n" * 5_000 + b"\r\nx\r\n--b--\r\n",
        {"content-type": KIND},
        400,
        "malformed-multipart",
        None,
    ),
    "a large field": (
        body(("shop_id", b"x" * 70_000)),
        {"content-type": KIND},
        400,
        "malformed-multipart",
        None,
    ),
    "65 files": (MANY_FILES, {"content-type": KIND}, 400, "too-many-parts", None),
    "1,001 fields": (MANY_FIELDS, {"content-type": KIND}, 400, "too-many-parts", None),
    "a field twice": (
        body(("shop_id", b"a"), ("shop_id", b"b")),
        {"content-type": KIND},
        422,
        "validation",
        "/shop_id",
    ),
    "a file as a field": (
        body(("shop_id", b"s"), ("product_id", b"p"), ("images", b"x")),
        {"content-type": KIND},
        422,
        "validation",
        "/images",
    ),
    "a field as a file": (
        body(("shop_id", b"s", "name")),
        {"content-type": KIND},
        422,
        "validation",
        "/shop_id",
    ),
    "gzip": (
        b"\x1f\x8b",
        {"content-type": KIND, "content-encoding": "gzip"},
        415,
        "encoding-unsupported",
        None,
    ),
    "a strange charset": (
        body(("shop_id", b"s")),
        {"content-type": KIND + "; charset=idna"},
        422,
        "validation",
        "/product_id",
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_is_refused(http: httpx.Client, case: str) -> None:
    content, headers, status, slug, pointer = BODIES[case]
    assert_problem(http.post("/gallery", content=content, headers=headers), status, slug, pointer)


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nope", 404, "not-found"),
        ("PUT", "/recognize", 405, "method-not-allowed"),
        ("GET", "/gallery/nowhere", 404, "shop-not-found"),
        ("GET", "/gallery/known/nothing", 404, "product-not-found"),
        ("GET", "/gallery/known/p/images/0123", 404, "not-found"),
        ("GET", "/gallery/known/p/images/record.json", 404, "not-found"),
        ("DELETE", "/gallery/known/nothing", 404, "product-not-found"),
        ("DELETE", "/gallery/nowhere/p", 404, "shop-not-found"),
        ("DELETE", "/gallery/nowhere", 404, "shop-not-found"),
    ],
)
def test_what_is_not_there(
    http: httpx.Client, method: str, path: str, status: int, slug: str
) -> None:
    assert_problem(http.request(method, path), status, slug, None)


def test_a_method_not_allowed_says_which_are(http: httpx.Client) -> None:
    assert http.put("/recognize").headers["allow"] == "POST"


def test_a_made_up_method_makes_no_series_of_its_own(http: httpx.Client) -> None:
    assert http.request("BREW", "/recognize").status_code == 405
    metrics = http.get("/metrics").text
    assert 'method="other",route="/recognize",status="405"' in metrics
    assert "BREW" not in metrics


def test_a_query_is_validated_too(http: httpx.Client) -> None:
    assert_problem(http.get("/gallery/known?limit=0"), 422, "validation", "/query/limit")


def raw(client: Client, request: bytes) -> tuple[int, dict[str, Any]]:
    """Send these bytes and no more; the answer's status and problem."""
    address = urlsplit(client.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
            head, _, content = received.partition(b"\r\n\r\n")
            if content.endswith(b"}"):
                break
    return int(head.split()[1]), json.loads(content)


def test_a_body_over_the_limit_is_refused_unread(client: Client) -> None:
    head = f"POST /gallery HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\n"
    status, problem = raw(client, (head + "Content-Length: 2000001\r\n\r\n").encode())
    assert (status, problem["type"]) == (413, "/problems/body-too-large")


def test_a_body_that_does_not_arrive_is_given_up(tiny_bundle: Path, tmp_path: Path) -> None:
    with running_service(
        tmp_path, LPR_BUNDLE=tiny_bundle, LPR_BODY_TIMEOUT_S=0.2, LPR_DRAIN_S=0
    ) as client:
        address = urlsplit(client.base_url)
        for path in ("/gallery", "/recognize"):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\n"
            with socket.create_connection((address.hostname, address.port), timeout=20) as slow:
                slow.sendall((head + "Content-Length: 1000\r\n\r\n--b").encode())
                received = b"".join(iter(lambda: slow.recv(65_536), b""))
            assert received.startswith(b"HTTP/1.1 408 ")
            problem = json.loads(received.partition(b"\r\n\r\n")[2])
            assert problem["type"] == "/problems/request-timeout"
            assert "0.2 s" in problem["detail"]


def test_a_chunked_body_is_refused_where_it_crosses_the_limit(http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="f"\r\n\r\n'
        for _ in range(64):
            yield b"x" * 65_536

    response = http.post("/gallery", content=endless(), headers={"content-type": KIND})
    assert_problem(response, 413, "body-too-large", None)


def test_nothing_of_all_this_was_the_services_fault(http: httpx.Client) -> None:
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("lpr_requests_total"):
            assert 'status="5' not in line or 'route="/readyz"' in line, line
