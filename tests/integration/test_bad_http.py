"""Requests that are wrong as HTTP, whatever they ask for: each has one right answer."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import Client
from service.launch import running_service
from service.settings import Settings
from tests.integration.material import Shop
from tests.integration.picture_host import PictureHost, page
from tests.integration.problems import (
    KIND,
    PRODUCT,
    Refusal,
    assert_refused,
    body,
    connected,
    dripped,
    head,
    parsed,
)


@pytest.fixture(scope="module", autouse=True)
def known_shop(client: Client, shop: Shop) -> None:
    client.put_product("known", "p", [shop.pictures["product-0"]])


@pytest.fixture(scope="module")
def host() -> Iterator[PictureHost]:
    with PictureHost() as host:
        yield host


@pytest.fixture(scope="module")
def impatient(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, host: PictureHost
) -> Iterator[httpx.Client]:
    """A service that waits 1.5 s for its clients, and fetches pictures from `host`."""
    with (
        running_service(
            tmp_path_factory.mktemp("impatient"),
            LPR_BUNDLE=tiny_bundle,
            LPR_DRAIN_S=0,
            LPR_HEAD_TIMEOUT_S=1.5,
            LPR_BODY_TIMEOUT_S=1.5,
            LPR_ANSWER_TIMEOUT_S=1.5,
            LPR_IMAGE_URLS__HOSTS=json.dumps([host.netloc]),
            LPR_IMAGE_URLS__NETWORKS=json.dumps(["127.0.0.0/8"]),
        ) as client,
        httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http,
    ):
        yield http


# --- bodies ---------------------------------------------------------------------------------------

MALFORMED_JSON = Refusal(400, "malformed-json")
JSON_BODIES = {
    "broken JSON": b'{"shop_id": "refused",',
    "nothing": b"",
    "not UTF-8": b'{"shop_id": "\xff"}',
    "NaN": b'{"shop_id": "refused", "metadata": {"price": NaN}}',
    "Infinity": b'{"shop_id": "refused", "metadata": {"price": -Infinity}}',
    "10k nesting": b"[" * 10_000 + b"]" * 10_000,
    "10k nesting of objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("case", JSON_BODIES)
def test_malformed_json(http: httpx.Client, case: str) -> None:
    kind = {"content-type": "application/json"}
    assert_refused(http.post("/gallery", content=JSON_BODIES[case], headers=kind), MALFORMED_JSON)


UNSUPPORTED = Refusal(415, "unsupported-media-type")
MALFORMED = Refusal(400, "malformed-multipart")
TOO_MANY = Refusal(400, "too-many-parts")
WHOLE = body(("shop_id", b"s"))
HEADERLESS = b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"

BODIES: dict[str, tuple[bytes, dict[str, str], Refusal]] = {
    "wrong content type: text": (b"x", {"content-type": "text/plain"}, UNSUPPORTED),
    "wrong content type: none": (b"x", {}, UNSUPPORTED),
    "wrong content type: urlencoded": (
        b"shop_id=s",
        {"content-type": "application/x-www-form-urlencoded"},
        UNSUPPORTED,
    ),
    "missing boundary": (WHOLE, {"content-type": "multipart/form-data"}, MALFORMED),
    "another boundary": (
        WHOLE,
        {"content-type": "multipart/form-data; boundary=other"},
        MALFORMED,
    ),
    "over-long boundary": (
        WHOLE,
        {"content-type": f"multipart/form-data; boundary={'b' * 4_000}"},
        MALFORMED,
    ),
    "endless part headers": (
        b"--b\r\n" + b"X-A: b\r\n" * 5_000 + b"\r\nx\r\n--b--\r\n",
        {"content-type": KIND},
        MALFORMED,
    ),
    "cut": (WHOLE[:30], {"content-type": KIND}, MALFORMED),
    "garbage": (b"\x00\xff" * 50, {"content-type": KIND}, MALFORMED),
    "a part without a name": (HEADERLESS, {"content-type": KIND}, MALFORMED),
    "a large field": (
        body(("shop_id", b"x" * 70_000)),
        {"content-type": KIND},
        Refusal(422, "validation", "/shop_id"),
    ),
    "text that is not UTF-8": (
        body(("shop_id", b"s"), ("product_id", b"p"), ("title", "café".encode("latin-1"))),
        {"content-type": KIND},
        Refusal(400, "malformed-multipart", "/title"),
    ),
    "1,001 parts": (body(*[("a", b"x")] * 1_001), {"content-type": KIND}, TOO_MANY),
    "1,001 files": (body(*[("images", b"x", "f")] * 1_001), {"content-type": KIND}, TOO_MANY),
    "one file too many": (body(*[("images", b"x", "f")] * 65), {"content-type": KIND}, TOO_MANY),
    "gzip body": (
        b"\x1f\x8b",
        {"content-type": KIND, "content-encoding": "gzip"},
        Refusal(415, "encoding-unsupported"),
    ),
    "a strange charset": (
        body(("shop_id", b"s")),
        {"content-type": KIND + "; charset=idna"},
        Refusal(422, "validation", "/product_id"),
    ),
    "a name that is no text": (
        body(("shop_id", b"s"), ("product_id", b"p"), ("+2AA-", b"x")),
        {"content-type": KIND + "; charset=utf-7"},
        Refusal(422, "validation", ""),  # there is no way to write it
    ),
    "a field twice": (
        body(("shop_id", b"a"), ("shop_id", b"b")),
        {"content-type": KIND},
        Refusal(422, "validation", "/shop_id"),
    ),
    "a file as a field": (
        body(("shop_id", b"s"), ("product_id", b"p"), ("images", b"x")),
        {"content-type": KIND},
        Refusal(422, "validation", "/images"),
    ),
    "a field as a file": (
        body(("shop_id", b"s", "name")),
        {"content-type": KIND},
        Refusal(422, "validation", "/shop_id"),
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body(http: httpx.Client, case: str) -> None:
    content, headers, refusal = BODIES[case]
    assert_refused(http.post("/gallery", content=content, headers=headers), refusal)


def test_a_file_without_a_filename_is_told_how_files_are_sent(http: httpx.Client) -> None:
    content = body(("clip", b"x" * 70_000))
    refused = http.post("/recognize", content=content, headers={"content-type": KIND})
    assert_refused(refused, Refusal(422, "validation", "/clip"))
    assert "at most 65536 bytes" in refused.json()["detail"]
    assert "files are sent with a filename" in refused.json()["detail"]


def test_a_recognition_takes_no_json(http: httpx.Client) -> None:
    assert_refused(http.post("/recognize", json={"shop_id": "known"}), UNSUPPORTED)


def test_content_length_over_the_limit_body_unread(client: Client) -> None:
    with connected(client.base_url) as connection:
        connection.sendall(head("/gallery", content_type=KIND, content_length=2_000_001))
        answer = connection.recv(65_536)
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
    refusal, _ = parsed(answer)
    assert refusal == Refusal(413, "body-too-large")


@pytest.mark.parametrize("kind", [KIND, "application/json"])
def test_chunked_body_crossing_the_limit(http: httpx.Client, kind: str) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="f"\r\n\r\n'
        for _ in range(64):
            yield b"x" * 65_536

    response = http.post("/gallery", content=endless(), headers={"content-type": kind})
    assert_refused(response, Refusal(413, "body-too-large"))


# --- slow and broken clients ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/gallery", KIND), ("/gallery", "application/json"), ("/recognize", KIND)],
)
def test_a_body_byte_by_byte_408_request_timeout(
    impatient: httpx.Client, path: str, kind: str
) -> None:
    start = b'--b\r\nContent-Disposition: form-data; name="'
    with connected(str(impatient.base_url)) as slow:
        slow.sendall(head(path, content_type=kind, content_length=100_000) + start)
        refusal, headers = parsed(dripped(slow, b"x"))
    assert refusal == Refusal(408, "request-timeout")
    assert headers["connection"] == "close"


HALF_HEADERS = {
    "no byte at all": (b"", b""),
    "half a header": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Half: ", b""),
    "half a header, byte by byte": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x"),
    "headers, one by one": (b"GET /healthz HTTP/1.1\r\n", b"a: b\r\n"),
}


@pytest.mark.parametrize("case", HALF_HEADERS)
def test_half_a_header_is_hung_up_on(impatient: httpx.Client, case: str) -> None:
    start, more = HALF_HEADERS[case]
    with connected(str(impatient.base_url)) as slow:
        slow.sendall(start)
        assert dripped(slow, more) == b""


def test_half_a_header_behind_a_whole_request_is_hung_up_on(impatient: httpx.Client) -> None:
    with connected(str(impatient.base_url)) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += slow.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"GET /healthz HTTP/1.1\r\nX-Half: ")
        assert dripped(slow, b"x") == b""


def test_half_a_header_is_hung_up_on_within_10_s_by_default() -> None:
    assert Settings().head_timeout_s <= 10


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET /\r\n\r\n", b"\r\n" * 99]
)
def test_what_is_not_http(client: Client, noise: bytes) -> None:
    with connected(client.base_url) as connection:
        connection.sendall(noise + b"x" * 100_000)
        refusal, headers = parsed(dripped(connection, b"x"))
    assert refusal == Refusal(400, "malformed-request")
    assert headers["connection"] == "close"


LONG = 20_000_000  # more than the two sockets' buffers hold


@pytest.mark.parametrize(
    ("start", "refusal"),
    [
        (b"no request\r\n\r\n", Refusal(400, "malformed-request")),
        (
            head("/gallery", content_type=KIND, content_length=LONG, connection="close"),
            Refusal(413, "body-too-large"),
        ),
    ],
)
def test_a_client_that_says_all_before_it_listens_has_its_answer(
    client: Client, start: bytes, refusal: Refusal
) -> None:
    with connected(client.base_url) as connection:
        connection.sendall(start + b"x" * LONG)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert parsed(answer)[0] == refusal


def test_a_client_that_never_stops_is_hung_up_on(impatient: httpx.Client) -> None:
    start = head("/gallery", content_type=KIND, content_length=10**9, connection="close")
    with connected(str(impatient.base_url)) as connection, pytest.raises(ConnectionError):
        connection.sendall(start)
        for _ in range(1_000):
            connection.sendall(b"x")
            time.sleep(0.05)


# --- what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/nope", Refusal(404, "not-found")),
        ("POST", "/gallery/", Refusal(404, "not-found")),
        ("PUT", "/recognize", Refusal(405, "method-not-allowed")),
        ("GET", "/gallery/nowhere", Refusal(404, "shop-not-found")),
        ("GET", "/gallery/known/nothing", Refusal(404, "product-not-found")),
        ("GET", "/gallery/known/p/images/0123", Refusal(404, "not-found")),
        ("GET", "/gallery/known/p/images/record.json", Refusal(404, "not-found")),
        ("DELETE", "/gallery/known/nothing", Refusal(404, "product-not-found")),
        ("DELETE", "/gallery/nowhere/p", Refusal(404, "shop-not-found")),
        ("DELETE", "/gallery/nowhere", Refusal(404, "shop-not-found")),
        ("GET", "/gallery/known?limit=0", Refusal(422, "validation", "/query/limit")),
    ],
)
def test_wrong_path_or_method(http: httpx.Client, method: str, path: str, refusal: Refusal) -> None:
    assert_refused(http.request(method, path), refusal)


def test_a_method_not_allowed_says_which_are(http: httpx.Client) -> None:
    assert http.put("/recognize").headers["allow"] == "POST"
    assert http.put("/gallery/known").headers["allow"] == "DELETE, GET"
    assert http.put("/docs").headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/gallery/known/p", "/nope"])
def test_a_head_is_a_get_without_its_body(http: httpx.Client, path: str) -> None:
    told, asked = http.head(path), http.get(path)
    assert (told.status_code, told.content) == (asked.status_code, b"")
    assert told.headers["content-type"] == asked.headers["content-type"]
    if path != "/metrics":  # which tells of the request before
        assert told.headers["content-length"] == asked.headers["content-length"]
    assert http.head("/recognize").status_code == 405


def test_a_made_up_method_makes_no_series_of_its_own(http: httpx.Client) -> None:
    assert http.request("BREW", "/recognize").status_code == 405
    metrics = http.get("/metrics").text
    assert 'method="other",route="/recognize",status="405"' in metrics
    assert "BREW" not in metrics


def test_unknown_shop_in_recognize(http: httpx.Client) -> None:
    response = http.post("/recognize", data={"shop_id": "nowhere"}, files={"clip": b"x"})
    assert_refused(response, Refusal(404, "shop-not-found"))


def test_an_empty_shop_is_200_with_no_candidates(client: Client, shop: Shop) -> None:
    shop_id = uuid.uuid4().hex
    client.put_product(shop_id, "p", [shop.pictures["product-0"]])
    client.delete_product(shop_id, "p")
    answer = client.recognize(shop_id, shop.clips["product-0"])
    assert (answer["decision"], answer["candidates"]) == (None, [])


# --- Idempotency-Key ------------------------------------------------------------------------------


def keyed(
    http: httpx.Client, key: str, jpeg: bytes, shop_id: str, title: str = "first"
) -> httpx.Response:
    return http.post(
        "/gallery",
        data={"shop_id": shop_id, "product_id": "p", "title": title},
        files={"images": jpeg},
        headers={"idempotency-key": key},
    )


@pytest.mark.parametrize("key", ["x" * 256, "", "two words", "\x7f"])
def test_idempotency_key_too_long_or_no_key_at_all(
    http: httpx.Client, shop: Shop, key: str
) -> None:
    refused = keyed(http, key, shop.pictures["product-0"], "refused")
    assert_refused(refused, Refusal(400, "idempotency-key-invalid"))


def test_same_key_in_flight(impatient: httpx.Client, host: PictureHost, shop: Shop) -> None:
    """The first post is held by the picture it waits for."""
    asked, go_on = threading.Event(), threading.Event()

    def held(handler: Any) -> None:
        asked.set()
        go_on.wait(60)
        page(shop.pictures["product-0"])(handler)

    host.pages["/held"] = held
    key = {"idempotency-key": uuid.uuid4().hex}
    product = {"shop_id": "held", "product_id": "p", "images": [host.url("/held")]}
    answers: list[httpx.Response] = []
    first = threading.Thread(
        target=lambda: answers.append(impatient.post("/gallery", json=product, headers=key))
    )
    first.start()
    assert asked.wait(60)
    second = impatient.post("/gallery", json=product, headers=key)
    assert_refused(second, Refusal(409, "idempotency-in-progress"))
    assert second.headers["retry-after"] == "1"
    go_on.set()
    first.join()
    assert answers[0].status_code == 201
    assert impatient.post("/gallery", json=product, headers=key).json() == answers[0].json()


def test_pictures_are_fetched_from_a_listed_host(
    impatient: httpx.Client, host: PictureHost, shop: Shop
) -> None:
    host.pages["/a"] = page(shop.pictures["product-0"])
    product = {"shop_id": "fetched", "product_id": "p", "metadata": {"price": 1.5}}
    stored = impatient.post("/gallery", json=product | {"images": [host.url("/a")]})
    assert stored.status_code == 201, stored.text
    assert stored.json()["metadata"] == {"price": 1.5}
    picture = impatient.get(stored.json()["images"][0]["url"])
    assert picture.content == shop.pictures["product-0"]
    host.pages["/b"] = page(b"no picture")
    refused = impatient.post(
        "/gallery", json=product | {"images": [host.url("/a"), host.url("/b")]}
    )
    assert_refused(refused, Refusal(415, "image-format-unsupported", "/images/1"))


def test_same_key_other_body(http: httpx.Client, shop: Shop) -> None:
    key, shop_id = uuid.uuid4().hex, uuid.uuid4().hex
    assert keyed(http, key, shop.pictures["product-0"], shop_id).status_code == 201
    for title, name in (("other", "product-0"), ("first", "product-1")):
        refused = keyed(http, key, shop.pictures[name], shop_id, title)
        assert_refused(refused, Refusal(422, "idempotency-key-reused"))


# --- recognitions ---------------------------------------------------------------------------------

CLIP = ("clip", b"x", "clip.mp4")
RECOGNITIONS: dict[str, tuple[list[Any], Refusal]] = {
    "neither clip nor frames": ([], Refusal(422, "validation", "/clip")),
    "both": ([CLIP, ("frames", b"x", "0.png")], Refusal(422, "validation", "/clip")),
    "two clips": ([CLIP, CLIP], Refusal(422, "validation", "/clip")),
    "speech without a text encoder": (
        [CLIP, ("speech", b"a bottle")],
        Refusal(422, "text-unsupported-by-bundle", "/speech"),
    ),
    "no candidates": ([CLIP, ("top_k", b"0")], Refusal(422, "validation", "/top_k")),
    "too many candidates": ([CLIP, ("top_k", b"101")], Refusal(422, "validation", "/top_k")),
    "not a number": ([CLIP, ("top_k", b"x")], Refusal(422, "validation", "/top_k")),
    "not yes or no": ([CLIP, ("explain", b"perhaps")], Refusal(422, "validation", "/explain")),
    "unknown field": ([CLIP, ("fps", b"2")], Refusal(422, "validation", "/fps")),
    "unknown file": ([("video", b"x", "0.mp4")], Refusal(422, "validation", "/video")),
    "no shop": ([("clip", b"x", "0.mp4")], Refusal(422, "validation", "/shop_id")),
}


@pytest.mark.parametrize("case", RECOGNITIONS)
def test_a_bad_recognition(http: httpx.Client, case: str) -> None:
    parts, refusal = RECOGNITIONS[case]
    if case != "no shop":
        parts = [("shop_id", b"known"), *parts]
    response = http.post("/recognize", content=body(*parts), headers={"content-type": KIND})
    assert_refused(response, refusal)


def test_a_product_without_pictures(http: httpx.Client) -> None:
    parts = [(name, value.encode()) for name, value in PRODUCT.items()]
    response = http.post("/gallery", content=body(*parts), headers={"content-type": KIND})
    assert_refused(response, Refusal(422, "validation", "/images"))


def test_nothing_of_all_this_was_the_services_fault(
    http: httpx.Client, impatient: httpx.Client
) -> None:
    for service in (http, impatient):
        for line in service.get("/metrics").text.splitlines():
            if line.startswith("lpr_requests_total"):
                assert 'status="5' not in line or 'route="/readyz"' in line, line
