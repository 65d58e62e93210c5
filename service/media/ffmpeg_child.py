"""The ffmpeg program, and what every child of it is told that reads a clip which is not trusted.

Knows nothing of what the child makes of the clip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from service.errors import StartupError
from service.media import clip_rules
from service.media.sandbox import Sandbox, SandboxLimits
from service.settings import MediaSettings


def bundled_program() -> str:
    """That of imageio-ffmpeg. Raises StartupError."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise StartupError(f"No ffmpeg was found: {error}") from error


def sandbox_of(program: str, limits: SandboxLimits) -> Sandbox:
    """One in which the program can be read, and of what is not the system's nothing else."""
    return Sandbox(limits, readable=(str(Path(program).resolve()),))


def clip_input(source: int, limits: MediaSettings, *, decoders: str, **options: Any) -> Any:
    """ffmpeg-python's input: the clip in the descriptor `source`, and no way to anything else."""
    return ffmpeg.input(
        "fd:",
        fd=source,
        protocol_whitelist="fd",
        format_whitelist=clip_rules.FORMATS,
        codec_whitelist=decoders,
        max_streams=limits.max_streams,
        t=limits.max_clip_s,
        sn=None,
        dn=None,
        **options,
    )


def command(program: str, output: Any, *flags: str) -> list[str]:
    """`output` is ffmpeg-python's; `flags` are of the whole run."""
    words = ffmpeg.compile(output, cmd=[program, "-nostdin", "-nostats", "-hide_banner", *flags])
    return [str(word) for word in words]
