"""Reads what ffmpeg said about a clip: what it promised, whether it was whole, why it was refused.

The only place that knows ffmpeg's wording (as of ffmpeg 9, with `-loglevel level+verbose`).
The log quotes the clip, so nothing here is trusted further than an answer to the clip's own sender.
"""

from __future__ import annotations

import re

from service.errors import (
    ClipCodecError,
    ClipError,
    ClipFormatError,
    ClipNoVideoError,
    ClipTooLargeError,
    ClipTooManyStreamsError,
)
from service.media import clip_rules

_DURATION = re.compile(
    r"^\[info\]   Duration: (\d{1,9}):(\d\d):(\d\d\.\d{1,9})(?:, start: (-?\d{1,9}\.\d{1,9}))?",
    re.MULTILINE | re.ASCII,
)
_MATROSKA = re.compile(r"^\[info\] Input #0, matroska", re.MULTILINE)
_ENDED = re.compile(r"\d+ frames decoded; (\d{1,20}) decode errors", re.ASCII)
_ERROR = re.compile(r"^(?P<source>.*)\[(?:error|fatal|panic)\] (?P<message>.*)$", re.MULTILINE)
_CODEC = re.compile(r"Codec \((\w+)\) not on whitelist")
_DECODER_NOT_OPENED = re.compile(r"\[dec:.*Error while opening decoder|no decoder found")
_PICTURE_SIZE = re.compile(r"Picture size (\d+x\d+) exceeds specified max pixel count")
_DEMUXER_ERROR = re.compile(r"^\[in#0.*\[error\] (?!Error opening input)", re.MULTILINE)
# ISO 14496-12: the box that says how a track was encrypted, and what it was before.
_PROTECTION_BOX = re.compile(rb"sinf.{4}frma.{8}schm", re.DOTALL)

FORMATS = "MP4, MOV, WebM, MKV, AVI, MPEG-TS or FLV"
CODECS = "H.264, H.265, VP8, VP9, AV1, MPEG-2, MPEG-4 or MJPEG"


def promised_s(log: str, first_s: float) -> float | None:
    """Seconds the container claims to last from its first frame on, which is shown `first_s` after
    the container's start; None if it makes no claim."""
    found = _DURATION.search(log)
    if found is None:
        return None
    hours, minutes, seconds, start = found.groups()
    duration = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    # Matroska tells when it ends, by the clock that its start is told by; others how long they are.
    before = float(start or 0) if _MATROSKA.search(log) else 0.0
    return max(0.0, duration - before - first_s)


def is_whole(log: str) -> bool:
    """Whether ffmpeg came to the end of the clip and complained of nothing on the way."""
    ended = _ENDED.search(log)
    if ended is None or int(ended[1]) > 0:
        return False
    return not any(_concerns_the_picture(found) for found in _ERROR.finditer(log))


def _concerns_the_picture(found: re.Match[str]) -> bool:
    """Not the sound's decoder, which we do not allow, nor our own output's muxer."""
    ours = found["source"].startswith(("[rawvideo", "[out#", "[vost#"))
    sound = any(message in found["message"] for message in clip_rules.ABOUT_SOUND)
    return not ours and not sound


def has_too_many_streams(log: str) -> bool:
    """Some demuxers go on with the first streams, so this is asked even when frames came."""
    return "exceeds max_streams" in log


def is_encrypted(clip: bytes) -> bool:
    """Whether an MP4 holds a protected track; ffmpeg decodes the noise without a word of it."""
    return _PROTECTION_BOX.search(clip) is not None


def refusal(log: str, *, max_streams: int) -> ClipError:
    """The error that says best why the clip gave no frames."""
    if has_too_many_streams(log):
        return ClipTooManyStreamsError(
            f"The clip has more than {max_streams} streams; send the video stream alone."
        )
    if "Format not on whitelist" in log:
        return ClipFormatError(f"Send the clip as {FORMATS}, and pictures as `frames`.")
    if size := _PICTURE_SIZE.search(log):
        return too_large(size[1])
    if "matches no streams" in log:
        return ClipNoVideoError("The file holds no video stream; send the clip with its picture.")
    if _DECODER_NOT_OPENED.search(log):
        codec = _CODEC.search(log)
        name = f" ({codec[1]})" if codec else ""
        return ClipCodecError(f"The video codec{name} is not accepted; encode it as {CODECS}.")
    return _undecodable(log)


def too_large(size: str) -> ClipTooLargeError:
    """`size` is `width x height`."""
    return ClipTooLargeError(f"The clip's frames are {size} pixels; scale the clip down.")


def _undecodable(log: str) -> ClipError:
    if "Error opening input" in log and not _DEMUXER_ERROR.search(log):
        return ClipFormatError(f"The file is not a video that is known here; send {FORMATS}.")
    if "moov atom not found" in log:
        return ClipError("The clip's index (moov) is missing; send the whole file.")
    return undecodable()


def undecodable() -> ClipError:
    return ClipError("No frame of the clip could be decoded; the file is damaged, send it again.")
