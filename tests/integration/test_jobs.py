"""Work that is accepted now and done later, over HTTP: told plainly, and never lost."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.integration.material import Shop, picture
from tests.service.jobs.material import described, encoded, gzipped, lines, tarred, zipped
from tests.service.lite_server import until

JSON = dict[str, Any]


def post_batch(
    http: httpx.Client, body: bytes, shop_id: str | None, **headers: str
) -> httpx.Response:
    return http.post(
        "/gallery/batch",
        data={} if shop_id is None else {"shop_id": shop_id},
        files={"batch": body},
        headers=headers,
    )


def post(http: httpx.Client, shop_id: str, product_id: str, **headers: str) -> httpx.Response:
    return http.post(
        "/gallery",
        data={"shop_id": shop_id, "product_id": product_id},
        files={"images": picture(1)},
        headers=headers,
    )


def ended(http: httpx.Client, accepted: httpx.Response, within_s: float = 60) -> JSON:
    """The job at the answer's Location, once it has ended."""
    assert accepted.status_code == 202, accepted.text
    answers: list[JSON] = []

    def is_over() -> bool:
        answer = http.get(accepted.headers["location"])
        answer.raise_for_status()
        answers.append(answer.json())
        return answers[-1]["ended_at"] is not None

    until(is_over, within_s)
    return answers[-1]


def found(http: httpx.Client, shop_id: str) -> set[str]:
    answer = http.post(
        "/recognize", data={"shop_id": shop_id, "top_k": "100"}, files={"frames": picture(0)}
    )
    answer.raise_for_status()
    return {candidate["product_id"] for candidate in answer.json()["candidates"]}


def shop_id() -> str:
    return f"jobs-{uuid.uuid4().hex[:8]}"


def as_lines(pictures: Mapping[str, bytes]) -> bytes:
    return lines([{"product_id": p, "images": [encoded(jpeg)]} for p, jpeg in pictures.items()])


def as_archive(pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    products = [{"product_id": p, "title": p, "images": [f"{p}.jpg"]} for p in pictures]
    return described(products, {f"{p}.jpg": jpeg for p, jpeg in pictures.items()})


class TestBatches:
    @pytest.mark.parametrize("form", ["lines", "zip", "tar", "tar.gz", "pictures"])
    def test_every_product_is_found_once_its_job_is_done(
        self, http: httpx.Client, shop: Shop, form: str
    ) -> None:
        name, archive = shop_id(), as_archive(shop.pictures)
        body = {
            "lines": as_lines(shop.pictures),
            "zip": zipped(archive),
            "tar": tarred(archive),
            "tar.gz": gzipped(archive),
            "pictures": zipped({f"{p}.jpg": jpeg for p, jpeg in shop.pictures.items()}),
        }[form]
        accepted = post_batch(http, body, name)
        assert accepted.json()["counts"]["items"] == len(shop.pictures)
        job = ended(http, accepted)
        assert job["state"] == "done"
        assert (
            job["summary"] == f"{len(shop.pictures)} of {len(shop.pictures)} searchable, 0 failed"
        )
        assert {item["status"] for item in job["items"]} == {"done"}
        assert found(http, name) == set(shop.pictures)

    def test_partial_success_is_told_item_by_item(self, http: httpx.Client, shop: Shop) -> None:
        good, bad = shop.pictures["product-0"], shop.pictures["product-1"][:500]
        name = shop_id()
        body = lines(
            [
                {"product_id": "fine", "images": [encoded(good)]},
                {"product_id": "cut off", "images": [encoded(good), encoded(bad)]},
                {"product_id": "no/id", "images": [encoded(good)]},
                {"product_id": "elsewhere", "shop_id": f"{name}-2", "images": [encoded(good)]},
            ]
        )
        job = ended(http, post_batch(http, body + b"not json\n", name))
        assert job["summary"] == "2 of 5 searchable, 3 failed"
        assert job["counts"] == {"items": 5, "queued": 0, "done": 2, "failed": 3}
        assert job["state"] == "done"
        fine, cut, no_id, elsewhere, broken = job["items"]
        assert fine == {
            "item": 0, "shop_id": name, "product_id": "fine", "status": "done", "error": None,
        }  # fmt: skip
        assert (cut["item"], cut["status"]) == (1, "failed")
        assert cut["error"]["type"] == "/problems/image-undecodable"
        assert cut["error"]["pointer"] == "/images/1"
        assert {"title", "detail"} <= cut["error"].keys()
        assert (no_id["error"]["type"], no_id["error"]["pointer"]) == (
            "/problems/validation", "/product_id",
        )  # fmt: skip
        assert elsewhere["shop_id"] == f"{name}-2"
        assert broken["error"]["type"] == "/problems/malformed-json"
        assert found(http, name) == {"fine"}
        assert found(http, f"{name}-2") == {"elsewhere"}

    def test_results_come_in_pages(self, http: httpx.Client, shop: Shop) -> None:
        body = lines([{"product_id": str(i), "images": ["x"]} for i in range(250)])
        accepted = post_batch(http, body, shop_id())
        job = accepted.json()
        places = [item["item"] for item in job["items"]]
        while job["next"] is not None:
            params = {"after": job["next"], "limit": 70}
            job = http.get(accepted.headers["location"], params=params).json()
            places += [item["item"] for item in job["items"]]
        assert places == list(range(250))

    @pytest.mark.parametrize(
        ("body", "status", "slug"),
        [
            (b"".join(b'{"product_id":"%d"}\n' % i for i in range(10_001)), 413, "batch-too-large"),
            (lines([{"product_id": "p", "images": ["x"]}] * 2), 422, "duplicate-in-batch"),
            (zipped({"/etc/passwd.jpg": b"x"}), 422, "archive-unsafe"),
            (zipped({"bomb.jpg": bytes(1_500_000)}), 422, "archive-unsafe"),
            (zipped({"cola.jpg": b"x"})[:60], 422, "archive-unreadable"),
            (zipped({}), 422, "batch-empty"),
            (b"no batch", 415, "unsupported-media-type"),
            (b"", 422, "batch-empty"),
        ],
        ids=["10001", "twice", "outside", "bomb", "torn", "empty-zip", "text", "empty"],
    )
    def test_a_bad_batch_is_refused_whole(
        self, http: httpx.Client, body: bytes, status: int, slug: str
    ) -> None:
        refused = post_batch(http, body, "refused")
        assert (refused.status_code, refused.json()["type"]) == (status, f"/problems/{slug}")
        assert http.get("/gallery/refused").status_code == 404

    def test_a_batch_must_be_a_file_and_be_there(self, http: httpx.Client) -> None:
        for kwargs in ({"files": {"shop_id": (None, "s")}}, {"files": {"batch": (None, "text")}}):
            refused = http.post("/gallery/batch", **kwargs)
            assert refused.status_code == 422
            assert refused.json()["pointer"] == "/batch"

    def test_a_batch_sent_again_under_its_key_is_one_job(
        self, http: httpx.Client, shop: Shop
    ) -> None:
        name, key = shop_id(), uuid.uuid4().hex
        first = post_batch(http, as_lines(shop.pictures), name, **{"idempotency-key": key})
        again = post_batch(http, as_lines(shop.pictures), name, **{"idempotency-key": key})
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"
        other = post_batch(http, as_lines({"p": picture(1)}), name, **{"idempotency-key": key})
        assert other.json()["type"] == "/problems/idempotency-key-reused"

    def test_a_refused_batch_does_not_use_its_key_up(self, http: httpx.Client, shop: Shop) -> None:
        key = {"idempotency-key": uuid.uuid4().hex}
        body = zipped({"cola.jpg": picture(1)})
        post_batch(http, body[:50], shop_id(), **key)
        assert post_batch(http, b"", "s", **key).status_code == 422
        assert post_batch(http, body, "s", **key).status_code == 202


class TestSingleProducts:
    def test_respond_async_is_answered_when_it_is_stored(self, http: httpx.Client) -> None:
        name = shop_id()
        accepted = post(http, name, "p", prefer="wait=5, respond-async")
        assert accepted.headers["preference-applied"] == "respond-async"
        assert http.get(f"/gallery/{name}/p").status_code == 200
        assert ended(http, accepted)["items"][0]["status"] == "done"
        assert found(http, name) == {"p"}

    def test_other_preferences_are_ignored(self, http: httpx.Client) -> None:
        answer = post(http, shop_id(), "p", prefer="return=minimal")
        assert answer.status_code == 201
        assert "preference-applied" not in answer.headers

    def test_a_replayed_answer_is_the_first_one_again(self, http: httpx.Client) -> None:
        name, key = shop_id(), {"idempotency-key": uuid.uuid4().hex}
        first = post(http, name, "p", prefer="respond-async", **key)
        again = post(http, name, "p", **key)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"

    def test_a_bad_picture_is_refused_at_once(self, http: httpx.Client) -> None:
        refused = http.post(
            "/gallery",
            data={"shop_id": shop_id(), "product_id": "p"},
            files={"images": b"no picture"},
            headers={"prefer": "respond-async"},
        )
        assert refused.status_code == 415


def test_a_job_that_is_not_there_is_told(http: httpx.Client) -> None:
    for job_id in ("x", "20260101T000000-" + "0" * 32):
        answer = http.get(f"/jobs/{job_id}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/job-not-found"


def test_the_given_up_ones_are_listed(http: httpx.Client) -> None:
    assert http.get("/jobs", params={"state": "dead"}).json() == {"jobs": []}
    assert http.get("/jobs").status_code == 422
