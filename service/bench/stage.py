"""What benches stand on: a bundle's model in this process, or a service of its own beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.bench import material
from service.bench.machine import describe
from service.client import Client
from service.cores import cores
from service.errors import BenchError
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.launch import running_service
from service.settings import Settings

_INDEXING_S = 1800.0


@dataclass(frozen=True)
class Stage:
    """A bundle, opened and warm as the service opens it."""

    settings: Settings
    bundle: Bundle
    model: Model

    @classmethod
    def open(cls, settings: Settings) -> Stage:
        """Raises StartupError."""
        bundle = Bundle.load(settings.bundle)
        return cls(settings, bundle, Model.open(bundle, settings.inference))

    @property
    def threads(self) -> int:
        return self.settings.inference.threads or cores()

    @property
    def setting(self) -> dict[str, Any]:
        """What a figure depends on, besides the machine."""
        manifest = self.bundle.manifest
        return {
            "bundle": manifest.bundle_id,
            "recipe": manifest.model.recipe,
            "precision": manifest.precision,
            "image_size": manifest.dims.image_size,
            "threads": self.threads,
        }

    @property
    def machine(self) -> dict[str, Any]:
        return describe(self.model.providers)


@contextmanager
def service(settings: Settings) -> Iterator[Client]:
    """A running service with an empty gallery, that serves the same bundle. Raises StartupError."""
    with (
        tempfile.TemporaryDirectory(prefix="lpr-bench-") as folder,
        running_service(Path(folder), LPR_BUNDLE=settings.bundle, LPR_DRAIN_S=0) as client,
    ):
        yield client


def fill(client: Client, shop_id: str, archive: bytes) -> None:
    """Index a shop whole; back when all of it is searchable. Raises BenchError, ClientError."""
    answer = httpx.post(
        f"{client.base_url}/gallery/batch",
        data={"shop_id": shop_id},
        files={"batch": ("batch.tar", archive)},
        timeout=_INDEXING_S,
        trust_env=False,
    )
    if not answer.is_success:
        raise BenchError(f"the shop was refused: {answer.text[:300]}")
    job = client.wait_job(answer.json()["job_id"], _INDEXING_S)
    if job["counts"]["done"] < job["counts"]["items"]:
        raise BenchError(f"not all of the shop was indexed: {job['summary']}")


def hot_shop(client: Client, pictures: int) -> None:
    """The bench's shop with so many pictures."""
    fill(client, material.SHOP, material.archive(material.jpegs(), pictures))
