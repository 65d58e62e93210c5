"""Pictures that are damaged, hostile or merely odd: each has one right answer.

Of `/gallery`, which points at the picture's place, and of `/recognize`, where pictures are frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import Client
from service.launch import ServiceProcess
from tests.integration.material import Shop
from tests.integration.memory import grown_at_most
from tests.integration.problems import PRODUCT, Refusal, assert_refused
from tests.service.media.material import (
    animated_png,
    encoded,
    jpeg_with_segments,
    picture,
    png_bomb,
    png_chunk,
    png_with,
)

Post = Callable[[httpx.Client, list[bytes]], httpx.Response]


@pytest.fixture(scope="module", autouse=True)
def known_shop(client: Client, shop: Shop) -> None:
    client.put_product("known", "p", [shop.pictures["product-0"]])


def to_gallery(http: httpx.Client, pictures: list[bytes], name: str = "0.jpg") -> httpx.Response:
    files = [("images", (name, data)) for data in pictures]
    return http.post("/gallery", data=PRODUCT, files=files)


def to_recognize(http: httpx.Client, pictures: list[bytes], name: str = "0.jpg") -> httpx.Response:
    files = [("frames", (name, data)) for data in pictures]
    return http.post("/recognize", data={"shop_id": "known"}, files=files)


POSTS: dict[str, tuple[Post, str]] = {
    "gallery": (to_gallery, "/images/1"),
    "recognize": (to_recognize, "/frames/1"),
}


# --- what is refused ------------------------------------------------------------------------------

UNDECODABLE = (422, "image-undecodable")
FORMAT = (415, "image-format-unsupported")
METADATA = (422, "image-metadata-too-large")


def noise(format_name: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return encoded(Image.fromarray(pixels), format_name)


def zipped_text(kind: bytes, start: bytes) -> bytes:
    return png_with(png_chunk(kind, start + zlib.compress(bytes(50_000_000), 9)))


def of_10000_frames() -> bytes:
    data = animated_png(10_000)
    with Image.open(BytesIO(data)) as image:
        assert image.n_frames == 10_000
    return data


REFUSED: dict[str, tuple[Callable[[], bytes], tuple[int, str]]] = {
    "PNG 20000^2 in 48 KB": (lambda: png_bomb(20_000), (422, "image-dimensions-too-large")),
    "empty": (lambda: b"", UNDECODABLE),
    "truncated JPEG": (lambda: noise("JPEG")[:1_500], UNDECODABLE),
    "truncated PNG": (lambda: noise("PNG")[:5_000], UNDECODABLE),
    "truncated WebP": (lambda: noise("WEBP")[:1_500], UNDECODABLE),
    "signature alone": (lambda: b"\x89PNG\r\n\x1a\n", UNDECODABLE),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", FORMAT),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", FORMAT),
    "PSD": (lambda: b"8BPS\0\1" + bytes(20), FORMAT),
    "GIF": (lambda: encoded(picture(), "GIF"), FORMAT),
    "TIFF": (lambda: encoded(picture(), "TIFF"), FORMAT),
    "10k-frame animation": (of_10000_frames, (422, "image-animated")),
    "animated WebP": (
        lambda: encoded(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)]),
        (422, "image-animated"),
    ),
    "giant EXIF": (lambda: jpeg_with_segments(0xE1, 80), METADATA),
    "giant ICC": (lambda: zipped_text(b"iCCP", b"k\0\0"), METADATA),
    "giant zTXt": (lambda: zipped_text(b"zTXt", b"k\0\0"), METADATA),
    "1x1": (lambda: encoded(picture(1, 1), "PNG"), (422, "image-too-small")),
}


@pytest.mark.parametrize("to", POSTS)
@pytest.mark.parametrize("case", REFUSED)
def test_refused(http: httpx.Client, patient: httpx.Client, shop: Shop, case: str, to: str) -> None:
    make, (status, slug) = REFUSED[case]
    post, pointer = POSTS[to]
    data = make()
    service = http if len(data) < 1_900_000 else patient
    answer = post(service, [shop.pictures["product-0"], data])
    assert_refused(answer, Refusal(status, slug, pointer))
    assert service.get("/gallery/refused").status_code == 404, "nothing was stored"


# --- what is answered -----------------------------------------------------------------------------


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


def sixteen_bits() -> bytes:
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (32, 1))
    return encoded(Image.fromarray(ramp), "PNG")


ANSWERED: dict[str, Callable[[], bytes]] = {
    "PNG named .jpg": lambda: encoded(picture(), "PNG"),
    "CMYK": lambda: encoded(picture(mode="CMYK"), "JPEG"),
    "16-bit": sixteen_bits,
    "palette with alpha": lambda: encoded(picture(mode="RGBA").quantize(4), "PNG"),
    "EXIF-rotated": rotated,
}


@pytest.mark.parametrize("case", ANSWERED)
def test_answered(http: httpx.Client, case: str) -> None:
    data = ANSWERED[case]()
    assert to_recognize(http, [data]).status_code == 200
    stored = to_gallery(http, [data])
    assert stored.status_code == 201
    assert http.get(stored.json()["images"][0]["url"]).content == data
    assert http.delete("/gallery/refused").status_code == 204


@pytest.mark.parametrize("name", ["-i", "../x", "/etc/passwd", "a\0b.jpg"])
def test_the_file_name_is_ignored(http: httpx.Client, shop: Shop, name: str) -> None:
    assert to_recognize(http, [shop.pictures["product-0"]], name).status_code == 200


# --- what the machine pays ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roomy(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that takes bodies of the usual size."""
    service = ServiceProcess(
        tmp_path_factory.mktemp("roomy"), LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0
    )
    try:
        with Client(service.wait_address()) as client:
            service.wait_ready(client)
            client.put_product("known", "p", [encoded(picture(), "PNG")])
        yield service
    finally:
        service.stop()


@pytest.fixture
def patient(roomy: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=roomy.wait_address(), trust_env=False, timeout=60) as http:
        yield http


BOMBS = ("PNG 20000^2 in 48 KB", "10k-frame animation", "giant EXIF", "giant ICC", "giant zTXt")


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_without_the_memory_it_asks_for(
    roomy: ServiceProcess, patient: httpx.Client, case: str
) -> None:
    make, (status, slug) = REFUSED[case]
    data = make()
    with grown_at_most(roomy.process.pid, 100_000_000):
        answer = to_gallery(patient, [data])
    assert_refused(answer, Refusal(status, slug, "/images/0"))
