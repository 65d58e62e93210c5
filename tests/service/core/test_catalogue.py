from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.errors import (
    CatalogueUnavailableError,
    NotFoundError,
    ProductNotFoundError,
    ShopNotFoundError,
    StorageFullError,
)
from service.gallery.catalogue import (
    Catalogue,
    PictureRecord,
    ProductRecord,
    image_id,
    product_folder,
)
from service.gallery.storage import LocalStorage, S3Storage, Storage

ODD_IDS = ['x" or id!="', "../../etc/passwd", "-", "a b", "A", "ünï/côdé", "人" * 128, "%2F", "."]


def product(
    product_id: str, *pictures: bytes, shop_id: str = "shop", title: str | None = None
) -> tuple[ProductRecord, dict[str, bytes]]:
    named = {image_id(data): data for data in pictures}
    record = ProductRecord(
        shop_id=shop_id,
        product_id=product_id,
        title=title,
        images=tuple(
            PictureRecord(image_id=name, media_type="image/png", bytes=len(data))
            for name, data in named.items()
        ),
        updated_at=datetime.now(UTC),
    )
    return record, named


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A place of the test's own, on this disk and in an object store."""
    if request.param == "local":
        return LocalStorage(tmp_path)
    return S3Storage(request.getfixturevalue("s3_settings"))


@pytest.fixture
def catalogue(storage: Storage) -> Catalogue:
    return Catalogue(storage)


@pytest.fixture
def local(tmp_path: Path) -> Catalogue:
    return Catalogue(LocalStorage(tmp_path))


def stored_pictures(catalogue: Catalogue, shop_id: str, product_id: str) -> list[bytes]:
    record = catalogue.get(shop_id, product_id)
    return [catalogue.picture(shop_id, product_id, i.image_id)[1] for i in record.images]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_any_id_keeps_its_product_apart(local: Catalogue, odd: str, tmp_path: Path) -> None:
    catalogue = local
    catalogue.put(*product("plain", b"1", shop_id=odd))
    catalogue.put(*product(odd, b"2", shop_id=odd, title="T"))
    assert stored_pictures(catalogue, odd, odd) == [b"2"]
    assert stored_pictures(catalogue, odd, "plain") == [b"1"]
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*"))


def test_ids_that_differ_in_case_only_are_two(catalogue: Catalogue) -> None:
    catalogue.put(*product("A", b"1"))
    catalogue.put(*product("a", b"2"))
    assert stored_pictures(catalogue, "shop", "A") == [b"1"]


def test_replacing_removes_the_pictures_that_are_gone(
    catalogue: Catalogue, storage: Storage
) -> None:
    catalogue.put(*product("p", b"old", b"both"))
    catalogue.put(*product("p", b"new", b"both", title="now"))
    assert stored_pictures(catalogue, "shop", "p") == [b"new", b"both"]
    assert catalogue.get("shop", "p").title == "now"
    assert not [key for key in storage.keys("") if key.endswith(image_id(b"old"))]


def test_a_reopened_catalogue_has_everything(catalogue: Catalogue, storage: Storage) -> None:
    catalogue.put(*product("p", b"1", title="T"))
    assert list(Catalogue(storage).products()) == [catalogue.get("shop", "p")]


def test_a_catalogue_is_known_by_its_id(catalogue: Catalogue, storage: Storage) -> None:
    own = catalogue.own_id()
    assert own.isalnum()
    assert Catalogue(storage).own_id() == own
    assert list(catalogue.products()) == []


def test_what_is_not_there_is_said_precisely(catalogue: Catalogue) -> None:
    catalogue.put(*product("p", b"1"))
    with pytest.raises(ShopNotFoundError):
        catalogue.get("other", "p")
    with pytest.raises(ProductNotFoundError):
        catalogue.get("shop", "q")
    with pytest.raises(NotFoundError):
        catalogue.picture("shop", "p", "../record.json")


def test_a_shop_outlives_its_last_product(catalogue: Catalogue) -> None:
    catalogue.put(*product("p", b"1"))
    assert catalogue.delete("shop", "p")
    assert not catalogue.delete("shop", "p")
    assert catalogue.has_shop("shop")
    assert catalogue.page("shop", limit=10) == ([], None)


def test_a_deleted_shop_is_gone_and_may_come_again(catalogue: Catalogue) -> None:
    catalogue.put(*product("p", b"1"))
    assert catalogue.delete_shop("shop")
    assert not catalogue.delete_shop("shop")
    assert not catalogue.has_shop("shop")
    catalogue.put(*product("q", b"1"))
    assert [record.product_id for record in catalogue.products("shop")] == ["q"]


def test_pages_hold_every_product_once(catalogue: Catalogue) -> None:
    ids = {f"p{i}" for i in range(7)}
    for name in ids:
        catalogue.put(*product(name, name.encode()))
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        records, cursor = catalogue.page("shop", limit=3, after=cursor)
        assert len(records) == min(3, 7 - len(seen))
        seen += [record.product_id for record in records]
    assert cursor is None
    assert len(seen) == 7
    assert set(seen) == ids


def test_an_exact_last_page_has_no_next(catalogue: Catalogue) -> None:
    for name in ("a", "b"):
        catalogue.put(*product(name, b"1"))
    assert catalogue.page("shop", limit=2)[1] is None


class Crash(BaseException):
    """The machine stops here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Stop at the `step`th change of the disk; tells how many there were."""
    count = 0

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                raise Crash
            return change(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    for name in ("replace", "unlink", "rename", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    return lambda: count


def swept(root: Path) -> Catalogue:
    """As a service that starts after a crash has it."""
    storage = LocalStorage(root)
    storage.sweep()
    catalogue = Catalogue(storage)
    catalogue.sweep()
    return catalogue


def test_a_crash_at_any_step_leaves_the_old_product_or_the_new_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, finished = 1, False
    while not finished:
        root = tmp_path / str(step)
        Catalogue(LocalStorage(root)).put(*product("p", b"old", title="old"))
        catalogue = Catalogue(LocalStorage(root))
        with monkeypatch.context() as patch:
            steps = crash_at(patch, step)
            try:
                catalogue.put(*product("p", b"new", title="new"))
                finished = True
            except Crash:
                pass
        after = swept(root)
        title = after.get("shop", "p").title
        assert stored_pictures(after, "shop", "p") == [str(title).encode()]
        files = [path for path in root.rglob("*") if path.is_file()]
        assert len(files) == 3, "shop.json, record.json and one picture; nothing left over"
        step += 1
    assert title == "new"
    assert steps() >= 6


@pytest.mark.parametrize(
    ("operation", "ids"), [("delete", ("shop", "p")), ("delete_shop", ("shop",))]
)
def test_a_crash_at_any_step_of_a_delete_leaves_no_half_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, ids: tuple[str, ...]
) -> None:
    for step in range(1, 6):
        root = tmp_path / str(step)
        catalogue = Catalogue(LocalStorage(root))
        catalogue.put(*product("p", b"1"))
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            with contextlib.suppress(Crash):
                getattr(catalogue, operation)(*ids)
        after = swept(root)
        assert [stored_pictures(after, r.shop_id, r.product_id) for r in after.products()] in (
            [],
            [[b"1"]],
        )


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EIO, CatalogueUnavailableError),
    ],
)
def test_a_failing_disk_is_said_and_leaves_nothing(
    local: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    ours: type[Exception],
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    local.put(*product("p", b"old"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ours):
            local.put(*product("p", b"new"))
    assert stored_pictures(local, "shop", "p") == [b"old"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_record_hides_no_other_product(catalogue: Catalogue, storage: Storage) -> None:
    for name in ("a", "b"):
        catalogue.put(*product(name, b"1"))
    damaged = f"{product_folder('shop', 'a')}/record.json"
    storage.put(damaged, b"{")
    assert [record.product_id for record in catalogue.products()] == ["b"]
    records, cursor = catalogue.page("shop", limit=10)
    assert ([record.product_id for record in records], cursor) == (["b"], None)
    with pytest.raises(ProductNotFoundError):
        catalogue.get("shop", "a")
    assert catalogue.holds("shop", "a")
    catalogue.sweep()
    assert storage.get(damaged) == b"{", "what cannot be read is not ours to throw away"
    catalogue.put(*product("a", b"2"))
    assert stored_pictures(catalogue, "shop", "a") == [b"2"]


def test_a_damaged_picture_heals_by_posting_it_again(
    catalogue: Catalogue, storage: Storage
) -> None:
    catalogue.put(*product("p", b"1"))
    storage.put(f"{product_folder('shop', 'p')}/{image_id(b'1')}", b"damaged")
    catalogue.put(*product("p", b"1"))
    assert stored_pictures(catalogue, "shop", "p") == [b"1"]


def test_whether_one_is_alone_is_asked_last(catalogue: Catalogue, storage: Storage) -> None:
    """A lock may be lost while files are listed, and another writer's pictures be among them."""
    catalogue.put(*product("p", b"old"))
    seen: list[str] = []
    keys = storage.keys

    def listed(*args: str | None) -> Iterator[str]:
        seen.append("listed")
        return keys(*args)

    def alone() -> bool:
        seen.append("asked")
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "keys", listed)
        catalogue.put(*product("p", b"new"), alone=alone)
        catalogue.delete("shop", "p", alone=alone)
    assert seen[-1] == "asked" and seen.count("asked") == 2
    assert "".join(word[0] for word in seen).startswith("la")


def test_who_is_not_alone_removes_no_picture(catalogue: Catalogue, storage: Storage) -> None:
    """Another writer of the product may be about to store a record that names it."""
    catalogue.put(*product("p", b"old"))
    catalogue.put(*product("p", b"new"), alone=lambda: False)
    assert stored_pictures(catalogue, "shop", "p") == [b"new"]
    kept = f"{product_folder('shop', 'p')}/{image_id(b'old')}"
    assert storage.get(kept) == b"old"
    assert catalogue.delete("shop", "p", alone=lambda: False)
    assert catalogue.find("shop", "p") is None
    assert storage.get(kept) == b"old"
    catalogue.sweep()
    assert list(storage.keys("")) == [f"{product_folder('shop', 'p').rpartition('/')[0]}/shop.json"]


def test_a_shop_is_deleted_product_after_product_under_its_lock(catalogue: Catalogue) -> None:
    held: list[str] = []

    @contextlib.contextmanager
    def hold(folder: str) -> Iterator[Callable[[], bool]]:
        held.append(folder)
        yield lambda: True

    for name in ("a", "b"):
        catalogue.put(*product(name, b"1"))
    assert catalogue.delete_shop("shop", hold)
    assert sorted(held) == [product_folder("shop", name) for name in ("a", "b")]
