"""Milvus dies, hangs, or is cut off: told at once, no write lost, and caught up by itself."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from service.client import ProblemError
from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES, Ledger, told
from tests.faults.load import slug_of
from tests.faults.processes import Served, until
from tests.faults.proxy import Proxy
from tests.faults.scale import Scale
from tests.integration.milvus_server import server_at
from tests.service import lite_server

pytestmark = pytest.mark.alone

_CATCH_UP_S = 30.0
_DEADLINE_S = 3.0


class Server(Protocol):
    port: int

    def start(self) -> None: ...

    def kill(self) -> None: ...


@pytest.fixture(
    params=["a Milvus Lite server", pytest.param("Milvus 2.3.5", marks=pytest.mark.full)]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "milvus"
    if request.param == "Milvus 2.3.5":
        with server_at(folder) as server:
            yield server
    else:
        lite = lite_server.Server(folder)
        yield lite
        lite.kill()


@pytest.fixture
def setting(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["server"])


def _uri(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _recognize(served: Served, shop_id: str) -> tuple[int, str, float]:
    """Status, slug, and seconds."""
    begun = time.monotonic()
    response = served.http.post(
        "/recognize", data={"shop_id": shop_id}, files={"frames": PICTURES[0]}
    )
    return response.status_code, slug_of(response), time.monotonic() - begun


def _in_agreement(served: Served, ledger: Ledger) -> bool:
    """Whether what is there is found, asked of a service that may still refuse."""
    try:
        return ledger.agrees(served.client)
    except ProblemError:
        return False


def test_killed_and_started_again(
    scale: Scale, serve: Serve, server: Server, setting: str, record: Record
) -> None:
    served, ledger = serve(LPR_MILVUS__URI=_uri(server.port)), Ledger("shop")
    before = ledger.write_some(served.http, 0, range(10))
    served.client.put_product("cold", "p", [PICTURES[0]])
    server.kill()
    refused = [_recognize(served, "cold") for _ in range(5)]
    during = ledger.write_some(served.http, 0, range(10, 20))
    server.start()
    caught_up_s = until(lambda: _in_agreement(served, ledger), 60, "caught up")
    lost, wrong = ledger.check(served.client)
    until(lambda: _recognize(served, "cold")[0] == 200, 60, "all shops answer")
    slowest = max(seconds for *_, seconds in refused)
    record(
        "Milvus down or restarted",
        "/recognize 503 index-unavailable <= 1 s; /gallery 202; caught up <= 30 s",
        f"{sorted({f'{status} {slug}' for status, slug, _ in refused})} within {slowest:.2f} s; "
        f"{told(during)}; "
        f"caught up {caught_up_s:.1f} s after it answered; {len(lost)} lost, {len(wrong)} wrong",
        f"kill -9 of {setting}",
    )
    assert {write.status for write in before} <= {201, 204}
    assert {(status, slug) for status, slug, _ in refused} == {(503, "index-unavailable")}
    assert {w.status for w in during if w.method == "POST"} == {202}
    assert {w.status for w in during if w.method == "DELETE"} <= {204, 503}
    assert not lost
    assert not wrong
    if scale.full:
        assert slowest <= 1
        assert caught_up_s <= _CATCH_UP_S


def test_silent(scale: Scale, serve: Serve, server: Server, setting: str, record: Record) -> None:
    """Nothing goes through, and no connection is closed: the worst that a network does."""
    with Proxy(server.port) as proxy:
        served = serve(LPR_MILVUS__URI=_uri(proxy.port), LPR_DEADLINE_S=_DEADLINE_S)
        ledger = Ledger("shop")
        ledger.write_some(served.http, 0, range(10))
        served.client.put_product("cold", "p", [PICTURES[0]])
        proxy.stall()
        stalled = time.monotonic()
        first = _recognize(served, "cold")
        opened_s = until(lambda: _recognize(served, "cold")[1] == "index-unavailable", 60, "open")
        opened_s = time.monotonic() - stalled
        refused = [_recognize(served, "cold") for _ in range(5)]
        during = ledger.write_some(served.http, 0, range(10, 20))
        proxy.heal()
        caught_up_s = until(lambda: _in_agreement(served, ledger), 60, "caught up")
        lost, wrong = ledger.check(served.client)
        slowest = max(seconds for *_, seconds in refused)
        record(
            "Milvus slow",
            "504 at the deadline; breaker opens <= 5 s; caught up <= 30 s",
            f"{first[0]} {first[1]} after {first[2]:.1f} s; open after {opened_s:.1f} s, then "
            f"refused within {slowest:.2f} s; {told(during)}; caught up after {caught_up_s:.1f} s; "
            f"{len(lost)} lost, {len(wrong)} wrong",
            f"a proxy that stalls before {setting}, LPR_DEADLINE_S={_DEADLINE_S:g}",
        )
        assert first[:2] in ((504, "deadline-exceeded"), (503, "index-unavailable"))
        assert {(status, slug) for status, slug, _ in refused} == {(503, "index-unavailable")}
        assert {write.status for write in during} <= {202, 204, 503, 504}
        assert not lost
        assert not wrong
        if scale.full:
            assert first[2] <= _DEADLINE_S + 0.5
            assert opened_s <= 5
            assert slowest <= 1
            assert caught_up_s <= _CATCH_UP_S


@pytest.mark.full
def test_a_write_whose_outcome_is_unknown(
    serve: Serve, server: Server, setting: str, record: Record
) -> None:
    """The post's own upsert hangs; sent again under its key it has one effect."""
    with Proxy(server.port) as proxy:
        served = serve(LPR_MILVUS__URI=_uri(proxy.port), LPR_DEADLINE_S=_DEADLINE_S)
        served.client.put_product("shop", "p", [PICTURES[0]], title="old")
        proxy.stall()
        key = uuid.uuid4().hex
        first = _post(served, key)
        proxy.heal()
        again: list[httpx.Response] = []

        def taken() -> bool:
            again.append(_post(served, key))
            return again[-1].is_success

        within_s = until(taken, 60, "the same post is taken")
        until(lambda: _found(served) == {"p": "new"}, 30, "the new product alone is found")
        record(
            "a timed-out upsert is unknown",
            "the same key again: one effect",
            f"first {first.status_code} {slug_of(first)}, then {again[-1].status_code} after "
            f"{within_s:.1f} s; the new product is found, once",
            f"a proxy that stalls before {setting}",
        )
        assert first.status_code in (202, 503, 504)


@pytest.mark.full
def test_cut_connections(serve: Serve, server: Server, setting: str, record: Record) -> None:
    with Proxy(server.port) as proxy:
        served = serve(LPR_MILVUS__URI=_uri(proxy.port))
        ledger = Ledger("shop")
        ledger.write_some(served.http, 0, range(10))
        served.client.put_product("cold", "p", [PICTURES[0]])
        proxy.reset()
        during = ledger.write_some(served.http, 0, range(10, 15))
        proxy.heal()
        back_s = until(lambda: _recognize(served, "cold")[0] == 200, 60, "it answers again")
        until(lambda: _in_agreement(served, ledger), 60, "caught up")
        lost, wrong = ledger.check(served.client)
        record(
            "Milvus cut off",
            "no acknowledged loss; answers again <= 30 s",
            f"{told(during)}; answers again after {back_s:.1f} "
            f"s; {len(lost)} lost, {len(wrong)} wrong",
            f"a proxy that resets before {setting}",
        )
        assert not lost
        assert not wrong
        assert back_s <= _CATCH_UP_S


def _post(served: Served, key: str) -> httpx.Response:
    return served.http.post(
        "/gallery",
        data={"shop_id": "shop", "product_id": "p", "title": "new"},
        files={"images": PICTURES[1]},
        headers={"idempotency-key": key},
    )


def _found(served: Served) -> dict[str, str | None]:
    try:
        answer = served.client.recognize_frames("shop", [PICTURES[0]], top_k=100)
    except ProblemError:
        return {}
    return {c["product_id"]: c["title"] for c in answer["candidates"]}
