"""A part that fails or hangs is left alone, tried in the background, and used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service import breaker as module
from service.breaker import Breaker
from service.errors import BadInputError, DeadlineExceededError, IndexUnavailableError

REFUSED = "tried again meanwhile"


SLOW_S = 3.0


class Clock:
    """Moves when it is told to: a busy machine makes no call hang."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Part:
    def __init__(self) -> None:
        self.works = False
        self.probed = threading.Semaphore(0)

    def probe(self) -> None:
        self.probed.release()
        if not self.works:
            raise IndexUnavailableError("down")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_S", 0.01)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
def breaker(part: Part) -> Iterator[Breaker]:
    breaker = Breaker("the part", part.probe, IndexUnavailableError, slow_s=SLOW_S)
    yield breaker
    breaker.close()


def fail(breaker: Breaker, error: Exception | None = None) -> None:
    error = error or IndexUnavailableError("down")
    with pytest.raises(type(error), match=str(error)), breaker.call():
        raise error


def is_refused(breaker: Breaker) -> bool:
    try:
        with breaker.call():
            return False
    except IndexUnavailableError as error:
        assert REFUSED in error.detail
        return True


def wait_closed(breaker: Breaker) -> None:
    for _ in range(3_000):
        if not breaker.is_open:
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not close")


def test_failures_in_a_row_open_it_and_an_answer_closes_it(breaker: Breaker, part: Part) -> None:
    for _ in range(3):
        assert not breaker.is_open
        fail(breaker)
    assert is_refused(breaker)
    for _ in range(3):
        assert part.probed.acquire(timeout=30), "it is tried without any request"
    assert is_refused(breaker)
    part.works = True
    wait_closed(breaker)
    assert not is_refused(breaker)


def test_failures_among_successes_and_other_errors_do_not_open_it(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker)
        fail(breaker)
        assert not is_refused(breaker)
    for _ in range(5):
        fail(breaker, BadInputError("not the part's fault"))
    assert not breaker.is_open


def test_the_end_of_a_request_says_nothing_of_the_part(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker, DeadlineExceededError("too long"))
    assert not breaker.is_open
    fail(breaker)
    fail(breaker)
    fail(breaker, DeadlineExceededError("too long"))
    fail(breaker)
    assert is_refused(breaker), "nor does it count as an answer"


def test_while_a_call_hangs_the_next_ones_are_refused(
    breaker: Breaker, part: Part, clock: Clock
) -> None:
    entered, end = threading.Event(), threading.Event()

    def hang() -> None:
        with pytest.raises(IndexUnavailableError, match="timeout"), breaker.call():
            entered.set()
            end.wait(30)
            raise IndexUnavailableError("timeout")

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert entered.wait(30)
    clock.now += SLOW_S
    assert not is_refused(breaker), "it may still be only slow"
    clock.now += 0.1
    assert is_refused(breaker)
    part.works = True
    wait_closed(breaker)
    end.set()
    hanging.join()
    assert not breaker.is_open, "what hung before says nothing of today"
    assert not is_refused(breaker)


def test_one_call_that_hung_is_enough(breaker: Breaker, clock: Clock) -> None:
    with pytest.raises(IndexUnavailableError, match="timeout"), breaker.call():
        clock.now += SLOW_S + 0.1
        raise IndexUnavailableError("timeout")
    assert is_refused(breaker)


def test_a_long_call_that_comes_further_does_not_hang(breaker: Breaker, clock: Clock) -> None:
    with pytest.raises(IndexUnavailableError, match="in its last part"), breaker.call():
        for _ in range(6):
            clock.now += 0.9 * SLOW_S
            breaker.progress()
        raise IndexUnavailableError("in its last part")
    assert not breaker.is_open


def test_a_call_that_is_known_to_be_long_does_not_hang(breaker: Breaker, clock: Clock) -> None:
    with breaker.call(is_long=True):
        clock.now += 10 * SLOW_S
        assert not is_refused(breaker)
    assert not is_refused(breaker)
    for _ in range(3):
        with pytest.raises(IndexUnavailableError, match="timeout"), breaker.call(is_long=True):
            raise IndexUnavailableError("timeout")
    assert is_refused(breaker), "that it fails counts as with any other"


def test_where_calls_may_take_their_time_they_do(part: Part, clock: Clock) -> None:
    breaker = Breaker("the part", part.probe, IndexUnavailableError, slow_s=None)
    with pytest.raises(IndexUnavailableError, match="at last"), breaker.call():
        clock.now += 1_000
        assert not is_refused(breaker)
        raise IndexUnavailableError("at last")
    assert not breaker.is_open
