"""The sound of clips, by a real ffmpeg in its sandbox; and who listens to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from service.errors import InferenceError
from service.inference.speech import Said, Samples
from service.listening import Listener
from service.media.sound import RATE, SoundDecoder
from service.settings import MediaSettings


def filmed(path: Path, *sound: str) -> bytes:
    """Two seconds of grey, with the sound that ffmpeg's arguments make."""
    grey = ["-f", "lavfi", "-i", "color=gray:size=64x64:rate=10:duration=2"]
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *grey, *sound]
    subprocess.run([*program, "-shortest", str(path)], check=True)
    return path.read_bytes()


def tone(hertz: int) -> list[str]:
    return ["-f", "lavfi", "-i", f"sine=frequency={hertz}:sample_rate=44100:duration=2"]


@pytest.fixture(scope="module")
def decoder() -> SoundDecoder:
    return SoundDecoder(MediaSettings(max_clip_s=1.5))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_sound_comes_out_as_one_channel_at_the_rate(
    decoder: SoundDecoder, tmp_path: Path, name: str
) -> None:
    samples = decoder.decode(filmed(tmp_path / name, *tone(440)))
    assert samples.dtype == np.float32
    assert 1.4 * RATE < len(samples) <= 1.5 * RATE, "no longer than clips are looked at"
    loudest = np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)
    assert loudest == pytest.approx(440, abs=5)
    assert 0 < np.abs(samples).max() <= 1


@pytest.mark.parametrize("name", ["clip.mp4", "clip.flv"])
def test_sound_that_begins_later_is_told_at_its_time(tmp_path: Path, name: str) -> None:
    samples = SoundDecoder(MediaSettings()).decode(
        filmed(tmp_path / name, "-itsoffset", "1", *tone(440))
    )
    assert np.abs(samples[: int(0.9 * RATE)]).max() < 0.01
    assert np.abs(samples[int(1.1 * RATE) : int(1.5 * RATE)]).max() > 0.1


def test_a_clip_without_sound_and_one_that_is_none_are_silent(
    decoder: SoundDecoder, tmp_path: Path
) -> None:
    assert len(decoder.decode(filmed(tmp_path / "clip.mp4"))) == 0
    assert len(decoder.decode(b"no clip at all")) == 0
    assert len(decoder.decode(b"#EXTM3U\nfile:///etc/passwd\n")) == 0


class FakeRecognizer:
    """Hears how long a sound is."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0

    def recognize(self, samples: Samples) -> list[Said]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return [Said(0.0, len(samples) / RATE, "hello")]


def test_what_is_said_is_recognised_from_the_sound(decoder: SoundDecoder, tmp_path: Path) -> None:
    recognizer = FakeRecognizer()
    [said] = Listener(decoder, recognizer).listen(filmed(tmp_path / "clip.mp4", *tone(300)))
    assert (said.text, said.start_s) == ("hello", 0.0)
    assert said.end_s == pytest.approx(1.5, abs=0.1)


def test_silence_is_not_recognised_and_a_failure_is_silence(
    decoder: SoundDecoder, tmp_path: Path
) -> None:
    recognizer = FakeRecognizer()
    assert Listener(decoder, recognizer).listen(filmed(tmp_path / "still.mp4")) == []
    assert recognizer.calls == 0
    failing = Listener(decoder, FakeRecognizer(InferenceError("away")))
    assert failing.listen(filmed(tmp_path / "clip.mp4", *tone(300))) == []
