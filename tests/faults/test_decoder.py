"""Decoders that hang, crash or never stop: one request is refused, and nothing of it stays."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import Record, Serve, StubFfmpeg, cut_short
from tests.faults.ledger import PICTURES
from tests.faults.processes import peak_memory, until
from tests.faults.scale import Scale
from tests.integration.material import Shop

pytestmark = pytest.mark.alone

_WALL_S = 2.0
_MOST_BYTES = 200_000_000
_DECODERS = {
    "hangs": "sleep 1000 & wait",
    "crashes": "kill -SEGV $$",
    "writes without end": "exec cat /dev/zero",
    "complains without end": "exec cat /dev/zero >&2",
}


@pytest.mark.parametrize("what", _DECODERS)
def test_a_decoder_that(
    scale: Scale, serve: Serve, shop: Shop, stub_ffmpeg: StubFfmpeg, record: Record, what: str
) -> None:
    served = serve(**stub_ffmpeg(_DECODERS[what]), LPR_MEDIA__DECODE_WALL_S=_WALL_S)
    served.client.put_product("shop", "p", [PICTURES[0]])
    children = served.children()
    with peak_memory(served) as grown:
        started = time.monotonic()
        clip = cut_short(shop.clips["product-0"])
        response = served.http.post("/recognize", data={"shop_id": "shop"}, files={"clip": clip})
        seconds = time.monotonic() - started
    grown_bytes = grown()
    until(lambda: served.children() == children, 60, "its whole group is gone")
    problem = response.json()
    record(
        f"ffmpeg {what}",
        "process group killed at the wall limit + 1 s; 422; memory under the cap",
        f"{response.status_code} {problem.get('type', '')} after {seconds:.2f} s, "
        f"{grown_bytes / 1e6:.0f} MB",
        f"a stub as ffmpeg, wall limit {_WALL_S:g} s",
    )
    assert response.status_code == 422
    assert problem["type"] == "/problems/clip-undecodable"
    assert grown_bytes < _MOST_BYTES
    assert served.client.recognize_frames("shop", [PICTURES[0]])["candidates"], "it serves on"
    if scale.full:
        assert seconds <= _WALL_S + 1
