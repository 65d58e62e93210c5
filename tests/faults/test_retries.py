"""Safe retries: one Idempotency-Key is one effect, however often it is sent, kills included."""

from __future__ import annotations

import uuid
from collections import Counter

import httpx

from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES
from tests.faults.load import in_lanes, slug_of
from tests.faults.scale import Scale

_LANES = 8


def _post(http: httpx.Client, key: str, title: str) -> httpx.Response:
    return http.post(
        "/gallery",
        data={"shop_id": "shop", "product_id": "p", "title": title},
        files={"images": PICTURES[0]},
        headers={"idempotency-key": key},
    )


def test_many_posts_with_one_key(scale: Scale, serve: Serve, record: Record) -> None:
    served, key = serve(), uuid.uuid4().hex
    answers: list[httpx.Response] = []

    def post(_: int) -> None:
        with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http:
            answers.extend(_post(http, key, "first") for _ in range(scale.posts // _LANES))

    with in_lanes(_LANES, post):
        pass
    taken = [answer for answer in answers if answer.status_code == 201]
    waiting = [answer for answer in answers if answer not in taken]
    effects = sum("idempotency-replayed" not in answer.headers for answer in taken)
    bodies = Counter(answer.content for answer in taken)
    record(
        "safe retries",
        "1,000 posts with one Idempotency-Key: 1 effect, the first answer replayed",
        f"{len(answers)} posts: {effects} effect, {len(bodies)} different answer, "
        f"{len(waiting)} told to wait for the first",
        "8 clients at once",
    )
    assert effects == 1
    assert len(bodies) == 1
    assert {slug_of(answer) for answer in waiting} <= {"idempotency-in-progress", "overloaded"}
    assert len(answers) == scale.posts // _LANES * _LANES
    assert served.metric("lpr_indexed_pictures_total") == 1


def test_a_key_outlives_a_kill(serve: Serve, record: Record) -> None:
    key = uuid.uuid4().hex
    served = serve()
    first = _post(served.http, key, "first")
    served.kill()
    again = serve()
    replayed = _post(again.http, key, "first")
    same = replayed.json() == first.json()
    record(
        "safe retries over a kill",
        "the first answer is replayed by the service that was started again",
        "the same answer" if same else "another answer",
        "private Redis, with its log of writes",
    )
    assert (first.status_code, replayed.status_code) == (201, 201)
    assert same
    assert replayed.headers["idempotency-replayed"] == "true"
