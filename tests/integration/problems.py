"""Requests that no well-behaved client sends, and the problem documents that must answer them."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

KIND = "multipart/form-data; boundary=b"
PRODUCT = {"shop_id": "refused", "product_id": "p"}


class Refusal(NamedTuple):
    """A problem: its status, its slug, and the JSON pointer of the field at fault."""

    status: int
    slug: str
    pointer: str | None = None


def assert_refused(response: httpx.Response, refusal: Refusal) -> None:
    problem = response.json()
    said = Refusal(
        response.status_code,
        problem["type"].removeprefix("/problems/"),
        problem.get("pointer"),
    )
    assert said == refusal, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == refusal.status
    assert problem["title"]
    assert problem["detail"]
    assert "Value error" not in problem["detail"], "pydantic's word, not ours"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["instance"] == response.request.url.path


def body(*parts: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """A multipart body by hand, of the type `KIND`; a third element is a file name."""
    out = b""
    for name, content, *file in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file[0]}"' if file else "")
        out += f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return out + b"--b--\r\n"


def head(path: str, **headers: object) -> bytes:
    """The head of a POST by hand."""
    lines = [f"POST {path} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def connected(base_url: str) -> socket.socket:
    address = urlsplit(base_url)
    return socket.create_connection((address.hostname, address.port), timeout=60)


def dripped(connection: socket.socket, byte: bytes, *, within_s: float = 60) -> bytes:
    """Send one more byte again and again until the service answers or hangs up: what it said."""
    deadline = time.monotonic() + within_s
    try:
        while not select.select([connection], [], [], 0.05)[0]:
            assert time.monotonic() < deadline, "the service waits on"
            connection.sendall(byte)
        return b"".join(iter(lambda: connection.recv(65_536), b""))
    except ConnectionError:  # it hung up while a byte was on its way
        return b""


def parsed(answer: bytes) -> tuple[Refusal, dict[str, str]]:
    """The refusal in an answer by hand, and its headers."""
    start, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = start.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(content)
    slug = problem["type"].removeprefix("/problems/")
    return Refusal(int(first.split()[1]), slug, problem.get("pointer")), headers
