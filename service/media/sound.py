"""The sound of a clip, by an ffmpeg child that is trusted no more than the one for its pictures.

Of no use but to whoever recognises speech, so it is only asked for where somebody does. A clip
without sound, or with sound that nobody can decode, is silent: its pictures say what is wrong.
"""

from __future__ import annotations

import ffmpeg
import numpy as np
import numpy.typing as npt

from service.media import ffmpeg_child
from service.media.sandbox import SandboxLimits, private_file
from service.settings import MediaSettings

RATE = 16_000  # samples a second: what recognisers of speech are trained on

_DECODERS = "aac,mp3,mp3float,opus,libopus,vorbis,ac3,pcm_s16le,pcm_s16be,flac"
_SAMPLE_BYTES = 4


class SoundDecoder:
    """Decodes sound in children of their own. Safe to share between threads."""

    def __init__(self, limits: MediaSettings) -> None:
        """Raises StartupError where there is no ffmpeg."""
        self._limits = limits
        self._program = ffmpeg_child.bundled_program()
        bounds = SandboxLimits(
            wall_s=limits.decode_wall_s,
            cpu_s=limits.decode_wall_s * 2,
            memory_bytes=limits.decode_memory_bytes,
        )
        self._sandbox = ffmpeg_child.sandbox_of(self._program, bounds)

    def decode(self, clip: bytes) -> npt.NDArray[np.float32]:
        """One channel at RATE, [samples] in [-1, 1]; empty where there is none.

        Raises UnavailableError if the machine could not start a decoder.
        """
        most = int(self._limits.max_clip_s * RATE) * _SAMPLE_BYTES
        with private_file(clip) as source:
            finished = self._sandbox.run(
                self._command(source), output_bytes=most, inherit=(source,)
            )
        whole = len(finished.output) // _SAMPLE_BYTES
        samples = np.frombuffer(finished.output, "<f4", count=whole)
        sound: npt.NDArray[np.float32] = np.nan_to_num(samples).clip(-1.0, 1.0)
        return sound

    def _command(self, source: int) -> list[str]:
        clip = ffmpeg_child.clip_input(source, self._limits, decoders=_DECODERS, vn=None)
        # Silence where there is none yet: times are counted from the clip's start.
        sound = clip["a:0"].filter("aresample", **{"async": 1, "first_pts": 0})
        output = ffmpeg.output(sound, "pipe:1", format="f32le", ac=1, ar=RATE)
        return ffmpeg_child.command(self._program, output, "-loglevel", "error")
