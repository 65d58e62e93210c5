"""Clips of every structure, read by a worker: there is no other decoder that could help out."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from service.errors import ClipError, ClipTooLargeError
from service.media.clips import ClipDecoder
from service.settings import MediaSettings
from tests.service.media.material import clock, ffmpeg, lavfi, stub, times_shown

S, SECONDS, FRAMES = 32, 4.0, 10
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-sc_threshold", "0")
X265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p")

STRUCTURES = {
    "all intra.mp4": (*X264, "-g", "1"),
    "short groups.mp4": (*X264, "-g", "5"),
    "half second groups.mp4": (*X264, "-g", "12"),
    "uneven groups.mp4": (*X264, "-g", "999", "-force_key_frames", "0,0.3,0.5,2.9"),
    "one key frame.mp4": (*X264, "-g", "999"),
    "one key frame, index first.mp4": (*X264, "-g", "999", "-movflags", "+faststart"),
    "no b.mp4": (*X264, "-g", "999", "-bf", "0"),
    "many b, none referred to.mp4": (
        *(*X264, "-g", "50", "-bf", "8", "-x264-params", "b-adapt=0:b-pyramid=none"),
    ),
    "fragmented.mp4": (*X264, "-g", "20", "-movflags", "frag_keyframe+empty_moov"),
    "h264.mkv": (*X264, "-g", "20"),
    "h264.ts": (*X264, "-g", "20"),
    "h264.flv": (*X264, "-g", "20"),
    "hevc.mp4": (*X265, "-x265-params", "log-level=error:keyint=20"),
    "hevc open groups.mp4": (*X265, "-x265-params", "log-level=error:keyint=15:open-gop=1"),
    "vp8.webm": ("-c:v", "libvpx", "-b:v", "1M", "-g", "20"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "1M", "-g", "20"),
    "av1.mp4": ("-c:v", "libsvtav1", "-preset", "12", "-g", "20"),
    "mjpeg.mkv": ("-c:v", "mjpeg", "-q:v", "2"),
    "mpeg2.mkv": ("-c:v", "mpeg2video", "-q:v", "2", "-g", "12"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[float, ClipDecoder]:
    """Decoders whose ffmpeg fails, by their tolerance."""
    broken = stub(tmp_path_factory.mktemp("stub"), "exit 1")
    return {
        tolerance: ClipDecoder(MediaSettings(frame_tolerance=tolerance), executable=broken)
        for tolerance in (0, 0.25, 0.5)
    }


def middles(seconds: float) -> np.ndarray:
    return (np.arange(FRAMES) + 0.5) * seconds / FRAMES


def off_by(pixels: np.ndarray, seconds: float = SECONDS) -> float:
    """How far the worst frame lies from its place, in parts of their distance."""
    assert len(pixels) == FRAMES
    shown = times_shown(pixels, seconds)
    assert (np.diff(shown) > 0).all()
    return float(np.abs(shown - middles(seconds)).max() * FRAMES / seconds)


SEEN = 0.15  # what brightness can tell, and half a frame


@pytest.mark.parametrize("name", STRUCTURES)
def test_each_frame_lies_within_the_tolerance_of_its_place(
    alone: dict[float, ClipDecoder], tmp_path: Path, name: str
) -> None:
    clip = lavfi(clock(SECONDS), tmp_path / name, *STRUCTURES[name])
    for tolerance, decoder in alone.items():
        found = decoder.decode(clip, size=S, frames=FRAMES)
        assert off_by(found.pixels) <= tolerance + SEEN, tolerance
        assert found.duration_s == pytest.approx(SECONDS, abs=0.1)
        assert not found.partial


def test_the_same_clip_gives_the_same_frames(
    alone: dict[float, ClipDecoder], tmp_path: Path
) -> None:
    clip = lavfi("testsrc2=s=96x64:d=4", tmp_path / "a.mp4", *X264, "-g", "30")
    for decoder in alone.values():
        first, again = (decoder.decode(clip, size=S, frames=FRAMES).pixels for _ in range(2))
        assert np.array_equal(first, again)


def test_frames_of_uneven_length_are_spread_in_time(
    alone: dict[float, ClipDecoder], tmp_path: Path
) -> None:
    """For its second half the clip shows every fifth frame only."""
    varied = clock(SECONDS) + ",select='lt(t,2)+not(mod(n,5))'"
    clip = lavfi(varied, tmp_path / "a.mp4", *X264, "-g", "20", "-fps_mode", "passthrough")
    for tolerance, decoder in alone.items():
        found = decoder.decode(clip, size=S, frames=FRAMES)
        shown = times_shown(found.pixels, SECONDS)
        # A frame in its second half stands for 0.2 s, which is half of the places' distance.
        worst = np.abs(shown - middles(found.duration_s)).max() * FRAMES / SECONDS
        assert worst <= max(tolerance, 0.25) + SEEN


def test_what_an_edit_list_cuts_off_is_not_shown(
    alone: dict[float, ClipDecoder], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    lavfi(clock(SECONDS), whole, *X264, "-g", "999")
    ffmpeg("-ss", "2", "-i", str(whole), "-c", "copy", str(cut))
    found = alone[0].decode(cut.read_bytes(), size=S, frames=FRAMES)
    shown = times_shown(found.pixels, SECONDS)
    assert np.abs(shown - (2 + middles(2))).max() < 0.15
    assert found.duration_s == pytest.approx(2, abs=0.1)


def test_one_frame_is_one_frame(alone: dict[float, ClipDecoder], tmp_path: Path) -> None:
    clip = lavfi("testsrc2=s=64x64", tmp_path / "a.mp4", *X264, "-frames:v", "1")
    for decoder in alone.values():
        assert decoder.decode(clip, size=S, frames=FRAMES).pixels.shape == (1, S, S, 3)


def test_of_few_frames_each_comes_once(alone: dict[float, ClipDecoder], tmp_path: Path) -> None:
    clip = lavfi(clock(3, fps=1), tmp_path / "a.mp4", *X264)
    for decoder in alone.values():
        pixels = decoder.decode(clip, size=S, frames=FRAMES).pixels
        assert np.allclose(times_shown(pixels, 3), [0, 1, 2], atol=0.1)


def test_only_the_first_seconds_are_looked_at(tmp_path: Path) -> None:
    broken = stub(tmp_path, "exit 1")
    decoder = ClipDecoder(MediaSettings(max_clip_s=2), executable=broken)
    clip = lavfi(clock(SECONDS), tmp_path / "a.mp4", *X264, "-g", "10")
    found = decoder.decode(clip, size=S, frames=FRAMES)
    assert found.duration_s == pytest.approx(2, abs=0.1)
    assert times_shown(found.pixels, SECONDS).max() < 2.1
    assert not found.partial


def test_when_time_runs_out_only_key_frames_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.media.clips._BUDGET", 0)
    decoder = ClipDecoder(MediaSettings(frame_tolerance=0), executable=stub(tmp_path, "exit 1"))
    clip = lavfi(clock(SECONDS), tmp_path / "a.mp4", *X264, "-g", "25")
    found = decoder.decode(clip, size=S, frames=FRAMES)
    assert found.partial
    assert np.allclose(times_shown(found.pixels, SECONDS), [0, 1, 2, 3], atol=0.1)


def test_giant_frames_are_refused_by_the_index_alone(
    alone: dict[float, ClipDecoder], tmp_path: Path
) -> None:
    clip = lavfi("color=s=16384x8640:d=0.04", tmp_path / "a.mp4", *X264, "-preset", "superfast")
    with pytest.raises(ClipTooLargeError, match="16384x8640"):
        alone[0.5].decode(clip, size=S, frames=FRAMES)


# --- the picture is that of ffmpeg ----------------------------------------------------------------

PICTURES = {
    "plain.mp4": ("", X264),
    "full range.mp4": (",scale=out_range=full,format=yuvj420p", ("-c:v", "libx264")),
    "bt709.mp4": ("", (*X264, "-colorspace", "bt709", "-color_primaries", "bt709")),
    "10 bit.mp4": ("", ("-c:v", "libx264", "-pix_fmt", "yuv420p10le")),
    "4:4:4.mkv": ("", ("-c:v", "libx264", "-pix_fmt", "yuv444p")),
    "wide pixels.mp4": (",setsar=2", X264),
    "absurd pixels.mkv": (",setsar=1/1000", X264),
    "interlaced.mp4": ("", (*X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1")),
    "vp9.webm": ("", ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "1M")),
}


@pytest.mark.parametrize("size", ["160x96", "96x160", "64x64"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_worker_shows_what_ffmpeg_shows(
    alone: dict[float, ClipDecoder], decoder: ClipDecoder, tmp_path: Path, name: str, size: str
) -> None:
    filters, options = PICTURES[name]
    clip = lavfi(f"testsrc2=s={size}:d=0.04{filters}", tmp_path / name, *options)
    assert_same_picture(alone, decoder, clip)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turned_clip_is_shown_upright(
    alone: dict[float, ClipDecoder], decoder: ClipDecoder, tmp_path: Path, turn: int
) -> None:
    flat, turned = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    lavfi("testsrc2=s=160x96:d=0.04", flat, *X264)
    ffmpeg("-display_rotation", str(turn), "-i", str(flat), "-c", "copy", str(turned))
    assert_same_picture(alone, decoder, turned.read_bytes())


@pytest.mark.parametrize("how", [("-display_hflip",), ("-display_rotation", "33")])
def test_unusual_turns_are_left_to_ffmpeg(
    alone: dict[float, ClipDecoder], decoder: ClipDecoder, tmp_path: Path, how: tuple[str, ...]
) -> None:
    flat, turned = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    lavfi("testsrc2=s=160x96:d=0.04", flat, *X264)
    ffmpeg(*how, "-i", str(flat), "-c", "copy", str(turned))
    with pytest.raises(ClipError):
        alone[0].decode(turned.read_bytes(), size=S, frames=1)
    assert decoder.decode(turned.read_bytes(), size=S, frames=1).pixels.shape == (1, S, S, 3)


def assert_same_picture(alone: dict[float, ClipDecoder], decoder: ClipDecoder, clip: bytes) -> None:
    ours = alone[0].decode(clip, size=S, frames=1).pixels.astype(int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "_workers", None)
        ffmpegs = decoder.decode(clip, size=S, frames=1).pixels
    assert np.abs(ours - ffmpegs).mean() < 1


# --- what a worker is not sure of -----------------------------------------------------------------


def damaged(clip: bytes, *parts: float) -> bytes:
    """With 300 bytes inverted at each of the places, in parts of its length."""
    changed = bytearray(clip)
    for part in parts:
        at = int(part * len(clip))
        changed[at : at + 300] = bytes(255 - byte for byte in changed[at : at + 300])
    return bytes(changed)


def test_a_damaged_or_cut_clip_is_left_to_ffmpeg(
    alone: dict[float, ClipDecoder], decoder: ClipDecoder, tmp_path: Path
) -> None:
    noisy = clock(SECONDS) + ",noise=alls=40:allf=t"
    clip = lavfi(noisy, tmp_path / "a.mp4", *X264, "-g", "999", "-movflags", "+faststart")
    for name, bad in {
        "in the middle": damaged(clip, 0.4, 0.5, 0.6),
        "cut in half": clip[: len(clip) // 2],
        "cut near the end": clip[: int(0.8 * len(clip))],
    }.items():
        with pytest.raises(ClipError):
            alone[0.5].decode(bad, size=S, frames=FRAMES)
        assert decoder.decode(bad, size=S, frames=FRAMES).partial, name


def test_h264_of_open_groups_is_left_to_ffmpeg_where_key_frames_do_not_do(
    alone: dict[float, ClipDecoder], decoder: ClipDecoder, tmp_path: Path
) -> None:
    open_groups = ("-g", "10", "-x264-params", "open-gop=1:bframes=3:b-adapt=0")
    clip = lavfi(clock(SECONDS), tmp_path / "a.mp4", *X264, *open_groups)
    assert off_by(alone[0.5].decode(clip, size=S, frames=FRAMES).pixels) <= 0.5 + SEEN
    with pytest.raises(ClipError):
        alone[0].decode(clip, size=S, frames=FRAMES)
    assert off_by(decoder.decode(clip, size=S, frames=FRAMES).pixels) <= 0.5 + SEEN


def test_damage_where_nothing_is_looked_at_is_no_damage(
    alone: dict[float, ClipDecoder], tmp_path: Path
) -> None:
    """Between key frames, of which there are enough."""
    noisy = clock(SECONDS) + ",noise=alls=40:allf=t"
    path = tmp_path / "a.mp4"
    whole = lavfi(noisy, path, *X264, "-g", "10", "-movflags", "+faststart")
    expected = alone[0.5].decode(whole, size=S, frames=FRAMES).pixels
    with av.open(path) as container:
        others = [p.pos for p in container.demux(video=0) if p.size and not p.is_keyframe]
    bad = bytearray(whole)
    for position in others:
        assert position is not None
        bad[position + 20 : position + 60] = bytes(40)
    found = alone[0.5].decode(bytes(bad), size=S, frames=FRAMES)
    assert np.array_equal(found.pixels, expected)
    assert not found.partial


def test_sound_does_not_make_a_worker_unsure(
    alone: dict[float, ClipDecoder], tmp_path: Path
) -> None:
    sound = ("-f", "lavfi", "-i", "sine=d=4:f=440:r=44100", "-c:a", "aac")
    for container in ("mp4", "mkv", "ts"):
        clip = lavfi(clock(SECONDS), tmp_path / f"a.{container}", *sound, *X264, "-g", "10")
        assert len(alone[0.5].decode(clip, size=S, frames=FRAMES).pixels) == FRAMES
