"""Inference that fails: smaller pieces where memory is short, a fresh start where nothing runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES
from tests.faults.load import slug_of
from tests.faults.processes import failing, until
from tests.faults.scale import Scale

pytestmark = pytest.mark.alone

_BACK_S = 30.0


def test_memory_for_few_pictures(serve: Serve, tmp_path: Path, record: Record) -> None:
    switch = tmp_path / "most_pictures"
    served = serve(**failing(FAIL_SESSIONS=switch))
    switch.write_text("3")
    statuses = [
        served.http.post(
            "/gallery",
            data={"shop_id": "shop", "product_id": f"{number}"},
            files=[("images", PICTURES[(number + i) % 12]) for i in range(8)],
        ).status_code
        for number in range(5)
    ]
    answer = served.http.post("/recognize", data={"shop_id": "shop"}, files={"frames": PICTURES[0]})
    record(
        "GPU out of memory",
        "halve the batch: posts and recognitions still succeed",
        f"posts of 8 pictures {statuses}, recognition {answer.status_code}",
        "onnxruntime fails like CUDA without memory on more than 3 pictures",
    )
    assert statuses == [201] * 5
    assert answer.status_code == 200
    assert len(answer.json()["candidates"]) == 5


def test_nothing_runs(scale: Scale, serve: Serve, tmp_path: Path, record: Record) -> None:
    switch = tmp_path / "most_pictures"
    served = serve(**failing(FAIL_SESSIONS=switch))
    served.client.put_product("shop", "p", [PICTURES[0]])
    switch.write_text("0")
    answers = []
    for _ in range(5):
        started = time.monotonic()
        answer = served.http.post(
            "/recognize", data={"shop_id": "shop"}, files={"frames": PICTURES[0]}
        )
        answers.append((answer.status_code, slug_of(answer), time.monotonic() - started))
        assert "retry-after" in answer.headers
    switch.unlink()
    back_s = until(
        lambda: (
            served.http.post(
                "/recognize", data={"shop_id": "shop"}, files={"frames": PICTURES[0]}
            ).status_code
            == 200
        ),
        60,
        "it recognises again",
    )
    slowest = max(seconds for *_, seconds in answers)
    record(
        "session error",
        "503 <= 1 s; recovered <= 30 s",
        f"{sorted({(status, slug) for status, slug, _ in answers})} within {slowest:.2f} s; "
        f"recovered after {back_s:.1f} s",
        "every run of onnxruntime fails for a while",
    )
    assert {status for status, *_ in answers} == {503}
    if scale.full:
        assert slowest <= 1
        assert back_s <= _BACK_S
