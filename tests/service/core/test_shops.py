from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from service.errors import IndexUnavailableError
from service.gallery.entries import Entries, Picture
from service.gallery.shops import HotShops, nearest
from service.settings import SearchSettings
from tests.service.fakes import FakeEpochs, FakeIndex

CLIP = np.array([1, 0, 0], np.float32)


def fill(index: FakeIndex, shop_id: str, pictures: int) -> None:
    rng = np.random.default_rng(pictures)
    vectors = rng.normal(size=(pictures, 3)).astype(np.float32)
    names = tuple(Picture(f"p{i}", None, "0") for i in range(pictures))
    index.upsert(Entries(shop_id, names, vectors, vectors))


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


@pytest.fixture
def epochs() -> FakeEpochs:
    return FakeEpochs()


def test_a_small_shop_is_loaded_once_and_searched_whole(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    fill(index, "s", 5)
    shops = HotShops(index, epochs, SearchSettings())
    for _ in range(3):
        found = shops.candidates("s", CLIP)
        assert found.exact
        assert len(found.pictures) == 5
        expected = [index.rows[key][2] @ CLIP for key in index.rows]
        np.testing.assert_allclose(found.cosines, expected)
    assert (index.loads, index.searches) == (1, 0)
    assert (shops.hits, shops.misses) == (2, 1)


def test_a_shop_is_hot_while_what_is_kept_is_all_it_has(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    shops = HotShops(index, epochs, SearchSettings())
    fill(index, "s", 2)
    assert not shops.is_hot("s")
    shops.candidates("s", CLIP)
    shops.candidates("empty", CLIP)
    assert shops.is_hot("s") and not shops.is_hot("empty")
    epochs.renew("s")
    assert not shops.is_hot("s"), "it may have been deleted"


def test_a_write_on_any_replica_is_seen_by_the_next_request(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    shops = HotShops(index, epochs, SearchSettings())
    fill(index, "s", 2)
    shops.candidates("s", CLIP)
    fill(index, "s", 3)
    epochs.renew("s")
    assert len(shops.candidates("s", CLIP).pictures) == 3


def test_without_epochs_nothing_kept_is_trusted(index: FakeIndex, epochs: FakeEpochs) -> None:
    shops = HotShops(index, epochs, SearchSettings())
    fill(index, "s", 2)
    shops.candidates("s", CLIP)
    epochs.down = True
    fill(index, "s", 3)
    assert len(shops.candidates("s", CLIP).pictures) == 3
    assert len(shops.candidates("s", CLIP).pictures) == 3
    assert index.loads == 3


def test_a_write_while_the_shop_is_being_loaded_is_seen_next(epochs: FakeEpochs) -> None:
    class Racing(FakeIndex):
        def load(self, shop_id: str, limit: int, since: int | None = None) -> Entries:
            entries = super().load(shop_id, limit, since)
            if self.loads == 1:  # somebody writes just after these rows were read
                fill(self, "s", 3)
                epochs.renew("s")
            return entries

    index = Racing()
    fill(index, "s", 2)
    shops = HotShops(index, epochs, SearchSettings())
    shops.candidates("s", CLIP)
    assert len(shops.candidates("s", CLIP).pictures) == 3


LARGE = SearchSettings(exact_limit=8, candidates=4)


def wait_for_background(shops: HotShops) -> None:
    shops._background.submit(lambda: None).result()


def test_a_large_shop_is_searched_by_the_index_until_it_is_loaded(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    fill(index, "s", 20)
    shops = HotShops(index, epochs, LARGE)
    by_index = shops.candidates("s", CLIP)
    wait_for_background(shops)
    loads = index.loads
    from_memory = shops.candidates("s", CLIP)
    assert (index.loads, index.searches) == (loads, 1)
    assert by_index.pictures == from_memory.pictures
    assert len(from_memory.pictures) == 4
    np.testing.assert_array_equal(by_index.cosines, from_memory.cosines)
    np.testing.assert_array_equal(by_index.states, from_memory.states)
    assert not by_index.exact
    assert not from_memory.exact


def test_a_write_to_a_large_shop_is_seen_by_the_next_request(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    fill(index, "s", 20)
    shops = HotShops(index, epochs, LARGE)
    shops.candidates("s", CLIP)
    wait_for_background(shops)
    index.rows.clear()
    fill(index, "s", 30)
    epochs.renew("s")
    expected = index.search("s", CLIP, 4).pictures
    assert shops.candidates("s", CLIP).pictures == expected
    wait_for_background(shops)
    assert shops.candidates("s", CLIP).pictures == expected


def test_a_large_shop_is_left_to_the_index_without_epochs(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    fill(index, "s", 20)
    shops = HotShops(index, epochs, LARGE)
    epochs.down = True
    for searches in (1, 2):
        shops.candidates("s", CLIP)
        wait_for_background(shops)
        assert index.searches == searches
    assert shops.bytes == 0


@pytest.mark.parametrize("bound", [{"hot_limit": 19}, {"hot_shops_bytes": 1_000}])
def test_a_huge_shop_is_always_left_to_the_index(
    index: FakeIndex, epochs: FakeEpochs, bound: dict[str, int]
) -> None:
    fill(index, "s", 20)
    shops = HotShops(index, epochs, LARGE.model_copy(update=bound))
    shops.candidates("s", CLIP)
    wait_for_background(shops)
    loads = index.loads
    for _ in range(3):
        assert len(shops.candidates("s", CLIP).pictures) == 4
        wait_for_background(shops)
    assert index.loads == loads, "it is not loaded in vain again and again"
    assert index.searches == 4


def test_a_huge_shop_that_has_shrunk_is_found_out(
    index: FakeIndex, epochs: FakeEpochs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(index, "s", 20)
    shops = HotShops(index, epochs, LARGE.model_copy(update={"hot_limit": 19}))
    shops.candidates("s", CLIP)
    wait_for_background(shops)
    index.rows.clear()
    fill(index, "s", 7)
    epochs.renew("s")
    for wait_s in (0.0, 1e6):  # in between, so much later
        now = time.monotonic() + wait_s
        monkeypatch.setattr("service.gallery.shops.time.monotonic", lambda now=now: now)
        loads = index.loads
        found = shops.candidates("s", CLIP)
        assert not found.exact
        wait_for_background(shops)
        assert index.loads == loads + (wait_s > 0)
    found = shops.candidates("s", CLIP)
    assert found.exact
    assert len(found.pictures) == 7


def test_an_index_that_fails_in_the_background_harms_nobody(
    epochs: FakeEpochs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FakeIndex):
        failing = False
        failed = 0

        def load(self, shop_id: str, limit: int, since: int | None = None) -> Entries:
            if self.failing:
                self.failed += 1
                raise IndexUnavailableError("too slow")
            return super().load(shop_id, limit, since)

    index = Failing()
    fill(index, "s", 20)
    shops = HotShops(index, epochs, LARGE)
    shops.candidates("s", CLIP)
    wait_for_background(shops)
    epochs.renew("s")
    later = time.monotonic() + 60.0
    for failing, searches in ((True, 2), (True, 3), (False, 4), (False, 4)):  # the last from memory
        index.failing = failing
        if not failing:
            monkeypatch.setattr("service.gallery.shops.time.monotonic", lambda: later)
        assert len(shops.candidates("s", CLIP).pictures) == 4
        wait_for_background(shops)
        assert index.searches == searches
    assert index.failed == 1, "it is tried again after a while, and not by each request"


def test_the_nearest_are_the_highest_in_order() -> None:
    cosines = np.array([0.1, 0.9, 0.5, 0.7, -1], np.float32)
    assert nearest(cosines, 3).tolist() == [1, 3, 2]
    assert nearest(cosines, 5).tolist() == nearest(cosines, 9).tolist() == [1, 3, 2, 0, 4]


def test_the_limit_itself_is_still_exact(index: FakeIndex, epochs: FakeEpochs) -> None:
    fill(index, "s", 8)
    shops = HotShops(index, epochs, SearchSettings(exact_limit=8, candidates=4))
    assert shops.candidates("s", CLIP).exact


def test_a_shop_that_shrank_is_searched_exactly_again(index: FakeIndex, epochs: FakeEpochs) -> None:
    fill(index, "s", 9)
    shops = HotShops(index, epochs, SearchSettings(exact_limit=8, candidates=4))
    shops.candidates("s", CLIP)
    index.rows.clear()
    fill(index, "s", 3)
    epochs.renew("s")
    assert len(shops.candidates("s", CLIP).pictures) == 3
    assert shops.candidates("s", CLIP).exact


def test_an_empty_shop_has_no_candidates(index: FakeIndex, epochs: FakeEpochs) -> None:
    found = HotShops(index, epochs, SearchSettings(exact_limit=0)).candidates("s", CLIP)
    assert found.exact
    assert found.pictures == ()
    assert found.cosines.shape == (0,)


def test_the_least_recently_used_shop_makes_room(index: FakeIndex, epochs: FakeEpochs) -> None:
    for shop in "abc":
        fill(index, shop, 10)
    one_shop = 10 * (2 * 3 * 4 + 400)
    shops = HotShops(index, epochs, SearchSettings(hot_shops_bytes=2 * one_shop))
    for shop in "abac":  # b was used longest ago when c comes
        shops.candidates(shop, CLIP)
    assert shops.bytes == 2 * one_shop
    loads = index.loads
    shops.candidates("a", CLIP)
    shops.candidates("c", CLIP)
    assert index.loads == loads
    shops.candidates("b", CLIP)
    assert index.loads == loads + 1


def test_a_shop_beyond_the_memory_is_not_kept_and_drives_nobody_out(
    index: FakeIndex, epochs: FakeEpochs
) -> None:
    fill(index, "small", 1)
    fill(index, "big", 50)
    shops = HotShops(index, epochs, SearchSettings(hot_shops_bytes=1_000))
    shops.candidates("small", CLIP)
    kept = shops.bytes
    assert len(shops.candidates("big", CLIP).pictures) == 50
    assert shops.bytes == kept > 0


def test_many_clips_of_a_cold_shop_load_it_once(index: FakeIndex, epochs: FakeEpochs) -> None:
    fill(index, "s", 5)
    shops = HotShops(index, epochs, SearchSettings())
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        shops.candidates("s", CLIP)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.loads == 1
