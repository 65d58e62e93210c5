"""A real service in a child process: uvicorn, Milvus Lite, Redis, ffmpeg, onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.launch import running_service
from service.settings import InferenceSettings
from tests.integration.material import Shop, make_shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    """Made products with pictures, and clips of some of them."""
    return make_shop()


@pytest.fixture(scope="session")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One service for all tests that leave it as they found it; each takes a shop of its own."""
    data_dir = tmp_path_factory.mktemp("service")
    with running_service(
        data_dir, LPR_BUNDLE=tiny_bundle, LPR_MAX_BODY_BYTES=2_000_000, LPR_DRAIN_S=0
    ) as client:
        yield client


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Model:
    """The service's model, here: what the service should say of pictures and clips."""
    return Model.open(Bundle.load(tiny_bundle), InferenceSettings())


@pytest.fixture(scope="session")
def http(client: Client) -> Iterator[httpx.Client]:
    """The same service, for requests that no well-behaved client sends."""
    with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http:
        yield http
