"""Another bundle in the place of the one that is served, on one replica and on several.

A replica is real but for its models, its indexes and its shelf; all of them share these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.coordination.filling import Filling, Progress
from service.coordination.locks import Locks
from service.coordination.private_server import PrivateRedis
from service.coordination.replicas import Replicas
from service.coordination.store import Store
from service.encoding import Encoder
from service.errors import (
    BundleError,
    BundleInUseError,
    BundleNotFoundError,
    BundleRefusedError,
    IndexUnavailableError,
    InferenceError,
    NoPreviousBundleError,
    StartupError,
    UnavailableError,
)
from service.gallery.catalogue import Catalogue, image_id
from service.gallery.entries import Entries
from service.gallery.pending import Pending
from service.gallery.roles import RolesRecord
from service.gallery.shops import HotShops
from service.gallery.storage import LocalStorage
from service.indexing import Indexer, NewProduct
from service.inference.features import PictureFeatures
from service.serving import _WAIT_S, Bundles, Serving
from service.settings import MediaSettings, SearchSettings
from service.settling import Gallery, Projection, Settler
from service.telemetry import Telemetry
from tests.service.fakes import BLUE, GREEN, RED, FakeEpochs, FakeIndex, FakeModel, png

NOBODY = Store.at("redis://127.0.0.1:9", timeout_s=0.1, telemetry=Telemetry())


@dataclass
class Collection(FakeIndex):
    leads: bool = False
    dropped: bool = False
    on_upsert: Callable[[], None] = lambda: None

    def upsert(self, entries: Entries) -> None:
        super().upsert(entries)
        self.on_upsert()

    def _check(self) -> None:
        super()._check()
        if self.dropped:
            raise IndexUnavailableError("no such collection")

    def drop(self) -> None:
        self._check()
        self.rows.clear()
        self.dropped = True

    def take_alias(self) -> None:
        self._check()
        assert not self.is_filling, "there is nothing to lead to yet"
        self.leads = True


class NamedModel(FakeModel):
    def __init__(self, bundle_id: str) -> None:
        super().__init__()
        self.manifest.bundle_id = bundle_id
        self.fails_at: int | None = None  # a mean value of a picture

    def encode_pictures(self, pictures: np.ndarray, titles: Sequence[str] = ()) -> PictureFeatures:
        if self.fails_at in {int(picture.mean()) for picture in pictures}:
            raise InferenceError("not this one")
        return super().encode_pictures(pictures, titles)


@dataclass
class FakeShelf:
    """Bundles by id, or what is wrong with them."""

    bundles: dict[str, NamedModel | Exception]

    def load(self, bundle_id: str) -> NamedModel:
        found = self.bundles.get(bundle_id, BundleNotFoundError(f"no {bundle_id}"))
        if isinstance(found, Exception):
            raise found
        return found

    def look(self) -> SimpleNamespace:
        ids = [name for name, it in self.bundles.items() if not isinstance(it, Exception)]
        return SimpleNamespace(bundles=dict.fromkeys(ids, (None, None)), broken={})


@dataclass
class World:
    """What all replicas share."""

    folder: Path
    epochs: FakeEpochs = field(default_factory=FakeEpochs)
    indexes: dict[str, Collection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.storage = LocalStorage(self.folder)
        self.shelf = FakeShelf({name: NamedModel(name) for name in "abc"})

    def replica(
        self, store: Store = NOBODY, *, alone: bool = True, default: str = "a", **differs: Any
    ) -> Replica:
        return Replica(self, store, FakeShelf(self.shelf.bundles | differs), alone, default)

    def pictures(self, name: str) -> set[tuple[str, str]]:
        return self.indexes[name].pictures("shop")


class Replica:
    def __init__(
        self, world: World, store: Store, shelf: FakeShelf, alone: bool, default: str
    ) -> None:
        self.world = world
        self.catalogue = Catalogue(world.storage)
        self.pending = Pending(world.storage, alone=alone)
        self.switched: list[str] = []
        self.bundles = Bundles(
            RolesRecord(world.storage, default),
            shelf,
            Filling(store),
            Replicas(store),
            open_bundle=self._open,
            on_switch=lambda serving: self.switched.append(serving.bundle_id),
            alone=alone,
        )
        self.bundles.open_active()
        locks = Locks(None if alone else store)
        gallery = Gallery(self.catalogue, self.bundles, world.epochs, self.pending, locks)
        self.settler = Settler(gallery)
        self.settler.reconcile()
        self.indexer = Indexer(gallery, self.settler)

    def _open(self, model: NamedModel) -> Serving:
        index = self.world.indexes.setdefault(model.manifest.bundle_id, Collection(is_filling=True))
        if index.dropped:
            index.dropped, index.is_filling = False, True
        encoder = Encoder(model, self.catalogue, MediaSettings())
        shops = HotShops(index, self.world.epochs, SearchSettings())
        return Serving(model, index, shops, None, Projection(encoder, index))

    def put(self, product_id: str, *images: bytes) -> None:
        self.indexer.put(NewProduct("shop", product_id, None, None, images))

    def step(self) -> None:
        self.bundles.step(self.settler)

    def roles(self) -> dict[str, str]:
        return {b.bundle_id: b.role for b in self.bundles.state().bundles}

    @property
    def serves(self) -> str:
        return self.bundles.serving.bundle_id


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shown(**products: bytes) -> set[tuple[str, str]]:
    return {(name, image_id(picture)) for name, picture in products.items()}


class TestTakingOver:
    def test_the_new_bundle_is_filled_and_takes_over(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.put("q", GREEN)
        replica.bundles.activate("b")
        assert replica.serves == "a"
        assert replica.roles() == {"a": "active", "b": "coming", "c": "available"}
        replica.step()
        assert replica.serves == "b"
        assert replica.roles() == {"b": "active", "a": "previous", "c": "available"}
        assert world.pictures("b") == world.pictures("a") == shown(p=RED, q=GREEN)
        assert world.indexes["b"].leads
        assert replica.switched == ["a", "b"]

    def test_a_request_that_began_stays_with_its_bundle(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        began = replica.bundles.serving
        replica.bundles.activate("b")
        replica.step()
        candidates = began.shops.candidates("shop", np.array([1, 0, 0], np.float32))
        assert [picture.product_id for picture in candidates.pictures] == ["p"]
        assert began.bundle_id == "a"

    def test_writes_on_the_way_reach_both(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.put("q", GREEN)
        replica.bundles.activate("b")
        replica.put("p", BLUE)
        replica.put("r", RED)
        replica.indexer.delete("shop", "q")
        assert world.pictures("a") == world.pictures("b") == shown(p=BLUE, r=RED)
        assert not replica.pending.all()
        replica.step()
        assert replica.serves == "b"
        assert world.pictures("b") == shown(p=BLUE, r=RED)

    def test_a_write_that_began_before_is_not_left_out(self, world: World) -> None:
        """It has chosen its index; then another bundle comes; then it looks where it must be."""
        replica = world.replica()

        def activate() -> None:
            world.indexes["a"].on_upsert = lambda: None
            replica.bundles.activate("b")

        world.indexes["a"].on_upsert = activate
        replica.put("p", RED)
        assert world.pictures("b") == shown(p=RED)
        assert not replica.pending.all()

    def test_a_write_in_the_middle_of_the_takeover_is_in_both(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        taking_over = threading.Thread(target=replica.step)

        def pause() -> None:
            world.indexes["a"].on_upsert = lambda: None
            taking_over.start()
            # It takes over now, or waits for this write to end: both are well.
            taking_over.join(0.5)

        world.indexes["a"].on_upsert = pause
        replica.put("q", GREEN)
        taking_over.join(60)
        replica.step()
        assert replica.serves == "b"
        assert world.pictures("b") == world.pictures("a") == shown(p=RED, q=GREEN)

    def test_accepted_products_are_done_when_every_index_has_them(self, world: World) -> None:
        replica = world.replica()
        replica.bundles.activate("b")
        replica.indexer.accept(NewProduct("shop", "p", None, None, (RED,)))
        assert replica.indexer.finish("shop", ["p"]) == {}
        assert world.pictures("a") == world.pictures("b") == shown(p=RED)
        assert not replica.indexer.is_pending("shop", "p")

    def test_a_shop_is_deleted_from_both(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.step()
        replica.indexer.delete_shop("shop")
        assert world.pictures("a") == world.pictures("b") == set()
        assert not replica.pending.all()

    def test_what_the_new_bundle_fails_at_keeps_it_from_taking_over(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.put("q", GREEN)
        model = world.shelf.bundles["b"]
        assert isinstance(model, NamedModel)
        model.fails_at = 86  # RED's
        replica.bundles.activate("b")
        with pytest.raises(InferenceError):
            replica.step()
        assert replica.serves == "a"
        model.fails_at = None
        replica.step()
        assert replica.serves == "b"

    def test_a_picture_that_is_damaged_keeps_nobody_from_taking_over(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.put("q", GREEN)
        (stored,) = world.folder.rglob(image_id(RED))
        stored.write_bytes(b"damaged")
        replica.bundles.activate("b")
        replica.step()
        assert replica.serves == "b"
        assert world.pictures("b") == shown(q=GREEN)

    def test_an_index_that_is_away_is_waited_for(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        world.indexes["b"].down = True
        with pytest.raises(UnavailableError):
            replica.step()
        replica.put("q", GREEN)
        assert world.pictures("a") == shown(p=RED, q=GREEN), "the served index has it"
        assert replica.indexer.is_pending("shop", "q"), "the other follows"
        world.indexes["b"].down = False
        replica.step()
        assert replica.serves == "b"
        assert world.pictures("b") == shown(p=RED, q=GREEN)

    def test_hot_shops_of_the_old_bundle_are_given_back(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        before = replica.bundles.serving
        before.shops.candidates("shop", np.array([1, 0, 0], np.float32))
        assert before.shops.bytes > 0
        replica.bundles.activate("b")
        replica.step()
        assert before.shops.bytes == 0
        replica.bundles.serving.shops.candidates("shop", np.array([1, 0, 0], np.float32))
        assert world.indexes["b"].loads == 1

    def test_progress_is_told(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("service.settling._BATCH_PICTURES", 2)
        replica = world.replica()
        for i in range(5):
            replica.put(f"p{i}", png((10 * i, 0, 9)))
        told: list[tuple[int, int]] = []

        def goes_on(done: int, of: int) -> bool:
            told.append((done, of))
            return True

        replica.bundles.activate("b")
        replica.settler.agree(
            Projection(Encoder(NamedModel("b"), replica.catalogue, MediaSettings()), Collection()),
            goes_on,
        )
        assert told == [(0, 0), (0, 5), (2, 5), (4, 5)]


class TestGoingBack:
    def test_at_once_and_with_all_that_was_written_since(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.step()
        replica.put("p", BLUE)
        replica.put("q", GREEN)
        replica.bundles.go_back()
        assert replica.serves == "a"
        assert world.pictures("a") == shown(p=BLUE, q=GREEN)
        replica.bundles.go_back()
        assert replica.serves == "b"

    def test_after_a_restart_once_it_is_known_to_agree(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.step()
        world.indexes["a"].rows.clear()
        replica = world.replica()
        assert replica.serves == "b"
        replica.bundles.go_back()
        assert replica.serves == "b", "nobody has looked yet"
        replica.step()
        assert replica.serves == "a"
        assert world.pictures("a") == shown(p=RED)

    def test_what_milvus_has_lost_is_filled_again_first(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.step()
        world.indexes["a"].rows.clear()
        world.indexes["a"].is_filling = True
        replica.bundles.go_back()
        assert replica.serves == "b"
        replica.step()
        assert replica.serves == "a"
        assert world.pictures("a") == shown(p=RED)
        assert not world.indexes["a"].is_filling

    def test_there_must_be_one(self, world: World) -> None:
        with pytest.raises(NoPreviousBundleError):
            world.replica().bundles.go_back()


class TestLettingGo:
    def test_the_previous_bundles_index_goes_and_writes_reach_it_no_more(
        self, world: World
    ) -> None:
        replica = world.replica()
        replica.bundles.activate("b")
        replica.step()
        replica.bundles.drop("a")
        assert world.indexes["a"].dropped
        replica.put("p", RED)
        assert world.pictures("a") == set()
        assert not replica.pending.all()
        with pytest.raises(NoPreviousBundleError):
            replica.bundles.go_back()

    def test_a_third_bundle_takes_the_place_of_the_previous(self, world: World) -> None:
        replica = world.replica()
        for name in "bc":
            replica.bundles.activate(name)
            replica.step()
        assert world.indexes["a"].dropped
        assert replica.roles() == {"c": "active", "b": "previous", "a": "available"}

    def test_one_that_is_coming_gives_up(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.bundles.drop("b")
        replica.step()
        assert replica.serves == "a"
        assert world.indexes["b"].dropped
        replica.bundles.activate("b")
        replica.bundles.activate("c")
        assert world.indexes["b"].dropped
        replica.step()
        assert replica.serves == "c"

    def test_what_was_let_go_can_be_activated_again(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.bundles.drop("b")
        replica.bundles.activate("b")
        replica.step()
        assert replica.serves == "b"
        assert world.pictures("b") == shown(p=RED)

    def test_not_the_active_one_and_not_one_that_is_not_kept(self, world: World) -> None:
        replica = world.replica()
        with pytest.raises(BundleInUseError):
            replica.bundles.drop("a")
        with pytest.raises(BundleNotFoundError):
            replica.bundles.drop("c")

    def test_an_index_that_is_away_keeps_nobody_from_letting_go(self, world: World) -> None:
        replica = world.replica()
        replica.bundles.activate("b")
        replica.step()
        world.indexes["a"].down = True
        replica.bundles.drop("a")
        replica.put("p", RED)
        assert not replica.pending.all()


class TestRefusing:
    def test_a_bundle_that_is_not_there_or_cannot_be_trusted(self, world: World) -> None:
        replica = world.replica(b=BundleError("changed"), c=StartupError("no GPU"))
        for name, error in {
            "x": BundleNotFoundError,
            "b": BundleRefusedError,
            "c": UnavailableError,
        }.items():
            with pytest.raises(error):
                replica.bundles.activate(name)
        assert replica.roles()["a"] == "active"
        replica.put("p", RED)
        assert not replica.pending.all()

    def test_the_active_one_again_changes_nothing(self, world: World) -> None:
        replica = world.replica()
        replica.bundles.activate("a")
        replica.step()
        assert replica.roles() == {"a": "active", "b": "available", "c": "available"}


class TestRestarts:
    def test_a_restart_serves_the_active_one(self, world: World) -> None:
        replica = world.replica()
        replica.put("p", RED)
        replica.bundles.activate("b")
        replica.step()
        assert world.replica().serves == "b"

    def test_a_kill_in_the_middle_of_the_filling_is_gone_on_from(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.settling._BATCH_PICTURES", 2)
        replica = world.replica()
        for i in range(6):
            replica.put(f"p{i}", png((10 * i, 0, 9)))
        replica.bundles.activate("b")

        class Killed(BaseException):
            pass

        def kill() -> None:
            raise Killed

        world.indexes["b"].on_upsert = kill
        with pytest.raises(Killed):
            replica.step()
        assert 0 < len(world.indexes["b"].rows) < 6
        successor = world.replica()
        assert successor.serves == "a"
        upserts = []
        world.indexes["b"].on_upsert = lambda: upserts.append(1)
        successor.put("p9", RED)
        successor.step()
        assert successor.serves == "b"
        assert len(world.indexes["b"].rows) == 7
        assert len(upserts) == 1 + 2, "what was filled is not filled again"

    def test_an_active_bundle_that_is_gone_is_said(self, world: World) -> None:
        replica = world.replica()
        replica.bundles.activate("b")
        replica.step()
        del world.shelf.bundles["b"]
        with pytest.raises(StartupError, match="active"):
            world.replica()

    def test_a_previous_bundle_that_is_gone_holds_nobody_up(self, world: World) -> None:
        replica = world.replica()
        replica.bundles.activate("b")
        replica.step()
        del world.shelf.bundles["a"]
        successor = world.replica()
        successor.step()
        assert successor.roles() == {"b": "active", "c": "available"}
        successor.put("p", RED)
        assert not successor.pending.all()


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Store]:
    server = PrivateRedis(tmp_path_factory.mktemp("redis") / "redis")
    server.start()
    store = Store.at(server.url, timeout_s=5, telemetry=Telemetry())
    yield store
    store.close()
    server.stop()


class TestReplicas:
    def test_one_that_cannot_open_the_previous_bundle_leaves_the_others_their_way_back(
        self, world: World, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = world.replica(store, alone=False)
        here.bundles.activate("b")
        here.step()
        there = world.replica(store, alone=False, a=BundleError("it cannot be read just now"))
        there.step()
        assert here.roles()["a"] == "previous"
        monkeypatch.setattr("service.serving._GIVE_UP_S", 0.0)
        there.step()
        assert "previous" not in here.roles().values(), "it would leave every write unfinished"

    def test_one_that_is_opening_a_bundle_counts_for_as_long_as_it_is_waited_for(
        self, world: World, store: Store
    ) -> None:
        world.replica(store, alone=False).step()
        [key] = store.call(lambda client: list(client.scan_iter(match="lpr:replica:*")))
        assert store.call(lambda client: client.ttl(key)) > _WAIT_S

    def test_all_follow(self, world: World, store: Store) -> None:
        here = world.replica(store, alone=False)
        there = world.replica(store, alone=False)
        here.put("p", RED)
        for replica in (here, there):
            replica.step()
        here.bundles.activate("b")
        here.step()
        assert {here.serves, there.serves} == {"a"}, "there has it not open yet"
        there.put("s", RED)
        assert world.pictures("b") == shown(p=RED), "so its writes are left out for now"
        there.step()
        here.step()
        assert {here.serves, there.serves} == {"b", "a"}, "there switches when it looks again"
        assert world.pictures("b") == shown(p=RED, s=RED)
        there.step()
        assert {here.serves, there.serves} == {"b"}
        there.put("q", GREEN)
        here.bundles.go_back()
        assert there.serves == "b"
        there.put("r", BLUE)
        there.step()
        assert there.serves == "a"
        assert world.pictures("a") == world.pictures("b") == shown(p=RED, q=GREEN, r=BLUE, s=RED)

    def test_who_never_opens_it_is_not_waited_for_for_ever(
        self, world: World, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = world.replica(store, alone=False)
        there = world.replica(store, alone=False, b=BundleError("changed"))
        here.bundles.activate("b")
        for replica in (there, here, here):
            replica.step()
        assert here.serves == "a"
        monkeypatch.setattr("service.serving._WAIT_S", 0)
        here.step()
        assert here.serves == "b"

    def test_without_redis_it_is_waited_for_a_while(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = world.replica(NOBODY, alone=False)
        here.bundles.activate("b")
        here.step()
        assert here.serves == "a"
        monkeypatch.setattr("service.serving._WAIT_S", 0)
        here.step()
        assert here.serves == "b"

    def test_one_fills_and_the_others_leave_it_to_it(self, world: World, store: Store) -> None:
        here = world.replica(store, alone=False)
        there = world.replica(store, alone=False)
        here.put("p", RED)
        here.bundles.activate("b")
        Filling(store).claim("b", Progress(1, 2))  # somebody else
        there.step()
        assert there.roles()["b"] == "coming"
        assert {b.bundle_id: b.progress for b in there.bundles.state().bundles}["b"] == (1, 2)
        store.call(lambda client: client.flushall())  # it died long ago
        there.step()
        assert there.serves == "b"

    def test_a_write_where_the_new_bundle_is_not_open_yet_is_finished_by_another(
        self, world: World, store: Store
    ) -> None:
        here = world.replica(store, alone=False)
        there = world.replica(store, alone=False)
        here.bundles.activate("b")
        there.put("p", RED)
        assert world.pictures("a") == shown(p=RED), "it is found where it is served"
        assert world.pictures("b") == set()
        assert here.indexer.finish("shop", ["p"]) == {}
        assert world.pictures("b") == shown(p=RED)
        assert not here.pending.all()

    def test_who_cannot_follow_says_so_and_answers_on(
        self, world: World, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.serving._WAIT_S", 0)
        here = world.replica(store, alone=False)
        there = world.replica(store, alone=False, b=BundleError("changed"))
        here.put("p", RED)
        here.bundles.activate("b")
        there.step()
        assert not there.bundles.is_behind
        here.step()
        there.step()
        assert there.bundles.is_behind
        assert there.serves == "a"
        here.bundles.go_back()
        there.step()
        assert not there.bundles.is_behind


def test_a_worker_goes_on_after_an_error_and_ends_when_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.serving._FOLLOW_S", 0.01)
    replica = world.replica()
    replica.put("p", RED)
    failed, taken_over = threading.Event(), threading.Event()

    def fail_once() -> None:
        world.indexes["b"].on_upsert = lambda: None
        failed.set()
        raise IndexUnavailableError("down")

    replica.bundles._on_switch = lambda serving: taken_over.set()
    worker = threading.Thread(target=replica.bundles.keep_in_step, args=(replica.settler,))
    replica.bundles.activate("b")
    world.indexes["b"].on_upsert = fail_once
    worker.start()
    try:
        assert taken_over.wait(60)
        assert failed.is_set()
    finally:
        replica.bundles.stop()
        worker.join(60)
    assert not worker.is_alive()


def test_without_redis_nothing_is_told_and_nobody_is_kept_from_filling() -> None:
    filling = Filling(NOBODY)
    assert filling.claim("b", Progress(1, 2))
    assert filling.progress("b") is None
    filling.end("b")


class TestOtherDefaults:
    """`LPR_BUNDLE` changed on one replica after the other, and nothing activated."""

    def test_alone_it_is_served_from_the_next_start(self, world: World) -> None:
        world.replica().put("p", RED)
        assert world.replica(default="b").serves == "b"
        assert world.pictures("b") == shown(p=RED)

    def test_of_several_all_serve_the_firsts_and_the_log_says_so(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        here = world.replica(alone=False)
        assert not caplog.text
        there = world.replica(alone=False, default="b")
        assert "another bundle is active than LPR_BUNDLE names" in caplog.text
        here.put("p", RED)
        assert there.serves == "a"
        assert world.pictures("a") == shown(p=RED)

    def test_who_has_not_that_one_does_not_start(self, world: World) -> None:
        world.replica(alone=False)
        with pytest.raises(StartupError, match="activate the new bundle"):
            world.replica(alone=False, default="b", a=BundleNotFoundError("no a here"))
