"""Reads the few frames of a clip that are wanted, with libav in this process; decodes little else.

Runs in a worker that nothing is entrusted to (`zygote`), so it knows neither settings nor errors
of the service. It answers for clips that are whole and plain; of any other it says that it is not
sure, and then the clip is decoded from end to end by the ffmpeg child, which copes with damage.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.filter
import av.logging

from service.media import clip_rules
from service.media.clip_rules import Task
from service.media.frame_plan import (
    Plan,
    Sample,
    UnplannableError,
    even_places,
    frame_length,
    nearest,
    plan,
)

_MOST_SAMPLES = 20_000
_IDENTITY = (1, 0, 0, 1)
# Signs of a display matrix (ISO 14496-12) and the filters that turn the square upright.
_TURNS: dict[tuple[int, ...], tuple[tuple[str, str], ...]] = {
    _IDENTITY: (),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
}


class NotSureError(Exception):
    """This clip is for the decoder that looks at everything."""


class TooLargeError(Exception):
    """The picture's size, as `width x height`, is beyond the limit."""


@dataclass(frozen=True)
class Found:
    count: int
    duration_s: float
    partial: bool


def read(task: Task, clip: int, pixels: mmap.mmap) -> Found:
    """Write frames [count, size, size, 3], RGB, to `pixels`; `clip` is a descriptor.

    Beyond `budget_s` only key frames are decoded, and the answer is partial. Raises NotSureError,
    TooLargeError; whatever libav raises means the former.
    """
    reader = _Reader(task, clip)
    chosen, partial = reader.frames()
    square = _Square(task.size, reader.shape)
    for place, frame in enumerate(chosen):
        square.write(frame, pixels, place * task.size * task.size * 3)
    return Found(len(chosen), reader.duration_s, partial)


class _Reader:
    """One clip, opened: its samples in memory, and where the frames of the answer are to lie."""

    def __init__(self, task: Task, clip: int) -> None:
        self._task = task
        self._until = time.monotonic() + task.budget_s
        self._container = av.open("fd:", options=_options(task, clip))
        self._stream = _picture(self._container)
        self._decoder = self._stream.codec_context
        self._prepare_decoder()
        self.shape = self._stream.sample_aspect_ratio or 1
        self._packets = self._demuxed()
        self._samples, self._places, self._part = self._spread()

    def _prepare_decoder(self) -> None:
        decoder, task = self._decoder, self._task
        if decoder is None or decoder.name not in clip_rules.DECODERS.split(","):
            raise NotSureError("codec")
        if decoder.width * decoder.height > task.max_pixels:
            raise TooLargeError(f"{decoder.width}x{decoder.height}")
        decoder.options = {
            "max_pixels": str(task.max_pixels),
            "codec_whitelist": clip_rules.DECODERS,
            "err_detect": "explode",
        }
        decoder.thread_count = task.threads
        decoder.thread_type = "AUTO"

    def _demuxed(self) -> list[Any]:
        """Samples in decoding order, up to the time that is looked at, and a little on."""
        packets: list[Any] = []
        for packet in self._container.demux(self._stream):
            if packet.dts is None and packet.pts is None:
                break  # the end
            if packet.pts is None or packet.is_corrupt or len(packets) == _MOST_SAMPLES:
                raise NotSureError("samples")
            packets.append(packet)
            if (packet.pts - packets[0].pts) * packet.time_base > self._task.max_clip_s + 1:
                break
        if not packets:
            raise NotSureError("no samples")
        return packets

    def _spread(self) -> tuple[list[Sample], tuple[float, ...], float]:
        """The samples, the places of the answer's frames, and the distance between two of these."""
        task, packets = self._task, self._packets
        tick = float(packets[0].time_base)
        times = sorted(p.pts for p in packets if not p.is_discard)
        if not times:
            raise NotSureError("nothing is shown")
        start, horizon = times[0], times[0] + task.max_clip_s / tick
        times = [t for t in times if t < horizon]
        frame = frame_length(times)
        # A frame lasts as long as the one before it, unless the container knows better.
        last = max((p for p in packets if p.pts == times[-1]), key=lambda p: p.duration or 0)
        gap = last.duration or (times[-1] - times[-2] if len(times) > 1 else 0)
        end = (times[-1] - start + gap) * tick
        self.duration_s = self._length(start * tick, (times[-1] - start) * tick, end)
        length = self.duration_s / tick
        samples = [
            Sample(p.pts, p.is_keyframe, not p.is_discard and p.pts < horizon) for p in packets
        ]
        return samples, even_places(start, length, task.frames, frame), length / task.frames

    def _length(self, first: float, last: float, end: float) -> float:
        """Seconds. Within some slack the container is believed, beyond it something is missing.

        The first frame is shown `first` seconds into the clip, the last one `last` after it.
        """
        promised = min(self._promised(first) or end, self._task.max_clip_s)
        if promised > end + clip_rules.SLACK_S:
            raise NotSureError("shorter than promised")
        return promised if last <= promised else end

    def _promised(self, first: float) -> float | None:
        """Seconds from the first frame on, as the container tells it of the picture, or else of the
        clip, sound included. Matroska tells when it ends, others how long they are."""
        container, stream = self._container, self._stream
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if not container.duration:
            return None
        matroska = container.format.name.startswith("matroska")
        start = 0 if matroska else container.start_time or 0
        return float(container.duration + start) / 1e6 - first

    def frames(self) -> tuple[list[Any], bool]:
        """The frames of the answer in order of time, and whether the time for more ran out."""
        tolerance = self._task.tolerance * self._part
        try:
            chosen_by = plan(self._samples, self._places, tolerance)
        except UnplannableError as error:
            raise NotSureError("plan") from error
        # Half of a clip's frames may be such as no other frame needs. They are decoded only if
        # without them a place finds nothing near enough.
        for skipped in ("NONREF", "DEFAULT") if tolerance else ("DEFAULT",):
            self._decoder.skip_frame = skipped
            chosen, late = self._decoded(chosen_by)
            if late or chosen_by.holds([frame.pts for frame in chosen]):
                return chosen, late
            self._decoder.flush_buffers()
        raise NotSureError("frames are missing")

    def _decoded(self, chosen_by: Plan) -> tuple[list[Any], bool]:
        nearest_frames = _Nearest(chosen_by.places)
        late = False
        for at in chosen_by.feed:
            if time.monotonic() > self._until and not self._samples[at].key:
                late = True
            else:
                nearest_frames.add(self._decoder.decode(self._packets[at]))
        nearest_frames.add(self._decoder.decode(None))
        return nearest_frames.chosen(), late


class _Nearest:
    """Keeps of frames that come in order of time those nearest to the places, and no others."""

    def __init__(self, places: tuple[float, ...]) -> None:
        self._places = places
        self._kept: list[Any] = []

    def add(self, frames: Iterable[Any]) -> None:
        for frame in frames:
            if frame.pts is None or frame.is_corrupt:
                raise NotSureError("frame")
            if self._kept and frame.pts <= self._kept[-1].pts:
                raise NotSureError("order")
            self._kept = self._useful([*self._kept, frame])

    def _useful(self, frames: list[Any]) -> list[Any]:
        """Those chosen so far, and the newest, which may yet be nearer to a later place."""
        chosen = set(nearest([frame.pts for frame in frames], self._places))
        return [frame for i, frame in enumerate(frames) if i in chosen or i == len(frames) - 1]

    def chosen(self) -> list[Any]:
        if not self._kept:
            raise NotSureError("no frames")
        times = [frame.pts for frame in self._kept]
        return [self._kept[i] for i in sorted(set(nearest(times, self._places)))]


@dataclass(frozen=True)
class _Kind:
    """What frames must share to go through one graph of filters."""

    width: int
    height: int
    pixels: str
    space: int
    span: int
    turn: tuple[int, ...]

    @classmethod
    def of(cls, frame: Any) -> _Kind:
        name, space, span = frame.format.name, int(frame.colorspace), int(frame.color_range)
        return cls(frame.width, frame.height, name, space, span, _turn(frame))


class _Square:
    """Cuts a frame to the square in its middle, scales it and turns it upright."""

    def __init__(self, size: int, shape: Any) -> None:
        self._size, self._shape = size, shape
        self._kind: _Kind | None = None
        self._graph: Any = None

    def write(self, frame: Any, pixels: mmap.mmap, offset: int) -> None:
        kind = _Kind.of(frame)
        if kind != self._kind:
            self._kind, self._graph = kind, self._made(kind)
        self._graph.vpush(frame)
        plane = self._graph.vpull().planes[0]
        row, stride, rows = self._size * 3, plane.line_size, memoryview(plane)
        step = self._size if stride == row else 1  # rows, copied at once: all that nothing parts
        for y in range(0, self._size, step):
            place = offset + y * row
            pixels[place : place + step * row] = rows[y * stride : y * stride + step * row]

    def _made(self, kind: _Kind) -> Any:
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            video_size=f"{kind.width}x{kind.height}",
            pix_fmt=kind.pixels,
            time_base="1/1",  # nobody asks
            pixel_aspect=str(self._shape),
            colorspace=str(kind.space),
            range=str(kind.span),
        )
        size = {"w": str(self._size), "h": str(self._size)}
        filters = [
            graph.add("crop", **clip_rules.CROP),
            graph.add("scale", **size, **clip_rules.SCALE),
            graph.add("format", pix_fmts=clip_rules.PIXELS),
            *(graph.add(name, argument or None) for name, argument in _TURNS[kind.turn]),
        ]
        graph.link_nodes(source, *filters, graph.add("buffersink")).configure()
        return graph


def _options(task: Task, clip: int) -> dict[str, str]:
    return {
        "fd": str(clip),
        "protocol_whitelist": "fd",
        "format_whitelist": clip_rules.FORMATS,
        "codec_whitelist": clip_rules.DECODERS,
        "max_pixels": str(task.max_pixels),
        "max_streams": str(task.max_streams),
        "threads": "1",  # for the probe, which has no use for the threads that it would start
        "probesize": str(clip_rules.PROBE_BYTES),
    }


def _picture(container: Any) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise NotSureError("no picture")


def _turn(frame: Any) -> tuple[int, ...]:
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return _IDENTITY
    matrix = struct.unpack("=9i", bytes(side))
    turn = tuple(matrix[i] // (1 << 16) for i in (0, 1, 3, 4))
    if turn not in _TURNS or any(matrix[i] % (1 << 16) for i in (0, 1, 3, 4)):
        raise NotSureError("an unusual display matrix")
    return turn


class Complaints:
    """What libav says at the level of an error, from all its threads.

    By a pipe in the place of standard error: PyAV's own capture takes the interpreter's lock from
    within the decoding threads.
    """

    def __init__(self) -> None:
        self._end, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.dup2(into, 2)
        os.close(into)
        av.logging.restore_default_callback()
        av.logging.set_libav_level(av.logging.ERROR)

    def any(self) -> bool:
        """Whether there was any about the picture, rather than the sound, which is not decoded."""
        sound = [message.encode() for message in clip_rules.ABOUT_SOUND]
        return any(not any(message in line for message in sound) for line in self._lines())

    def _lines(self) -> Iterator[bytes]:
        try:
            yield from os.read(self._end, 1 << 16).splitlines()
        except BlockingIOError:
            return
