"""Starting, stopping, being killed, and living without Redis: what was acknowledged stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.client import Client, ClientError, ProblemError
from service.coordination.private_server import PrivateRedis
from service.errors import StartupError
from service.launch import ServiceProcess, running_service
from tests.integration.material import Shop, picture
from tests.integration.problems import connected, parsed
from tests.service.lite_server import until


@contextmanager
def started(data_dir: Path, bundle: Path, **env: object) -> Iterator[tuple[ServiceProcess, Client]]:
    """A ready service whose process the test may kill."""
    process = ServiceProcess(data_dir, LPR_BUNDLE=bundle, **{"LPR_DRAIN_S": 0} | env)
    try:
        with Client(process.wait_address(), patience_s=0) as client:
            process.wait_ready(client)
            yield process, client
    finally:
        process.stop()


def found(client: Client, shop_id: str) -> set[str]:
    answer = client.recognize_frames(shop_id, [picture(0)], top_k=100)
    return {candidate["product_id"] for candidate in answer["candidates"]}


def test_a_restart_finds_everything_again(tiny_bundle: Path, tmp_path: Path, shop: Shop) -> None:
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle) as client:
        for product_id, jpeg in shop.pictures.items():
            client.put_product("shop", product_id, [jpeg], title=product_id, metadata={"a": 1})
        client.delete_product("shop", "product-0")
        before = client.recognize("shop", shop.clips["product-1"], top_k=100)
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle) as client:
        after = client.recognize("shop", shop.clips["product-1"], top_k=100)
        assert after["candidates"] == before["candidates"]
        assert len(after["candidates"]) == len(shop.pictures) - 1
        assert client.product("shop", "product-1")["metadata"] == {"a": 1}
    log = [json.loads(line) for line in (tmp_path / "service.log").read_text().splitlines()]
    assert [line["event"] for line in log].count("ready") == 2
    requests = [line for line in log if line["event"] == "request"]
    assert {"request_id", "method", "path", "status", "ms"} <= requests[0].keys()
    assert [line["path"] for line in requests].count("/recognize") == 2


def test_kills_lose_nothing_that_was_acknowledged(tiny_bundle: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of posts, replacements and deletes, by three clients at once."""
    rng = random.Random(7)
    kept: dict[str, str] = {}  # what the last acknowledged post of a product said
    unsure: dict[str, set[str | None]] = {}  # asked for, and killed before the answer
    deleted: set[str] = set()

    def work(client: Client, lane: int, round_: int) -> None:
        for i in range(1_000):
            product_id = f"{lane}-{i % 7}"
            title = f"round {round_} post {i}"
            states = unsure.setdefault(product_id, set())
            try:
                if i % 5 == 4 and product_id in kept:
                    states |= {kept[product_id], None}
                    client.delete_product("shop", product_id)
                    del kept[product_id]
                    deleted.add(product_id)
                else:
                    states |= {kept.get(product_id), title}
                    client.put_product("shop", product_id, [picture(i % 11)], title=title)
                    kept[product_id] = title
                    deleted.discard(product_id)
                states.clear()
            except ClientError:
                return

    for round_ in range(6):
        with started(tmp_path, tiny_bundle) as (process, client):
            present = (
                {p["product_id"]: p["title"] for p in client.products("shop")} if round_ else {}
            )
            for product_id in set(kept) | set(present) | deleted:
                allowed = unsure.get(product_id) or {kept.get(product_id)}
                assert present.get(product_id) in allowed, product_id
            if round_:
                assert found(client, "shop") == set(present)
            if round_ == 5:
                break
            kept = dict(present)
            deleted.clear()
            unsure.clear()
            threads = [
                threading.Thread(target=work, args=(client, lane, round_)) for lane in range(3)
            ]
            for thread in threads:
                thread.start()
            until(lambda: len(kept) >= 3)  # noqa: B023
            time.sleep(rng.uniform(0.0, 1.0))
            os.kill(process.process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("lost", ["milvus.db", "redis"])
def test_what_is_not_the_catalogue_may_be_lost(
    tiny_bundle: Path, tmp_path: Path, shop: Shop, lost: str
) -> None:
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle) as client:
        for product_id, jpeg in shop.pictures.items():
            client.put_product("shop", product_id, [jpeg])
        before = client.recognize("shop", shop.clips["product-1"], top_k=100)
    shutil.rmtree(tmp_path / lost)
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle) as client:
        after = client.recognize("shop", shop.clips["product-1"], top_k=100)
        assert [c["product_id"] for c in after["candidates"]] == [
            c["product_id"] for c in before["candidates"]
        ]


def test_rows_of_products_that_left_the_catalogue_are_removed_at_start(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle) as client:
        for product_id in ("product-0", "product-1"):
            client.put_product("shop", product_id, [shop.pictures[product_id]])
    (record,) = (
        path
        for path in (tmp_path / "catalogue").rglob("record.json")
        if path.parent.name.startswith("product-0")
    )
    record.unlink()
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle) as client:
        assert found(client, "shop") == {"product-1"}


class TestIdempotency:
    def post(self, http: httpx.Client, key: str, title: str, jpeg: bytes) -> httpx.Response:
        return http.post(
            "/gallery",
            data={"shop_id": "idempotent", "product_id": "p", "title": title},
            files={"images": jpeg},
            headers={"idempotency-key": key},
        )

    def test_a_post_sent_again_is_answered_again_and_not_done_again(
        self, client: Client, http: httpx.Client, shop: Shop
    ) -> None:
        key, jpeg = uuid.uuid4().hex, shop.pictures["product-0"]
        first = self.post(http, key, "first", jpeg)
        self.post(http, uuid.uuid4().hex, "second", jpeg)
        again = self.post(http, key, "first", jpeg)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        assert client.product("idempotent", "p")["title"] == "second"

    def test_a_refused_post_does_not_use_its_key_up(self, http: httpx.Client, shop: Shop) -> None:
        key = uuid.uuid4().hex
        assert self.post(http, key, "first", b"no picture").status_code == 415
        assert self.post(http, key, "first", shop.pictures["product-0"]).status_code == 201

    def test_many_at_once_are_one(self, http: httpx.Client, shop: Shop) -> None:
        key, answers = uuid.uuid4().hex, []
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    self.post(http, key, "many", shop.pictures["product-0"])
                )
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert len({answer.text for answer in answers if answer.status_code == 201}) == 1
        for answer in answers:
            if answer.status_code == 409:
                assert answer.json()["type"] == "/problems/idempotency-in-progress"
                assert answer.headers["retry-after"] == "1"


def test_the_api_works_on_without_redis(tiny_bundle: Path, tmp_path: Path, shop: Shop) -> None:
    server = PrivateRedis(tmp_path / "redis")
    server.start()
    with running_service(
        tmp_path / "data", LPR_BUNDLE=tiny_bundle, LPR_REDIS__URL=server.url
    ) as client:
        assert client.info()["coordination"] == {"embedded": False, "up": True}
        client.put_product("shop", "product-0", [shop.pictures["product-0"]])
        assert found(client, "shop") == {"product-0"}
        server.stop()
        client.put_product("shop", "product-1", [shop.pictures["product-1"]])
        assert found(client, "shop") == {"product-0", "product-1"}
        client.delete_product("shop", "product-0")
        assert found(client, "shop") == {"product-1"}
        assert client.info()["coordination"]["up"] is False
        again = PrivateRedis(tmp_path / "redis")
        again.start()
        client.put_product("shop", "product-2", [shop.pictures["product-2"]])
        assert found(client, "shop") == {"product-1", "product-2"}
        again.stop()


def test_a_full_house_refuses_at_once_and_its_health_still_answers(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with started(tmp_path, tiny_bundle, LPR_MAX_IN_FLIGHT=1) as (_, client):
        client.put_product("shop", "p", [shop.pictures["product-0"]])
        address = urlsplit(client.base_url)
        slow = socket.create_connection((address.hostname, address.port))
        slow.sendall(
            b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b"
        )
        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http:
            deadline = time.monotonic() + 60
            while 'lpr_in_flight{kind="recognize"} 1.0' not in http.get("/metrics").text:
                assert time.monotonic() < deadline
            refused = http.post(
                "/recognize", data={"shop_id": "shop"}, files={"clip": shop.clips["product-0"]}
            )
            assert refused.status_code == 429
            assert refused.json()["type"] == "/problems/overloaded"
            assert refused.headers["retry-after"] == "1"
            for path in ("/healthz", "/readyz", "/metrics", "/gallery/shop"):
                assert http.get(path).status_code == 200
            slow.close()
            for told in ('failures_total{reason="client-left"} 1', 'in_flight{kind="recognize"} 0'):
                while f"lpr_{told}.0" not in (metrics := http.get("/metrics").text):
                    assert time.monotonic() < deadline, "a client that left makes room"
            assert 'requests_total{method="POST",route="/recognize",status="429"} 1.0' in metrics
            assert not re.search(r'route="/recognize",status="5', metrics)
        assert found(client, "shop") == {"p"}


def test_asked_to_stop_it_says_unready_first_and_finishes_what_it_began(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with started(tmp_path, tiny_bundle, LPR_DRAIN_S=60) as (process, client):
        client.put_product("shop", "p", [shop.pictures["product-0"]])
        process.process.terminate()
        until(lambda: not client.is_ready())
        with pytest.raises(ProblemError) as caught:
            client._json("GET", "/readyz")
        assert caught.value.slug == "not-ready"
        answer = client.recognize("shop", shop.clips["product-0"])
        assert len(answer["candidates"]) == 1
        process.process.terminate()  # there is nothing left to wait for
        assert process.process.wait(60) == 0


def test_asked_to_stop_it_lets_an_upload_that_began_finish(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with started(tmp_path, tiny_bundle, LPR_DRAIN_S=0) as (process, client):
        client.put_product("shop", "p", [shop.pictures["product-0"]])
        request = httpx.Request(
            "POST",
            f"{client.base_url}/recognize",
            data={"shop_id": "shop"},
            files={"clip": shop.clips["product-0"]},
        )
        body = request.read()
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        address = urlsplit(client.base_url)
        with socket.create_connection((address.hostname, address.port), timeout=60) as upload:
            upload.sendall(f"POST /recognize HTTP/1.1\r\n{head}\r\n".encode() + body[:100])
            with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http:
                deadline = time.monotonic() + 60
                while 'lpr_in_flight{kind="recognize"} 1.0' not in http.get("/metrics").text:
                    assert time.monotonic() < deadline
            process.process.terminate()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < deadline:
                    socket.create_connection((address.hostname, address.port)).close()
            upload.sendall(body[100:])
            answer = b"".join(iter(lambda: upload.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert process.process.wait(60) == 0


def test_asked_to_stop_it_waits_for_nobody_who_has_had_his_answer(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with started(tmp_path, tiny_bundle) as (process, client), connected(client.base_url) as held:
        held.sendall(b"no request\r\n\r\n")
        assert parsed(b"".join(iter(lambda: held.recv(65_536), b"")))[0].status == 400
        process.process.terminate()
        process.process.wait(10)  # an answer has 30 s to be taken


def test_it_leaves_no_process_behind(tiny_bundle: Path, tmp_path: Path) -> None:
    with started(tmp_path, tiny_bundle) as (process, _):
        children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
        redis_pid = int(children.read_text().split()[0])
        os.kill(process.process.pid, signal.SIGKILL)
        process.process.wait()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{redis_pid}").exists() and _is_alive(redis_pid):
            assert time.monotonic() < deadline, "the private Redis outlived a killed service"
            time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_service_on_the_same_data_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with started(tmp_path, tiny_bundle):
        second = ServiceProcess(tmp_path, LPR_BUNDLE=tiny_bundle)
        assert second.process.wait(60) == 1
        assert "another service is using the data directory" in second.log.read_text()


def test_a_bundle_that_cannot_be_trusted_ends_the_service_with_a_reason(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with (bundle / "matcher.onnx").open("ab") as file:
        file.write(b"x")
    with (
        pytest.raises(StartupError, match="status 1"),
        running_service(tmp_path / "data", LPR_BUNDLE=bundle),
    ):
        pass
    assert "matcher.onnx" in (tmp_path / "data" / "service.log").read_text()


def test_a_port_in_use_is_said(tiny_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = ServiceProcess(tmp_path, taken.getsockname()[1], LPR_BUNDLE=tiny_bundle)
        assert process.process.wait(60) == 1
    assert "cannot listen on 127.0.0.1" in process.log.read_text()


def test_a_data_directory_that_cannot_be_used_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()  # where a folder has to be
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--data-dir", tmp_path, "--port", "0"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"the data directory {tmp_path} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
