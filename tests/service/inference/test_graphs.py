"""Sessions that fail: halved batches, a trial, and sessions that are opened again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from service.errors import InferenceError, StartupError
from service.inference import graphs as module
from service.inference.bundle import Bundle
from service.inference.graphs import Graphs
from service.inference.model import Model
from service.inference.session import Session
from service.settings import InferenceSettings


class Faulty:
    """A session that doubles its rows, and has room for only so many."""

    providers = ("CPUExecutionProvider",)

    def __init__(self, room: int) -> None:
        self.room = room
        self.runs: list[int] = []

    def run(self, **inputs: np.ndarray) -> list[np.ndarray]:
        rows = len(inputs["rows"])
        self.runs.append(rows)
        if rows > self.room:
            raise InferenceError("out of memory")
        return [2 * inputs["rows"] + inputs.get("shared", 0)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_S", 0.01)


def graphs_of(sessions: Callable[[], Faulty]) -> Graphs:
    """The trial is a run of one row."""

    def trial(opened: Mapping[str, Faulty]) -> None:
        opened["graph"].run(rows=np.ones(1))

    return Graphs(lambda: {"graph": sessions()}, trial)  # type: ignore[arg-type, dict-item]


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_batch_without_room_is_run_in_halves() -> None:
    session = Faulty(room=3)
    graphs = graphs_of(lambda: session)
    rows = np.arange(13.0)
    [found] = graphs.run_batch("graph", {"rows": rows}, {"shared": np.array([100.0])})
    np.testing.assert_array_equal(found, 2 * rows + 100)
    assert graphs.are_open


def test_sessions_that_do_not_run_at_all_are_opened_again() -> None:
    opened: list[Faulty] = []
    mended = threading.Event()

    def open_one() -> Faulty:
        if len(opened) == 1 and not mended.is_set():
            raise StartupError("still out of memory")
        opened.append(Faulty(room=8))
        return opened[-1]

    graphs = graphs_of(open_one)
    opened[0].room = 0
    with pytest.raises(InferenceError, match="out of memory"):
        graphs.run_batch("graph", {"rows": np.ones(4)})
    wait(lambda: not graphs.are_open)
    runs = list(opened[0].runs)
    with pytest.raises(InferenceError, match="started again"):
        graphs.run("graph", rows=np.ones(1))
    assert opened[0].runs == runs, "refused without a run"
    mended.set()
    wait(lambda: graphs.are_open)
    [found] = graphs.run("graph", rows=np.ones(1))
    assert found == 2
    assert len(opened) == 2


def test_sessions_that_open_and_still_fail_are_not_used() -> None:
    opened: list[Faulty] = []

    def open_one() -> Faulty:
        opened.append(Faulty(room=0 if len(opened) in (1, 2) else 8))
        return opened[-1]

    graphs = graphs_of(open_one)
    opened[0].room = 0
    with pytest.raises(InferenceError):
        graphs.run("graph", rows=np.ones(1))
    wait(lambda: len(opened) == 4 and graphs.are_open)
    graphs.run("graph", rows=np.ones(1))


def test_an_input_that_cannot_be_run_does_not_start_inference_again() -> None:
    session = Faulty(room=1)
    graphs = graphs_of(lambda: session)
    with pytest.raises(InferenceError):
        graphs.run("graph", rows=np.ones(2))
    wait(lambda: not graphs._in_doubt.locked())
    assert session.runs == [2, 1]
    assert graphs.are_open


def test_a_model_whose_sessions_break_recovers(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.open(Bundle.load(tiny_bundle), InferenceSettings(threads=1))
    size = model.manifest.dims.image_size
    frames = np.zeros((3, size, size, 3), np.uint8)
    expected = model.encode_clip(frames).embedding

    def broken(*_: object, **__: object) -> None:
        raise InferenceError("CUDA error 719")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", broken)
        with pytest.raises(InferenceError):
            model.encode_clip(frames)
        wait(lambda: not model.runs)
    wait(lambda: model.runs)
    np.testing.assert_array_equal(model.encode_clip(frames).embedding, expected)
