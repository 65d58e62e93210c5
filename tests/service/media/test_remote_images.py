from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from service.errors import BadInputError, UrlFetchError, UrlNotAllowedError
from service.media.remote_images import RemoteImages
from service.settings import ImageUrlSettings
from tests.integration.picture_host import PictureHost, page, redirect

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def host() -> Iterator[PictureHost]:
    with PictureHost() as host:
        yield host


def fetcher(*hosts: str, networks: tuple[str, ...] = LOOPBACK, **bounds: float) -> RemoteImages:
    return RemoteImages(
        ImageUrlSettings.model_validate({"hosts": hosts, "networks": networks} | bounds)
    )


def refusal(images: RemoteImages, *urls: str) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        images.fetch(urls)
    return caught.value


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A resolver that gives each of `answers` once; the names it was asked for."""
    asked: list[str] = []
    left = iter(answers)

    def getaddrinfo(name: str, port: int | None, **_: object) -> list[Any]:
        asked.append(name)
        return [(socket.AF_INET, 1, 6, "", (address, port or 80)) for address in next(left)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_resolver_that_hangs_is_not_waited_for(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()
    outlasted: list[bool] = []

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        outlasted.append(not given_up.wait(10))
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = refusal(fetcher("slow.test", timeout_s=0.3), "http://slow.test/a.jpg")
    assert not outlasted
    given_up.set()
    assert isinstance(error, UrlFetchError) and "within 0.3 s" in str(error.detail)


def test_pictures_come_in_their_order(host: PictureHost) -> None:
    host.pages |= {"/a": page(b"first"), "/b": page(b"second")}
    assert fetcher(host.netloc).fetch([host.url("/b"), host.url("/a")]) == (b"second", b"first")
    assert host.seen == [("/b", host.netloc), ("/a", host.netloc)]


def test_a_host_that_is_not_listed_is_not_even_resolved(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolving(monkeypatch)
    for hosts in ((), ("127.0.0.1",), ("example.com",)):
        assert isinstance(refusal(fetcher(*hosts), host.url("/a")), UrlNotAllowedError)
    assert (asked, host.seen) == ([], [])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_a_listed_name_that_leads_inside_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    for answer in ([address], ["93.184.215.14", address]):
        resolving(monkeypatch, answer)
        error = refusal(fetcher("images.test", networks=()), "http://images.test/a.jpg")
        assert isinstance(error, UrlNotAllowedError)
        assert "network" in error.detail


def test_the_address_that_was_judged_is_the_one_connected_to(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look at the name would lead elsewhere: there is none."""
    host.pages["/a"] = page(b"picture")
    port = host.netloc.rpartition(":")[2]
    asked = resolving(monkeypatch, ["127.0.0.1"])
    images = fetcher(f"images.test:{port}")
    assert images.fetch([f"http://images.test:{port}/a"]) == (b"picture",)
    assert asked == ["images.test"]
    assert host.seen == [("/a", f"images.test:{port}")]


def test_a_redirect_within_the_host_is_followed(host: PictureHost) -> None:
    host.pages |= {"/a": redirect("/b"), "/b": redirect(host.url("/c")), "/c": page(b"picture")}
    assert fetcher(host.netloc).fetch([host.url("/a")]) == (b"picture",)


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/", "file:///etc/passwd", "//elsewhere.test/"]
)
def test_a_redirect_is_judged_like_the_first_address(host: PictureHost, target: str) -> None:
    host.pages |= {"/a": redirect(target), "/b": page(b"picture")}
    error = refusal(fetcher(host.netloc), host.url("/b"), host.url("/a"))
    assert isinstance(error, UrlNotAllowedError)
    assert error.pointer == "/images/1"


def test_a_redirect_to_a_listed_name_that_leads_inside_is_refused(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.pages["/a"] = redirect("http://inside.test/")
    port = host.netloc.rpartition(":")[2]
    resolving(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    error = refusal(fetcher(f"a.test:{port}", "inside.test"), f"http://a.test:{port}/a")
    assert isinstance(error, UrlNotAllowedError)


def test_endless_redirects_end(host: PictureHost) -> None:
    host.pages["/a"] = redirect("/a")
    assert "redirects" in refusal(fetcher(host.netloc), host.url("/a")).detail
    assert len(host.seen) == 4


@pytest.mark.parametrize("status", [204, 301, 404, 500])
def test_another_answer_is_no_picture(host: PictureHost, status: int) -> None:
    host.pages["/a"] = page(b"sorry", status)
    assert str(status) in refusal(fetcher(host.netloc), host.url("/a")).detail


def test_pictures_that_are_too_large_together_are_given_up(host: PictureHost) -> None:
    host.pages |= {"/a": page(bytes(600)), "/b": page(bytes(401)), "/c": page(bytes(400))}
    images = fetcher(host.netloc, max_bytes=1_000)
    assert len(images.fetch([host.url("/a"), host.url("/c")])) == 2
    error = refusal(images, host.url("/a"), host.url("/b"))
    assert isinstance(error, UrlFetchError)
    assert error.pointer == "/images/1"


def test_nothing_is_unpacked(host: PictureHost) -> None:
    host.pages["/a"] = page(b"\x1f\x8bpacked", content_encoding="gzip")
    assert fetcher(host.netloc).fetch([host.url("/a")]) == (b"\x1f\x8bpacked",)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nx"])
def test_a_host_that_sends_byte_by_byte_is_given_up(first: bytes) -> None:
    """Each byte comes in time; all of them never would."""
    left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)  # for a client that gave up before it came

        def drip() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                connection.sendall(first)
                while not left.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        netloc = f"127.0.0.1:{server.getsockname()[1]}"
        error = refusal(fetcher(netloc, timeout_s=0.5), f"http://{netloc}/a")
        left.set()
        thread.join()
    assert isinstance(error, UrlFetchError)
    assert "0.5 s" in error.detail


def test_a_host_that_does_not_answer_http_is_the_urls_fault(host: PictureHost) -> None:
    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"\0\1\2 no http\r\n\r\n")

    host.pages["/a"] = nonsense
    assert isinstance(refusal(fetcher(host.netloc), host.url("/a")), UrlFetchError)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        netloc = f"127.0.0.1:{closed.getsockname()[1]}"
    assert isinstance(refusal(fetcher(netloc), f"http://{netloc}/a"), UrlFetchError)
