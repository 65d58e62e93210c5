from __future__ import annotations

from pathlib import Path

import pytest

from service.media.clips import ClipDecoder
from service.settings import MediaSettings
from tests.service.media.material import clock, lavfi


@pytest.fixture(scope="session")
def decoder() -> ClipDecoder:
    return ClipDecoder(MediaSettings())


@pytest.fixture(scope="session")
def good_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clock clip of 4 seconds, H.264, index at the end."""
    return lavfi(clock(4), _path(tmp_path_factory, "good.mp4"), "-c:v", "libx264")


@pytest.fixture(scope="session")
def streaming_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same with noise in it (so that it has some length) and its index at the beginning."""
    return lavfi(
        clock(4) + ",noise=alls=40:allf=t",
        _path(tmp_path_factory, "streaming.mp4"),
        *("-c:v", "libx264", "-movflags", "+faststart"),
    )


def _path(factory: pytest.TempPathFactory, name: str) -> Path:
    return factory.mktemp("clips") / name
