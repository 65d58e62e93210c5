"""What a large batch takes: a place in the house, the disk, and not the memory."""

from __future__ import annotations

import io
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.client import Client
from service.launch import ServiceProcess
from tests.integration.material import picture
from tests.integration.memory import grown_at_most
from tests.integration.test_jobs import as_lines, ended, found, post, post_batch
from tests.service.lite_server import until

LARGE = 120_000_000


@pytest.fixture(scope="module")
def process(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    process = ServiceProcess(
        tmp_path_factory.mktemp("large"),
        LPR_BUNDLE=tiny_bundle,
        LPR_DRAIN_S=0,
        LPR_MAX_IN_FLIGHT=1,
        LPR_JOBS__MAX_BATCH_BYTES=LARGE,
    )
    with Client(process.wait_address()) as client:
        process.wait_ready(client)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def http(process: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=process.wait_address(), trust_env=False, timeout=60) as http:
        yield http


def large_archive(size: int) -> io.BytesIO:
    """Two pictures among megabytes of files, each a small one, that are none."""
    buffer, junk = io.BytesIO(), bytes(range(256)) * 400
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("first.jpg", picture(1))
        for i in range(size // len(junk)):
            archive.writestr(f"junk-{i}.jpg", junk)
        archive.writestr("second.jpg", picture(2))
    return buffer


def test_it_goes_to_the_disk_and_nothing_of_it_is_left_there(
    process: ServiceProcess, http: httpx.Client
) -> None:
    body = large_archive(100_000_000)
    descriptors = Path(f"/proc/{process.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    with grown_at_most(process.process.pid, 40_000_000):
        accepted = http.post("/gallery/batch", data={"shop_id": "large"}, files={"batch": body})
        job = ended(http, accepted)
    assert job["counts"]["done"] == 2
    assert found(http, "large") == {"first", "second"}
    until(lambda: len(list(descriptors.iterdir())) <= before + 2)
    spool = process.log.parent / "spool"
    until(lambda: not list(spool.iterdir()))


def test_one_byte_too_many_is_refused(http: httpx.Client) -> None:
    refused = post_batch(http, bytes(LARGE), "large")
    assert refused.status_code == 413
    assert refused.json()["type"] == "/problems/body-too-large"


def test_batches_and_single_posts_share_one_budget(http: httpx.Client) -> None:
    batch = as_lines({"p": picture(1)})
    for path, refused_post in (
        ("/gallery/batch", lambda: post(http, "shop", "p")),
        ("/gallery", lambda: post_batch(http, batch, "shop")),
    ):
        address = urlsplit(str(http.base_url))
        with socket.create_connection((address.hostname, address.port)) as slow:
            slow.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b".encode()
            )
            until(lambda: 'lpr_in_flight{kind="gallery"} 1.0' in http.get("/metrics").text)
            refused = refused_post()
            assert refused.status_code == 429
            assert refused.json()["type"] == "/problems/overloaded"
        until(lambda: 'lpr_in_flight{kind="gallery"} 0.0' in http.get("/metrics").text)
