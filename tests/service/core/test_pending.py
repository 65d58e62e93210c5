"""The journal of writes under way, on a directory and on an object store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.errors import StorageFullError
from service.gallery.pending import Marker, Pending
from service.gallery.storage import LocalStorage, S3Storage, Storage

NOW = datetime.now(UTC)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path)
    return S3Storage(request.getfixturevalue("s3_settings"))


class Clock:
    """Moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("service.gallery.pending.time", clock)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_marker_is_there_for_everybody_until_it_is_closed(storage: Storage) -> None:
    mine, others = Pending(storage, alone=False), Pending(storage, alone=False)
    opened = [mine.open("s", "p", NOW), mine.open("s", "p", None), mine.open("s", None, None)]
    assert set(others.all()) == set(mine.all()) == set(opened)
    assert set(others.of("s", "p")) == set(opened[:2])
    assert others.of("s", None) == opened[2:]
    assert others.of("s", "q") == []
    mine.close(opened[:2])
    assert others.all() == opened[2:]
    assert (mine.count, others.count) == (1, 1)


def test_no_id_is_taken_for_a_shops_own(storage: Storage) -> None:
    pending = Pending(storage, alone=False)
    pending.open("s", "shop", NOW)
    assert pending.of("s", None) == []


def test_a_write_under_way_is_left_alone(storage: Storage, clock: Clock) -> None:
    mine, others = Pending(storage, alone=False), Pending(storage, alone=False)
    marker = mine.open("s", "p", NOW)
    assert others.due() == []
    clock.now = 70
    assert mine.due() == [], "this process knows that it still writes"
    assert others.due() == [marker], "who only sees it gives it half a minute"
    assert not others.is_abandoned(marker)
    clock.now = 200
    assert others.is_abandoned(marker)
    assert not mine.is_abandoned(marker)


def test_the_lag_is_that_of_the_oldest(storage: Storage, clock: Clock) -> None:
    pending = Pending(storage, alone=False)
    assert pending.lag_s == 0
    oldest = pending.open("s", "p", NOW)
    clock.now = 10
    pending.open("s", "q", NOW)
    clock.now = 15
    assert pending.lag_s == 15
    pending.close([oldest])
    assert pending.lag_s == 5


def test_a_write_that_failed_is_for_the_next_look(storage: Storage, clock: Clock) -> None:
    pending = Pending(storage, alone=False)
    failed, accepted = pending.open("s", "p", NOW), pending.open("s", "q", NOW)
    pending.leave(failed, failed=True)
    pending.leave(accepted, failed=False)
    assert pending.due() == [failed]
    assert pending.failed("s") == [failed]
    assert pending.failed("other") == []
    assert pending.is_abandoned(failed)
    assert not pending.is_abandoned(accepted)
    clock.now = 70
    assert set(pending.due()) == {failed, accepted}
    pending.close([failed, accepted])
    assert (pending.due(), pending.failed("s"), pending.count) == ([], [], 0)


def test_accepted_work_waits_for_its_job_an_hour_at_most(storage: Storage, clock: Clock) -> None:
    pending = Pending(storage, alone=False)
    post, accepted = pending.open("s", "p", NOW), pending.open("s", "q", NOW, of_job=True)
    for each in (post, accepted):
        pending.leave(each, failed=False)
    clock.now = 70
    assert set(pending.due()) == {post, accepted}
    assert [m for m in pending.due() if pending.waits_for_a_job(m)] == [accepted]
    restarted = Pending(storage, alone=False)
    assert restarted.waits_for_a_job(next(iter(restarted.of("s", "q"))))
    clock.now = 3_600
    assert not pending.waits_for_a_job(accepted)


def test_a_marker_of_an_older_service_waits_for_no_job(storage: Storage) -> None:
    marker = Pending(storage, alone=False).open("s", "p", NOW)
    storage.put(marker.key, marker.model_dump_json(exclude={"of_job"}).encode())
    assert Pending(storage, alone=False).all() == [marker]


def test_what_cannot_be_settled_is_due_later_each_time(storage: Storage, clock: Clock) -> None:
    pending = Pending(storage, alone=False)
    marker, other = pending.open("s", "p", NOW), pending.open("s", "q", NOW)
    for each in (marker, other):
        pending.leave(each, failed=True)
    for rest_s in (60, 120, 240, 480, 960, 1_920, 3_600, 3_600):
        pending.put_off([marker])
        clock.now += rest_s - 1
        assert pending.due() == [other]
        clock.now += 1
        assert set(pending.due()) == {marker, other}


def test_what_a_predecessor_left_is_abandoned_where_nobody_else_writes(storage: Storage) -> None:
    before = Pending(storage, alone=True).open("s", "p", NOW)
    pending = Pending(storage, alone=True)
    mine = pending.open("s", "p", NOW)
    assert pending.is_abandoned(before)
    assert not pending.is_abandoned(mine)


def test_a_damaged_marker_hides_no_other(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    pending = Pending(storage, alone=False)
    marker = pending.open("s", "p", NOW)
    storage.put(marker.key.rpartition("/")[0] + "/0", b"{")
    assert Pending(storage, alone=False).all() == [marker]
    assert "damaged" in caplog.text


def test_no_room_for_a_marker_is_no_write_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFullError("full")

    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(storage, "put", full)
    pending = Pending(storage, alone=False)
    with pytest.raises(StorageFullError):
        pending.open("s", "p", NOW)
    assert pending.count == 0
    assert not pending._mine


def test_a_marker_keeps_its_meaning_on_the_way() -> None:
    marker = Marker(key="k", shop_id="s", product_id="ünï", updated_at=NOW)
    assert Marker.model_validate_json(marker.model_dump_json()) == marker
