from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.errors import NotReadyError, StartupError
from service.parts import Service
from service.settings import MilvusSettings, RedisSettings, Settings


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
