"""What is said in a clip: its sound decoded, its speech recognised.

Recognition goes on without it: a clip whose speech cannot be had is one in which nothing is said.
"""

from __future__ import annotations

import logging
from typing import Protocol

from service.errors import InferenceError, UnavailableError
from service.inference.speech import Said, Samples, SpeechRecognizer

logger = logging.getLogger(__name__)


class Sound(Protocol):
    """What is asked of `service.media.sound.SoundDecoder`."""

    def decode(self, clip: bytes) -> Samples: ...


class Listener:
    """Safe to share between threads."""

    def __init__(self, sound: Sound, recognizer: SpeechRecognizer) -> None:
        self._sound = sound
        self._recognizer = recognizer

    def listen(self, clip: bytes) -> list[Said]:
        """What is said, in time."""
        try:
            samples = self._sound.decode(clip)
            return self._recognizer.recognize(samples) if len(samples) else []
        except (InferenceError, UnavailableError) as error:
            logger.warning("a clip is recognised without its speech: %s", error)
            return []
