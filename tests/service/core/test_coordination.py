"""Against the real private Redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from service.coordination.epochs import Epochs, written_at
from service.coordination.filling import Filling, Progress
from service.coordination.idempotency import Answer, Idempotency, Lease, check_key
from service.coordination.locks import Locks
from service.coordination.private_server import PrivateRedis
from service.coordination.replicas import Replicas
from service.coordination.store import _REST_S, Store
from service.errors import (
    CoordinationError,
    IdempotencyInProgressError,
    IdempotencyKeyInvalidError,
    IdempotencyKeyReusedError,
)
from service.jobs.queue import Work, WorkQueue
from service.telemetry import Telemetry
from tests.freezing import freeze, thaw
from tests.service.lite_server import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(server: PrivateRedis) -> Iterator[Store]:
    store = Store.at(server.url, timeout_s=5, telemetry=Telemetry())
    yield store
    store.close()


def forget_silence(store: Store) -> None:
    store._rest_until = 0.0


class TestPrivateRedis:
    def test_it_listens_on_its_socket_alone(self, store: Store) -> None:
        assert store.call(lambda client: client.config_get("port")) == {"port": "0"}

    def test_its_content_survives_a_restart(self, tmp_path: Path) -> None:
        for expected in (None, "kept"):
            server = PrivateRedis(tmp_path)
            server.start()
            with redis.Redis.from_url(server.url, decode_responses=True) as client:
                assert client.get("key") == expected
                client.set("key", "kept")
            server.stop()

    def test_a_server_left_over_from_a_kill_makes_room(self, tmp_path: Path) -> None:
        orphan, successor = PrivateRedis(tmp_path), PrivateRedis(tmp_path)
        orphan.start()
        successor.start()
        assert orphan._process is not None
        assert orphan._process.wait(60) == 0
        assert successor._answers()
        successor.stop()

    def test_a_path_too_long_for_a_socket_is_no_obstacle(self, tmp_path: Path) -> None:
        server = PrivateRedis(tmp_path / ("long" * 40))
        server.start()
        assert server._answers()
        socket = server._socket
        server.stop()
        assert not socket.parent.exists()
        assert PrivateRedis(tmp_path / ("long" * 40)).url.endswith(str(socket)), "also after a kill"
        socket.parent.mkdir(mode=0o755)
        with pytest.raises(CoordinationError, match="not ours alone"):
            server.start()
        server.stop()

    def test_damaged_files_are_not_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "appendonly.aof").write_bytes(b"*1\r\n$garbage" * 10)
        server = PrivateRedis(tmp_path)
        server.start()
        assert server._answers()
        server.stop()

    def test_it_is_started_again_when_it_dies(self, server: PrivateRedis, store: Store) -> None:
        died = server._process
        assert died is not None
        died.kill()
        deadline = time.monotonic() + 60
        while server._process is died or not server._answers():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        forget_silence(store)
        assert store.is_up()
        successor = server._process
        assert successor is not None
        server.stop()
        assert successor.returncode == 0, "it is stopped for good"

    def test_a_folder_that_cannot_be_made_is_our_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        server = PrivateRedis(tmp_path / "file" / "redis")
        with pytest.raises(CoordinationError, match="cannot be started"):
            server.start()
        server.stop()

    def test_a_binary_that_cannot_be_run_is_our_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = PrivateRedis(tmp_path)
        monkeypatch.setattr(server, "_command", lambda: [str(tmp_path / "nothing")])
        with pytest.raises(CoordinationError, match="cannot be started"):
            server.start()
        server.stop()

    def test_a_first_start_that_fails_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.coordination.private_server._REST_S", 0.05)
        obstacle = tmp_path / "file"
        obstacle.write_bytes(b"")
        server = PrivateRedis(obstacle / "redis")
        with pytest.raises(CoordinationError, match="cannot be started"):
            server.start()
        obstacle.unlink()
        try:
            until(Store.at(server.url, 1.0, Telemetry()).is_up)
        finally:
            server.stop()


class TestStore:
    def test_a_redis_that_is_away_is_our_error_and_then_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1_000.0
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr("service.coordination.store.time", clock)
        store = Store.at(f"unix://{tmp_path}/nobody.sock", timeout_s=1, telemetry=Telemetry())
        with pytest.raises(CoordinationError):
            store.call(lambda client: client.ping())
        asked = []
        with pytest.raises(CoordinationError, match="a moment ago"):
            store.call(asked.append)
        assert not asked
        assert not store.is_up()
        now += _REST_S
        with pytest.raises(CoordinationError, match="does not answer"):
            store.call(lambda client: client.ping())

    def test_what_a_working_redis_was_asked_in_vain_is_no_silence(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def in_vain(_: object) -> None:
            raise CoordinationError("it has forgotten")

        monkeypatch.setattr(store, "_rest_until", 0.001)  # it was silent before
        with pytest.raises(CoordinationError, match="forgotten"):
            store.call(in_vain)
        assert store.call(lambda client: client.ping())

    def test_a_hanging_redis_is_given_up_at_its_timeout(self, server: PrivateRedis) -> None:
        store = Store.at(server.url, timeout_s=1, telemetry=Telemetry())
        assert store.is_up()
        assert server._process is not None
        freeze(server._process)
        try:
            with pytest.raises(CoordinationError):
                store.call(lambda client: client.get("key"))
        finally:
            thaw(server._process)
        forget_silence(store)
        assert store.is_up()

    def test_a_redis_that_takes_no_writes_is_not_up(self, store: Store) -> None:
        store.call(lambda client: client.config_set("maxmemory", 1))
        try:
            assert store.call(lambda client: client.ping())
            assert not store.is_up()
        finally:
            forget_silence(store)
            store.call(lambda client: client.config_set("maxmemory", 0))
        assert store.is_up()
        assert store.call(lambda client: client.ttl("lpr:up")) > 0


class TestEpochs:
    def test_they_stand_until_a_write_and_are_of_one_shop(self, store: Store) -> None:
        epochs = Epochs(store, lambda: None)
        first, other = epochs.read("s"), epochs.read("t")
        assert first is not None
        assert epochs.read("s") == first
        epochs.renew("s")
        assert epochs.read("s") not in (None, first)
        assert epochs.read("t") == other

    def test_replicas_agree(self, store: Store) -> None:
        here, there = Epochs(store, lambda: None), Epochs(store, lambda: None)
        assert here.read("s") == there.read("s")
        there.renew("s")
        assert here.read("s") == there.read("s")

    def test_after_redis_lost_everything_no_old_epoch_comes_back(self, store: Store) -> None:
        epochs = Epochs(store, lambda: None)
        epochs.renew("s")
        before = epochs.read("s")
        store.call(lambda client: client.flushall())
        epochs.renew("s")
        assert epochs.read("s") != before

    def test_the_latest_time_of_a_shops_writes_stays(self, store: Store) -> None:
        """Two replicas: who wrote later may have renewed earlier."""
        late, early = Epochs(store, lambda: 470609362187452420), Epochs(store, lambda: 99)
        assert written_at(late.read("s")) is None
        late.renew("s")
        before = late.read("s")
        early.renew("s")
        assert early.read("s") != before
        assert written_at(early.read("s")) == 470609362187452420
        Epochs(store, lambda: None).renew("s")
        assert written_at(early.read("s")) == 470609362187452420
        Epochs(store, lambda: 470609362187452421).renew("s")
        assert written_at(early.read("s")) == 470609362187452421
        assert written_at(None) is None

    def test_a_write_while_redis_was_away_is_made_up_for(
        self, server: PrivateRedis, tmp_path: Path
    ) -> None:
        writer = Store.at(server.url, timeout_s=5, telemetry=Telemetry())
        reader = Store.at(server.url, timeout_s=5, telemetry=Telemetry())
        writing, reading = Epochs(writer, lambda: None), Epochs(reader, lambda: None)
        before = reading.read("s")
        server.stop()
        writing.renew("s")
        assert writing.read("s") is None
        server.start()
        forget_silence(writer)
        assert writing.read("s") not in (None, before)
        assert reading.read("s") == writing.read("s")

    def test_it_is_made_up_for_though_nobody_asks_for_an_epoch(
        self, server: PrivateRedis, store: Store
    ) -> None:
        writer = Store.at(server.url, timeout_s=5, telemetry=Telemetry())
        writing, reading = Epochs(writer, lambda: None), Epochs(store, lambda: None)
        before = reading.read("s")
        server.stop()
        assert not writing.renew("s"), "whoever else keeps the shop does not know"
        assert Epochs(writer, lambda: None, alone=True).renew("s"), "nobody else keeps it"
        server.start()
        forget_silence(writer)
        assert writing.catch_up()
        assert reading.read("s") not in (None, before)

    def test_a_server_that_was_restarted_may_have_forgotten_the_last_renewal(
        self, server: PrivateRedis, store: Store
    ) -> None:
        """Nobody looks while it is away, and then it has the epoch of before."""
        epochs = Epochs(store, lambda: 7)
        before = epochs.read("s")
        assert before == epochs.read("s")
        server.stop()
        server.start()
        after = epochs.read("s")
        assert after not in (None, before)
        assert after == epochs.read("s") and written_at(after) is None
        epochs.renew("s")
        assert written_at(epochs.read("s")) == 7

    def test_an_epoch_that_redis_does_not_keep_is_none(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store._client, "get", lambda name: None)
        assert Epochs(store, lambda: None).read("s") is None


class TestSeveralCatalogues:
    """With one Redis, such as that for trials and that in use, or the one before."""

    def test_another_catalogues_answer_is_not_replayed(self, store: Store) -> None:
        for owner in ("trial", "use"):
            idempotency = Idempotency(store.owned_by(owner))
            answer = idempotency.once("post", "key", "content", lambda: f"stored in {owner}")  # noqa: B023
            assert answer == Answer(f"stored in {owner}")

    def test_nothing_of_another_is_seen(self, store: Store) -> None:
        trial, use = store.owned_by("trial"), store.owned_by("use")
        queues = [WorkQueue(own, takeover_s=60, redis_timeout_s=1) for own in (trial, use)]
        queues[0].add([Work("job", 0)])
        assert queues[1].take() is None and queues[0].take() is not None
        Replicas(trial).tell(["old"])
        assert Replicas(use).all_have("new")
        with Locks(trial).try_hold("sweep") as first, Locks(use).try_hold("sweep") as second:
            assert first and second
        epoch = Epochs(use, lambda: None).read("s")
        Epochs(trial, lambda: None).renew("s")
        assert Epochs(use, lambda: None).read("s") == epoch
        assert Filling(trial).claim("b", Progress(0, 1)) and Filling(use).progress("b") is None


class TestIdempotency:
    def test_once_means_once(self, store: Store) -> None:
        idempotency, runs = Idempotency(store), []

        def run() -> str:
            runs.append(1)
            return f"answer {len(runs)}"

        first = idempotency.once("shop", "key", "content", run)
        again = idempotency.once("shop", "key", "content", run)
        assert (first.body, first.replayed) == ("answer 1", False)
        assert (again.body, again.replayed) == ("answer 1", True)
        assert len(runs) == 1

    def test_other_keys_and_other_shops_are_other_requests(self, store: Store) -> None:
        idempotency = Idempotency(store)
        for scope, key in (("a", "bc"), ("ab", "c"), ("a", "x")):
            assert idempotency.once(scope, key, "f", lambda: "new").replayed is False

    def test_other_content_under_a_key_is_refused(self, store: Store) -> None:
        idempotency = Idempotency(store)
        idempotency.once("s", "key", "one", lambda: "")
        with pytest.raises(IdempotencyKeyReusedError):
            idempotency.once("s", "key", "two", lambda: "")

    def test_a_second_request_while_the_first_runs_is_told_to_wait(self, store: Store) -> None:
        idempotency = Idempotency(store)

        def run() -> str:
            with pytest.raises(IdempotencyInProgressError):
                idempotency.once("s", "key", "f", lambda: "second")
            with pytest.raises(IdempotencyKeyReusedError):
                idempotency.once("s", "key", "other", lambda: "second")
            return "first"

        assert idempotency.once("s", "key", "f", run).body == "first"

    def test_a_failed_request_gives_its_key_back(self, store: Store) -> None:
        idempotency = Idempotency(store)

        def fail() -> str:
            raise ValueError("failed")

        with pytest.raises(ValueError, match="failed"):
            idempotency.once("s", "key", "f", fail)
        answer = idempotency.once("s", "key", "f", lambda: "fine")
        assert (answer.body, answer.replayed) == ("fine", False)

    def test_keys_are_not_kept_for_ever(self, store: Store) -> None:
        Idempotency(store).once("s", "key", "f", lambda: "")
        (name,) = store.call(lambda client: client.keys("lpr:idempotency:*"))
        assert 0 < store.call(lambda client: client.ttl(name)) <= 86_400

    def test_without_redis_the_request_simply_runs(self, tmp_path: Path) -> None:
        store = Store.at(f"unix://{tmp_path}/nobody.sock", timeout_s=1, telemetry=Telemetry())
        idempotency = Idempotency(store)
        assert idempotency.once("s", "key", "f", lambda: "done").body == "done"

    def test_redis_going_away_meanwhile_costs_no_answer(
        self, server: PrivateRedis, store: Store
    ) -> None:
        def run() -> str:
            server.stop()
            return "done"

        assert Idempotency(store).once("s", "key", "f", run).body == "done"

    def test_a_lease_that_was_written_twice_is_still_ones_own(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As redis-py does where a connection breaks between the write and its answer."""
        once = store._client.set

        def twice(*args: Any, **kwargs: Any) -> object:
            once(*args, **kwargs)
            return once(*args, **kwargs)

        monkeypatch.setattr(store._client, "set", twice)
        assert Idempotency(store).once("s", "key", "f", lambda: "first").body == "first"
        assert Idempotency(store).once("s", "key", "f", lambda: "second").body == "first"

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_lease_that_ended_is_not_taken_back_from_who_has_it_now(
        self, store: Store, fails: bool
    ) -> None:
        def run() -> str:
            (name,) = store.call(lambda client: client.keys("lpr:idempotency:*"))
            store.call(lambda client: client.set(name, "another's"))
            if fails:
                raise ValueError
            return "late"

        with contextlib.suppress(ValueError):
            Idempotency(store).once("s", "key", "f", run)
        (name,) = store.call(lambda client: client.keys("lpr:idempotency:*"))
        assert store.call(lambda client: client.get(name)) == "another's"

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\n", "ü"])
    def test_a_key_that_is_none_is_refused(self, key: str) -> None:
        with pytest.raises(IdempotencyKeyInvalidError):
            check_key(key)

    def test_a_long_request_keeps_its_key_by_renewing_it(self, store: Store) -> None:
        lease = Idempotency(store).begin("s", "key", "f")
        assert isinstance(lease, Lease)
        (name,) = store.call(lambda client: client.keys("lpr:idempotency:*"))
        store.call(lambda client: client.expire(name, 5))
        lease.renew()
        assert store.call(lambda client: client.ttl(name)) > 50
        with pytest.raises(IdempotencyInProgressError):
            Idempotency(store).begin("s", "key", "f")
        lease.hold("done")
        assert Idempotency(store).begin("s", "key", "f") == Answer("done", replayed=True)

    def test_a_lease_that_ended_is_not_renewed_over_anothers(self, store: Store) -> None:
        lease = Idempotency(store).begin("s", "key", "f")
        assert isinstance(lease, Lease)
        (name,) = store.call(lambda client: client.keys("lpr:idempotency:*"))
        store.call(lambda client: client.set(name, "another's"))
        lease.renew()
        assert store.call(lambda client: client.get(name)) == "another's"
