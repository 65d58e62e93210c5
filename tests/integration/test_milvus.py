"""What only a real Milvus server shows: how late reads may be, and what it loses.

Skipped where there is no server to start; `make milvus-server` installs one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from service.coordination.epochs import Epochs, written_at
from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.errors import IndexUnavailableError
from service.gallery.entries import Entries, Picture
from service.gallery.index import VectorIndex, WriteTime
from service.gallery.rows import row_id
from service.settings import MilvusSettings
from service.telemetry import Telemetry
from tests.integration.milvus_server import MilvusServer

E, D = 8, 6
T = TypeVar("T")


@contextmanager
def replica(server: MilvusServer, folder: Path) -> Iterator[tuple[VectorIndex, WriteTime]]:
    written = WriteTime()
    index = VectorIndex(
        MilvusSettings(uri=server.uri),
        folder,
        catalogue_id="0123456789ab",
        bundle_id="rice-test-0123456789ab",
        telemetry=Telemetry(),
        written=written,
        embedding=E,
        match_state=D,
    )
    try:
        yield index, written
    finally:
        index.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    redis = PrivateRedis(tmp_path / "redis")
    redis.start()
    store = Store.at(redis.url, timeout_s=5, telemetry=Telemetry())
    yield store
    store.close()
    redis.stop()


def entries(shop_id: str, *product_ids: str) -> Entries:
    rng = np.random.default_rng(len(product_ids))
    embeddings = rng.normal(size=(len(product_ids), E)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    states = rng.normal(size=(len(product_ids), D)).astype(np.float32)
    return Entries(shop_id, tuple(Picture(p, None, "0") for p in product_ids), embeddings, states)


def test_another_replica_reads_each_write_at_once(
    milvus_server: MilvusServer, store: Store, tmp_path: Path
) -> None:
    """By the time in the shop's epoch, without the strongest consistency and its waiting."""
    with (
        replica(milvus_server, tmp_path) as (here, written),
        replica(milvus_server, tmp_path) as (there, _),
    ):
        here.complete()
        writing, reading = Epochs(store, written.latest), Epochs(store, lambda: None)
        for i in range(20):
            put = entries(f"shop-{i}", *(f"p{i}" for i in range(50)))
            here.upsert(put)
            writing.renew(put.shop_id)
            since = written_at(reading.read(put.shop_id))
            assert since is not None
            assert len(there.load(put.shop_id, 100, since).pictures) == 50
            assert len(there.search(put.shop_id, put.embeddings[0], 100, since).pictures) == 50
            here.delete([row_id(put.shop_id, put.pictures[0])])
            writing.renew(put.shop_id)
            since = written_at(reading.read(put.shop_id))
            assert len(there.load(put.shop_id, 100, since).pictures) == 49


def test_a_server_that_was_started_again_is_loaded_by_the_call_that_misses_it(
    milvus_server: MilvusServer, tmp_path: Path
) -> None:
    put = entries("restarted", "a", "b")
    with replica(milvus_server, tmp_path) as (index, _):
        index.complete()
        index.upsert(put)
        milvus_server.kill()
        milvus_server.start()
        assert len(until_it_answers(lambda: index.load("restarted", 10)).pictures) == 2


def test_what_milvus_lost_is_read_by_nobody_until_it_is_filled_again(
    milvus_server: MilvusServer, tmp_path: Path
) -> None:
    """The whole of Milvus: its directory is removed, while two replicas run."""
    put = entries("lost", "a", "b")
    with (
        replica(milvus_server, tmp_path) as (here, _),
        replica(milvus_server, tmp_path) as (there, _),
    ):
        here.complete()
        here.upsert(put)
        assert len(there.load("lost", 10).pictures) == 2
        milvus_server.kill()
        shutil.rmtree(milvus_server._folder)
        milvus_server.start()
        until_it_answers(lambda: here.upsert(entries("lost", "a")))
        assert here.is_filling
        for index in (here, there):
            with pytest.raises(IndexUnavailableError):
                index.load("lost", 10)
        here.upsert(put)
        here.complete()
        assert len(here.load("lost", 10).pictures) == 2
        assert len(until_it_answers(lambda: there.load("lost", 10)).pictures) == 2
        assert not there.is_filling


def until_it_answers(ask: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except IndexUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
