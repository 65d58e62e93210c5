from __future__ import annotations

import contextlib
import io
import json
import tempfile
import tracemalloc
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import (
    ArchiveUnreadableError,
    BadInputError,
    BatchEmptyError,
    BatchTooLargeError,
    BodyTooLargeError,
    DuplicateInBatchError,
    LPRError,
    MalformedJsonError,
    MetadataTooLargeError,
    UnsupportedMediaTypeError,
)
from service.indexing import NewProduct
from service.jobs import batch as batches
from service.jobs.batch import PRODUCTS, BatchLimits, Item, check_batch, items, open_batch
from tests.service.fakes import BLUE, GREEN, RED
from tests.service.jobs.material import described, encoded, gzipped, lines, tarred, zipped

SPOOL = Path(tempfile.gettempdir())
LIMITS = BatchLimits(batch_bytes=10_000_000, item_bytes=100_000, spool=SPOOL)
Packer = Callable[[Mapping[str, bytes]], bytes]
PACKERS = pytest.mark.parametrize("pack", [zipped, tarred, gzipped])


def read(
    data: bytes, shop_id: str | None = "shop", limits: BatchLimits = LIMITS
) -> list[NewProduct | LPRError]:
    """What becomes of each item, by its place."""
    found: list[NewProduct | LPRError] = []
    with open_batch(io.BytesIO(data), limits) as batch:
        count = check_batch(batch, shop_id, limits.batch_bytes)
        for item in items(batch, shop_id):
            assert item.place == len(found)
            found.append(outcome(item))
    assert len(found) == count
    return found


def outcome(item: Item) -> NewProduct | LPRError:
    try:
        product = item.product()
    except BadInputError as error:
        return error
    assert (item.shop_id, item.product_id) == (product.shop_id, product.product_id)
    return product


def told(found: NewProduct | LPRError) -> tuple[type[Exception], str | None]:
    assert isinstance(found, LPRError)
    return type(found), found.pointer


def line(product_id: str = "p", **more: Any) -> dict[str, Any]:
    return {"product_id": product_id, "images": [encoded(RED)], **more}


def test_json_lines_are_read() -> None:
    data = lines(
        [
            line("cola", title="Cola", metadata={"price": 1}, images=[encoded(RED), encoded(BLUE)]),
            line("tea", shop_id="other"),
        ]
    )
    assert read(b"\n" + data.replace(b"}\n", b"}\r\n\n")) == [
        NewProduct("shop", "cola", "Cola", {"price": 1}, (RED, BLUE)),
        NewProduct("other", "tea", None, None, (RED,)),
    ]


@pytest.mark.parametrize("pack", [lambda text: text, lambda text: zipped({PRODUCTS: text})])
def test_a_byte_order_mark_is_no_part_of_the_lines(pack: Callable[[bytes], bytes]) -> None:
    found, _ = read(pack(BOM_UTF8 + lines([line("p"), line("q")])))
    assert not isinstance(found, MalformedJsonError)


@PACKERS
@pytest.mark.parametrize("folder", ["", "shop/"])
def test_an_archive_with_its_products_is_read(pack: Packer, folder: str) -> None:
    products = [
        {"product_id": "cola", "title": "Cola", "images": ["1.png", "more/2.png"]},
        {"product_id": "tea", "shop_id": "other", "images": ["1.png"]},
    ]
    files = described(products, {"1.png": RED, "more/2.png": BLUE, "unused.png": GREEN})
    assert read(pack({folder + name: data for name, data in files.items()})) == [
        NewProduct("shop", "cola", "Cola", None, (RED, BLUE)),
        NewProduct("other", "tea", None, None, (RED,)),
    ]


@PACKERS
def test_an_archive_of_pictures_is_read_as_a_folder_is(pack: Packer) -> None:
    files = {"cola__1.png": RED, "cola__2.png": BLUE, "tea/front.png": GREEN, "mate.png": RED}
    assert read(pack(files)) == [
        NewProduct("shop", "cola", None, None, (RED, BLUE)),
        NewProduct("shop", "mate", None, None, (RED,)),
        NewProduct("shop", "tea", None, None, (GREEN,)),
    ]


def test_pictures_with_other_files_and_no_products_are_refused() -> None:
    with pytest.raises(ArchiveUnreadableError, match=r"notes\.txt"):
        read(zipped({"cola.png": RED, "notes.txt": b"x"}))


@pytest.mark.parametrize("data", [b"[]", b"\xff\xd8\xff", b"plain text", b'"x"'])
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", BOM_UTF8, zipped({}), tarred({".hidden.jpg": RED}), zipped(described([], {}))],
)
def test_an_empty_batch_is_refused(data: bytes) -> None:
    with pytest.raises(BatchEmptyError):
        read(data)


def test_ten_thousand_items_are_a_batch_and_one_more_is_not() -> None:
    data = b"".join(b'{"product_id":"%d","images":["x"]}\n' % i for i in range(10_001))
    with pytest.raises(BatchTooLargeError):
        read(data)
    assert len(read(data[: data.rindex(b"\n", 0, -1) + 1])) == 10_000


def test_one_product_twice_is_refused_and_pointed_at() -> None:
    with pytest.raises(DuplicateInBatchError, match="items 0 and 2") as caught:
        read(lines([line("p"), line("q"), line("p", shop_id="shop")]))
    assert caught.value.pointer == "/2/product_id"
    assert len(read(lines([line("p"), line("p", shop_id="other")]))) == 2


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (b"{", (MalformedJsonError, None)),
        (b'{"product_id": NaN}', (MalformedJsonError, None)),
        (b"[" * 100_000, (MalformedJsonError, None)),
        (b"\xff", (MalformedJsonError, None)),
        (b"[]", (BadInputError, "")),
        (b'{"images": ["x"]}', (BadInputError, "/product_id")),
        (json.dumps(line("a/b")).encode(), (BadInputError, "/product_id")),
        (json.dumps(line(shop_id="")).encode(), (BadInputError, "/shop_id")),
        (json.dumps(line(images=[])).encode(), (BadInputError, "/images")),
        (json.dumps(line(images=["x"] * 65)).encode(), (BadInputError, "/images")),
        (json.dumps(line(unknown=1)).encode(), (BadInputError, "/unknown")),
        (
            json.dumps(line(metadata={"x": "y" * 17_000})).encode(),
            (MetadataTooLargeError, "/metadata"),
        ),
        (b'{"product_id":"p","images":["x"],"metadata":{"a":1e999}}', (BadInputError, "/metadata")),
        (
            b'{"product_id":"p","images":["x"],"metadata":{"a":"\\ud800"}}',
            (BadInputError, "/metadata"),
        ),
        (b'{"product_id":"p\\ud800","images":["x"]}', (BadInputError, "/product_id")),
        (json.dumps(line(images=[encoded(RED), "%%%"])).encode(), (BadInputError, "/images/1")),
        (json.dumps(line(images=["\xe4"])).encode(), (BadInputError, "/images/0")),
        (b'{"x":"' + b"x" * 100_000 + b'"}', (BodyTooLargeError, None)),
    ],
)
def test_what_is_wrong_with_an_item_is_that_items_affair(
    wrong: bytes, expected: tuple[type[Exception], str | None]
) -> None:
    first, second, third = read(lines([line("first")]) + wrong + b"\n" + lines([line("third")]))
    assert isinstance(first, NewProduct)
    assert told(second) == expected
    assert isinstance(third, NewProduct)


@pytest.mark.parametrize(
    ("wrong", "ids"),
    [
        ({"images": []}, ("shop", "p")),
        ({"images": [], "shop_id": "other"}, ("other", "p")),
        ({"shop_id": "a/b"}, (None, "p")),
        ({"product_id": 1}, ("shop", None)),
        ({"unknown": 1}, ("shop", "p")),
    ],
)
def test_an_item_that_is_wrong_keeps_the_ids_that_are_right(
    wrong: dict[str, Any], ids: tuple[str | None, str | None]
) -> None:
    with open_batch(io.BytesIO(lines([line() | wrong])), LIMITS) as batch:
        (item,) = items(batch, "shop")
    assert (item.shop_id, item.product_id) == ids
    assert isinstance(outcome(item), BadInputError)


def test_an_item_without_a_shop_is_pointed_at() -> None:
    found, named = read(lines([line("p"), line("q", shop_id="s")]), shop_id=None)
    assert told(found) == (BadInputError, "/shop_id")
    assert isinstance(named, NewProduct)


@PACKERS
def test_a_picture_that_is_not_in_the_archive_is_pointed_at(pack: Packer) -> None:
    products = [
        {"product_id": "p", "images": ["1.png", "missing.png"]},
        {"product_id": "q", "images": ["../../etc/passwd"]},
        {"product_id": "r", "images": ["1.png"]},
    ]
    missing, outside, fine = read(pack(described(products, {"1.png": RED})))
    assert told(missing) == (BadInputError, "/images/1")
    assert told(outside) == (BadInputError, "/images/0")
    assert isinstance(fine, NewProduct)


def test_a_damaged_picture_of_a_zip_is_pointed_at() -> None:
    data = zipped(described([{"product_id": "p", "images": ["1.png"]}], {"1.png": RED}), 0)
    (found,) = read(data.replace(RED[:50], b"x" * 50))
    assert told(found) == (ArchiveUnreadableError, "/images/0")


@PACKERS
def test_a_product_with_too_many_bytes_is_refused_unread(pack: Packer) -> None:
    files = {"1.png": bytes(range(256)) * 200, "2.png": bytes(range(256)) * 200}
    products = [
        {"product_id": "p", "images": ["1.png", "2.png"]},
        {"product_id": "q", "images": ["1.png"] * 2},
        {"product_id": "r", "images": ["1.png"]},
    ]
    both, same, one = read(pack(described(products, files)))
    assert told(both) == told(same) == (BodyTooLargeError, "/images")
    assert isinstance(one, NewProduct)


@PACKERS
def test_a_picture_that_many_items_name_counts_for_each(pack: Packer) -> None:
    files = {"1.png": bytes(range(256)) * 100}
    products = [{"product_id": f"p{i}", "images": ["1.png"]} for i in range(11)]
    limits = BatchLimits(batch_bytes=10 * 25_600, item_bytes=100_000, spool=SPOOL)
    assert len(read(pack(described(products[:10], files)), limits=limits)) == 10
    with pytest.raises(BatchTooLargeError, match="together"):
        read(pack(described(products, files)), limits=limits)


def test_the_pictures_of_an_archive_are_read_one_item_at_a_time() -> None:
    picture = bytes(range(256)) * 400
    data = io.BytesIO(zipped({f"{i}.png": picture for i in range(200)}, 0))
    limits = BatchLimits(batch_bytes=100_000_000, item_bytes=1_000_000, spool=SPOOL)
    tracemalloc.start()
    with open_batch(data, limits) as batch:
        check_batch(batch, "shop", limits.batch_bytes)
        for item in items(batch, "shop"):
            assert item.product().images == (picture,)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


titles = st.none() | st.text(max_size=20).filter(str.isprintable)
pictures_of_one = st.lists(st.binary(), min_size=1, max_size=4)
ids = st.text(min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and "/" not in text and text not in (".", "..")
)


@settings(max_examples=100)
@given(
    products=st.dictionaries(ids, st.tuples(titles, pictures_of_one), min_size=1, max_size=8),
    pack=st.sampled_from([None, zipped, tarred, gzipped]),
)
def test_any_products_come_back_as_they_were_written(
    products: dict[str, tuple[str | None, list[bytes]]], pack: Packer | None
) -> None:
    expected = [
        NewProduct("shop", product_id, title or None, None, tuple(pictures))
        for product_id, (title, pictures) in products.items()
    ]
    written, files = [], {}
    for product in expected:
        references = [encoded(picture) for picture in product.images]
        if pack is not None:
            references = [f"{len(files) + i}.jpg" for i in range(len(product.images))]
            files |= dict(zip(references, product.images, strict=True))
        written.append(
            {"product_id": product.product_id, "title": product.title, "images": references}
        )
    data = lines(written) if pack is None else pack(described(written, files))
    assert read(data) == expected


@settings(max_examples=300)
@given(
    data=st.binary(max_size=300)
    | st.text(alphabet='{}[]",:\n\\u0d8e1"ag', max_size=200).map(str.encode)
)
def test_any_bytes_are_a_batch_or_our_error(data: bytes) -> None:
    with contextlib.suppress(BadInputError):
        read(b'{"' + data)


def test_every_readers_limit_is_the_promised_one() -> None:
    assert batches.MAX_ITEMS == 10_000
