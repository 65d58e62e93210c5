"""Against a Milvus server that is stopped, killed and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import IndexUnavailableError
from service.gallery import index as module
from service.gallery.entries import Entries, Picture
from service.gallery.index import VectorIndex, WriteTime
from service.settings import MilvusSettings
from service.telemetry import Telemetry
from tests.service.lite_server import Server, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "milvus")
    yield server
    server.kill()


@pytest.fixture
def index(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VectorIndex]:
    monkeypatch.setattr(module, "_SLOW_S", 0.5)
    settings = MilvusSettings(uri=f"http://127.0.0.1:{server.port}", timeout_s=1)
    index = VectorIndex(
        settings,
        tmp_path,
        catalogue_id="c",
        bundle_id="b",
        telemetry=Telemetry(),
        written=WriteTime(),
        embedding=2,
        match_state=2,
    )
    index.complete()
    vectors = np.ones((1, 2), np.float32)
    index.upsert(Entries("shop", (Picture("p", None, "i"),), vectors, vectors))
    yield index
    index.close()


def products(index: VectorIndex) -> list[str]:
    return [picture.product_id for picture in index.load("shop", 10).pictures]


def test_a_server_that_hangs_is_left_alone_until_it_answers(
    server: Server, index: VectorIndex
) -> None:
    server.freeze()
    with pytest.raises(IndexUnavailableError, match="Milvus failed"):
        index.load("shop", 10)
    assert index.breaker.is_open
    with pytest.raises(IndexUnavailableError, match="tried again meanwhile"):
        index.load("shop", 10)
    server.thaw()
    until(lambda: not index.breaker.is_open)
    assert products(index) == ["p"]


def test_a_server_that_was_killed_is_found_again(server: Server, index: VectorIndex) -> None:
    server.kill()
    for _ in range(3):
        with pytest.raises(IndexUnavailableError, match="Milvus failed"):
            index.load("shop", 10)
    with pytest.raises(IndexUnavailableError, match="tried again meanwhile"):
        index.load("shop", 10)
    server.start()
    until(lambda: not index.breaker.is_open)
    assert products(index) == ["p"]
