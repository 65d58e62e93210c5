"""Bombs: what would be enormous once decoded is refused by its head, fast and in little memory."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES
from tests.faults.processes import peak_memory
from tests.faults.scale import Scale
from tests.integration.material import Shop
from tests.service.media.material import lavfi, png_bomb

pytestmark = pytest.mark.alone

_MOST_BYTES = 100_000_000
_MOST_S = 0.1


@pytest.fixture(scope="module")
def huge_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Frames of 16384 x 8640 in some thousand bytes."""
    path = tmp_path_factory.mktemp("bombs") / "huge.mp4"
    encoder = ("-c:v", "libx264", "-preset", "ultrafast")
    return lavfi("color=s=16384x8640:d=0.04", path, *encoder)


def test_picture_bombs(scale: Scale, serve: Serve, record: Record) -> None:
    served = serve()
    served.client.put_product("shop", "p", [PICTURES[0]])
    bomb = png_bomb(20_000)
    figures = []
    for path, field in (("/gallery", "images"), ("/recognize", "frames")):
        data = {"shop_id": "shop"} | ({"product_id": "b"} if path == "/gallery" else {})
        with peak_memory(served) as grown:
            started = time.monotonic()
            response = served.http.post(path, data=data, files={field: bomb})
            seconds = time.monotonic() - started
        figures.append((response.status_code, response.json()["type"], seconds, grown()))
    _judge(scale, record, "a PNG of 400 MP", len(bomb), figures, "image-dimensions-too-large")


def test_clip_bombs(
    scale: Scale, serve: Serve, shop: Shop, huge_clip: bytes, record: Record
) -> None:
    served = serve()
    served.client.put_product("shop", "p", [PICTURES[0]])
    served.client.recognize("shop", shop.clips["product-0"])  # the decoder's file is read by now
    with peak_memory(served) as grown:
        started = time.monotonic()
        response = served.http.post(
            "/recognize", data={"shop_id": "shop"}, files={"clip": huge_clip}
        )
        seconds = time.monotonic() - started
    figures = [(response.status_code, response.json()["type"], seconds, grown())]
    _judge(scale, record, "a clip of 142 MP", len(huge_clip), figures, "clip-dimensions-too-large")


def _judge(
    scale: Scale,
    record: Record,
    what: str,
    size: int,
    figures: list[tuple[int, str, float, int]],
    slug: str,
) -> None:
    slowest, largest = max(f[2] for f in figures), max(f[3] for f in figures)
    record(
        "bombs are refused before decoding",
        "image over 40 MP, frame over 16.7 MP: refused in <= 100 ms and <= 100 MB",
        f"refused in {1e3 * slowest:.0f} ms and {largest / 1e6:.0f} MB",
        f"{what} in {size / 1e3:.0f} KB",
    )
    assert {(status, kind) for status, kind, *_ in figures} == {(422, f"/problems/{slug}")}
    assert largest <= _MOST_BYTES
    if scale.full:
        assert slowest <= _MOST_S
