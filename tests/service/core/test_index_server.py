"""Against a Milvus server that is stopped, killed and started again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from service.errors import IndexUnavailableError
from service.gallery.entries import Entries, Picture
from service.gallery.index import VectorIndex, WriteTime
from service.settings import MilvusSettings
from service.telemetry import Telemetry
from tests.service.lite_server import Server, until

PATIENCE_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "milvus")
    yield server
    server.kill()


@pytest.fixture
def index(server: Server, tmp_path: Path) -> Iterator[VectorIndex]:
    """What it is asked may take its time, until a test breaks the server."""
    settings = MilvusSettings(uri=f"http://127.0.0.1:{server.port}", timeout_s=PATIENCE_S)
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


@contextmanager
def impatient(index: VectorIndex, *, hangs_after_s: float) -> Iterator[None]:
    """It waits a second for an answer, until it has one again."""
    index._longest_s, index.breaker._slow_s = 1.0, hangs_after_s
    yield
    until(lambda: not index.breaker.is_open)
    index._longest_s = PATIENCE_S


def products(index: VectorIndex) -> list[str]:
    return [picture.product_id for picture in index.load("shop", 10).pictures]


def test_a_server_that_hangs_is_left_alone_until_it_answers(
    server: Server, index: VectorIndex
) -> None:
    server.freeze()
    with impatient(index, hangs_after_s=0.5):
        with pytest.raises(IndexUnavailableError, match="Milvus failed"):
            index.load("shop", 10)
        assert index.breaker.is_open
        with pytest.raises(IndexUnavailableError, match="tried again meanwhile"):
            index.load("shop", 10)
        server.thaw()
    assert products(index) == ["p"]


def test_a_server_that_was_killed_is_found_again(server: Server, index: VectorIndex) -> None:
    server.kill()
    with impatient(index, hangs_after_s=PATIENCE_S):
        for _ in range(3):
            with pytest.raises(IndexUnavailableError, match="Milvus failed"):
                index.load("shop", 10)
        with pytest.raises(IndexUnavailableError, match="tried again meanwhile"):
            index.load("shop", 10)
        server.start()
    assert products(index) == ["p"]
