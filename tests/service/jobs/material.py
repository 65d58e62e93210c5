"""Batches as people and attackers write them."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from service.jobs.batch import PRODUCTS


def zipped(files: Mapping[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def gzipped(files: Mapping[str, bytes]) -> bytes:
    return tarred(files, "w:gz")


def lines(products: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(product).encode() + b"\n" for product in products)


def described(
    products: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of an archive with a `products.jsonl`."""
    return {**files, PRODUCTS: lines(products)}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
