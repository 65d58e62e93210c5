from __future__ import annotations

import httpx
import pytest

from service.client import (
    Client,
    JobUnfinishedError,
    ProblemError,
    ServiceNotReadyError,
    ServiceUnreachableError,
)


class Clock:
    """Of the client alone: its pauses take no time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.client.time", clock)
    return clock


def client_of(answers: list[httpx.Response]) -> Client:
    """A client whose service gives these answers in turn."""
    client = Client("http://service", patience_s=10)
    transport = httpx.MockTransport(lambda _: answers.pop(0))
    client._http = httpx.Client(base_url="http://service", transport=transport)
    return client


def busy(status: int = 429, **headers: str) -> httpx.Response:
    problem = {"type": "/problems/overloaded", "detail": "too many"}
    return httpx.Response(status, json=problem, headers=headers)


def test_a_busy_service_is_asked_again_when_it_said(clock: Clock) -> None:
    answers = [busy(**{"retry-after": "3"}), busy(503), httpx.Response(200, json={"a": 1})]
    client = client_of(answers)
    assert client.info() == {"a": 1}
    assert clock.now == pytest.approx(4)


def test_patience_ends(clock: Clock) -> None:
    client = client_of([busy(**{"retry-after": "4"}) for _ in range(9)])
    with pytest.raises(ProblemError) as caught:
        client.info()
    assert (caught.value.status, caught.value.slug) == (429, "overloaded")
    assert clock.now == pytest.approx(8)


def test_a_wrong_request_is_not_sent_again() -> None:
    problem = {"type": "/problems/shop-not-found", "detail": "no shop 'x'"}
    answers = [httpx.Response(404, json=problem)]
    with pytest.raises(ProblemError, match=r"no shop 'x' \[404 shop-not-found\]"):
        client_of(answers).info()
    assert not answers


def test_what_a_repeated_delete_does_not_find_is_deleted() -> None:
    gone = httpx.Response(404, json={"type": "/problems/product-not-found", "detail": "no"})
    client_of([busy(503), gone]).delete_product("s", "p")
    with pytest.raises(ProblemError):
        client_of([gone]).delete_product("s", "p")
    with pytest.raises(ProblemError):
        client_of([busy(503), gone]).product("s", "p")


def test_an_answer_that_is_no_problem_document_is_told_by_its_status() -> None:
    with pytest.raises(ProblemError, match="status 502"):
        client_of([httpx.Response(502, text="<html>")]).info()


def test_waiting_ends_with_what_was_last_heard() -> None:
    client = client_of([busy(503) for _ in range(50)])
    with pytest.raises(ServiceNotReadyError, match="too many"):
        client.wait_ready(2)


def test_nobody_there_is_said() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachableError):
        client.wait_ready(0)


def test_an_address_without_a_scheme_is_taken_as_curl_takes_it() -> None:
    with Client("127.0.0.1:9/") as client:
        assert client.base_url == "http://127.0.0.1:9"
    with Client("https://shop.example") as client:
        assert client.base_url == "https://shop.example"


def job(error: dict[str, str] | None, *, ended: bool) -> httpx.Response:
    items = [{"item": 0, "product_id": "p", "error": error}]
    body = {"job_id": "j", "summary": "s", "ended_at": "now" if ended else None, "items": items}
    return httpx.Response(202, json=body)


def test_a_product_that_was_only_accepted_is_waited_for() -> None:
    product = httpx.Response(200, json={"product_id": "p"})
    answers = [job(None, ended=False), job(None, ended=False), job(None, ended=True), product]
    assert client_of(answers).put_product("s", "p", [b"x"]) == {"product_id": "p"}
    assert not answers


def test_a_product_that_fails_later_is_an_error() -> None:
    error = {"type": "/problems/given-up", "detail": "five times"}
    answers = [job(None, ended=False), job(error, ended=True)]
    with pytest.raises(ProblemError, match="five times"):
        client_of(answers).put_product("s", "p", [b"x"])


def test_a_product_that_is_not_searchable_in_time_is_told() -> None:
    answers = [job(None, ended=False) for _ in range(200)]
    with pytest.raises(JobUnfinishedError, match="job j"):
        client_of(answers).put_product("s", "p", [b"x"])
    assert answers
