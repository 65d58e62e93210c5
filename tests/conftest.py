"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from service.settings import CatalogueSettings
from tests.integration.milvus_server import MilvusServer, server_at

# The same examples each time, unless one looks for new ones as with the fuzzers; and a slow machine
# fails nobody.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize="FUZZ_RUNS" not in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random model, made by `training`. Read it, never write into it."""
    pytest.importorskip(
        "torch", reason="the tiny bundle is exported with torch: the training extra"
    )
    from tests.contract.models import export_tiny, tiny_rice

    return export_tiny(tiny_rice(), tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def another_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of another tiny model, which makes shorter vectors."""
    pytest.importorskip("torch", reason="as `tiny_bundle`")
    from tests.contract.models import another_rice, export_tiny

    return export_tiny(another_rice(), tmp_path_factory.mktemp("bundles") / "another")


@pytest.fixture(scope="session")
def reading_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a tiny model that reads titles and speech."""
    pytest.importorskip("torch", reason="as `tiny_bundle`")
    from tests.contract.models import export_reading

    return export_reading(tmp_path_factory.mktemp("bundles") / "reading")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an object store."""
    from tests.service.object_store import object_store

    with object_store() as endpoint:
        yield endpoint


@pytest.fixture
def s3_settings(s3_endpoint: str) -> CatalogueSettings:
    """A place of the test's own in the object store."""
    from tests.service.object_store import bucket_settings

    return bucket_settings(s3_endpoint)


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A real Milvus server for the tests of a file, then another's; who breaks it also mends it."""
    with server_at(tmp_path_factory.mktemp("milvus")) as server:
        yield server
