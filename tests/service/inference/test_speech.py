"""faster-whisper behind the service's face, with a tiny Whisper of random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from service.errors import StartupError
from service.inference.speech import Said, Whisper


def test_a_missing_package_and_a_folder_without_a_model_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "faster_whisper", None)
        with pytest.raises(StartupError, match=r"'\.\[speech\]'"):
            Whisper(tmp_path, threads=1)
    pytest.importorskip("faster_whisper", reason="the speech extra")
    with pytest.raises(StartupError, match="no model"):
        Whisper(tmp_path, threads=1)


class FakeModel:
    """Says what faster-whisper's model would."""

    def transcribe(self, samples: np.ndarray, **options: object) -> tuple[object, object]:
        from types import SimpleNamespace

        if not len(samples):
            raise ValueError("nothing")
        segment = SimpleNamespace(start=0.5, end=2.0, text=" green tea ")
        return iter([segment]), SimpleNamespace(language="en")


def test_segments_become_text_with_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from service.inference import speech

    monkeypatch.setattr(speech, "_opened", lambda folder, threads: FakeModel())
    whisper = Whisper(tmp_path, threads=1)
    assert whisper.recognize(np.zeros(16_000, np.float32)) == [Said(0.5, 2.0, "green tea")]
    with pytest.raises(speech.InferenceError):
        whisper.recognize(np.zeros(0, np.float32))
