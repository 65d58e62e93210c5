from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.errors import NotReadyError, StartupError
from service.indexing import NewProduct
from service.parts import Service
from service.settings import CatalogueSettings, MilvusSettings, RedisSettings, Settings
from service.settling import Comparison, Settler
from tests.integration.material import picture
from tests.service.lite_server import Server


@contextmanager
def closed_in_the_end(settings: Settings) -> Iterator[Service]:
    service = Service(settings)
    try:
        yield service
    finally:
        service.drain()
        service.close()


def test_the_catalogue_has_one_service_also_where_milvus_and_redis_are_servers(
    tmp_path: Path,
) -> None:
    settings = Settings(
        data_dir=tmp_path,
        milvus=MilvusSettings(uri="http://127.0.0.1:9"),
        redis=RedisSettings(url=SecretStr("redis://127.0.0.1:9")),
    )
    with ExitStack() as stack:
        stack.enter_context(closed_in_the_end(settings)).open_store()
        with pytest.raises(StartupError, match="another service is using the data directory"):
            stack.enter_context(closed_in_the_end(settings)).open_store()
    with closed_in_the_end(settings) as successor:
        successor.open_store()


def test_a_private_redis_that_cannot_start_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "redis").write_bytes(b"not a folder")
    with closed_in_the_end(Settings(data_dir=tmp_path)) as service:
        service.open_store()
        assert service.store is not None
        assert not service.store.is_up()


def test_an_index_of_a_milvus_server_is_compared_with_a_shared_catalogue_only_where_it_is_lost(
    tiny_bundle: Path,
    s3_settings: CatalogueSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[None] = []
    compare = Settler.compare

    def counted(self: Settler, *args: Any) -> Comparison:
        compared.append(None)
        return compare(self, *args)

    monkeypatch.setattr(Settler, "compare", counted)
    server = Server(tmp_path / "milvus")
    settings = Settings(
        data_dir=tmp_path / "data",
        bundle=tiny_bundle,
        catalogue=s3_settings,
        milvus=MilvusSettings(uri=f"http://127.0.0.1:{server.port}"),
    )
    product = NewProduct("shop", "p", None, None, (picture(0),))
    try:
        with started(settings) as service:
            assert compared, "it is filled"
            service.parts.indexer.put(product)
            assert rows(service) == 1
        compared.clear()
        with started(settings) as service:
            assert rows(service) == 1
            assert not compared
        server.kill()
        shutil.rmtree(tmp_path / "milvus")
        server.start()
        with started(settings) as service:
            assert compared
            assert rows(service) == 1
    finally:
        server.kill()


@contextmanager
def started(settings: Settings) -> Iterator[Service]:
    with closed_in_the_end(settings) as service:
        service.open_store()
        service.open()
        yield service


def rows(service: Service) -> int:
    return len(list(service.parts.bundles.serving.index.scan()))


def test_a_service_asked_to_stop_before_it_looked_at_its_index_never_becomes_ready(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with closed_in_the_end(Settings(data_dir=tmp_path, bundle=tiny_bundle)) as service:
        service.open_store()
        service.drain()
        with pytest.raises(NotReadyError):
            service.open()
        with pytest.raises(NotReadyError):
            _ = service.parts
