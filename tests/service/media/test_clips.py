from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import (
    ClipCodecError,
    ClipEmptyError,
    ClipEncryptedError,
    ClipError,
    ClipFormatError,
    ClipNoVideoError,
    ClipTooLargeError,
    ClipTooManyStreamsError,
    StartupError,
    UnavailableError,
)
from service.media import sandbox
from service.media.clips import ClipDecoder
from service.media.images import fit
from service.settings import MediaSettings
from tests.service.media.material import (
    Listener,
    clock,
    ffmpeg,
    lavfi,
    mkv_with_duration,
    mp4_with_duration,
    playlists,
    stub,
    times_shown,
)

S = 32
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def middles(seconds: float, frames: int = 10) -> np.ndarray:
    return (np.arange(frames) + 0.5) * seconds / frames


def assert_evenly_spread(pixels: np.ndarray, seconds: float, *, of: float, fps: float = 25) -> None:
    """Ten frames of a clock clip of length `of`, of which the first `seconds` were there to see.

    Each lies within a quarter of the ideal distance, or one frame, and what brightness can tell.
    """
    assert pixels.shape[0] == 10
    shown = times_shown(pixels, of)
    tolerance = max(seconds / 40, 1 / fps) + 0.015 * of
    assert np.abs(shown - middles(seconds)).max() < tolerance
    assert (np.diff(shown) > 0).all()


# --- good clips ---------------------------------------------------------------------------------

CODECS = {
    "h264.mp4": H264,
    "h264 index first.mp4": (*H264, "-movflags", "+faststart"),
    "h264 fragmented.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "h264 10 bit.mp4": ("-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
    "h264 4:4:4.mov": ("-c:v", "libx264", "-pix_fmt", "yuv444p"),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=error"),
    "h264.mkv": H264,
    "h264.ts": H264,
    "h264.flv": H264,
    "vp8.webm": ("-c:v", "libvpx", "-b:v", "1M"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "1M"),
    "av1.webm": ("-c:v", "libsvtav1", "-preset", "12"),
    "av1.mp4": ("-c:v", "libsvtav1", "-preset", "12"),
    "h264.avi": (*H264, "-bf", "3"),  # which tells no frame's time, and shows them in other orders
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "2"),
    "mpeg4 two ways.avi": ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "2"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-q:v", "2"),
    "flv1.flv": ("-c:v", "flv1", "-q:v", "2"),
}


@pytest.mark.parametrize("name", CODECS)
def test_frames_of_every_codec_come_in_order_and_evenly(
    decoder: ClipDecoder, tmp_path: Path, name: str
) -> None:
    clip = lavfi(clock(4), tmp_path / name, *CODECS[name])
    frames = decoder.decode(clip, size=S, frames=10)
    assert frames.pixels.shape == (10, S, S, 3)
    assert frames.pixels.dtype == np.uint8
    assert_evenly_spread(frames.pixels, 4, of=4)
    assert frames.duration_s == pytest.approx(4, abs=0.1)
    assert not frames.partial


@pytest.mark.parametrize("codec", [("libx264", "3"), ("mpeg4", "2")])
def test_what_is_there_of_an_avi_that_was_cut_off_is_spread_evenly(
    decoder: ClipDecoder, tmp_path: Path, codec: tuple[str, str]
) -> None:
    name, between = codec
    options = ("-c:v", name, "-pix_fmt", "yuv420p", "-bf", between, "-g", "25")
    clip = lavfi(clock(4) + ",noise=alls=20:allf=t", tmp_path / "a.avi", *options)
    frames = decoder.decode(clip[: len(clip) * 3 // 5], size=S, frames=10)
    assert 1 < frames.duration_s < 4
    shown = times_shown(frames.pixels, 4)
    places = middles(frames.duration_s, len(shown))
    assert np.abs(shown - places).max() < frames.duration_s / 10 + 0.1
    assert frames.partial


@pytest.mark.parametrize("container", ["mp4", "ts", "flv", "mkv"])
def test_sound_is_not_in_the_way(decoder: ClipDecoder, tmp_path: Path, container: str) -> None:
    path = tmp_path / f"sound.{container}"
    sound = ("-f", "lavfi", "-i", "sine=d=4:f=440:r=44100")
    clip = lavfi(clock(4), path, *sound, *H264, "-c:a", "aac")
    frames = decoder.decode(clip, size=S, frames=10)
    assert_evenly_spread(frames.pixels, 4, of=4)
    assert not frames.partial


@pytest.mark.parametrize(("seconds", "fps"), [(0.4, 25), (1, 60), (30, 10), (59, 5)])
def test_the_spread_holds_at_every_length(
    decoder: ClipDecoder, tmp_path: Path, seconds: float, fps: float
) -> None:
    clip = lavfi(clock(seconds, fps=fps), tmp_path / "a.mp4", *H264)
    frames = decoder.decode(clip, size=S, frames=10)
    assert_evenly_spread(frames.pixels, seconds, of=seconds, fps=fps)
    assert not frames.partial


def test_only_the_first_seconds_of_a_long_clip_are_seen(tmp_path: Path) -> None:
    clip = lavfi(clock(20, fps=10), tmp_path / "a.mp4", *H264)
    frames = ClipDecoder(MediaSettings(max_clip_s=5)).decode(clip, size=S, frames=10)
    assert_evenly_spread(frames.pixels, 5, of=20, fps=10)
    assert frames.duration_s == pytest.approx(5, abs=0.2)
    assert not frames.partial


def test_a_clip_without_a_duration_is_spread_over_what_is_there(
    decoder: ClipDecoder, tmp_path: Path
) -> None:
    clip = lavfi(clock(6), tmp_path / "a.mkv", *H264, "-live", "1")
    frames = decoder.decode(clip, size=S, frames=10)
    assert_evenly_spread(frames.pixels, 6, of=6)
    assert frames.duration_s == pytest.approx(6, rel=0.06)
    assert not frames.partial


@pytest.mark.parametrize(
    ("by", "container"),
    [
        *(("worker", container) for container in ("mp4", "mkv", "ts", "flv")),
        *(("ffmpeg", container) for container in ("mp4", "mkv", "flv")),  # of TS it tells no start
    ],
)
def test_a_segment_of_a_stream_and_a_picture_after_the_sound_are_whole(
    decoder: ClipDecoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    container: str,
    by: str,
) -> None:
    """Times go on from the segment before; what a container promises is the sound's as well."""
    whole, late = tmp_path / "whole.mp4", tmp_path / f"late.{container}"
    lavfi(clock(8), whole, *H264, "-g", "25")
    ffmpeg("-i", str(whole), "-c", "copy", "-f", "segment", "-segment_times", "3.9",
           str(tmp_path / f"%d.{container}"))  # fmt: skip
    ffmpeg("-itsoffset", "3", "-i", str(whole), "-f", "lavfi", "-i", "sine=d=11",
           "-map", "0:v", "-map", "1:a", "-c:v", "copy", str(late))  # fmt: skip
    if by == "ffmpeg":
        monkeypatch.setattr(decoder, "_workers", None)
    for clip, seconds in ((tmp_path / f"1.{container}", 4), (late, 8)):
        frames = decoder.decode(clip.read_bytes(), size=S, frames=10)
        assert frames.duration_s == pytest.approx(seconds, abs=0.15)
        assert not frames.partial


@pytest.mark.parametrize("claimed", [0.01, 1, 2, 20, 59, 100_000])
def test_a_lying_duration_is_judged_by_the_frames(
    decoder: ClipDecoder, tmp_path: Path, claimed: float
) -> None:
    clip = mkv_with_duration(lavfi(clock(4), tmp_path / "a.mkv", *H264), claimed)
    frames = decoder.decode(clip, size=S, frames=10)
    assert_evenly_spread(frames.pixels, 4, of=4)
    assert frames.duration_s == pytest.approx(4, rel=0.06)
    assert frames.partial == (claimed > 4)  # less came than was promised


@pytest.mark.parametrize("factor", [0.05, 100])
def test_lying_headers_of_an_mp4_do_no_harm(
    decoder: ClipDecoder, good_mp4: bytes, factor: float
) -> None:
    frames = decoder.decode(mp4_with_duration(good_mp4, factor), size=S, frames=10)
    assert_evenly_spread(frames.pixels, 4, of=4)


def test_a_clip_of_one_frame_gives_one_frame(decoder: ClipDecoder, tmp_path: Path) -> None:
    clip = lavfi("testsrc2=s=64x64", tmp_path / "a.mp4", *H264, "-frames:v", "1")
    frames = decoder.decode(clip, size=S, frames=10)
    assert frames.pixels.shape == (1, S, S, 3)
    assert frames.duration_s == pytest.approx(0.04, abs=0.01)
    assert not frames.partial


def test_a_clip_of_few_frames_gives_each_once(decoder: ClipDecoder, tmp_path: Path) -> None:
    clip = lavfi(clock(3, fps=1), tmp_path / "a.mp4", *H264)
    frames = decoder.decode(clip, size=S, frames=10)
    assert np.allclose(times_shown(frames.pixels, 3), [0, 1, 2], atol=0.1)


def test_a_million_frames_a_second_are_capped(decoder: ClipDecoder, tmp_path: Path) -> None:
    source = "testsrc2=s=64x64:r=1000000:d=0.0005"
    clock_of_microseconds = ("-video_track_timescale", "1000000", "-fps_mode", "passthrough")
    clip = lavfi(source, tmp_path / "a.mp4", *H264, *clock_of_microseconds)
    frames = decoder.decode(clip, size=S, frames=10)
    assert frames.pixels.shape == (10, S, S, 3)
    assert not frames.partial


def test_a_change_of_size_in_midstream(decoder: ClipDecoder, tmp_path: Path) -> None:
    first = lavfi("color=red:s=320x240:d=2", tmp_path / "a.ts", *H264)
    second = lavfi("color=blue:s=640x360:d=2", tmp_path / "b.ts", *H264, "-output_ts_offset", "2")
    frames = decoder.decode(first + second, size=S, frames=10)
    reds = frames.pixels[:, S // 2, S // 2, 0] > 128
    assert reds.tolist() == [True] * 5 + [False] * 5
    assert frames.duration_s == pytest.approx(4, abs=0.3)


def test_rotation_is_applied(decoder: ClipDecoder, tmp_path: Path) -> None:
    # Red above blue, marked "turn by a quarter": shown as red beside blue.
    source = "color=red:s=128x64:d=1[r];color=blue:s=128x64:d=1[b];[r][b]vstack"
    lavfi(source, tmp_path / "flat.mp4", *H264)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(tmp_path / "flat.mp4"), "-c", "copy", str(turned))
    flat = decoder.decode((tmp_path / "flat.mp4").read_bytes(), size=S, frames=1).pixels[0]
    upright = decoder.decode(turned.read_bytes(), size=S, frames=1).pixels[0]
    assert flat[4, S // 2, 0] > 200 > 60 > flat[-4, S // 2, 0]
    assert np.abs(np.rot90(flat).astype(int) - upright).mean() < 6


@pytest.mark.parametrize("size", ["640x360", "360x640", "64x48", "320x318", "1280x40"])
def test_a_frame_is_cut_and_scaled_as_a_picture_is(
    decoder: ClipDecoder, tmp_path: Path, size: str
) -> None:
    """The clip is lossless and has full colour, so only the scaling can differ."""
    path = tmp_path / "a.mp4"
    clip = lavfi(f"testsrc2=s={size}:d=0.04,format=yuv444p", path, "-c:v", "libx264", "-qp", "0")
    ffmpeg("-i", str(path), "-frames:v", "1", "-pix_fmt", "rgb24", str(tmp_path / "a.ppm"))
    with Image.open(tmp_path / "a.ppm") as image:
        whole = np.asarray(image)
    ours = decoder.decode(clip, size=64, frames=1).pixels[0]
    difference = np.abs(fit(whole, 64).astype(int) - ours)[2:-2, 2:-2]
    assert difference.mean() < 4


def test_wide_pixels_are_shown_wide(decoder: ClipDecoder, tmp_path: Path) -> None:
    """64x64 pixels twice as wide as high are a picture of 2:1, whose centre square is cut."""
    source = "color=red:s=64x64:d=0.2,drawbox=x=16:w=32:y=0:h=64:c=blue:t=fill,setsar=2"
    pixels = decoder.decode(lavfi(source, tmp_path / "a.mp4", *H264), size=S, frames=1).pixels[0]
    assert pixels[:, 2:-2, 2].min() > 150  # blue from edge to edge


@pytest.mark.parametrize("sar", ["1/1000", "1000"])
def test_absurd_pixel_shapes_do_no_harm(decoder: ClipDecoder, tmp_path: Path, sar: str) -> None:
    clip = lavfi(f"testsrc2=s=64x48:d=0.2,setsar={sar}", tmp_path / "a.mkv", "-c:v", "mpeg4")
    assert decoder.decode(clip, size=S, frames=3).pixels.shape == (3, S, S, 3)


def test_black_is_a_clip_like_any_other(decoder: ClipDecoder, tmp_path: Path) -> None:
    clip = lavfi("color=black:s=64x64:d=1", tmp_path / "a.mp4", *H264)
    frames = decoder.decode(clip, size=S, frames=10)
    assert frames.pixels.shape[0] == 10
    assert frames.pixels.max() < 8
    assert not frames.partial


# --- damaged clips ------------------------------------------------------------------------------


def test_a_truncated_clip_shows_its_beginning(decoder: ClipDecoder, streaming_mp4: bytes) -> None:
    frames = decoder.decode(streaming_mp4[: len(streaming_mp4) // 2], size=S, frames=10)
    assert frames.partial
    assert 1.5 < frames.duration_s < 2.5
    assert_evenly_spread(frames.pixels, frames.duration_s, of=4)


def test_a_truncated_transport_stream_shows_its_beginning(
    decoder: ClipDecoder, tmp_path: Path
) -> None:
    clip = lavfi(clock(4) + ",noise=alls=40:allf=t", tmp_path / "a.ts", *H264)
    frames = decoder.decode(clip[: len(clip) // 2], size=S, frames=10)
    assert_evenly_spread(frames.pixels, frames.duration_s, of=4)


def test_a_clip_cut_before_its_first_frame_is_undecodable(
    decoder: ClipDecoder, streaming_mp4: bytes
) -> None:
    start = streaming_mp4.index(b"mdat")
    with pytest.raises(ClipError) as caught:
        decoder.decode(streaming_mp4[: start + 40], size=S, frames=10)
    assert type(caught.value) is ClipError


def test_flipped_bits_give_a_partial_answer(decoder: ClipDecoder, streaming_mp4: bytes) -> None:
    damaged = bytearray(streaming_mp4)
    start = streaming_mp4.index(b"mdat")
    for at in np.linspace(start + 20_000, len(damaged) - 1_000, 12).astype(int):
        damaged[at] ^= 0xFF
    frames = decoder.decode(bytes(damaged), size=S, frames=10)
    assert frames.partial
    assert frames.pixels.shape == (10, S, S, 3)


def test_an_index_that_is_missing_is_undecodable(decoder: ClipDecoder, good_mp4: bytes) -> None:
    with pytest.raises(ClipError, match="moov") as caught:
        decoder.decode(good_mp4[: good_mp4.rindex(b"moov") - 4], size=S, frames=10)
    assert type(caught.value) is ClipError


def test_no_bytes_are_an_empty_clip(decoder: ClipDecoder) -> None:
    with pytest.raises(ClipEmptyError):
        decoder.decode(b"", size=S, frames=10)


# --- clips that are refused -----------------------------------------------------------------------


def test_other_contents_are_refused_by_format(decoder: ClipDecoder, tmp_path: Path) -> None:
    contents = {
        "text": b"this is my clip\n" * 50,
        "one byte": b"\0",
        "html": b"<html><body>503</body></html>",
        "noise": np.random.default_rng(0).bytes(50_000),
        "gif": lavfi("testsrc2=s=64x64:d=1", tmp_path / "a.gif"),
        "png": lavfi("testsrc2=s=64x64", tmp_path / "a.png", "-frames:v", "1"),
        "ogg": lavfi("testsrc2=s=64x64:d=1", tmp_path / "a.ogv"),
        "wav": lavfi("sine=d=1", tmp_path / "a.wav"),
        "mp3": lavfi("sine=d=1", tmp_path / "a.mp3"),
    }
    for name, content in contents.items():
        with pytest.raises(ClipFormatError, match="MP4") as caught:
            decoder.decode(content, size=S, frames=10)
        assert type(caught.value) is ClipFormatError, name


def test_sound_alone_has_no_video(decoder: ClipDecoder, tmp_path: Path) -> None:
    with pytest.raises(ClipNoVideoError):
        decoder.decode(lavfi("sine=d=1", tmp_path / "a.mp4"), size=S, frames=10)


def test_a_cover_picture_is_no_video(decoder: ClipDecoder, tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    lavfi("testsrc2=s=64x64", cover, "-frames:v", "1")
    attached = ("-i", str(cover), "-map", "0", "-map", "1", "-c:v", "copy")
    attached += ("-disposition:v", "attached_pic")
    with pytest.raises(ClipNoVideoError):
        decoder.decode(lavfi("sine=d=1", tmp_path / "a.m4a", *attached), size=S, frames=10)


def test_giant_frames_are_refused(decoder: ClipDecoder, tmp_path: Path) -> None:
    clip = lavfi("color=s=16384x8640:d=0.04", tmp_path / "a.mp4", *H264, "-preset", "ultrafast")
    with pytest.raises(ClipTooLargeError, match="16384x8640"):
        decoder.decode(clip, size=S, frames=10)


_REFUSE_BOMB = """
import resource, sys
from service.errors import ClipTooLargeError
from service.media.clips import ClipDecoder
from service.settings import MediaSettings
try:
    ClipDecoder(MediaSettings()).decode(sys.stdin.buffer.read(), size=32, frames=10)
except ClipTooLargeError:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_giant_frames_are_refused_without_the_memory_they_ask_for(tmp_path: Path) -> None:
    bomb = lavfi("color=s=16384x8640:d=0.04", tmp_path / "a.mp4", *H264, "-preset", "superfast")
    command = [sys.executable, "-c", _REFUSE_BOMB]
    done = subprocess.run(command, input=bomb, capture_output=True, timeout=120, check=True)
    assert int(done.stdout) * 1024 < 100_000_000


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
def test_too_many_streams_are_refused(decoder: ClipDecoder, tmp_path: Path, container: str) -> None:
    path = tmp_path / f"a.{container}"
    clip = lavfi("color=s=16x16:d=0.2", path, *["-map", "0"] * 40, "-c:v", "mpeg4")
    with pytest.raises(ClipTooManyStreamsError, match="8 streams"):
        decoder.decode(clip, size=S, frames=10)


@pytest.mark.parametrize(("codec", "container"), [("ffv1", "mkv"), ("prores", "mov")])
def test_unlisted_codecs_are_refused(
    decoder: ClipDecoder, tmp_path: Path, codec: str, container: str
) -> None:
    clip = lavfi("testsrc2=s=64x64:d=0.2", tmp_path / f"a.{container}", "-c:v", codec)
    with pytest.raises(ClipCodecError, match=codec):
        decoder.decode(clip, size=S, frames=10)


@pytest.mark.parametrize("sound", [False, True])
def test_encrypted_clips_are_refused(
    decoder: ClipDecoder, tmp_path: Path, good_mp4: bytes, sound: bool
) -> None:
    (tmp_path / "plain.mp4").write_bytes(good_mp4)
    keys = ("-encryption_scheme", "cenc-aes-ctr")
    keys += ("-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb")
    keys += ("-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")
    extra = ("-f", "lavfi", "-i", "sine=d=4", "-c:a", "aac") if sound else ()
    path = tmp_path / "protected.mp4"
    ffmpeg("-i", str(tmp_path / "plain.mp4"), *extra, "-c:v", "copy", *keys, str(path))
    with pytest.raises(ClipEncryptedError):
        decoder.decode(path.read_bytes(), size=S, frames=10)


# --- clips that reach out -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", playlists(""))
def test_playlists_make_no_connection(decoder: ClipDecoder, kind: str) -> None:
    with Listener() as listener:
        playlist = playlists(f"http://127.0.0.1:{listener.port}/a.ts")[kind]
        with pytest.raises(ClipFormatError):
            decoder.decode(playlist, size=S, frames=10)
    assert listener.connections == 0


@pytest.mark.parametrize("kind", playlists(""))
def test_playlists_read_no_other_file(
    decoder: ClipDecoder, tmp_path: Path, good_mp4: bytes, kind: str
) -> None:
    (tmp_path / "secret.mp4").write_bytes(good_mp4)
    for target in (f"{tmp_path}/secret.mp4", f"file://{tmp_path}/secret.mp4"):
        with pytest.raises(ClipFormatError):
            decoder.decode(playlists(target)[kind], size=S, frames=10)


# --- decoders that misbehave ----------------------------------------------------------------------


def stubbed(folder: Path, body: str, *, wall_s: float = 1.0) -> ClipDecoder:
    return ClipDecoder(MediaSettings(decode_wall_s=wall_s), executable=stub(folder, body))


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        "kill -SEGV $$",
        "kill -KILL $$",
        "sleep 600",
        "sleep 600 & sleep 600 & wait",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        "exec 1>&- 2>&-; sleep 600",
        "cat /dev/zero",
        "cat /dev/zero >&2",
        "while :; do echo '[error] nonsense' >&2; echo nonsense; done",
        "head -c 100000 /dev/urandom; exit 0",
    ],
)
def test_a_decoder_that_misbehaves_is_an_undecodable_clip(tmp_path: Path, body: str) -> None:
    decoder = stubbed(tmp_path, body)
    before = _descriptors()
    with pytest.raises(ClipError) as caught:
        decoder.decode(b"clip", size=S, frames=10)
    assert type(caught.value) is ClipError
    assert _descriptors() == before
    # All of its group are killed by now; the kernel may take a moment to carry it out.
    _wait_until(lambda: not _running(str(tmp_path / "stub")))


def test_what_came_before_a_hang_is_used(
    decoder: ClipDecoder, good_mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = decoder._command

    def and_hangs(*arguments: int, **chosen: int) -> list[str]:
        return ["/bin/sh", "-c", '"$0" "$@"; sleep 600', *command(*arguments, **chosen)]

    hangs = ClipDecoder(MediaSettings(decode_wall_s=3))
    monkeypatch.setattr(hangs, "_command", and_hangs)
    monkeypatch.setattr(hangs, "_workers", None)  # the clip is one that a worker would read
    frames = hangs.decode(good_mp4, size=S, frames=10)
    assert frames.partial
    assert_evenly_spread(frames.pixels, 4, of=4)


def test_an_executable_that_does_not_run_stops_the_start(tmp_path: Path) -> None:
    for executable in (str(tmp_path / "none"), "/bin/true"):
        with pytest.raises(StartupError):
            ClipDecoder(MediaSettings(), executable=executable)


def test_too_little_memory_to_run_at_all_stops_the_start() -> None:
    with pytest.raises(StartupError):
        ClipDecoder(MediaSettings(decode_memory_bytes=50_000_000))


def test_memory_beyond_the_limit_is_not_given(tmp_path: Path) -> None:
    clip = lavfi("testsrc2=s=3840x2160:d=0.4", tmp_path / "a.mp4", *H264, "-preset", "ultrafast")
    small = ClipDecoder(MediaSettings(decode_memory_bytes=300_000_000))
    if not small.sandbox()["resource_limits"]:
        pytest.skip("this machine has no prlimit")
    try:
        assert small.decode(clip, size=S, frames=10).partial
    except ClipError as error:
        assert type(error) is ClipError


# --- the house stays clean ------------------------------------------------------------------------


def _running(executable: str) -> list[str]:
    """Command lines of running processes that were started from `executable`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if executable.encode() in line:
            found.append(line.decode(errors="replace"))
    return found


def _descriptors() -> set[Path]:
    gc.collect()  # earlier tests' decoders hold some, and pytest held the decoders
    return set(Path("/proc/self/fd").iterdir())


def _held() -> set[object]:
    """Descriptors and children."""
    return _descriptors() | {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("in_memory", [True, False])
def test_many_decodes_leave_nothing_behind(
    good_mp4: bytes,
    streaming_mp4: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_memory: bool,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    decoder = ClipDecoder(MediaSettings())
    uploads = [good_mp4, b"text", streaming_mp4[:40_000], b"\0" * 3_000_000] * 6

    def attempt(clip: bytes) -> None:
        with contextlib.suppress(ClipError):
            decoder.decode(clip, size=S, frames=10)

    before = _held()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, uploads))
    _wait_until(lambda: _held() <= before)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_caller_leaves_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = stubbed(tmp_path, "sleep 600", wall_s=60)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "_collect", interrupted)
    before = _held()
    with pytest.raises(KeyboardInterrupt):
        decoder.decode(b"clip", size=S, frames=10)
    _wait_until(lambda: _held() <= before)


_DECODE_UNTIL_KILLED = """
import sys
from service.media.clips import ClipDecoder
from service.settings import MediaSettings
decoder = ClipDecoder(MediaSettings(decode_wall_s=600), executable=sys.argv[1])
decoder.decode(b"clip", size=32, frames=10)
"""


def test_a_killed_service_leaves_no_decoder(decoder: ClipDecoder, tmp_path: Path) -> None:
    if not decoder.sandbox()["no_new_privileges"]:
        pytest.skip("this machine has no setpriv")
    program = stub(tmp_path, "while :; do sleep 0.1; done")
    service = subprocess.Popen([sys.executable, "-c", _DECODE_UNTIL_KILLED, program])
    try:
        # The stub itself: while its wrappers still come up, no death signal is set yet.
        _wait_until(lambda: any(line.startswith("/bin/sh") for line in _running(program)))
    finally:
        service.kill()
        service.wait()
    _wait_until(lambda: not _running(program))
    assert _running(program) == []


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_machine_without_room_is_unavailable_not_the_clips_fault(
    decoder: ClipDecoder, good_mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    full: tuple[tuple[object, str], ...] = ((os, "memfd_create"), (socket, "socketpair"))
    for module, name in (*full, (subprocess, "Popen")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, no_room)
            if name == "Popen":
                patch.setattr(decoder, "_workers", None)  # ffmpeg's, not the zygote's
            with pytest.raises(UnavailableError):
                decoder.decode(good_mp4, size=S, frames=10)


def test_threads_may_share_a_decoder(decoder: ClipDecoder, good_mp4: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: decoder.decode(good_mp4, size=S, frames=10).pixels, range(8))
        )
    assert all(np.array_equal(result, results[0]) for result in results)


def test_the_upload_may_lie_in_a_temporary_file(
    monkeypatch: pytest.MonkeyPatch, good_mp4: bytes
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    decoder = ClipDecoder(MediaSettings())
    assert not decoder.sandbox()["memory_file"]
    assert_evenly_spread(decoder.decode(good_mp4, size=S, frames=10).pixels, 4, of=4)


@settings(max_examples=60)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=30),
    length=st.floats(0.2, 1),
    index_first=st.booleans(),
)
def test_mutated_bytes_raise_only_our_errors(
    decoder: ClipDecoder,
    good_mp4: bytes,
    edits: list[tuple[float, int]],
    length: float,
    index_first: bool,
) -> None:
    mutated = bytearray(good_mp4)
    start = good_mp4.rindex(b"moov") if index_first else 0  # the structure, not only the pictures
    for place, value in edits:
        mutated[start + int(place * (len(mutated) - 1 - start))] = value
    try:
        frames = decoder.decode(bytes(mutated[: int(length * len(mutated))]), size=S, frames=10)
    except ClipError as error:
        assert error.detail.endswith(".")
    else:
        assert 1 <= len(frames.pixels) <= 10
        assert frames.pixels.shape[1:] == (S, S, 3)
        assert np.isfinite(frames.duration_s)
        assert frames.duration_s >= 0
