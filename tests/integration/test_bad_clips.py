"""Clips that are damaged, hostile or merely odd: each has one right answer of `/recognize`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.client import Client
from service.launch import ServiceProcess, running_service
from tests.integration.material import Shop
from tests.integration.memory import grown_at_most
from tests.integration.problems import KIND, Refusal, assert_refused, body
from tests.service.media.material import (
    Listener,
    clock,
    ffmpeg,
    lavfi,
    mkv_with_duration,
    playlists,
)

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
NOISE = ",noise=alls=40:allf=t"


@pytest.fixture(scope="module", autouse=True)
def known_shop(client: Client, shop: Shop) -> None:
    client.put_product("known", "p", [shop.pictures["product-0"]])


def recognize(http: httpx.Client, clip: bytes, name: str = "clip.mp4") -> httpx.Response:
    parts = [("shop_id", b"known"), ("clip", clip, name)]
    return http.post("/recognize", content=body(*parts), headers={"content-type": KIND})


# --- what is refused ------------------------------------------------------------------------------

FORMAT = Refusal(422, "clip-format-unsupported")
UNDECODABLE = Refusal(422, "clip-undecodable")


def good(folder: Path, *options: str) -> bytes:
    return lavfi(clock(2) + NOISE, folder / "good.mp4", *H264, *options)


def without_index(folder: Path) -> bytes:
    clip = good(folder)
    return clip[: clip.rindex(b"moov") - 4]


def cut_before_the_first_frame(folder: Path) -> bytes:
    clip = good(folder, "-movflags", "+faststart")
    return clip[: clip.index(b"mdat") + 40]


def giant(folder: Path) -> bytes:
    cheap = ("-preset", "superfast", "-threads", "1")
    cheap += ("-x264-params", "rc-lookahead=0:bframes=0:ref=1")
    clip = lavfi("color=s=16384x8640:d=0.04", folder / "giant.mp4", *H264, *cheap)
    assert len(clip) < 28_000
    return clip


def of_1000_streams(folder: Path) -> bytes:
    one = folder / "one.mp4"
    lavfi("color=s=16x16:d=0.04", one, "-c:v", "mpeg4")
    ffmpeg("-i", str(one), *["-map", "0"] * 1_000, "-c", "copy", str(folder / "many.mp4"))
    return (folder / "many.mp4").read_bytes()


def encrypted(folder: Path) -> bytes:
    keys = ("-encryption_scheme", "cenc-aes-ctr")
    keys += ("-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb")
    keys += ("-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")
    return good(folder, *keys)


REFUSED: dict[str, tuple[Callable[[Path], bytes], Refusal]] = {
    "empty": (lambda _: b"", Refusal(422, "clip-empty")),
    "text named .mp4": (lambda _: b"this is my clip\n" * 99, FORMAT),
    "moov missing": (without_index, UNDECODABLE),
    "cut before its first frame": (cut_before_the_first_frame, UNDECODABLE),
    "16384x8640 in 27 KB": (giant, Refusal(422, "clip-dimensions-too-large")),
    "audio only": (
        lambda folder: lavfi("sine=d=1", folder / "a.mp4"),
        Refusal(422, "clip-no-video"),
    ),
    "1,000 streams": (of_1000_streams, Refusal(422, "clip-too-many-streams")),
    "unlisted codec": (
        lambda folder: lavfi("testsrc2=s=64x64:d=0.2", folder / "a.mkv", "-c:v", "ffv1"),
        Refusal(422, "clip-codec-unsupported"),
    ),
    "encrypted": (encrypted, Refusal(422, "clip-encrypted")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(http: httpx.Client, tmp_path: Path, case: str) -> None:
    make, refusal = REFUSED[case]
    answer = recognize(http, make(tmp_path))
    assert_refused(answer, refusal)
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("kind", playlists(""))
@pytest.mark.parametrize("target", ["a local file", "an internal URL", "another upload"])
def test_a_playlist_makes_no_connection(
    http: httpx.Client, tmp_path: Path, kind: str, target: str
) -> None:
    (tmp_path / "upload.mp4").write_bytes(b"of somebody else")
    with Listener() as listener:
        address = {
            "a local file": "file:///etc/passwd",
            "an internal URL": f"http://127.0.0.1:{listener.port}/a.ts",
            "another upload": str(tmp_path / "upload.mp4"),
        }[target]
        assert_refused(recognize(http, playlists(address)[kind]), FORMAT)
    assert listener.connections == 0


def test_an_address_in_place_of_a_clip_makes_no_connection(http: httpx.Client) -> None:
    with Listener() as listener:
        fields = {"shop_id": "known", "clip": f"http://127.0.0.1:{listener.port}/a.mp4"}
        parts = [(name, value.encode()) for name, value in fields.items()]
        answer = http.post("/recognize", content=body(*parts), headers={"content-type": KIND})
        assert_refused(answer, Refusal(422, "url-not-allowed", "/clip"))
    assert listener.connections == 0


# --- what is answered -----------------------------------------------------------------------------


def cut_in_half(folder: Path) -> bytes:
    clip = good(folder, "-movflags", "+faststart")
    return clip[: len(clip) // 2]


def with_flipped_bits(folder: Path) -> bytes:
    clip = bytearray(good(folder, "-movflags", "+faststart"))
    places = np.linspace(clip.index(b"mdat") + 20_000, len(clip) - 1_000, 12)
    for place in places.astype(int):
        clip[place] ^= 0xFF
    return bytes(clip)


def of_a_million_frames_a_second(folder: Path) -> bytes:
    ticks = ("-video_track_timescale", "1000000", "-fps_mode", "passthrough")
    return lavfi("testsrc2=s=64x64:r=1000000:d=0.0005", folder / "a.mp4", *H264, *ticks)


def of_two_sizes(folder: Path) -> bytes:
    first = lavfi("color=red:s=320x240:d=2", folder / "a.ts", *H264)
    later = (*H264, "-output_ts_offset", "2")
    return first + lavfi("color=blue:s=640x360:d=2", folder / "b.ts", *later)


def lasting_100000_s(folder: Path) -> bytes:
    return mkv_with_duration(lavfi(clock(2), folder / "a.mkv", *H264), 100_000)


def lasting_10_ms(folder: Path) -> bytes:
    return mkv_with_duration(lavfi(clock(2), folder / "a.mkv", *H264), 0.01)


ANSWERED: dict[str, tuple[Callable[[Path], bytes], float, bool]] = {
    "truncated faststart": (cut_in_half, 1.0, True),
    "flipped bits": (with_flipped_bits, 2.0, True),
    "lying duration: 100,000 s": (lasting_100000_s, 2.0, True),  # less came than was promised
    "lying duration: 10 ms": (lasting_10_ms, 2.0, False),
    "1e6 fps": (of_a_million_frames_a_second, 0.0005, False),
    "size change mid-stream": (of_two_sizes, 4.0, False),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_answered(http: httpx.Client, tmp_path: Path, case: str) -> None:
    make, duration_s, partial = ANSWERED[case]
    response = recognize(http, make(tmp_path))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["clip"]["duration_s"] == pytest.approx(duration_s, rel=0.3)
    assert 1 <= answer["clip"]["frames"] <= 10
    assert answer.get("partial", False) is partial


@pytest.mark.parametrize("name", ["-i", "../x", "/etc/passwd", "a\0b.mp4", "", "file:x", "x" * 500])
def test_the_file_name_is_ignored(http: httpx.Client, shop: Shop, name: str) -> None:
    answer = recognize(http, shop.clips["product-0"], name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["clip"]["frames"] == 10


# --- what the machine pays ------------------------------------------------------------------------

WALL_S, THREADS = 2, 2


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Iterator[ServiceProcess]:
    """A service with the shipped bundle, and 2 s for a clip."""
    service = ServiceProcess(
        tmp_path_factory.mktemp("shipped"),
        LPR_DRAIN_S=0,
        LPR_MEDIA__DECODE_WALL_S=WALL_S,
        LPR_MEDIA__DECODE_THREADS=THREADS,
    )
    try:
        with Client(service.wait_address()) as client:
            service.wait_ready(client)
            for product_id, jpeg in shop.pictures.items():
                client.put_product("known", product_id, [jpeg])
        yield service
    finally:
        service.stop()


@pytest.fixture
def shipped_http(shipped: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shipped.wait_address(), trust_env=False, timeout=60) as http:
        yield http


def children_cpu_s(service: ServiceProcess) -> float:
    """Processor time of the service's children that have ended."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def test_60_s_of_4k60_cost_bounded_cpu(
    shipped: ServiceProcess, shipped_http: httpx.Client, tmp_path: Path
) -> None:
    cheap = (*H264, "-preset", "superfast")
    second = tmp_path / "second.mp4"
    lavfi("color=black:s=3840x2160:r=60:d=1", second, *cheap)
    whole = tmp_path / "minute.mp4"
    ffmpeg("-stream_loop", "59", "-i", str(second), "-c", "copy", str(whole))
    before = children_cpu_s(shipped)
    response = recognize(shipped_http, whole.read_bytes())
    assert response.status_code == 200, response.text
    assert response.json()["clip"]["frames"] >= 1
    assert children_cpu_s(shipped) - before <= WALL_S * (THREADS + 1) + 2


def test_all_black_is_200_with_no_decision(shipped_http: httpx.Client, tmp_path: Path) -> None:
    clip = lavfi("color=black:s=320x240:d=2", tmp_path / "black.mp4", *H264)
    response = recognize(shipped_http, clip)
    assert response.status_code == 200
    assert response.json()["decision"] is None
    assert response.json()["clip"]["frames"] == 10


def test_a_bomb_is_refused_without_the_memory_it_asks_for(
    shipped: ServiceProcess, shipped_http: httpx.Client, shop: Shop, tmp_path: Path
) -> None:
    assert recognize(shipped_http, shop.clips["product-0"]).status_code == 200
    bomb = giant(tmp_path)
    with grown_at_most(shipped.process.pid, 100_000_000):
        answer = recognize(shipped_http, bomb)
    assert_refused(answer, Refusal(422, "clip-dimensions-too-large"))


# --- decoders that misbehave ----------------------------------------------------------------------

_STUB = '#!/bin/sh\n[ "$2" = -protocols ] && echo fd && exit 0\n'
STUBS = {  # what it does, and what is said of it
    "crash": ("kill -SEGV $$", "damaged"),
    "hang": ("sleep 600", "limit of time"),
    "endless output": ("cat /dev/zero", "limit of output"),
    "endless complaints": ("cat /dev/zero >&2", "limit of time"),
}


@pytest.fixture(scope="module")
def stubbed(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Path]]:
    """A service whose ffmpeg is a script, which the test may rewrite."""
    script = tmp_path_factory.mktemp("stub") / "ffmpeg"
    script.write_text(_STUB)
    script.chmod(0o755)
    environment: dict[str, Any] = {"LPR_BUNDLE": tiny_bundle, "IMAGEIO_FFMPEG_EXE": script}
    data_dir = tmp_path_factory.mktemp("stubbed")
    with (
        running_service(
            data_dir, LPR_DRAIN_S=0, LPR_MEDIA__DECODE_WALL_S=1, **environment
        ) as client,
        httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http,
    ):
        yield http, script


@pytest.mark.parametrize("case", STUBS)
def test_a_decoder_crash_or_hang_is_not_retried(
    stubbed: tuple[httpx.Client, Path], shop: Shop, case: str
) -> None:
    http, script = stubbed
    does, said = STUBS[case]
    files = {"images": shop.pictures["product-0"]}
    http.post("/gallery", data={"shop_id": "known", "product_id": "p"}, files=files)
    script.write_text(f"{_STUB}{does}\n")
    clip = shop.clips["product-0"]
    answer = recognize(http, clip[: len(clip) // 2])  # damaged, so it is for ffmpeg
    assert_refused(answer, UNDECODABLE)
    assert said in answer.json()["detail"]
    assert "retry-after" not in answer.headers
