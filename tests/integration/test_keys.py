"""Keys over HTTP: who has none is kept out, and who has one is kept to its rights and shops."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from service.api.access import OPEN, OPEN_BELOW
from service.cli import app
from service.client import Client, ProblemError
from service.errors import StartupError
from service.keys import Right, create_key, revoke_key
from service.launch import ServiceProcess, running_service
from tests.integration.material import Shop, picture
from tests.service.jobs.material import encoded, lines

EVERYTHING = {"shops": "all", "rights": list(Right)}
WORK = {"shops": "all", "rights": [Right.RECOGNIZE, Right.INDEX]}


@dataclass(frozen=True)
class Guarded:
    """A service that asks for keys, with the shops `ours` and `theirs` of one product `p` each."""

    url: str
    data_dir: Path
    admin: Client

    def key(self, **given: Any) -> str:
        return create_key(self.data_dir / "keys.json", **{"name": "k"} | WORK | given)[1]

    def http(self, secret: str | None) -> httpx.Client:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)

    def log(self, logger: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.data_dir / "service.log").read_text().splitlines())
        return [line for line in lines if line["logger"] == logger]


@pytest.fixture(scope="module")
def guarded(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, shop: Shop
) -> Iterator[Guarded]:
    data_dir = tmp_path_factory.mktemp("guarded")
    _, admin = create_key(data_dir / "keys.json", name="the admin", **EVERYTHING)
    with running_service(data_dir, key=admin, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0) as client:
        for shop_id in ("ours", "theirs"):
            client.put_product(shop_id, "p", [shop.pictures["product-0"]])
        yield Guarded(client.base_url, data_dir, client)


def operations(guarded: Guarded) -> list[tuple[str, str, dict[str, Any]]]:
    document = httpx.get(guarded.url + "/openapi.json", trust_env=False, timeout=60).json()
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_nothing_but_the_open_list_answers_without_a_key(guarded: Guarded) -> None:
    with guarded.http(None) as http:
        for method, path, operation in operations(guarded):
            response = http.request(method, path)
            if path in OPEN:
                assert response.status_code == 200, path
                continue
            assert response.status_code == 401, path
            assert response.json()["type"] == "/problems/unauthorized"
            assert response.headers["www-authenticate"] == 'Bearer realm="lpr"'
            assert operation["security"] == [{"key": []}], f"{method} {path} says no right"
        assert http.get("/nowhere").status_code == 401
        assert http.get(f"{OPEN_BELOW}/swagger-ui.css").status_code == 200
        assert http.get(f"{OPEN_BELOW}/%2e%2e/%2e%2e/info").status_code == 404


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer lpr_x", "Basic eDp5", "bearer é".encode("latin-1")]
)
def test_what_is_no_key_is_refused(guarded: Guarded, header: str) -> None:
    with guarded.http(None) as http:
        response = http.get("/info", headers={"authorization": header})
    assert response.status_code == 401


def test_who_has_no_key_is_refused_before_any_of_the_body_came(guarded: Guarded) -> None:
    address = urlsplit(guarded.url)
    for path, length in (("/gallery", 1_000), ("/recognize", 10**12)):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(head.encode())
            assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")


def test_a_right_that_is_missing_is_said(guarded: Guarded, shop: Shop) -> None:
    asks = guarded.key(shops=["ours"], rights=[Right.RECOGNIZE])
    writes = guarded.key(shops=["ours"], rights=[Right.INDEX])
    product = {"data": {"shop_id": "ours", "product_id": "q"}, "files": {"images": picture(1)}}
    clip = {"data": {"shop_id": "ours"}, "files": {"clip": shop.clips["product-0"]}}
    allowed = [
        (asks, "POST", "/recognize", clip),
        (asks, "GET", "/gallery/ours/p", {}),
        (writes, "POST", "/gallery", product),
        (writes, "GET", "/gallery/ours", {}),
        (writes, "DELETE", "/gallery/ours/q", {}),
        (asks, "GET", "/info", {}),
        (writes, "GET", "/info", {}),
    ]
    forbidden = [
        (writes, "POST", "/recognize", clip),
        (asks, "POST", "/gallery", product),
        (asks, "DELETE", "/gallery/ours/p", {}),
        (asks, "DELETE", "/gallery/ours", {}),
    ]
    for secret, method, path, request in allowed:
        with guarded.http(secret) as http:
            assert http.request(method, path, **request).is_success, path
    for secret, method, path, request in forbidden:
        with guarded.http(secret) as http:
            response = http.request(method, path, **request)
        assert response.status_code == 403, path
        assert response.json()["type"] == "/problems/forbidden"
        assert "`index`" in response.text or "`recognize`" in response.text


def ask_recognize(http: httpx.Client, shop_id: str, shop: Shop) -> httpx.Response:
    return http.post(
        "/recognize", data={"shop_id": shop_id}, files={"clip": shop.clips["product-0"]}
    )


def ask_post(http: httpx.Client, shop_id: str, shop: Shop) -> httpx.Response:
    return http.post(
        "/gallery",
        data={"shop_id": shop_id, "product_id": "p"},
        files={"images": shop.pictures["product-1"]},
    )


def on(method: str, path: str) -> Callable[[httpx.Client, str, Shop], httpx.Response]:
    return lambda http, shop_id, _: http.request(method, path.format(shop_id))


ASKED = {
    "recognize": ask_recognize,
    "list": on("GET", "/gallery/{}"),
    "get": on("GET", "/gallery/{}/p"),
    "picture": on("GET", "/gallery/{}/p/images/" + "0" * 32),
    "delete": on("DELETE", "/gallery/{}/p"),
    "delete shop": on("DELETE", "/gallery/{}"),
}


def said(response: httpx.Response, shop_id: str) -> tuple[int, dict[str, Any], set[str]]:
    """All that a caller can tell of an answer, but for the ids of this very request."""
    problem = json.loads(response.text.replace(shop_id, "SHOP"))
    del problem["request_id"]
    headers = set(response.headers) - {"x-queue-time", "x-inference-time"}
    return response.status_code, problem, headers


@pytest.mark.parametrize("what", [*ASKED, "post"])
def test_anothers_shop_looks_as_absent_as_one_that_is(
    guarded: Guarded, shop: Shop, what: str
) -> None:
    ask = ASKED.get(what, ask_post)
    with guarded.http(guarded.key(shops=["ours", "absent"])) as http:
        theirs = said(ask(http, "theirs", shop), "theirs")
        nobodys = said(ask(http, "nobodys", shop), "nobodys")
        assert theirs == nobodys
        assert theirs[0] == 404
        assert theirs[1]["type"] == "/problems/shop-not-found"
        if what != "post":  # which would make it
            assert said(ask(http, "absent", shop), "absent") == theirs
    assert guarded.admin.product("theirs", "p")["images"], "nothing came of it all"


def test_a_key_is_taken_and_given_while_the_service_runs(guarded: Guarded) -> None:
    file = guarded.data_dir / "keys.json"
    key, secret = create_key(file, name="for a while", **EVERYTHING)
    with guarded.http(secret) as http:
        assert http.get("/info").status_code == 200
        revoke_key(file, key.key_id)
        assert http.get("/info").status_code == 401


def test_every_write_is_told_with_who_and_what(guarded: Guarded, shop: Shop) -> None:
    file = guarded.data_dir / "keys.json"
    key, secret = create_key(file, name="the writer", shops=["audit"], rights=[Right.INDEX])
    product = {"shop_id": "audit", "product_id": "p"}
    with guarded.http(secret) as http:
        once = {"idempotency-key": "once"}
        answers = [
            http.post("/gallery", data=product, files={"images": picture(1)}, headers=once),
            http.post("/gallery", data=product, files={"images": picture(1)}, headers=once),
            http.post("/gallery", data=product, files={"images": b"no picture"}),
            http.delete("/gallery/audit/p"),
            http.delete("/gallery/audit/p"),
            http.delete("/gallery/audit"),
        ]
        http.get("/gallery/audit")
    lines = [line for line in guarded.log("service.audit") if line["key_id"] == key.key_id]
    told = [(line["action"], line["product_id"], line["result"]) for line in lines]
    assert told == [
        ("put-product", "p", "done"),
        ("put-product", "p", "replayed"),
        ("put-product", "p", "image-format-unsupported"),
        ("delete-product", "p", "done"),
        ("delete-product", "p", "product-not-found"),
        ("delete-shop", None, "done"),
    ]
    assert [line["request_id"] for line in lines] == [a.headers["x-request-id"] for a in answers]
    assert {(line["shop_id"], line["key_name"]) for line in lines} == {("audit", "the writer")}
    assert any(line.get("key_id") == key.key_id for line in guarded.log("service.requests"))


def test_no_secret_is_in_the_log(guarded: Guarded) -> None:
    secret = guarded.key()
    with guarded.http(secret) as http:
        http.get("/info")
    with guarded.http(secret[:-1]) as http:
        http.get("/info")
    log = (guarded.data_dir / "service.log").read_text()
    assert secret[:-1] not in log
    assert secret.split("_", 2)[2][:-1] not in log


@pytest.mark.parametrize("way", ["option", "environment"])
def test_commands_send_a_key(
    guarded: Guarded, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    secret = guarded.key(shops=["commands"])
    (tmp_path / "cola.jpg").write_bytes(shop.pictures["product-0"])
    (tmp_path / "clip.mp4").write_bytes(shop.clips["product-0"])
    given = ["--shop", "commands", "--url", guarded.url]
    for command in (["index", str(tmp_path)], ["recognize", *2 * [str(tmp_path / "clip.mp4")]]):
        refused = CliRunner().invoke(app, [*command, *given])
        assert refused.exit_code == 1
        told = refused.stderr.replace("\n", " ")
        assert told.count("[401 unauthorized]; lpr sends the key of --key or LPR_KEY") == 1
    if way == "option":
        given += ["--key", secret]
    else:
        monkeypatch.setenv("LPR_KEY", secret)
    for command in (["index", str(tmp_path)], ["recognize", str(tmp_path / "clip.mp4")]):
        done = CliRunner().invoke(app, [*command, *given])
        assert done.exit_code == 0, done.output


class TestListening:
    """`lpr serve` beyond this machine."""

    def test_without_keys_it_does_not_start_there(self, tiny_bundle: Path, tmp_path: Path) -> None:
        process = ServiceProcess(tmp_path, LPR_BUNDLE=tiny_bundle, LPR_HOST="0.0.0.0")
        with pytest.raises(StartupError, match="LPR_ALLOW_ANONYMOUS"):
            process.wait_address()
        assert process.process.wait(60) == 1

    def test_with_keys_it_does_and_asks_for_them(self, tiny_bundle: Path, tmp_path: Path) -> None:
        _, secret = create_key(tmp_path / "k.json", name="k", **EVERYTHING)
        env = {"LPR_BUNDLE": tiny_bundle, "LPR_HOST": "0.0.0.0", "LPR_DRAIN_S": 0}
        env["LPR_KEYS__FILE"] = tmp_path / "k.json"
        with running_service(tmp_path / "data", key=secret, **env) as client:
            assert client.info()["version"]
            with Client(client.base_url) as nobody, pytest.raises(ProblemError) as caught:
                nobody.info()
            assert caught.value.slug == "unauthorized"

    def test_or_if_it_is_told_in_so_many_words(self, tiny_bundle: Path, tmp_path: Path) -> None:
        env = {"LPR_BUNDLE": tiny_bundle, "LPR_HOST": "0.0.0.0", "LPR_DRAIN_S": 0}
        with running_service(tmp_path, LPR_ALLOW_ANONYMOUS="true", **env) as client:
            assert client.info()["version"]

    def test_a_file_of_keys_that_is_not_there_is_no_open_door(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        process = ServiceProcess(
            tmp_path, LPR_BUNDLE=tiny_bundle, LPR_KEYS__FILE=tmp_path / "none.json"
        )
        with pytest.raises(StartupError, match=r"none\.json"):
            process.wait_address()


def test_a_batch_is_kept_to_the_keys_shops_item_by_item(guarded: Guarded) -> None:
    products = [
        {"shop_id": shop_id, "product_id": "batched", "images": [encoded(picture(1))]}
        for shop_id in ("ours", "theirs")
    ]
    with guarded.http(guarded.key(shops=["ours"])) as http:
        refused = http.post("/gallery/batch", data={"shop_id": "theirs"}, files={"batch": b"{"})
        assert refused.status_code == 404
        job = http.post("/gallery/batch", files={"batch": lines(products)}).json()
        assert [item["error"] and item["error"]["type"] for item in job["items"]] == [
            None,
            "/problems/shop-not-found",
        ]
        again = http.get(f"/jobs/{job['job_id']}")
        assert again.status_code == 200, "an item for another's shop does not make the job theirs"
    assert guarded.admin.product("ours", "batched")
    with pytest.raises(ProblemError, match="product-not-found"):
        guarded.admin.product("theirs", "batched")
    (told,) = (line for line in guarded.log("service.audit") if line["action"] == "put-batch")
    assert told["result"] == "accepted"


def test_anothers_job_looks_as_absent_as_one_that_is(guarded: Guarded) -> None:
    with guarded.http(guarded.key(shops=["theirs"])) as http:
        accepted = http.post(
            "/gallery",
            data={"shop_id": "theirs", "product_id": "p"},
            files={"images": picture(1)},
            headers={"prefer": "respond-async"},
        )
        where = accepted.headers["location"]
        assert http.get(where).status_code == 200
        assert http.get("/jobs", params={"state": "dead"}).status_code == 403
    with guarded.http(guarded.key(shops=["ours"])) as http:
        nowhere = "/jobs/20260101T000000-" + "0" * 32
        answers = [http.get(path) for path in (where, nowhere)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert {answer.json()["type"] for answer in answers} == {"/problems/job-not-found"}
