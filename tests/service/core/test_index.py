"""Against the real Milvus Lite."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from milvus_lite.engine.collection import Collection
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from service.deadlines import Deadline, working_under
from service.errors import (
    DeadlineExceededError,
    IndexUnavailableError,
    InferenceError,
    StartupError,
)
from service.gallery.entries import Entries, Picture
from service.gallery.index import _LOOKS, _UNFLUSHED_ROWS, VectorIndex, WriteTime
from service.gallery.rows import Row, row_id
from service.settings import MilvusSettings
from service.telemetry import Telemetry

E, D = 8, 6
NASTY = 'x" or id != "'


def open_index(folder: Path, bundle_id: str = "rice-test-0123456789ab") -> VectorIndex:
    index = open_unfilled(folder, bundle_id)
    index.complete()
    return index


def open_unfilled(
    folder: Path, bundle_id: str = "rice-test-0123456789ab", catalogue_id: str = "c0"
) -> VectorIndex:
    return VectorIndex(
        MilvusSettings(),
        folder / "milvus.db",
        catalogue_id=catalogue_id,
        bundle_id=bundle_id,
        telemetry=Telemetry(),
        written=WriteTime(),
        embedding=E,
        match_state=D,
    )


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VectorIndex]:
    index = open_index(tmp_path)
    yield index
    index.close()


def entries(shop_id: str, *product_ids: str, seed: int = 0, title: str | None = None) -> Entries:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(len(product_ids), E)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    states = rng.normal(size=(len(product_ids), D)).astype(np.float32)
    pictures = tuple(Picture(name, title, f"{seed}-{name}"[:60]) for name in product_ids)
    return Entries(shop_id, pictures, embeddings, states)


def by_picture(found: Entries) -> dict[Picture, tuple[np.ndarray, np.ndarray]]:
    return dict(zip(found.pictures, zip(found.embeddings, found.states, strict=True), strict=True))


def test_what_was_put_in_comes_out(index: VectorIndex) -> None:
    put = entries("shop", "a", "b", title="Ünï 'title'")
    index.upsert(put)
    found = by_picture(index.load("shop", 10))
    for picture, (embedding, state) in by_picture(put).items():
        np.testing.assert_array_equal(found[picture][0], embedding)
        np.testing.assert_allclose(found[picture][1], state, rtol=1e-3)


def test_a_search_gives_the_nearest_of_the_shop_with_their_cosines(index: VectorIndex) -> None:
    names = [f"p{i}" for i in range(50)]
    put = entries("shop", *names)
    index.upsert(put)
    index.upsert(entries("other", *names, seed=1))
    clip = put.embeddings[7]
    found = index.search("shop", clip, 5)
    best = np.argsort(-(put.embeddings @ clip))[:5]
    assert found.pictures == tuple(put.pictures[row] for row in best)
    np.testing.assert_allclose(found.cosines, (put.embeddings @ clip)[best], atol=1e-6)
    np.testing.assert_allclose(found.states, put.states[best], rtol=1e-3)
    assert not found.exact


@pytest.mark.parametrize("shop_id", [NASTY, "' or 1 == 1", "\\", "人" * 128, "%", "{a}"])
def test_a_shop_id_is_taken_literally(index: VectorIndex, shop_id: str) -> None:
    index.upsert(entries("shop", "mine"))
    assert index.load(shop_id, 10).pictures == ()
    index.upsert(entries(shop_id, NASTY, seed=1))
    assert [picture.product_id for picture in index.load(shop_id, 10).pictures] == [NASTY]
    assert len(list(index.scan(shop_id))) == 1
    assert index.search(shop_id, entries("", "q").embeddings[0], 9).pictures[0].product_id == NASTY


def test_the_same_picture_again_overwrites_its_row(index: VectorIndex) -> None:
    index.upsert(entries("shop", "a"))
    index.upsert(entries("shop", "a"))
    assert len(list(index.scan())) == 1


def test_a_new_title_is_another_row_so_that_the_old_one_is_noticed() -> None:
    assert row_id("s", Picture("p", None, "i")) != row_id("s", Picture("p", "T", "i"))
    assert row_id("s", Picture("p", "x", "i")) != row_id("sp", Picture("", "x", "i"))


def test_deleted_rows_are_found_no_more(index: VectorIndex) -> None:
    put = entries("shop", "a", "b")
    index.upsert(put)
    index.delete([row_id("shop", put.pictures[0]), "not-there"])
    assert index.load("shop", 10).pictures == (put.pictures[1],)
    assert index.search("shop", put.embeddings[0], 10).pictures == (put.pictures[1],)
    assert list(index.scan("shop")) == [Row(row_id("shop", put.pictures[1]), "shop", "b")]


def test_all_keys_are_told_across_pages(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.index._READ_ROWS", 7)
    put = entries("shop", *(f"p{i}" for i in range(40)))
    index.upsert(put)
    expected = {Row(row_id("shop", p), "shop", p.product_id) for p in put.pictures}
    assert set(index.scan()) == expected
    assert set(index.rows_of("shop", [p.product_id for p in put.pictures])) == expected


def test_the_rows_of_some_products(index: VectorIndex) -> None:
    put = entries("shop", "a", "b", NASTY)
    index.upsert(put)
    index.upsert(entries("other", "a", seed=1))
    rows = [Row(row_id("shop", picture), "shop", picture.product_id) for picture in put.pictures]
    assert list(index.rows_of("shop", ["a"])) == rows[:1]
    assert set(index.rows_of("shop", ["b", NASTY, "not-there"])) == set(rows[1:])
    assert list(index.rows_of("shop", [])) == []


def test_more_rows_of_products_than_one_answer_has(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = entries("shop", "a", "b", "c")
    index.upsert(put)
    monkeypatch.setattr("service.gallery.index._MOST_ROWS", 2)
    found = list(index.rows_of("shop", ["a", "b", "c"]))
    assert sorted(row.product_id for row in found) == ["a", "b", "c"]


def test_a_load_stops_at_its_limit(index: VectorIndex) -> None:
    index.upsert(entries("shop", *(f"p{i}" for i in range(10))))
    assert len(index.load("shop", 4).pictures) == 4


def test_nothing_is_an_answer_too(index: VectorIndex) -> None:
    assert index.load("shop", 10).embeddings.shape == (0, E)
    found = index.search("shop", entries("", "q").embeddings[0], 5)
    assert found.states.shape == (0, D)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["embeddings", "states"])
def test_vectors_that_are_no_numbers_are_refused(
    index: VectorIndex, spoil: float, what: str
) -> None:
    put = entries("shop", "a", "b")
    getattr(put, what)[1, 2] = spoil
    with pytest.raises(InferenceError):
        index.upsert(put)
    assert not list(index.scan())


def test_a_state_too_large_for_its_number_format_is_refused(index: VectorIndex) -> None:
    put = entries("shop", "a")
    put.states[0, 0] = 1e6
    with pytest.raises(InferenceError):
        index.upsert(put)


def test_a_reopened_index_has_everything(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.upsert(entries("shop", "a"))
    index.close()
    again = open_index(tmp_path)
    assert len(again.load("shop", 10).pictures) == 1
    again.close()


def test_another_bundle_has_a_collection_of_its_own(index: VectorIndex, tmp_path: Path) -> None:
    index.upsert(entries("shop", "a"))
    other = open_index(tmp_path, "rice-other-ba9876543210")
    assert not list(other.scan())
    assert len(list(index.scan())) == 1


def test_another_catalogue_has_a_collection_of_its_own(index: VectorIndex, tmp_path: Path) -> None:
    """Or two services with a catalogue each would take each other's rows for left over."""
    index.upsert(entries("shop", "a"))
    other = open_unfilled(tmp_path, catalogue_id="c1")
    other.complete()
    assert not list(other.scan())
    assert len(list(index.scan())) == 1


async def nobody_leaves() -> None:
    await asyncio.Event().wait()


def test_a_call_cut_short_by_its_request_says_nothing_of_milvus(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = Deadline(3600, nobody_leaves)

    def slow(*_: object, **__: object) -> None:
        deadline.extend(0.0)
        raise grpc.FutureTimeoutError

    monkeypatch.setattr(MilvusClient, "query", slow)
    with working_under(deadline), pytest.raises(DeadlineExceededError):
        index.load("shop", 5)


@pytest.mark.parametrize(
    "foreign",
    [
        MilvusException(message="boom"),
        grpc.RpcError("deadline"),
        grpc.FutureTimeoutError(),
        ValueError("Cannot invoke RPC on closed channel!"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_foreign_error_becomes_ours(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch, foreign: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise foreign

    for method in ("upsert", "delete", "query", "query_iterator", "search"):
        monkeypatch.setattr(MilvusClient, method, fail)
    put = entries("shop", "a")
    for call in (
        lambda: index.upsert(put),
        lambda: index.delete(["a"]),
        lambda: list(index.scan()),
        lambda: list(index.rows_of("shop", ["a"])),
        lambda: index.load("shop", 5),
        lambda: index.search("shop", put.embeddings[0], 5),
    ):
        with pytest.raises(IndexUnavailableError):
            call()


def test_nothing_is_read_from_an_index_that_is_not_filled_yet(tmp_path: Path) -> None:
    index = open_unfilled(tmp_path)
    put = entries("shop", "a", "b")
    index.upsert(put)
    for _ in range(5):  # which is not taken for Milvus being away
        for read in (
            lambda: index.load("shop", 10),
            lambda: index.search("shop", put.embeddings[0], 5),
        ):
            with pytest.raises(IndexUnavailableError, match="filled"):
                read()
    index.delete([row_id("shop", put.pictures[1])])
    index.close()
    successor = open_unfilled(tmp_path)
    assert successor.is_filling, "its predecessor died while it was filling"
    assert len(list(successor.scan())) == 1
    successor.complete()
    successor.complete()
    assert successor.load("shop", 10).pictures == put.pictures[:1]
    successor.upsert(put)
    successor.close()
    again = open_unfilled(tmp_path)
    assert not again.is_filling
    assert len(again.load("shop", 10).pictures) == 2
    again.close()


def test_a_place_where_it_cannot_be_is_a_startup_error(tmp_path: Path) -> None:
    (tmp_path / "milvus.db").write_text("not a folder")
    with pytest.raises(StartupError, match=r"milvus\.db"):
        open_index(tmp_path)


def test_a_dropped_collection_is_gone_and_comes_back_only_when_it_is_opened(
    tmp_path: Path,
) -> None:
    index = open_index(tmp_path)
    index.upsert(entries("shop", "a"))
    index.drop()
    with pytest.raises(IndexUnavailableError):
        index.upsert(entries("shop", "b"))
    assert index._client.list_collections() == []
    again = open_unfilled(tmp_path)
    assert again.is_filling
    again.drop()
    assert index._client.list_collections() == []
    index.close()


def test_a_catalogues_alias_leads_to_the_bundle_that_took_it_last(tmp_path: Path) -> None:
    one = open_index(tmp_path)
    other = open_index(tmp_path, "rice-other-ba9876543210")
    elsewhere = open_unfilled(tmp_path, catalogue_id="c1")
    elsewhere.complete()
    elsewhere.take_alias()
    for index in (one, other, other, one):
        index.take_alias()
        assert one._client.describe_alias(index.alias)["collection_name"] == index.collection
    assert one._client.list_aliases(elsewhere.collection)["aliases"] == [elsewhere.alias]
    for index in (one, other, elsewhere):
        index.close()


def test_no_write_is_lost_while_an_index_is_completed(tmp_path: Path) -> None:
    index = open_unfilled(tmp_path)
    stop = threading.Event()
    written: SimpleQueue[str] = SimpleQueue()

    def write(lane: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            index.upsert(entries("shop", f"{lane}-{number}", seed=number))
            written.put(f"{lane}-{number}")

    with ThreadPoolExecutor(2) as lanes:
        running = [lanes.submit(write, lane) for lane in range(2)]
        known = {written.get(timeout=60) for _ in range(5)}
        index.complete()
        known |= {written.get(timeout=60) for _ in range(5)}
        stop.set()
        for lane in running:
            lane.result()
    while not written.empty():
        known.add(written.get())
    assert {p.product_id for p in index.load("shop", 10_000).pictures} == known
    index.close()


_READS: dict[str, Callable[[VectorIndex], Iterable[Row | Picture]]] = {
    "load": lambda index: index.load("shop", 100).pictures,
    "search": lambda index: index.search("shop", np.ones(E, np.float32), 100).pictures,
    "scan": lambda index: index.scan("shop"),
    "rows_of": lambda index: index.rows_of("shop", ["a", "b", "gone"]),
}


@pytest.mark.parametrize("flushes", [1, _LOOKS])
@pytest.mark.parametrize("read", _READS)
def test_rows_that_are_flushed_while_they_are_looked_for_are_found(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch, read: str, flushes: int
) -> None:
    """Between the moments in which Lite looks at its files and at its memory."""
    put = entries("shop", "a", "gone")
    index.upsert(put)
    index._client.flush(index.collection)
    index.upsert(entries("shop", "b", seed=1))
    index.delete([row_id("shop", put.pictures[1])])
    batches = [
        entries("other", *(f"{number}-{place}" for place in range(_UNFLUSHED_ROWS)))
        for number in range(flushes)
    ]
    earlier = iter(range(read == "scan"))  # it asks twice for a page
    writing = threading.Lock()  # for a write looks at the files too
    look_at_files = Collection._read_snapshot

    def look(collection: Collection) -> object:
        seen = look_at_files(collection)
        if next(earlier, None) is None and batches and writing.acquire(blocking=False):
            with ThreadPoolExecutor(1) as writer:
                writer.submit(index.upsert, batches.pop()).result()
            writing.release()
        return seen

    monkeypatch.setattr(Collection, "_read_snapshot", look)
    assert {found.product_id for found in _READS[read](index)} == {"a", "b"}
    assert not batches, "all of them were written meanwhile"


def test_rows_are_counted(index: VectorIndex) -> None:
    assert index.count() == 0
    index.upsert(entries("shop", "a", "b"))
    index.upsert(entries("other", "a"))
    index.upsert(entries("other", "a"))  # the same row again
    assert index.count() == 3
