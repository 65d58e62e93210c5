"""Index and catalogue agree in the end, whoever dies in the middle and whoever else writes.

Two services are two sets of parts over one storage, one index and one real Redis.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from service import encoding
from service.coordination.locks import Locks
from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.encoding import Encoder
from service.errors import (
    BusyError,
    IndexUnavailableError,
    InferenceError,
    NotIndexedYetError,
    ProductNotFoundError,
    ShopNotFoundError,
)
from service.gallery.catalogue import ProductRecord, image_id
from service.gallery.storage import LocalStorage, S3Storage, Storage
from service.indexing import NewProduct
from service.telemetry import Telemetry
from tests.service.fakes import (
    BLUE,
    GREEN,
    RED,
    SIZE,
    FakeEpochs,
    FakeIndex,
    FakeModel,
    FakeService,
    png,
)
from tests.service.lite_server import until


class Crash(BaseException):
    """The process ends here."""


class World:
    """Any number of services over one catalogue and one index."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.index = FakeIndex()
        self.epochs = FakeEpochs()
        self.service = self.start()

    def start(self, locks: Locks | None = None) -> FakeService:
        return FakeService(self.storage, self.index, self.epochs, locks)

    def put(self, product_id: str, *images: bytes, title: str | None = None) -> None:
        self.service.indexer.put(NewProduct("shop", product_id, title, None, images))

    def accept(self, product_id: str, *images: bytes) -> None:
        self.service.indexer.accept(NewProduct("shop", product_id, None, None, images))

    def agrees(self) -> bool:
        return (
            self.service.settler.compare(self.service.projections.active).differing == []
            and not self.service.pending.all()
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(LocalStorage(tmp_path))


@pytest.fixture(params=["local", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "local":
        return World(LocalStorage(tmp_path / "catalogue"))
    return World(S3Storage(request.getfixturevalue("s3_settings")))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def stores(server: PrivateRedis) -> Iterator[list[Store]]:
    stores = [Store.at(server.url, timeout_s=5, telemetry=Telemetry()) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


class TestAccepting:
    def test_an_accepted_product_is_durable_and_found_once_it_is_finished(
        self, world: World
    ) -> None:
        world.put("p", RED)
        world.accept("p", GREEN)
        world.accept("q", BLUE)
        assert world.service.catalogue.get("shop", "q").images[0].image_id == image_id(BLUE)
        assert world.index.pictures("shop") == {("p", image_id(RED))}
        assert world.service.indexer.backlog() == 2
        assert world.service.indexer.is_pending("shop", "q")
        assert world.service.indexer.finish("shop", ["p", "q", "not-there"]) == {}
        assert world.index.pictures("shop") == {("p", image_id(GREEN)), ("q", image_id(BLUE))}
        assert world.agrees()
        assert world.service.indexer.backlog() == 0
        assert not world.service.indexer.is_pending("shop", "q")

    def test_who_took_pictures_in_decodes_them_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.accept("p", RED, GREEN)
        world.accept("q", RED)
        monkeypatch.setattr(Encoder, "decode", None)
        assert world.service.indexer.finish("shop", ["p", "q"]) == {}
        encoded = {row[1].image_id: row[2].tolist() for row in world.index.rows.values()}
        monkeypatch.undo()
        again = world.start()
        for name in ("p", "q"):
            again.indexer.accept(NewProduct("shop", name, None, None, (RED, GREEN)))
        world.start().indexer.finish("shop", ["p", "q"])
        assert encoded == {row[1].image_id: row[2].tolist() for row in world.index.rows.values()}

    def test_pixels_are_kept_up_to_a_bound(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encoding, "_KEPT_BYTES", 2 * SIZE * SIZE * 3)
        decoded: list[bytes] = []
        decode = Encoder.decode
        monkeypatch.setattr(
            Encoder, "decode", lambda self, data: decoded.append(data) or decode(self, data)
        )
        for name, image in (("a", RED), ("b", GREEN), ("c", BLUE)):
            world.accept(name, image)
        decoded.clear()
        world.service.indexer.finish("shop", ["a", "b", "c"])
        assert decoded == [BLUE], "the first ones are needed first"
        monkeypatch.setattr(encoding, "_KEPT_S", -1.0)
        for name, image in (("a", GREEN), ("b", BLUE), ("c", RED)):
            world.accept(name, image)
        decoded.clear()
        world.service.indexer.finish("shop", ["a", "b", "c"])
        assert RED not in decoded, "what nobody asked for in time makes room"
        assert world.agrees()

    def test_finishing_again_does_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.accept("p", RED)
        world.service.indexer.finish("shop", ["p"])
        renewed = world.epochs.counts["shop"]
        monkeypatch.setattr(FakeModel, "encode_pictures", None)
        assert world.service.indexer.finish("shop", ["p"]) == {}
        assert world.epochs.counts["shop"] == renewed

    def test_what_was_deleted_meanwhile_stays_away(self, world: World) -> None:
        world.accept("p", RED)
        world.service.indexer.delete("shop", "p")
        assert world.service.indexer.finish("shop", ["p"]) == {}
        assert not world.index.rows
        world.service.settler.sweep()
        assert world.agrees()

    def test_a_damaged_picture_is_told_and_keeps_no_other_out(self, world: World) -> None:
        world.put("bad", RED)
        world.accept("bad", GREEN)
        world.accept("good", BLUE)
        (key,) = (key for key in world.storage.keys("") if key.endswith(image_id(GREEN)))
        world.storage.put(key, b"damaged")
        other = world.start()  # who took them in has their pixels still
        failed = other.indexer.finish("shop", ["bad", "good"])
        assert failed.keys() == {"bad"}
        assert failed["bad"].slug.startswith("image-")
        assert world.index.pictures("shop") == {("good", image_id(BLUE))}
        assert not world.service.pending.all(), "trying again would not help"

    def test_a_product_that_the_model_fails_at_keeps_no_other_out(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        poison = png((1, 2, 3))
        encode = FakeModel.encode_pictures

        def fail(self: FakeModel, pictures, titles):
            if (pictures == 1).any():
                raise InferenceError("NaN")
            return encode(self, pictures, titles)

        for name, image in (("a", RED), ("poison", poison), ("b", BLUE)):
            world.accept(name, image)
        monkeypatch.setattr(FakeModel, "encode_pictures", fail)
        failed = world.service.indexer.finish("shop", ["a", "b", "poison"])
        assert {name: type(error) for name, error in failed.items()} == {"poison": InferenceError}
        assert {name for name, _ in world.index.pictures("shop")} == {"a", "b"}
        monkeypatch.undo()
        assert world.service.indexer.finish("shop", ["poison"]) == {}, "it may work next time"
        assert world.agrees()

    def test_what_the_model_fails_at_is_swept_now_and_then_until_it_works(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = 0

        def fail(self: FakeModel, pictures, titles):
            nonlocal tried
            tried += 1
            raise InferenceError("not now")

        world.accept("p", RED)
        patch_young(monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(FakeModel, "encode_pictures", fail)
            for _ in range(3):
                world.service.settler.sweep()
        assert tried == 1
        world.service.settler.sweep()
        assert not world.index.rows, "it rests"
        later = SimpleNamespace(monotonic=lambda: 1e9)
        monkeypatch.setattr("service.gallery.pending.time", later)
        world.service.settler.sweep()
        assert world.index.pictures("shop") == {("p", image_id(RED))}
        assert world.agrees()

    def test_with_the_index_away_a_post_says_that_it_is_durable(self, world: World) -> None:
        world.put("p", RED)
        world.index.down = True
        for _ in range(2):  # the second finds the marker of the first
            with pytest.raises(NotIndexedYetError):
                world.put("p", GREEN)
        with pytest.raises(IndexUnavailableError):
            world.service.indexer.finish("shop", ["p"])
        assert world.service.indexer.is_pending("shop", "p")
        world.index.down = False
        world.service.indexer.finish("shop", ["p"])
        assert world.index.pictures("shop") == {("p", image_id(GREEN))}
        assert world.agrees()


def test_an_index_that_milvus_lost_is_filled_again(world: World) -> None:
    for name, image in (("a", RED), ("b", GREEN)):
        world.put(name, image)
    rows = dict(world.index.rows)
    world.index.rows.clear()
    world.index.is_filling = True
    world.service.settler.sweep()
    assert world.index.rows.keys() == rows.keys()
    assert not world.index.is_filling


def test_an_index_is_filled_though_products_are_written_all_the_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comparison meets a write between its looks at the index and at the catalogue."""
    world.put("a", RED)
    service, writes = world.service, iter(range(20))
    products = service.catalogue.products

    def written_meanwhile(shop_id: str | None = None) -> Iterator[ProductRecord]:
        world.put(f"b{next(writes)}", GREEN)
        return products(shop_id)

    monkeypatch.setattr(service.catalogue, "products", written_meanwhile)
    world.index.is_filling = True
    service.settler.reconcile()
    assert not world.index.is_filling
    assert next(writes) <= 3


def test_who_may_not_fill_an_index_does_not_compare_it_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = world.service
    monkeypatch.setattr(service.settler, "compare", lambda *_: pytest.fail("it was compared"))
    assert service.settler.agree(service.projections.active, lambda done, of: False) is None


@pytest.mark.parametrize("write", ["put", "finish", "delete", "delete_shop"])
def test_a_write_while_redis_was_away_is_told_by_whoever_finds_its_marker(
    world: World, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    world.put("p", RED)
    if write == "finish":
        world.accept("p", GREEN)
    world.epochs.down = True
    indexer = world.service.indexer
    writes = {
        "put": lambda: world.put("p", GREEN),
        "finish": lambda: indexer.finish("shop", ["p"]),
        "delete": lambda: indexer.delete("shop", "p"),
        "delete_shop": lambda: indexer.delete_shop("shop"),
    }
    writes[write]()
    world.service.settler.sweep()
    assert not world.agrees(), "another replica may still serve what it kept"
    told, successor = world.epochs.counts["shop"], world.start()
    world.epochs.down = False
    patch_young(monkeypatch)
    successor.settler.sweep()
    assert world.agrees()
    assert world.epochs.counts["shop"] > told


class Dying:
    """Counts the changes a write makes to storage and index, and ends the process at one."""

    def __init__(self, world: World, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._step = step
        for target, names in (
            (world.storage, ("put", "put_many", "delete")),
            (world.index, ("upsert", "delete")),
            (world.epochs, ("renew",)),
        ):
            for name in names:
                monkeypatch.setattr(target, name, self._counted(getattr(target, name)))

    def _counted(self, change):
        def counted(*args, **kwargs):
            if self.count >= self._step:
                raise Crash
            self.count += 1
            return change(*args, **kwargs)

        return counted


@pytest.mark.parametrize("write", ["put", "replace", "accept", "finish", "delete", "delete_shop"])
def test_a_process_that_dies_at_any_step_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """The successor only sweeps: it does not look at products that have no marker."""
    step, finished = 0, False
    while not finished:
        world = World(LocalStorage(tmp_path / str(step)))
        world.put("other", BLUE)
        if write in ("replace", "delete", "delete_shop"):
            world.put("p", RED, title="old")
        if write == "finish":
            world.accept("p", GREEN)
        with monkeypatch.context() as patch:
            Dying(world, step, patch)
            try:
                if write == "finish":
                    world.service.indexer.finish("shop", ["p"])
                elif write == "accept":
                    world.accept("p", GREEN)
                elif write == "delete":
                    world.service.indexer.delete("shop", "p")
                elif write == "delete_shop":
                    world.service.indexer.delete_shop("shop")
                else:
                    world.put("p", GREEN, title="new")
                finished = True
            except Crash:
                pass
        world.service = world.start()
        patch_young(monkeypatch)
        world.service.settler.sweep()
        assert world.agrees(), f"{write} that died before its step {step}"
        if finished and write in ("put", "replace", "accept", "finish"):
            assert ("p", image_id(GREEN)) in world.index.pictures("shop")
        step += 1
    assert step >= 4


def test_the_sweep_leaves_a_job_its_products_until_it_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_young(monkeypatch)
    job = world.service.jobs.begin()
    world.accept("p", GREEN)
    world.service.settler.sweep()
    assert world.index.pictures("shop") == set()
    job.discard()
    world.service.settler.sweep()
    assert world.index.pictures("shop") == {("p", image_id(GREEN))}
    assert world.agrees()


def patch_young(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.pending._YOUNG_S", 0.0)


class TestSeveralServices:
    def services(self, world: World, stores: list[Store]) -> list[FakeService]:
        return [world.start(Locks(store)) for store in stores]

    def test_each_finds_what_the_other_wrote(self, shared: World, stores: list[Store]) -> None:
        one, two = self.services(shared, stores)
        one.indexer.put(NewProduct("shop", "p", "old", None, (RED,)))
        two.indexer.put(NewProduct("shop", "p", "new", None, (GREEN,)))
        assert shared.index.pictures("shop") == {("p", image_id(GREEN))}
        one.indexer.delete("shop", "p")
        with pytest.raises(ProductNotFoundError):
            two.indexer.delete("shop", "p")
        assert shared.agrees()

    def test_a_start_removes_nothing_that_another_is_just_writing(
        self,
        shared: World,
        stores: list[Store],
        server: PrivateRedis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A comparison at every moment of a post, between any two changes that it makes; and with
        Redis away, so that not even a lock is in its way."""
        server.stop()
        one, two = self.services(shared, stores)
        one.indexer.put(NewProduct("shop", "p", None, None, (RED,)))
        compared = 0
        comparing = False

        def compare_before(change):
            def compared_before(*args, **kwargs):
                nonlocal compared, comparing
                if not comparing:
                    comparing = True
                    compared += 1
                    two.settler.reconcile()
                    two.settler.sweep()
                    comparing = False
                return change(*args, **kwargs)

            return compared_before

        for target, name in (
            (shared.storage, "put"),
            (shared.storage, "delete"),
            (shared.index, "upsert"),
            (shared.index, "delete"),
        ):
            monkeypatch.setattr(target, name, compare_before(getattr(target, name)))
        patch_young(monkeypatch)
        one.indexer.put(NewProduct("shop", "p", None, None, (GREEN,)))
        assert compared >= 4
        monkeypatch.undo()
        two.settler.sweep()
        assert shared.index.pictures("shop") == {("p", image_id(GREEN))}
        assert shared.agrees()

    @pytest.mark.parametrize("redis", ["up", "away"])
    def test_many_writers_of_few_products_end_in_agreement(
        self, shared: World, stores: list[Store], server: PrivateRedis, redis: str
    ) -> None:
        """Puts, deletes, deletions of the shop and comparisons, at once, by two services."""
        if redis == "away":
            server.stop()
        services = self.services(shared, stores)

        def work(lane: int) -> None:
            rng = random.Random(lane)
            service = services[lane % 2]
            for i in range(12):
                product_id, choice = f"p{rng.randrange(3)}", rng.random()
                try:
                    if choice < 0.6:
                        images = tuple(rng.sample((RED, GREEN, BLUE), rng.randint(1, 2)))
                        title = f"{lane}-{i}"
                        service.indexer.put(NewProduct("shop", product_id, title, None, images))
                    elif choice < 0.8:
                        service.indexer.delete("shop", product_id)
                    elif choice < 0.9:
                        service.settler.reconcile()
                    else:
                        service.indexer.delete_shop("shop")
                except (ProductNotFoundError, ShopNotFoundError, BusyError):
                    pass  # the last: it is settled by the sweep

        lanes = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        for service in services:
            service.settler.sweep()
        assert shared.agrees()
        for record in shared.service.catalogue.products():
            for image in record.images:
                data = shared.service.catalogue.picture("shop", record.product_id, image.image_id)
                assert image_id(data[1]) == image.image_id, "no picture of a record is lost"

    def test_what_a_dead_service_left_is_finished_by_another(
        self, shared: World, stores: list[Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = self.services(shared, stores)
        with monkeypatch.context() as patch:
            patch.setattr(shared.index, "upsert", raising(Crash))
            patch.setattr(one.pending, "leave", lambda *_, **__: None)  # it says no last word
            with pytest.raises(Crash):
                one.indexer.put(NewProduct("shop", "p", None, None, (RED,)))
        two.settler.sweep()
        assert not shared.index.rows, "it might be at work on it still"
        patch_young(monkeypatch)
        two.settler.sweep()
        assert shared.index.pictures("shop") == {("p", image_id(RED))}
        assert shared.agrees()

    def test_one_sweeps_at_a_time(self, shared: World, stores: list[Store]) -> None:
        one, two = self.services(shared, stores)
        shared.index.down = True
        with pytest.raises(NotIndexedYetError):
            two.indexer.put(NewProduct("shop", "p", None, None, (RED,)))
        shared.index.down = False
        with one.settler._locks.try_hold("sweep") as ours:
            assert ours
            two.settler.sweep()
            assert not shared.index.rows
        two.settler.sweep()
        assert shared.index.rows


class TestLocks:
    def test_a_lock_is_one_writers(self, stores: list[Store]) -> None:
        first, second = Locks(stores[0]), Locks(stores[1])
        order: list[str] = []
        holding, asked = threading.Event(), threading.Event()

        def hold() -> None:
            with first.hold("a", "b") as alone:
                assert alone()
                holding.set()
                asked.wait(60)
                order.append("first")

        thread = threading.Thread(target=hold)
        thread.start()
        assert holding.wait(60)
        with second.hold("c") as alone:
            assert alone()
        with second.try_hold("b") as ours:
            assert not ours
        asked.set()
        with second.hold("b"):
            order.append("second")
        thread.join()
        assert order == ["first", "second"]

    def test_who_waits_in_vain_is_told(
        self, stores: list[Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.coordination.locks._WAIT_S", 0.05)
        with (
            Locks(stores[0]).hold("a"),
            pytest.raises(BusyError) as caught,
            Locks(stores[1]).hold("a"),
        ):
            pass
        assert caught.value.status == 503

    def test_a_slow_writers_lock_does_not_end(
        self, stores: list[Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.coordination.locks._RENEWALS", 300)  # one in 50 ms

        def nearly_over(name: str) -> None:
            stores[1].call(lambda client: client.expire(f"lpr:lock:{name}", 10))

        def is_renewed(name: str) -> bool:
            return stores[1].call(lambda client: client.ttl(f"lpr:lock:{name}")) > 10

        with Locks(stores[0]).hold("a", "b"), Locks(stores[0]).try_hold("c"):
            for name in "abcabc":
                nearly_over(name)
                until(lambda name=name: is_renewed(name))
                with Locks(stores[1]).try_hold(name) as ours:
                    assert not ours
        with Locks(stores[1]).hold("a", "b", "c") as alone:
            assert alone()

    def test_a_dead_services_lock_ends(
        self, stores: list[Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.coordination.locks._LEASE_S", 0.05)
        monkeypatch.setattr("service.coordination.locks._RENEWALS", 1e-6)  # it says no more
        held = Locks(stores[0]).hold("a")
        held.__enter__()
        with Locks(stores[1]).hold("a") as alone:
            assert alone()
            held.__exit__(None, None, None)  # what is another's now stays so
            with Locks(stores[0]).try_hold("b") as ours:
                assert ours

    def test_who_holds_what_redis_forgot_is_not_alone_any_more(self, stores: list[Store]) -> None:
        with Locks(stores[0]).hold("a") as alone:
            stores[1].call(lambda client: client.flushall())
            assert not alone()
            with Locks(stores[1]).hold("a") as theirs:
                assert theirs()
                assert not alone()

    def test_without_redis_nobody_is_surely_alone(
        self, stores: list[Store], server: PrivateRedis
    ) -> None:
        server.stop()
        locks = Locks(stores[0])
        with locks.hold("a") as alone:
            assert not alone()
        with locks.try_hold("a") as ours:
            assert ours

    def test_threads_of_one_service_take_turns(self) -> None:
        locks = Locks(None)
        inside = 0
        most = 0

        def work() -> None:
            nonlocal inside, most
            for _ in range(50):
                with locks.hold("a", "b") as alone:
                    assert alone
                    inside += 1
                    most = max(most, inside)
                    inside -= 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1


def raising(error: type[BaseException]):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
