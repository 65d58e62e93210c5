"""Every parser of ours that reads what strangers send, as a function of bytes.

A target lets through what its parser may raise, and nothing else; what the parser accepts is looked
at too. Seeds are good inputs, for a fuzzer to spoil. `tests.fuzz.run` feeds them to atheris.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, unquote

import httpx
import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from service.api import access
from service.api.bodies import read_json
from service.api.forms import read_form
from service.api.gallery import ProductByUrl, ProductForm
from service.api.problems import problem_response
from service.api.recognize import RecognizeFields
from service.coordination.idempotency import check_key
from service.errors import (
    BadInputError,
    IdempotencyKeyInvalidError,
    ImageError,
    ImageMetadataError,
    LPRError,
    MetadataTooLargeError,
    UnauthorizedError,
    UrlFetchError,
    UrlNotAllowedError,
)
from service.fields import MAX_METADATA_BYTES, Identifier, MetadataText, Title
from service.jobs.batch import BatchLimits, check_batch, items, open_batch
from service.keys import KeyRing, Right, create_key
from service.media import clips, decoder_log, remote_images
from service.media.image_metadata import check_metadata
from service.media.images import decode_image, decode_square
from service.media.remote_images import RemoteImages
from service.settings import ImageUrlSettings, MediaSettings
from tests.service.media.material import encoded, picture, png_chunk, png_with


@dataclass(frozen=True)
class Target:
    """`words` are what a fuzzer would be long in making up."""

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()


# A small loop and small limits: a fuzzer counts on thousands of runs a second.
_LOOP = asyncio.new_event_loop()
_FOLDER = Path(tempfile.mkdtemp(prefix="lpr-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_LIMITS = MediaSettings(max_image_pixels=100_000, max_image_metadata_bytes=4_000)


def _request(body: bytes, content_type: bytes) -> Request:
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type)]}
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(messages)

    return Request(scope, receive)


def _tellable(error: LPRError) -> None:
    """An error is told to its sender, whatever of theirs it quotes."""
    answer = problem_response(error, {"type": "http", "path": "/"})
    assert json.loads(bytes(answer.body))["status"] == error.status
    assert error.status < 500


# --- bodies and fields ----------------------------------------------------------------------------

_TYPES = (
    b"multipart/form-data; boundary=b",
    b"multipart/form-data; boundary=b; charset=utf-7",
    b"multipart/form-data; boundary=b; charset=unicode_escape",
    b"multipart/form-data; boundary=b; charset=idna",
)
_FIELD = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
_FILE = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n'
_FORM = _FIELD % (b"shop_id", b"s") + _FIELD % (b"product_id", b"p")
_FORM += _FIELD % (b"title", b"t") + _FIELD % (b"metadata", b'{"a": 1}')


def form(data: bytes) -> None:
    """Its first byte chooses the form and its content type."""
    choice, body = data[:1] or b"\0", data[1:]
    kind = _TYPES[choice[0] % len(_TYPES)]
    fields, files = ((ProductForm, {"images": 3}), (RecognizeFields, {"clip": 1, "frames": 3}))[
        choice[0] // len(_TYPES) % 2
    ]
    try:
        read: Any = _LOOP.run_until_complete(
            read_form(_request(body, kind), fields, files, 9, _FOLDER)
        )
    except BadInputError as error:
        _tellable(error)
    else:
        assert read.files.keys() == files.keys()
        assert all(len(read.files[name]) <= most for name, most in files.items())


def form_type(data: bytes) -> None:
    """A content type of somebody's own."""
    kind = data.replace(b"\r", b"").replace(b"\n", b"")
    try:
        _LOOP.run_until_complete(
            read_form(_request(_FORM + b"--b--\r\n", kind), ProductForm, {"images": 1}, 9, _FOLDER)
        )
    except BadInputError as error:
        _tellable(error)


def json_body(data: bytes) -> None:
    try:
        product = _LOOP.run_until_complete(
            read_json(_request(data, b"application/json"), ProductByUrl, 9)
        )
    except BadInputError as error:
        _tellable(error)
    else:
        product.model_dump_json()


_METADATA: TypeAdapter[dict[str, Any]] = TypeAdapter(MetadataText)


def metadata(data: bytes) -> None:
    try:
        value = _METADATA.validate_python(data.decode("utf-8", "surrogateescape"))
    except (ValidationError, MetadataTooLargeError):
        return
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    assert len(text.encode()) <= MAX_METADATA_BYTES


_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
_TITLE: TypeAdapter[str] = TypeAdapter(Title)


def identifier(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with suppress(ValidationError):
        assert _TITLE.validate_python(text).isprintable()
    try:
        accepted = _IDENTIFIER.validate_python(text)
    except ValidationError:
        return
    assert accepted == text
    assert 1 <= len(text) <= 128
    assert "/" not in text
    assert text not in (".", "..")
    assert unquote(quote(text, safe="")) == text


def idempotency_key(data: bytes) -> None:
    key = data.decode("latin-1")  # as headers come
    try:
        check_key(key)
    except IdempotencyKeyInvalidError:
        return
    assert key.isascii()
    assert key.isprintable()
    assert 1 <= len(key) <= 255


def _keys() -> KeyRing:
    file = _FOLDER / "keys.json"
    create_key(file, name="a", shops="all", rights=[Right.RECOGNIZE], expires_at=None)
    return KeyRing(file, expected=True)


_KEYS = _keys()


def authorization(data: bytes) -> None:
    headers = access.Headers(raw=[(b"authorization", data)])
    try:
        _KEYS.grant(access._secret(headers))
    except UnauthorizedError as error:
        _tellable(error)
    else:
        raise AssertionError("a secret was guessed")


# --- pictures -------------------------------------------------------------------------------------

_PICTURES = (
    encoded(picture(), "JPEG"),
    encoded(picture(), "JPEG", progressive=True, exif=Image.Exif()),
    encoded(picture(mode="CMYK"), "JPEG"),
    encoded(picture(mode="P"), "PNG"),
    encoded(picture(mode="RGBA"), "PNG"),
    encoded(picture(), "PNG", icc_profile=bytes(300)),
    png_with(png_chunk(b"zTXt", b"k\0\0x\x9c\x03\0\0\0\0\x01")),
    encoded(picture(), "WEBP", xmp=b"<x/>"),
    encoded(picture(mode="RGBA"), "WEBP", lossless=True),
)


def image(data: bytes) -> None:
    try:
        pixels = decode_image(data, _LIMITS).pixels
        assert decode_square(data, 32, _LIMITS).pixels.shape == (32, 32, 3)
    except ImageError as error:
        _tellable(error)
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.shape[0] * pixels.shape[1] <= _LIMITS.max_image_pixels


def image_metadata(data: bytes) -> None:
    for format_name in ("JPEG", "PNG", "WEBP"):
        with suppress(ImageMetadataError):
            check_metadata(data, format_name, 4_000)


def image_url(data: bytes) -> None:
    """Whatever the address, no name is looked up but the listed one."""
    images = RemoteImages(ImageUrlSettings(hosts=frozenset({"images.test"})))
    try:
        url = remote_images._parsed(data.decode("utf-8", "replace"))
        with patch.object(remote_images, "_addresses", _addresses):
            address = _LOOP.run_until_complete(images._resolve(url))
    except (UrlNotAllowedError, UrlFetchError) as error:
        _tellable(error)
        return
    assert address == ip_address("93.184.215.14")
    assert url.host == "images.test"
    assert url.scheme in ("http", "https")


def _addresses(url: httpx.URL) -> list[IPv4Address]:
    assert url.host == "images.test"
    return [IPv4Address("93.184.215.14")]


# --- clips ----------------------------------------------------------------------------------------

_LOG = b"""[info] Input #0, mov,mp4, from 'fd:':
[info]   Duration: 00:00:04.00, start: 0.000000, bitrate: 7 kb/s
[vist#0:0/h264] [error] Error while opening decoder
[error] Codec (h264) not on whitelist
[warning] Picture size 16384x8640 exceeds specified max pixel count
[verbose] 100 frames decoded; 0 decode errors (0 samples)
"""


def decoder_words(data: bytes) -> None:
    """What ffmpeg says quotes the clip."""
    log = data.decode("utf-8", "replace")
    promised = decoder_log.promised_s(log, 0.04)
    assert promised is None or promised >= 0
    decoder_log.is_whole(log)
    decoder_log.has_too_many_streams(log)
    decoder_log.is_encrypted(data)
    _tellable(decoder_log.refusal(log, max_streams=8))


def decoder_times(data: bytes) -> None:
    """The times that the decoder, which is not trusted either, gives its frames."""
    ledger = os.memfd_create("ledger")
    try:
        os.write(ledger, data)
        times = clips._read_ledger(ledger)
    finally:
        os.close(ledger)
    if len(times) == 0:
        return
    usable = clips._usable_times(times)
    end = clips._end_of_last_frame(usable)
    assert np.isfinite(usable).all()
    assert end >= 0
    chosen = clips._evenly_spread(usable, end, 10)
    assert 1 <= len(chosen) <= 10


# --- batches --------------------------------------------------------------------------------------

_LINE = b'{"shop_id": "s", "product_id": "p", "metadata": {"a": 1}, "images": ["AAAA"]}\n'


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("products.jsonl", _LINE.replace(b"AAAA", b"a.jpg"))
        archive.writestr("a.jpg", b"picture")
    return buffer.getvalue()


def _tar(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name in ("cola.jpg", "cola/front.jpg", "tea__2.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 7
            archive.addfile(entry, io.BytesIO(b"picture"))
    return buffer.getvalue()


def batch(data: bytes) -> None:
    try:
        with open_batch(io.BytesIO(data), BatchLimits(100_000, 10_000, _FOLDER)) as opened:
            check_batch(opened, "shop", 100_000)
            for item in items(opened, None):
                try:
                    product = item.product()
                except BadInputError as error:
                    _tellable(error)
                else:
                    assert sum(map(len, product.images)) <= 10_000
    except BadInputError as error:
        _tellable(error)


_JSON = (
    b"NaN",
    b"1e999",
    b'"\\ud800"',
    b"null",
    b"true",
    b"[[[[[[[[",
    b'{"a":',
    b"9" * 400,
    b"-0.0",
)
_NUMBERS = (b"9" * 19, b"9" * 400, b"1/0", b"-1", "\u0663".encode(), "\xb2".encode())

TARGETS: dict[str, Target] = {
    "form": Target(
        form,
        [
            b"\0" + _FORM + _FILE % (b"images", b"x") + b"--b--\r\n",
            b"\4" + _FIELD % (b"shop_id", b"s") + _FILE % (b"clip", b"x") + b"--b--\r\n",
        ],
    ),
    "form-type": Target(form_type, list(_TYPES)),
    "json-body": Target(
        json_body,
        [
            b'{"shop_id": "s", "product_id": "p", "title": "t", "metadata": {}, "images": ["http://a/"]}'
        ],
    ),
    "metadata": Target(
        metadata, [b'{"a":1}', b'{"price": 1.5, "tags": ["\\u00e9", null, true]}'], _JSON
    ),
    "identifier": Target(identifier, ["été 夏".encode(), b'x" or id!="', b".."]),
    "idempotency-key": Target(idempotency_key, [b"8e03978e-40d5-43dd-bc93-6894a57f9324"]),
    "authorization": Target(authorization, [b"Bearer lpr_0123456789ab_" + b"A" * 43]),
    "image": Target(image, _PICTURES),
    "image-metadata": Target(image_metadata, _PICTURES),
    "image-url": Target(
        image_url, [b"https://images.test/a.jpg", b"http://u:p@images.test:80/../a?b#c"]
    ),
    "decoder-words": Target(decoder_words, [_LOG], _NUMBERS),
    "decoder-times": Target(decoder_times, [b"0 1/25\n1 1/25\n2 1/25\n", b"-5 1/0\n"], _NUMBERS),
    "batch": Target(batch, [_LINE * 2, _zip(), _tar(""), _tar("gz")], _JSON),
}
