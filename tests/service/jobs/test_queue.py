"""Against a real Redis: it alone knows how streams behave."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import redis

from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.errors import CoordinationError
from service.jobs.queue import Work, WorkQueue
from service.telemetry import Telemetry
from tests.service.jobs.silence import fall_silent

WORKS = [Work("job", piece) for piece in range(3)]


def queue(store: Store, takeover_s: float = 30.0) -> WorkQueue:
    return WorkQueue(store, takeover_s=takeover_s, redis_timeout_s=0.1)


def taken(queue: WorkQueue) -> Work | None:
    claim = queue.take()
    return None if claim is None else claim.work


def test_each_piece_goes_to_one_worker(store: Store) -> None:
    here, there = queue(store), queue(store)
    here.add(WORKS)
    assert [taken(here), taken(there), taken(here)] == WORKS
    assert taken(here) is None
    assert taken(there) is None


def test_workers_that_wait_get_what_comes(store: Store) -> None:
    waiting, found = WorkQueue(store, takeover_s=30, redis_timeout_s=5), []
    thread = threading.Thread(target=lambda: found.append(taken(waiting)))
    thread.start()
    queue(store).add(WORKS[:1])
    thread.join()
    assert found in ([WORKS[0]], [None])
    assert found == [WORKS[0]] or taken(waiting) == WORKS[0]


def test_a_piece_is_in_the_queue_once(store: Store) -> None:
    here = queue(store)
    here.add([WORKS[0], WORKS[0]])
    claim = here.take()
    assert claim is not None
    here.add([WORKS[0]])
    assert taken(here) is None, "it is in somebody's hands"
    here.finish(claim)
    here.finish(claim)
    here.add([WORKS[0]])
    assert taken(here) == WORKS[0]


def test_nothing_is_left_of_finished_work(store: Store) -> None:
    here = queue(store)
    here.add(WORKS)
    for _ in WORKS:
        claim = here.take()
        assert claim is not None
        here.finish(claim)
    assert store.call(lambda client: client.xlen("lpr:{jobs}:work")) == 0
    assert store.call(lambda client: client.exists("lpr:{jobs}:known")) == 0


def test_abandoned_pieces_are_all_taken_over(store: Store) -> None:
    dead, alive = queue(store), queue(store)
    dead.add(WORKS)
    claims = [dead.take() for _ in WORKS]
    assert taken(alive) is None, "not abandoned yet"
    fall_silent(store, 31, *claims)
    heir = queue(store)
    assert {taken(heir) for _ in WORKS} == set(WORKS)
    assert taken(queue(store)) is None, "it is in good hands now"


def test_who_says_that_it_is_at_it_keeps_its_piece(store: Store) -> None:
    busy = queue(store)
    busy.add(WORKS[:1])
    claim = busy.take()
    assert claim is not None
    fall_silent(store, 31, claim)
    assert busy.keep(claim)
    assert taken(queue(store)) is None
    fall_silent(store, 31, claim)
    assert taken(queue(store)) == WORKS[0], "it would be taken over otherwise"


def test_who_was_silent_for_too_long_is_told_that_it_lost_its_piece(store: Store) -> None:
    silent, other = queue(store), queue(store, takeover_s=0)
    silent.add(WORKS[:1])
    claim = silent.take()
    assert claim is not None
    again = other.take()
    assert again == claim
    assert not silent.keep(claim)
    assert other.keep(claim)


def test_the_look_for_abandoned_pieces_goes_through_all_of_them(store: Store) -> None:
    """Redis looks at ten entries a call: the cursor must be carried on."""
    busy, other = queue(store), queue(store)
    many = [Work("job", piece) for piece in range(60)]
    busy.add(many)
    claims = [busy.take() for _ in many]
    fall_silent(store, 31, claims[-1])
    looks = (taken(other) for _ in many)
    assert next(found for found in looks if found is not None) == many[-1]


def test_a_piece_given_back_is_anybodys(store: Store) -> None:
    here, there = queue(store), queue(store)
    here.add(WORKS[:1])
    claim = here.take()
    assert claim is not None
    here.give_back(claim)
    assert taken(there) == WORKS[0]


def test_what_is_buried_is_told_and_gone(store: Store) -> None:
    here = queue(store)
    here.add(WORKS[:2])
    for reason in ("first", "second"):
        claim = here.take()
        assert claim is not None
        here.bury(claim, 5, reason)
    assert [
        letter for _, letter in store.call(lambda client: client.xrange("lpr:{jobs}:dead"))
    ] == [
        {"job": "job", "piece": "0", "attempts": "5", "reason": "first"},
        {"job": "job", "piece": "1", "attempts": "5", "reason": "second"},
    ]
    assert taken(queue(store, takeover_s=0)) is None


def test_after_redis_lost_everything_the_queue_goes_on(store: Store) -> None:
    here = queue(store)
    here.add(WORKS)
    claim = here.take()
    assert claim is not None
    store.call(lambda client: client.flushall())
    assert not here.keep(claim)
    here.finish(claim)
    assert taken(here) is None
    here.add(WORKS[1:])
    assert [taken(here), taken(here)] == WORKS[1:]


def test_entries_that_were_deleted_in_somebodys_hands_are_nothing(store: Store) -> None:
    here = queue(store)
    here.add(WORKS[:1])
    claim = here.take()
    assert claim is not None
    store.call(lambda client: client.xdel("lpr:{jobs}:work", claim.entry))
    assert taken(queue(store, takeover_s=0)) is None


def test_waiting_is_shorter_than_the_clients_patience(server: PrivateRedis, store: Store) -> None:
    """It would be taken for a Redis that hangs."""
    for timeout_s in (0.2, 1.0, 5.0):
        waiting = WorkQueue(store, takeover_s=30, redis_timeout_s=timeout_s)
        assert 0 < waiting._wait_ms <= 500 * timeout_s
    short = Store.at(server.url, timeout_s=2, telemetry=Telemetry())
    assert WorkQueue(short, takeover_s=30, redis_timeout_s=2).take() is None
    short.close()


def test_without_redis_it_is_said(tmp_path: Path) -> None:
    nobody = queue(Store.at(f"unix://{tmp_path}/nobody.sock", timeout_s=1, telemetry=Telemetry()))
    with pytest.raises(CoordinationError):
        nobody.take()
    with pytest.raises(CoordinationError):
        nobody.add(WORKS)


def test_other_complaints_of_redis_are_not_hidden(store: Store) -> None:
    store.call(lambda client: client.set("lpr:{jobs}:work", "not a stream"))
    with pytest.raises(CoordinationError) as caught:
        queue(store).take()
    assert isinstance(caught.value.__cause__, redis.ResponseError)
