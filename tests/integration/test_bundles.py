"""A new bundle in a running service: no request fails, nothing is lost, and there is a way back."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymilvus import MilvusClient
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import Client, ProblemError
from service.coordination.private_server import PrivateRedis
from service.inference.manifest import read_manifest
from service.keys import Right, create_key
from service.launch import ServiceProcess, running_service
from tests.contract.bundles import flip_byte
from tests.integration.material import Shop, picture
from tests.integration.milvus_server import MilvusServer
from tests.service.object_store import bucket_settings

PRODUCTS = 40


@pytest.fixture
def bundles(another_bundle: Path, tmp_path: Path) -> Path:
    """A folder of bundles, with one in it."""
    folder = tmp_path / "bundles"
    shutil.copytree(another_bundle, folder / "another")
    return folder


@pytest.fixture
def old(tiny_bundle: Path) -> str:
    return read_manifest(tiny_bundle).bundle_id


@pytest.fixture
def new(another_bundle: Path) -> str:
    return read_manifest(another_bundle).bundle_id


def env(tiny_bundle: Path, bundles: Path) -> dict[str, Any]:
    return {"LPR_BUNDLE": tiny_bundle, "LPR_BUNDLES": bundles, "LPR_DRAIN_S": 0}


def roles(client: Client) -> dict[str, str]:
    return {bundle["bundle"]: bundle["role"] for bundle in client.bundles()["bundles"]}


def wait_until(is_so: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def found(client: Client, shop_id: str = "shop") -> tuple[str, set[str]]:
    """The bundle that answered, and every product it knows of."""
    answer = client.recognize_frames(shop_id, [picture(0)], top_k=100)
    return answer["bundle"], {candidate["product_id"] for candidate in answer["candidates"]}


class Traffic:
    """Clients that ask and write all the time, none of whom is ever told anything but yes."""

    def __init__(self, url: str, shop: Shop) -> None:
        self._url = url
        self._shop = shop
        self._stop = threading.Event()
        self.faults: list[object] = []
        self.answered: list[str] = []  # bundles, in the order of their answers
        self.kept: set[str] = set()

    @contextmanager
    def flowing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._lane, args=(f,)) for f in (self._ask, self._write)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _lane(self, act: Callable[[httpx.Client, int], None]) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=60) as http:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                try:
                    act(http, number)
                except (httpx.HTTPError, AssertionError) as error:
                    self.faults.append(error)

    def _ask(self, http: httpx.Client, number: int) -> None:
        clip = {"clip": self._shop.clips["product-1"]}
        response = http.post("/recognize", data={"shop_id": "shop"}, files=clip)
        assert response.status_code == 200, response.text
        self.answered.append(response.json()["bundle"])

    def _write(self, http: httpx.Client, number: int) -> None:
        """A post, and now and then the deletion of one; each is true at once."""
        name = f"written-{number % 15}"
        if name in self.kept:
            assert http.delete(f"/gallery/shop/{name}").status_code == 204
            self.kept.discard(name)
        else:
            product = {"shop_id": "shop", "product_id": name}
            response = http.post("/gallery", data=product, files={"images": picture(number)})
            assert response.status_code == 201, response.text
            self.kept.add(name)
        with Client(self._url) as client:
            assert {n for n in found(client)[1] if n.startswith("written")} == self.kept


def test_it_takes_over_without_a_failure_and_goes_back_at_once(
    tiny_bundle: Path, bundles: Path, old: str, new: str, tmp_path: Path, shop: Shop
) -> None:
    with running_service(tmp_path / "data", **env(tiny_bundle, bundles)) as client:
        for i in range(PRODUCTS):
            client.put_product("shop", f"p{i}", [picture(i)], title=f"product {i}")
        assert roles(client) == {old: "active", new: "available"}
        traffic = Traffic(client.base_url, shop)
        with traffic.flowing():
            wait_until(lambda: len(traffic.answered) >= 2)
            answer = client.activate_bundle(new)
            assert {b["bundle"]: b["role"] for b in answer["bundles"]}[new] in ("coming", "active")
            wait_until(lambda: roles(client)[new] == "active")
            then = len(traffic.answered)
            wait_until(lambda: len(traffic.answered) >= then + 3)
        assert not traffic.faults
        assert traffic.answered == sorted(traffic.answered, key=[old, new].index), "no way back"
        everything = {f"p{i}" for i in range(PRODUCTS)} | traffic.kept
        assert found(client) == (new, everything)
        assert client.info()["bundle"]["id"] == new
        assert roles(client) == {new: "active", old: "previous"}

        client.put_product("shop", "later", [picture(99)])
        client.delete_product("shop", "p0")
        traffic = Traffic(client.base_url, shop)
        traffic.kept = {name for name in everything if name.startswith("written")}
        with traffic.flowing():
            wait_until(lambda: len(traffic.answered) >= 2)
            client.go_back_a_bundle()
            assert found(client)[0] == old
            then = len(traffic.answered)
            wait_until(lambda: len(traffic.answered) >= then + 3)
        assert not traffic.faults
        still = {name for name in everything if name.startswith("p")} - {"p0"}
        assert found(client) == (old, still | {"later"} | traffic.kept)
        collection = client.info()["index"]["collection"]
    milvus = MilvusClient(uri=str(tmp_path / "data" / "milvus.db"))
    assert len(milvus.list_aliases(collection)["aliases"]) == 1
    milvus.close()


def test_a_restart_serves_the_active_one(
    tiny_bundle: Path, bundles: Path, old: str, new: str, tmp_path: Path
) -> None:
    settings = env(tiny_bundle, bundles)
    with running_service(tmp_path / "data", **settings) as client:
        client.put_product("shop", "p", [picture(1)])
        client.activate_bundle(new)
        wait_until(lambda: roles(client)[new] == "active")
    with running_service(tmp_path / "data", **settings) as client:
        assert found(client) == (new, {"p"})
        client.go_back_a_bundle()
        wait_until(lambda: found(client)[0] == old)
        client.drop_bundle(new)
        assert roles(client) == {old: "active", new: "available"}
        client.put_product("shop", "q", [picture(2)])
        assert found(client) == (old, {"p", "q"})


def test_killed_again_and_again_while_it_fills_it_gets_there(
    tiny_bundle: Path, bundles: Path, old: str, new: str, tmp_path: Path
) -> None:
    settings = env(tiny_bundle, bundles)
    with running_service(tmp_path / "data", **settings) as client:
        for i in range(PRODUCTS):
            client.put_product("shop", f"p{i}", [picture(i), picture(i + 1), picture(i + 2)])
    everything = {f"p{i}" for i in range(PRODUCTS)}
    for kill_after_s in (0.0, 0.05, 0.3, None):
        process = ServiceProcess(tmp_path / "data", **settings)
        with Client(process.wait_address()) as client:
            process.wait_ready(client)
            bundle, products = found(client)
            assert products == everything
            if bundle == old:
                client.activate_bundle(new)
            if kill_after_s is None:
                wait_until(lambda client=client: found(client)[0] == new)
                assert found(client) == (new, everything)
                process.stop()
            else:
                time.sleep(kill_after_s)
                os.kill(process.process.pid, signal.SIGKILL)
                process.process.wait()


class TestRefusing:
    @pytest.fixture
    def client(self, tiny_bundle: Path, bundles: Path, tmp_path: Path) -> Iterator[Client]:
        flip_byte(bundles / "another" / "encoder.data", 100)
        (bundles / "empty").mkdir()
        with running_service(tmp_path / "data", **env(tiny_bundle, bundles)) as client:
            yield client

    def test_what_cannot_be_served(self, client: Client, old: str, new: str) -> None:
        refusals: dict[str, tuple[Callable[[], object], int]] = {
            "bundle-not-found": (lambda: client.activate_bundle("x"), 404),
            "bundle-invalid": (lambda: client.activate_bundle(new), 422),
            "bundle-in-use": (lambda: client.drop_bundle(old), 409),
            "no-previous-bundle": (client.go_back_a_bundle, 409),
        }
        for slug, (ask, status) in refusals.items():
            with pytest.raises(ProblemError) as caught:
                ask()
            assert (caught.value.slug, caught.value.status) == (slug, status)
        answer = client.bundles()
        assert roles(client) == {old: "active", new: "available"}
        assert answer["serving"] == old
        assert [Path(folder).name for folder in answer["broken"]] == ["empty"]


class TestCommands:
    def lpr(self, client: Client, *arguments: str, key: str) -> Result:
        given = ["bundle", *arguments, "--url", client.base_url, "--key", key]
        return CliRunner().invoke(app, given)

    def test_a_bundle_is_activated_gone_back_from_and_dropped(
        self, tiny_bundle: Path, bundles: Path, old: str, new: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "data" / "keys.json"
        _, admin = create_key(file, name="admin", shops="all", rights=list(Right))
        _, nobody = create_key(file, name="n", shops="all", rights=[Right.INDEX])
        settings = env(tiny_bundle, bundles)
        with running_service(tmp_path / "data", key=admin, **settings) as client:
            client.put_product("shop", "p", [picture(1)])
            for refused in (["activate", new], ["back"], ["drop", new]):
                done = self.lpr(client, *refused, key=nobody)
                assert done.exit_code == 1
                assert "403 forbidden" in done.stderr
            assert self.lpr(client, "list", key=nobody).exit_code == 0
            done = self.lpr(client, "activate", str(bundles / "another"), key=admin)
            assert done.exit_code == 0, done.output
            assert client.info()["bundle"]["id"] == new
            assert self.lpr(client, "back", key=admin).exit_code == 0
            assert client.info()["bundle"]["id"] == old
            assert self.lpr(client, "drop", new, key=admin).exit_code == 0
            assert roles(client) == {old: "active", new: "available"}
            refused_again = self.lpr(client, "activate", "nothing", key=admin)
            assert refused_again.exit_code == 1
            assert "bundle-not-found" in refused_again.stderr
        log = (tmp_path / "data" / "service.log").read_text()
        for action in (f"bundle-activate {new}", "bundle-back", f"bundle-drop {new}"):
            assert f'"action": "{action}"' in log


def test_every_replica_follows(
    tiny_bundle: Path,
    bundles: Path,
    old: str,
    new: str,
    tmp_path: Path,
    milvus_server: MilvusServer,
    s3_endpoint: str,
    shop: Shop,
) -> None:
    """Two services over one Milvus server, one object store and one Redis."""
    redis = PrivateRedis(tmp_path / "redis")
    redis.start()
    store = bucket_settings(s3_endpoint)
    assert store.secret_access_key is not None
    shared = env(tiny_bundle, bundles) | {
        "LPR_MILVUS__URI": milvus_server.uri,
        "LPR_MILVUS__TIMEOUT_S": 20,
        "LPR_REDIS__URL": redis.url,
        "LPR_CATALOGUE__URL": store.url,
        "LPR_CATALOGUE__ENDPOINT": store.endpoint,
        "LPR_CATALOGUE__REGION": store.region,
        "LPR_CATALOGUE__ACCESS_KEY_ID": store.access_key_id,
        "LPR_CATALOGUE__SECRET_ACCESS_KEY": store.secret_access_key.get_secret_value(),
    }
    with (
        running_service(tmp_path / "one", **shared) as one,
        running_service(tmp_path / "two", **shared) as two,
    ):
        for i in range(8):
            (one, two)[i % 2].put_product("shop", f"p{i}", [picture(i)])
        everything = {f"p{i}" for i in range(8)}
        traffic = Traffic(two.base_url, shop)
        with traffic.flowing():
            one.activate_bundle(new)
            wait_until(lambda: {found(one)[0], found(two)[0]} == {new})
        assert not traffic.faults
        everything |= traffic.kept
        assert found(one) == found(two) == (new, everything)
        two.put_product("shop", "last", [picture(98)])
        two.go_back_a_bundle()
        wait_until(lambda: {found(one)[0], found(two)[0]} == {old})
        assert found(one) == found(two) == (old, everything | {"last"})
        one.drop_bundle(new)
    redis.stop()
    log = (tmp_path / "one" / "service.log").read_text()
    assert "the alias leads" not in log
    assert "an index that nobody needs" not in log
