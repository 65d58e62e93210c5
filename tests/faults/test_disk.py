"""A disk that fills up: writes are refused, reads go on, and nothing acknowledged is ever lost."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import Record, Serve
from tests.faults.disks import SmallDisk
from tests.faults.ledger import PICTURES
from tests.faults.load import slug_of
from tests.faults.processes import Served, until
from tests.faults.scale import Scale
from tests.service.media.material import Image, encoded

pytestmark = pytest.mark.alone

_MEGABYTES = 6
_LARGER = 64
_BACK_S = 30.0


def _noise(seed: int) -> bytes:
    """A picture of about 150 KB that nothing compresses."""
    pixels = np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def _post(served: Served, number: int) -> tuple[int, str]:
    response = served.http.post(
        "/gallery",
        data={"shop_id": "shop", "product_id": f"{number}"},
        files={"images": _noise(number)},
    )
    return response.status_code, slug_of(response)


def _found(served: Served) -> set[str]:
    answer = served.client.recognize_frames("shop", [PICTURES[0]], top_k=100)
    return {candidate["product_id"] for candidate in answer["candidates"]}


def test_a_full_disk(scale: Scale, serve: Serve, tmp_path: Path, record: Record) -> None:
    with SmallDisk(tmp_path / "data", _MEGABYTES) as disk:
        served = serve(program=disk.service)
        numbers = itertools.count()
        taken: set[str] = set()
        refusals: Counter[tuple[int, str]] = Counter()
        while sum(refusals.values()) < 10:
            number = next(numbers)
            status, slug = _post(served, number)
            if status == 201:
                taken.add(f"{number}")
            else:
                refusals[status, slug] += 1
        assert len(taken) < 100, "all of them are among the candidates of an answer"
        found_while_full = _found(served)
        listed = {product["product_id"] for product in served.client.products("shop")}
        disk.resize(_LARGER)
        back_s = until(lambda: _post(served, 0)[0] == 201, 60, "writes are taken again")
        taken.add("0")
        new = next(numbers)
        assert _post(served, new)[0] == 201
        taken.add(f"{new}")
        served.kill()
        again = serve(program=disk.service)
        lost = taken - _found(again)
        record(
            "disk full",
            "507 storage-full on writes, reads work; <= 30 s after there is room; no loss",
            f"{len(taken)} taken, then {dict(refusals)}; {len(found_while_full)} found and "
            f"{len(listed)} listed meanwhile; taken again {back_s:.1f} s after there was room; "
            f"{len(lost)} lost over a SIGKILL",
            f"tmpfs of {_MEGABYTES} MB, then {_LARGER} MB; Milvus Lite and Redis on it too",
        )
        assert set(refusals) == {(507, "storage-full")}
        assert taken - {f"{new}"} <= found_while_full | {"0"}
        assert taken - {f"{new}"} <= listed | {"0"}
        assert not lost
        if scale.full:
            assert back_s <= _BACK_S
