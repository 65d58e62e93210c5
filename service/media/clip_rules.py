"""What of a clip is accepted, and how a frame becomes a square: the same for every decoder.

Knows ffmpeg's names for these things; knows no decoder. The worker that decodes imports it, so it
imports nothing of the service.
"""

from __future__ import annotations

from dataclasses import dataclass

# Demuxers and decoders under ffmpeg's names. Playlists, image sequences and network formats are
# left out because they open other files; the sound's decoders because nobody listens.
FORMATS = "mov,matroska,avi,mpegts,flv"
DECODERS = (
    "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,av1,libdav1d,libaom-av1,"
    "mpeg4,mpeg2video,mpeg1video,mjpeg,h263,flv"
)
PROBE_BYTES = 5_000_000
# What libav complains of because the sound's decoders are left out.
ABOUT_SOUND = ("not on whitelist", "This AVCodecContext was allocated for")

# The square is cut out before it is scaled, which is the same picture for less work. It is a square
# on the screen: sar is the width of one pixel over its height.
CROP = {"w": "min(iw,max(2,ih/sar))", "h": "min(ih,max(2,iw*sar))", "exact": "1"}
# Widened to the reduction as Pillow's BICUBIC, with Pillow's coefficient.
SCALE = {"flags": "bicubic+accurate_rnd+full_chroma_int", "param0": "0", "param1": "0.5"}
PIXELS = "rgb24"
# A container may promise this much more than its pictures last: the sound may outlast them.
SLACK_S = 0.5


@dataclass(frozen=True)
class Task:
    """What is asked of a worker; `tolerance` in parts of the distance between two frames asked for.

    Beyond `budget_s` only key frames are decoded.
    """

    size: int
    frames: int
    tolerance: float
    max_clip_s: float
    max_pixels: int
    max_streams: int
    threads: int
    budget_s: float
