"""Who goes when, with whom, and who leaves without having been run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest

from service import deadlines
from service.deadlines import Deadline, working_under
from service.errors import ClientLeftError, DeadlineExceededError, InferenceError
from service.inference import batcher as module
from service.inference.batcher import Batcher, Kind
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.inference.session import Session
from service.settings import InferenceSettings
from service.telemetry import Telemetry


class Device:
    """Runs of strings, which it echoes: each begins when `goes_on` lets it."""

    def __init__(self, most_rows: int = 4) -> None:
        self.runs: list[list[str]] = []
        self._may_run = threading.Semaphore(0)
        self.clips = Kind("clip_encoder", most_rows, self._run)
        self.pictures = Kind("image_encoder", most_rows, self._run)
        self.fails_at = ""

    def goes_on(self, runs: int = 1) -> None:
        self._may_run.release(runs)

    def _run(self, items: Sequence[str]) -> list[str]:
        self.runs.append(list(items))
        assert self._may_run.acquire(timeout=60)
        if self.fails_at and self.fails_at in items:
            raise InferenceError(f"cannot run {self.fails_at}")
        return [item.upper() for item in items]


class Crowd:
    """Callers on threads of their own, who come one after the other."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.telemetry = Telemetry()
        self.batcher = Batcher(self.telemetry, wait_s=wait_s)
        self.threads = ThreadPoolExecutor(32)

    def asks(
        self,
        kind: Kind[str, str],
        item: str,
        rows: int = 1,
        *,
        deadline: Deadline | None = None,
        urgent: bool = True,
    ) -> Future[str]:
        """Returns once it is in line, or running."""
        before = self._seen()

        def ask() -> str:
            if not urgent:
                return self.batcher.run(kind, item, rows)
            with working_under(deadline or request()):
                return self.batcher.run(kind, item, rows)

        answer = self.threads.submit(copy_context().run, ask)
        until(lambda: self._seen() > before)
        return answer

    def _seen(self) -> float:
        return self.waiting() + self.metric("lpr_batch_size_sum")

    def waiting(self) -> float:
        return self.metric("lpr_batch_queue_size")

    def metric(self, name: str) -> float:
        graphs = ("image_encoder", "clip_encoder")
        registry = self.telemetry.registry
        return sum(registry.get_sample_value(name, {"graph": graph}) or 0 for graph in graphs)


async def _never() -> None:
    raise AssertionError("nobody asks here whether the client has left")


def request(within_s: float = 300) -> Deadline:
    return Deadline(within_s, _never)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def running(crowd: Crowd, device: Device, item: str = "first"):
    """A run that is under way for as long as the block; what comes meanwhile has to wait."""
    first = crowd.asks(device.clips, item)
    until(lambda: bool(device.runs))
    try:
        yield
    finally:
        device.goes_on(100)
    assert first.result(60) == item.upper()


def test_what_came_during_a_run_goes_together() -> None:
    crowd, device = Crowd(), Device(most_rows=4)
    with running(crowd, device):
        answers = [crowd.asks(device.clips, name) for name in "abcdef"]
        assert crowd.waiting() == 6
    assert [answer.result(60) for answer in answers] == list("ABCDEF")
    assert device.runs == [["first"], [*"abcd"], [*"ef"]]
    assert crowd.metric("lpr_batch_size_count") == 3
    assert crowd.metric("lpr_batch_size_sum") == 7
    assert crowd.metric("lpr_batch_wait_seconds_count") == 7
    until(lambda: crowd.metric("lpr_batch_seconds_count") == 3)
    assert crowd.waiting() == 0


def test_a_request_knows_how_long_it_has_waited() -> None:
    crowd, device = Crowd(), Device()
    waiting = request()
    with running(crowd, device):
        answer = crowd.asks(device.clips, "a", deadline=waiting)
        before = time.monotonic()
        until(lambda: time.monotonic() > before)
        assert waiting.waited_s == 0
    answer.result(60)
    assert 0 < waiting.waited_s < 60


def test_alone_it_waits_for_nobody() -> None:
    crowd, device = Crowd(), Device()
    device.goes_on(2)
    assert crowd.asks(device.clips, "a").result(60) == "A"
    assert crowd.asks(device.clips, "b").result(60) == "B"
    assert device.runs == [["a"], ["b"]]


def test_the_first_waits_for_company_where_that_is_asked_for() -> None:
    crowd, device = Crowd(wait_s=300), Device(most_rows=3)
    device.goes_on(1)
    answers = [crowd.asks(device.clips, name) for name in "abc"]
    assert [answer.result(60) for answer in answers] == list("ABC")
    assert device.runs == [[*"abc"]], "a full run waits no longer"


def test_company_that_does_not_come_is_not_waited_for_longer() -> None:
    crowd, device = Crowd(wait_s=0.05), Device(most_rows=3)
    device.goes_on(1)
    assert crowd.asks(device.clips, "a").result(60) == "A"


def test_recognition_goes_before_the_background() -> None:
    crowd, device = Crowd(), Device(most_rows=2)
    with running(crowd, device):
        bulk = [crowd.asks(device.pictures, name, urgent=False) for name in "xyz"]
        clips = [crowd.asks(device.clips, name) for name in "abc"]
        post = crowd.asks(device.pictures, "p")
    for answer in (*bulk, *clips, post):
        answer.result(60)
    assert device.runs == [["first"], ["a", "b"], ["c"], ["p"], ["x", "y"], ["z"]]


def test_the_background_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd, device = Crowd(), Device()
    with running(crowd, device):
        bulk = crowd.asks(device.pictures, "x", urgent=False)
        clip = crowd.asks(device.clips, "a")
        monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    bulk.result(60)
    clip.result(60)
    assert device.runs == [["first"], ["x"], ["a"]]


def test_rows_count_and_an_item_is_never_parted() -> None:
    crowd, device = Crowd(), Device(most_rows=16)
    with running(crowd, device):
        sizes = {"a": 10, "b": 7, "c": 6, "d": 40}
        answers = [crowd.asks(device.pictures, name, rows) for name, rows in sizes.items()]
    for answer in answers:
        answer.result(60)
    assert device.runs == [["first"], ["a"], ["b", "c"], ["d"]]


def test_who_has_left_is_never_encoded() -> None:
    crowd, device = Crowd(), Device(most_rows=8)
    leaving, late = request(), request()
    with running(crowd, device):
        left = crowd.asks(device.clips, "left", deadline=leaving)
        over = crowd.asks(device.clips, "late", deadline=late)
        stays = crowd.asks(device.clips, "stays")
        leaving.abandon()
        late.extend(0.0)
    assert stays.result(60) == "STAYS"
    with pytest.raises(ClientLeftError):
        left.result(60)
    with pytest.raises(DeadlineExceededError):
        over.result(60)
    assert device.runs == [["first"], ["stays"]]
    assert crowd.waiting() == 0


def test_a_client_that_leaves_takes_nobody_along() -> None:
    """The thread that runs a batch may be one whose own request is over."""
    crowd, device = Crowd(), Device()
    leaving = request()
    checks: list[Exception | None] = []

    def run(items: Sequence[str]) -> Sequence[str]:
        leaving.abandon()
        deadlines.check()
        checks.append(None)
        return items

    kind = Kind("clip_encoder", 8, run)
    with running(crowd, device):
        led = crowd.asks(kind, "leads", deadline=leaving)
        mate = crowd.asks(kind, "mate")
    assert mate.result(60) == "mate"
    assert led.result(60) == "leads"
    assert checks == [None]


def test_an_error_is_of_the_one_that_has_it() -> None:
    crowd, device = Crowd(), Device(most_rows=4)
    device.fails_at = "b"
    with running(crowd, device):
        answers = [crowd.asks(device.clips, name) for name in "abc"]
    assert answers[0].result(60) == "A"
    assert answers[2].result(60) == "C"
    with pytest.raises(InferenceError, match="cannot run b"):
        answers[1].result(60)
    assert device.runs == [["first"], [*"abc"], ["a"], ["b"], ["c"]]


def test_a_bug_in_a_run_leaves_nobody_waiting() -> None:
    crowd, device = Crowd(), Device()

    def run(items: Sequence[str]) -> Sequence[str]:
        raise KeyError(items[0])

    kind = Kind("clip_encoder", 8, run)
    with running(crowd, device):
        answers = [crowd.asks(kind, name) for name in "ab"]
    for name, answer in zip("ab", answers, strict=True):
        with pytest.raises(KeyError, match=name):
            answer.result(60)


def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 3)
    crowd, device = Crowd(), Device(most_rows=1)
    outside = request()
    with running(crowd, device):
        inside = [crowd.asks(device.clips, name) for name in "abc"]

        def ask() -> str:
            with working_under(outside):
                return crowd.batcher.run(device.clips, "d")

        kept_out = crowd.threads.submit(ask)
        impatient = crowd.threads.submit(lambda: _ask(crowd, device, request(within_s=0.1)))
        with pytest.raises(DeadlineExceededError):
            impatient.result(60)
        assert crowd.waiting() == 3, "who does not fit in waits outside"
        assert not kept_out.done()
    assert [answer.result(60) for answer in inside] == list("ABC")
    assert kept_out.result(60) == "D", "and comes in as soon as there is room"


def _ask(crowd: Crowd, device: Device, deadline: Deadline) -> str:
    with working_under(deadline):
        return crowd.batcher.run(device.clips, "late")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def drawn(bundle: Bundle, count: int, seed: int) -> np.ndarray:
    size = bundle.manifest.dims.image_size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def together(
    model: Model, monkeypatch: pytest.MonkeyPatch, asks: Sequence[Callable[[], object]]
) -> list[object]:
    """What each gets where all but the first wait while the first is run."""
    first, others = threading.Event(), threading.Event()
    run = Session.run

    def held(session: Session, **inputs: np.ndarray) -> list[np.ndarray]:
        if not first.is_set():
            first.set()
            assert others.wait(60)
        return run(session, **inputs)

    monkeypatch.setattr(Session, "run", held)
    with ThreadPoolExecutor(len(asks)) as pool:
        answers = [pool.submit(asks[0])]
        assert first.wait(60)
        answers += [pool.submit(ask) for ask in asks[1:]]
        until(lambda: len(model._batcher._line) == len(asks) - 1)
        others.set()
        return [answer.result(60) for answer in answers]


def test_clips_that_go_together_are_encoded_as_each_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = Telemetry()
    model = Model(bundle, InferenceSettings(threads=1, batch_size=8), Batcher(telemetry))
    clips = [drawn(bundle, count, seed=count) for count in (10, 1, 4, 10, 7)]
    alone = [model.encode_clip(clip) for clip in clips]
    asks = [lambda clip=clip: model.encode_clip(clip) for clip in clips]
    found = together(model, monkeypatch, asks)
    largest = {"graph": "clip_encoder", "le": "2.0"}
    small = telemetry.registry.get_sample_value("lpr_batch_size_bucket", largest)
    runs = telemetry.registry.get_sample_value("lpr_batch_size_count", {"graph": "clip_encoder"})
    assert (small, runs) == (6, 7), "five alone, one held, and four together"
    states = model.encode_pictures(drawn(bundle, 3, seed=0)).match_state
    for left, right in zip(found, alone, strict=True):
        for name in ("embedding", "keys", "values"):
            np.testing.assert_allclose(
                getattr(left, name), getattr(right, name), rtol=0, atol=1e-4, err_msg=name
            )
        np.testing.assert_array_equal(left.token_mask, right.token_mask)
        np.testing.assert_allclose(
            model.match(states, left), model.match(states, right), rtol=0, atol=1e-4
        )


def test_pictures_of_several_callers_come_back_to_each(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(bundle, InferenceSettings(threads=1))
    posts = [drawn(bundle, count, seed=count) for count in (2, 3, 1, 16, 5)]
    alone = [model.encode_pictures(post) for post in posts]
    asks = [lambda post=post: model.encode_pictures(post) for post in posts]
    for left, right in zip(together(model, monkeypatch, asks), alone, strict=True):
        np.testing.assert_allclose(left.embedding, right.embedding, rtol=0, atol=1e-4)
        np.testing.assert_allclose(left.match_state, right.match_state, rtol=0, atol=1e-4)
