"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random model, made by `training`. Read it, never write into it."""
    pytest.importorskip(
        "torch", reason="the tiny bundle is exported with torch: the training extra"
    )
    from tests.contract.models import export_tiny, tiny_rice

    return export_tiny(tiny_rice(), tmp_path_factory.mktemp("bundles") / "tiny")
