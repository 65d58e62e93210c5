"""Accepted work survives whatever dies: the service, Milvus, Redis, one of two replicas."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import Client
from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.launch import ServiceProcess
from service.settings import CatalogueSettings
from service.telemetry import Telemetry
from tests.integration.material import Shop, picture
from tests.integration.test_jobs import as_lines, ended, found, post, post_batch
from tests.service.lite_server import Server, until

CAUGHT_UP_S = 60  # the figure itself is shown by the faults, on a quiet machine


@pytest.fixture
def milvus(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "milvus")
    yield server
    server.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@contextmanager
def started(
    data_dir: Path, bundle: Path, milvus: Server, **env: object
) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    process = ServiceProcess(
        data_dir,
        LPR_BUNDLE=bundle,
        LPR_MILVUS__URI=f"http://127.0.0.1:{milvus.port}",
        LPR_DRAIN_S=0,
        **env,
    )
    try:
        with Client(process.wait_address()) as client:
            process.wait_ready(client)
        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http:
            yield process, http
    finally:
        process.stop()


def test_what_was_accepted_while_milvus_was_away_is_found_soon_after_it_is_back(
    tiny_bundle: Path, tmp_path: Path, milvus: Server, shop: Shop
) -> None:
    backlog = {"LPR_JOBS__MAX_BACKLOG": 8}
    with started(tmp_path / "data", tiny_bundle, milvus, **backlog) as (_, http):
        assert post(http, "shop", "before").status_code == 201
        milvus.kill()
        accepted = [post(http, "shop", "first"), post_batch(http, as_lines(shop.pictures), "shop")]
        assert [answer.status_code for answer in accepted] == [202, 202]
        assert post(http, "shop", "eighth").status_code == 202
        for refused in (
            post(http, "shop", "ninth"),
            post(http, "shop", "ninth", prefer="respond-async"),
            post_batch(http, as_lines({"ninth": picture(1)}), "shop"),
        ):
            assert refused.status_code == 503
            assert refused.json()["type"] == "/problems/index-unavailable"
            assert refused.headers["retry-after"]
        assert http.get("/gallery/shop/ninth").status_code == 404
        milvus.start()
        for answer in accepted:
            assert ended(http, answer, CAUGHT_UP_S)["counts"]["failed"] == 0
        until(lambda: found(http, "shop") == {"before", "first", "eighth", *shop.pictures})
        assert post(http, "shop", "ninth").status_code == 201


def test_a_service_killed_between_accepting_and_indexing_finishes_after_its_restart(
    tiny_bundle: Path, tmp_path: Path, milvus: Server, shop: Shop
) -> None:
    data_dir = tmp_path / "data"
    with started(data_dir, tiny_bundle, milvus) as (process, http):
        assert post(http, "shop", "before").status_code == 201
        milvus.kill()
        accepted = [
            post(http, "shop", "later", prefer="respond-async"),
            post_batch(http, as_lines(shop.pictures), "shop"),
        ]
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
    milvus.start()
    with started(data_dir, tiny_bundle, milvus) as (_, http):
        for answer in accepted:
            assert ended(http, answer)["counts"]["failed"] == 0
        assert found(http, "shop") == {"before", "later", *shop.pictures}


@pytest.mark.parametrize("loss", ["flushed", "gone"])
def test_a_lost_redis_loses_no_accepted_work(
    tiny_bundle: Path, tmp_path: Path, milvus: Server, redis: PrivateRedis, shop: Shop, loss: str
) -> None:
    with started(tmp_path / "data", tiny_bundle, milvus, LPR_REDIS__URL=redis.url) as (_, http):
        milvus.kill()
        accepted = post_batch(http, as_lines(shop.pictures), "shop")
        if loss == "gone":
            redis.stop()
            later = post(http, "shop", "later", prefer="respond-async")
        else:
            store = Store.at(redis.url, timeout_s=5, telemetry=Telemetry())
            store.call(lambda client: client.flushall())
            store.close()
            later = post(http, "shop", "later", prefer="respond-async")
        milvus.start()
        for answer in (accepted, later):
            assert ended(http, answer, CAUGHT_UP_S)["counts"]["failed"] == 0
        assert found(http, "shop") == {"later", *shop.pictures}


def test_of_two_replicas_one_finishes_what_the_other_was_killed_over(
    tiny_bundle: Path,
    tmp_path: Path,
    milvus: Server,
    redis: PrivateRedis,
    s3_settings: CatalogueSettings,
    shop: Shop,
) -> None:
    """And what one reports as done, the other one finds."""
    secret = s3_settings.secret_access_key
    assert secret is not None
    env: dict[str, Any] = {
        "LPR_REDIS__URL": redis.url,
        "LPR_CATALOGUE__URL": s3_settings.url,
        "LPR_CATALOGUE__ENDPOINT": s3_settings.endpoint,
        "LPR_CATALOGUE__ACCESS_KEY_ID": s3_settings.access_key_id,
        "LPR_CATALOGUE__SECRET_ACCESS_KEY": secret.get_secret_value(),
        "LPR_CATALOGUE__REGION": s3_settings.region,
        "LPR_JOBS__TAKEOVER_S": 2,
    }
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(started(tmp_path / name, tiny_bundle, milvus, **env))
            for name in ("here", "there")
        )
        done = ended(here[1], post(here[1], "shop", "first", prefer="respond-async"))
        assert done["counts"]["done"] == 1
        assert found(there[1], "shop") == {"first"}
        milvus.kill()  # so that nobody is done with it before
        accepted = post_batch(here[1], as_lines(shop.pictures), "shop")
        here[0].process.send_signal(signal.SIGKILL)
        here[0].process.wait()
        milvus.start()
        job = ended(there[1], accepted)
        assert job["counts"]["done"] == len(shop.pictures)
        assert found(there[1], "shop") == {"first", *shop.pictures}
