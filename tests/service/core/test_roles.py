from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.errors import CatalogueUnavailableError
from service.gallery.roles import Roles, RolesRecord
from service.gallery.storage import LocalStorage, S3Storage, Storage
from service.settings import CatalogueSettings


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path)
    settings: CatalogueSettings = request.getfixturevalue("s3_settings")
    return S3Storage(settings)


def roles(now: Roles) -> tuple[str, str | None, str | None]:
    return now.active, now.previous, now.coming


def test_until_somebody_activates_nothing_is_recorded(storage: Storage) -> None:
    assert roles(RolesRecord(storage, "a").read()) == ("a", None, None)
    assert roles(RolesRecord(storage, "b").read()) == ("b", None, None)
    assert not list(storage.keys("roles"))


def test_the_first_of_those_who_share_a_record_opens_it_for_all(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda name: RolesRecord(storage, name).opened(), "abcdefgh"))
    assert len({roles.active for roles in opened}) == 1
    assert RolesRecord(storage, "z").opened() == opened[0]
    assert len(list(storage.keys("roles"))) == 1


def test_every_replica_and_every_successor_sees_a_change_at_once(storage: Storage) -> None:
    here, there = RolesRecord(storage, "a"), RolesRecord(storage, "a")
    for bundle_id, expected in {"b": ("b", "a", None), "c": ("c", "b", None)}.items():
        before, after = here.change(lambda now, name=bundle_id: now.activating(name))
        assert (before.coming, after.coming) == (None, bundle_id)
        assert there.read() == after
        there.change(lambda now, name=bundle_id: now.taken_over(name))
        assert roles(here.read()) == expected
    assert RolesRecord(storage, "other default").read() == here.read()


def test_changes_at_the_same_moment_are_made_upon_each_other(storage: Storage) -> None:
    def append(number: int) -> None:
        record = RolesRecord(storage, "a")
        record.change(lambda now: now.activating(f"{now.coming or ''}{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(8)))
    coming = RolesRecord(storage, "a").read().coming
    assert coming is not None
    assert sorted(coming) == list("01234567")


def test_a_change_that_raises_changes_nothing(storage: Storage) -> None:
    def refuse(now: Roles) -> Roles:
        raise LookupError

    record = RolesRecord(storage, "a")
    with pytest.raises(LookupError):
        record.change(refuse)
    assert not list(storage.keys("roles"))


def test_a_damaged_record_is_said_and_not_passed_over(storage: Storage) -> None:
    record = RolesRecord(storage, "a")
    record.change(lambda now: now.activating("b"))
    storage.put("roles/00000002.json", b"{")
    for _ in range(2):
        with pytest.raises(CatalogueUnavailableError, match="00000002"):
            record.read()


def test_going_on_to_the_previous_bundle_or_giving_one_up() -> None:
    now = Roles(active="b", previous="a", coming="c", changed_at="2030-01-01T00:00:00Z")
    assert now.kept == ["b", "a", "c"]
    assert roles(now.taken_over("a")) == ("a", "b", None)
    assert roles(now.activating("a")) == ("b", None, "a")
    assert roles(now.without("a")) == ("b", None, "c")
    assert roles(now.without("c")) == ("b", "a", None)
