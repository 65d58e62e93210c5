"""A real Redis for the whole room, empty at the start of each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.gallery.storage import LocalStorage, Storage
from service.jobs.records import Jobs
from service.telemetry import Telemetry


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(server: PrivateRedis) -> Iterator[Store]:
    store = Store.at(server.url, timeout_s=5, telemetry=Telemetry())
    store.call(lambda client: client.flushall())
    yield store
    store.close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "catalogue")


@pytest.fixture
def jobs(storage: Storage) -> Jobs:
    return Jobs(storage, keep_s=86_400)
