from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from service.coordination.locks import Locks
from service.deadlines import Deadline, working_under
from service.encoding import Encoder
from service.errors import (
    CatalogueUnavailableError,
    DeadlineExceededError,
    ImageError,
    IndexUnavailableError,
    LPRError,
    NotReadyError,
    ProductNotFoundError,
    ShopNotFoundError,
)
from service.fields import MAX_METADATA_LEVELS, Metadata
from service.gallery.catalogue import image_id
from service.gallery.shops import HotShops
from service.gallery.storage import LocalStorage
from service.indexing import NewProduct
from service.settings import SearchSettings
from service.settling import Projection, Task
from tests.service.fakes import BLUE, GREEN, RED, FakeEpochs, FakeIndex, FakeModel, FakeService


class World:
    """An indexer with everything it stands on at hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = LocalStorage(root)
        self.index = FakeIndex()
        self.epochs = FakeEpochs()
        self.restart()

    def restart(self) -> None:
        service = FakeService(self.storage, self.index, self.epochs)
        self.catalogue, self.pending = service.catalogue, service.pending
        self.indexer, self.settler = service.indexer, service.settler

    def put(self, product_id: str, *images: bytes, title: str | None = None) -> None:
        self.indexer.put(NewProduct("shop", product_id, title, None, images))

    def agrees(self) -> bool:
        recorded = {
            (record.product_id, image.image_id)
            for record in self.catalogue.products("shop")
            for image in record.images
        }
        return self.index.pictures("shop") == recorded


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_product_is_durable_and_searchable_and_known(world: World) -> None:
    world.put("p", RED, GREEN, title="T")
    assert [i.image_id for i in world.catalogue.get("shop", "p").images] == [
        image_id(RED),
        image_id(GREEN),
    ]
    assert world.index.pictures("shop") == {("p", image_id(RED)), ("p", image_id(GREEN))}
    assert world.epochs.counts == {"shop": 1}


def test_replacing_leaves_nothing_of_the_old_one(world: World) -> None:
    world.put("p", RED, GREEN, title="old")
    world.put("p", BLUE, GREEN, title="new")
    assert world.agrees()
    assert {row[1].title for row in world.index.rows.values()} == {"new"}
    assert len(world.index.rows) == 2


def test_the_same_picture_twice_counts_once(world: World) -> None:
    world.put("p", RED, RED)
    assert len(world.catalogue.get("shop", "p").images) == 1
    assert len(world.index.rows) == 1


def test_a_bad_picture_is_pointed_at_and_nothing_is_stored(world: World) -> None:
    with pytest.raises(ImageError) as caught:
        world.put("p", RED, RED[: len(RED) // 2])
    assert caught.value.pointer == "/images/1"
    assert not world.catalogue.has_shop("shop")
    assert not world.index.rows


@pytest.mark.parametrize("way", ["put", "accept"])
@pytest.mark.parametrize("where", ["decoding", "waiting"])
def test_what_was_answered_that_it_took_too_long_is_not_stored_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch, way: str, where: str
) -> None:
    """Another post of the product may have been acknowledged meanwhile."""
    deadline = Deadline(3600, nobody_leaves)
    decode, hold = Encoder.decode, Locks.hold

    def slow(encoder: Encoder, data: bytes) -> Any:
        deadline.extend(0.0)
        return decode(encoder, data)

    @contextmanager
    def busy(locks: Locks, *names: str) -> Iterator[Any]:
        with hold(locks, *names) as alone:
            deadline.extend(0.0)
            yield alone

    if where == "decoding":
        monkeypatch.setattr(Encoder, "decode", slow)
    else:
        monkeypatch.setattr(Locks, "hold", busy)
    product = NewProduct("shop", "p", None, None, (RED, BLUE))
    with working_under(deadline), pytest.raises(DeadlineExceededError):
        getattr(world.indexer, way)(product)
    assert world.catalogue.find("shop", "p") is None
    assert not world.indexer.is_pending("shop", "p")


async def nobody_leaves() -> None:
    await asyncio.Event().wait()


def test_the_catalogue_goes_first(world: World) -> None:
    """What the index cannot take now is durable already, and indexed by the next start."""
    world.index.down = True
    with pytest.raises(IndexUnavailableError):
        world.put("p", RED)
    world.index.down = False
    world.restart()
    world.settler.reconcile()
    assert world.agrees()
    assert world.index.rows


def test_after_a_write_failed_half_way_the_next_one_settles_the_shop(world: World) -> None:
    world.put("p", RED)
    world.put("gone", BLUE)
    world.index.down = True
    with pytest.raises(IndexUnavailableError):
        world.put("p", GREEN)
    with pytest.raises(IndexUnavailableError):
        world.indexer.delete("shop", "gone")
    world.index.down = False
    world.put("q", RED)
    assert world.agrees()
    assert ("p", image_id(GREEN)) in world.index.pictures("shop")


def test_writes_that_failed_half_way_are_finished_without_another_write(world: World) -> None:
    world.put("p", RED)
    world.put("gone", BLUE)
    world.index.down = True
    with pytest.raises(IndexUnavailableError):
        world.put("p", GREEN)
    with pytest.raises(IndexUnavailableError):
        world.indexer.delete("shop", "gone")
    with pytest.raises(IndexUnavailableError):
        world.settler.sweep()
    world.index.down = False
    before = world.epochs.counts["shop"]
    world.settler.sweep()
    assert world.agrees()
    after = world.epochs.counts["shop"]
    assert after > before, "every replica looks at the shop anew"
    world.settler.sweep()
    assert world.epochs.counts["shop"] == after, "there is nothing left to do"


def test_they_are_finished_in_the_background_until_the_service_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settling._SWEEP_S", 0.001)
    world.index.down = True
    with pytest.raises(IndexUnavailableError):
        world.put("p", RED)
    settling = threading.Thread(target=world.settler.keep_swept)
    settling.start()
    world.index.down = False
    deadline = time.monotonic() + 60
    while not world.index.rows:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    world.settler.stop()
    settling.join(60)
    assert not settling.is_alive()
    assert world.agrees()


@pytest.mark.parametrize("deleted", [False, True])
def test_a_product_whose_record_is_damaged_is_replaced_or_deleted_whole(
    world: World, deleted: bool
) -> None:
    world.put("p", RED, title="old")
    world.put("q", GREEN)
    next(path for path in world.root.rglob("record.json") if path.parent.name[0] == "p").write_text(
        "{"
    )
    if deleted:
        world.indexer.delete("shop", "p")
    else:
        world.put("p", BLUE)
    assert world.agrees()
    kept = set() if deleted else {("p", image_id(BLUE))}
    assert world.index.pictures("shop") == kept | {("q", image_id(GREEN))}


def test_what_the_index_has_not_taken_leaves_hot_shops_hot_until_it_has(world: World) -> None:
    world.put("p", RED)
    shops = HotShops(world.index, world.epochs, SearchSettings())

    def found() -> set[str]:
        pictures = shops.candidates("shop", np.array([1, 0, 0], np.float32)).pictures
        return {picture.product_id for picture in pictures}

    assert found() == {"p"}
    world.index.down = True
    with pytest.raises(IndexUnavailableError):
        world.put("q", GREEN)
    with pytest.raises(IndexUnavailableError):
        world.indexer.delete("shop", "p")
    assert found() == {"p"}, "no replica asks an index that is away"
    world.index.down = False
    world.settler.sweep()
    assert found() == {"q"}


def test_a_write_that_ends_otherwise_makes_every_replica_look_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.catalogue, "put", _no_storage)
    with pytest.raises(CatalogueUnavailableError):
        world.put("p", RED)
    assert world.epochs.counts == {"shop": 1}


def test_a_write_that_fails_at_its_very_end_is_finished_by_the_next_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(world.pending, "close", _no_storage)
        with pytest.raises(CatalogueUnavailableError):
            world.put("p", RED)
    assert world.pending.count == 1
    world.settler.sweep()
    assert world.pending.count == 0
    assert world.agrees()


def _no_storage(*_: object, **__: object) -> None:
    raise CatalogueUnavailableError("a hiccup")


def test_metadata_is_read_again_as_deep_as_it_may_be(world: World) -> None:
    deepest: dict[str, object] = {}
    for _ in range(MAX_METADATA_LEVELS - 1):
        deepest = {"a": deepest}
    kept = TypeAdapter(Metadata).validate_python(deepest)
    world.indexer.put(NewProduct("shop", "p", None, kept, (RED,)))
    assert world.catalogue.get("shop", "p").metadata == deepest
    with pytest.raises(ValidationError, match="levels"):
        TypeAdapter(Metadata).validate_python({"a": deepest})


def test_a_deleted_product_is_gone_everywhere(world: World) -> None:
    world.put("p", RED)
    world.put("q", GREEN)
    world.indexer.delete("shop", "p")
    assert world.agrees()
    assert world.epochs.counts == {"shop": 3}
    with pytest.raises(ProductNotFoundError):
        world.indexer.delete("shop", "p")
    with pytest.raises(ShopNotFoundError):
        world.indexer.delete("nowhere", "p")


def test_a_deleted_shop_is_gone_everywhere(world: World) -> None:
    world.put("p", RED)
    world.indexer.delete_shop("shop")
    assert not world.index.rows
    with pytest.raises(ShopNotFoundError):
        world.indexer.delete_shop("shop")


def test_a_lost_index_is_made_again_from_the_catalogue(world: World) -> None:
    for i, image in enumerate((RED, GREEN, BLUE)):
        world.put(f"p{i}", image, title=f"T{i}")
    rows = dict(world.index.rows)
    world.index.rows.clear()
    world.epochs.counts.clear()
    world.restart()
    world.settler.reconcile()
    assert world.epochs.counts == {"shop": 1}, "every replica looks at the shop anew"
    assert world.index.rows.keys() == rows.keys()
    for key, (shop_id, picture, embedding, state) in rows.items():
        again = world.index.rows[key]
        assert (again[0], again[1]) == (shop_id, picture)
        assert (again[2] == embedding).all()
        assert (again[3] == state).all()


def test_rows_of_products_that_are_not_in_the_catalogue_go(world: World) -> None:
    world.put("p", RED)
    world.put("q", GREEN)
    world.catalogue.delete("shop", "q")
    world.epochs.counts.clear()
    world.restart()
    world.settler.reconcile()
    assert world.agrees()
    assert world.epochs.counts == {"shop": 1}


def test_what_agrees_is_not_encoded_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("p", RED)

    def never(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(FakeModel, "encode_pictures", never)
    world.epochs.counts.clear()
    world.restart()
    world.settler.reconcile()
    assert world.epochs.counts == {}, "what is hot elsewhere stays hot"


def test_one_damaged_picture_does_not_keep_the_others_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.put("good", RED)
    world.put("bad", GREEN)
    next(world.root.rglob(image_id(GREEN))).write_bytes(b"damaged")
    world.index.rows.clear()
    world.restart()
    world.settler.reconcile()
    assert world.index.pictures("shop") == {("good", image_id(RED))}
    assert any(getattr(record, "product_id", None) == "bad" for record in caplog.records)


def test_many_products_are_indexed_again_in_few_writes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settling._BATCH_PICTURES", 2)
    for i in range(5):
        world.put(f"p{i}", (RED, GREEN, BLUE)[i % 3])
    world.indexer.put(NewProduct("other", "x", None, None, (RED,)))
    expected = set(world.index.rows)
    world.index.rows.clear()
    world.restart()
    world.settler.reconcile()
    assert set(world.index.rows) == expected


def test_many_rows_without_a_product_are_removed_a_few_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settling._BATCH_PICTURES", 2)
    for i in range(5):
        world.put(f"p{i}", RED)
    for record in list(world.catalogue.products("shop")):
        world.catalogue.delete("shop", record.product_id)
    world.restart()
    sizes: list[int] = []
    together = world.settler._agree

    def counted(projection: Projection, batch: Sequence[Task], closing: Any) -> dict[str, LPRError]:
        sizes.append(len(batch))
        return together(projection, batch, closing)

    monkeypatch.setattr(world.settler, "_agree", counted)
    world.settler.reconcile()
    assert not world.index.rows
    assert sizes == [2, 2, 1]


def test_a_long_reconcile_ends_when_the_service_stops(world: World) -> None:
    world.put("p", RED)
    world.index.rows.clear()
    world.settler.stop()
    with pytest.raises(NotReadyError):
        world.settler.reconcile()
