"""Redis dies, freezes, forgets: the API works on without it, and with it again by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from service.client import Client
from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES, Ledger, told
from tests.faults.processes import RedisServer, Served, until
from tests.faults.scale import Scale
from tests.integration.test_jobs import as_lines, ended, post_batch
from tests.ports import free_port

pytestmark = pytest.mark.alone

_BACK_S = 30.0
_BATCH = {f"{number}": PICTURES[number] for number in range(12)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", free_port()) as server:
        yield server


@contextmanager
def _killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()  # and it is empty: it kept nothing on disk


@contextmanager
def _paused(server: RedisServer) -> Iterator[None]:
    server.client.execute_command("CLIENT", "PAUSE", 60_000)
    yield
    # Only a command of the kind that it still takes could end it; a restart is what one would do.
    server.kill()
    server.start()


@contextmanager
def _frozen(server: RedisServer) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


@contextmanager
def _flushed(server: RedisServer) -> Iterator[None]:
    server.client.flushall()
    yield
    server.client.flushall()


@pytest.mark.parametrize(
    "fault",
    [
        _killed,
        _flushed,
        pytest.param(_paused, marks=pytest.mark.full),
        pytest.param(_frozen, marks=pytest.mark.full),
    ],
)
def test_redis_is(
    scale: Scale,
    serve: Serve,
    server: RedisServer,
    record: Record,
    fault: Callable[[RedisServer], AbstractContextManager[None]],
) -> None:
    served, ledger = serve(LPR_REDIS__URL=server.url), Ledger("shop")
    ledger.write_some(served.http, 0, range(5))
    with fault(server):
        batch = post_batch(served.http, as_lines(_BATCH), "batch")
        during = ledger.write_some(served.http, 0, range(5, 25))
        lost, wrong = ledger.check(served.client)
    healed = time.monotonic()
    back_s = until(lambda: _is_up(served.client), 60, "Redis is used again")
    job = ended(served.http, batch)
    done_s = time.monotonic() - healed
    after = ledger.write_some(served.http, 0, range(25, 30))
    more_lost, more_wrong = ledger.check(served.client)
    lost, wrong = lost + more_lost, wrong + more_wrong
    record(
        f"Redis {fault.__name__.removeprefix('_')}",
        "the API works on; all is as before <= 30 s",
        f"{told(during)}; used again after {back_s:.1f} s; a batch of the time done "
        f"after {done_s:.1f} s; {len(lost)} lost, {len(wrong)} wrong",
        "a Redis server of its own",
    )
    assert {write.status for write in during + after} <= {201, 204}
    assert not lost
    assert not wrong
    assert job["counts"]["done"] == len(_BATCH)
    if scale.full:
        assert max(back_s, done_s) <= _BACK_S


def test_the_private_redis_is_killed(scale: Scale, serve: Serve, record: Record) -> None:
    served, ledger = serve(), Ledger("shop")
    ledger.write_some(served.http, 0, range(5))
    redis = _redis_of(served)
    redis.kill()
    during = ledger.write_some(served.http, 0, range(5, 15))
    back_s = until(lambda: _is_up(served.client), 60, "it was started again")
    lost, wrong = ledger.check(served.client)
    record(
        "the private Redis is killed",
        "the API works on; started again <= 30 s",
        f"{told(during)}; up again after {back_s:.1f} s; {len(lost)} lost, {len(wrong)} wrong",
        "kill -9",
    )
    assert {write.status for write in during} <= {201, 204}
    assert not lost
    assert not wrong
    if scale.full:
        assert back_s <= _BACK_S


def _is_up(client: Client) -> bool:
    return bool(client.info()["coordination"]["up"])


def _redis_of(served: Served) -> psutil.Process:
    (redis,) = (c for c in served.process.children() if c.name() == "redis-server")
    return redis
