"""Recognition of speech: sound in, text with times out. Off unless a model's folder is set.

`SpeechRecognizer` is all that is asked of one; `Whisper` is the one there is, over faster-whisper
(the extra `speech`) and a folder of its model on this machine: nothing is fetched. Knows nothing of
clips and of what is done with the text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from service import deadlines
from service.errors import InferenceError, StartupError

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

Samples = npt.NDArray[np.float32]


class Said(NamedTuple):
    """A stretch of speech, in seconds from the clip's start."""

    start_s: float
    end_s: float
    text: str


class SpeechRecognizer(Protocol):
    def recognize(self, samples: Samples) -> list[Said]:
        """What is said in one channel of 16,000 samples a second. Raises InferenceError."""


class Whisper:
    """Safe to share between threads: faster-whisper lets its callers wait for each other."""

    def __init__(self, folder: Path, *, threads: int | None) -> None:
        """A CTranslate2 model, as faster-whisper takes it. Raises StartupError."""
        self._model = _opened(folder, threads)

    def recognize(self, samples: Samples) -> list[Said]:
        found: list[Said] = []
        try:
            segments, _ = self._model.transcribe(samples, beam_size=1, without_timestamps=False)
            for segment in segments:  # each is recognised when it is asked for
                deadlines.check()
                found.append(Said(segment.start, segment.end, segment.text.strip()))
        except (RuntimeError, ValueError) as error:
            raise InferenceError("speech could not be recognised") from error
        return found


def _opened(folder: Path, threads: int | None) -> WhisperModel:
    try:
        from faster_whisper import WhisperModel  # noqa: PLC0415  an extra
    except ImportError as error:
        raise StartupError(
            "LPR_SPEECH__MODEL needs faster-whisper: pip install '.[speech]' in a checkout"
        ) from error
    try:
        return WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=threads or 0,
            local_files_only=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise StartupError(f"no model of faster-whisper at {folder}: {error}") from error
