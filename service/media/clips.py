"""Turns an uploaded clip into a few frames, by decoders that are not trusted.

Knows the two ways there are and how frames are chosen; `workers` and `sandbox` know how a decoder
is held, `decoder_log` what ffmpeg says.

A clip that is whole and plain is read by a worker (`frame_reader`), which decodes only what the
frames of the answer need. Of F frames each lies within `media.frame_tolerance` of the middle of one
of F equal parts of the clip, in parts of their distance, or is the nearest there is to it; the same
clip always gives the same frames. Of all other clips the worker says that it is not sure.

Those go through an ffmpeg child in one pass, with no belief in the container's duration: it hands
over frames whose gaps grow in proportion to the time since the start. Wherever the clip then turns
out to end, enough of them lie near each of the evenly spread places to choose from, and there are
only logarithmically many.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from service.errors import (
    ClipEmptyError,
    ClipEncryptedError,
    ClipError,
    StartupError,
    UnavailableError,
)
from service.media import clip_rules, decoder_log, ffmpeg_child
from service.media.clip_rules import Task
from service.media.sandbox import Finished, SandboxLimits, private_file
from service.media.workers import Workers, WorkersUnavailableError
from service.settings import MediaSettings

_LOG = logging.getLogger(__name__)

# A frame is taken when the time since the last one exceeds 1/(2 * frames) of the time since the
# start: half the distance between two frames of the answer, so none is off by more than a quarter.
_DENSITY = 2
# A clip of n frames gives about k * (1 + ln(n / k)), k = _DENSITY * frames: seldom 8 k. The bound
# is for clips with made-up times.
_MOST_TAKEN = 24
_BUDGET = 0.6  # of the wall time, for a worker to decode more than key frames
_UNTOLD = -(2**63)  # ffmpeg's word for a time that is not there
_BYTES_PER_PIXEL = 16  # the largest buffer a decoder asks for: four planes of 16 bits, with room


@dataclass(frozen=True)
class Frames:
    """Frames of a clip in the order of time, evenly spread, upright, ready for the model.

    `partial` says that the clip was damaged or cut short, and these are of what could be seen.
    """

    pixels: npt.NDArray[np.uint8]  # [F, S, S, 3], RGB
    duration_s: float
    partial: bool


class ClipDecoder:
    """Decodes clips in children of their own. Safe to share between threads."""

    def __init__(self, limits: MediaSettings, *, executable: str | None = None) -> None:
        """`executable` is an ffmpeg 6 or newer; None takes the one of imageio-ffmpeg.

        Raises StartupError if it does not run under the limits.
        """
        self._limits = limits
        self._executable = executable or ffmpeg_child.bundled_program()
        bounds = SandboxLimits(
            wall_s=limits.decode_wall_s,
            cpu_s=limits.decode_wall_s * (limits.decode_threads + 1),
            memory_bytes=limits.decode_memory_bytes,
        )
        self._sandbox = ffmpeg_child.sandbox_of(self._executable, bounds)
        self._check_executable()
        self.without_workers: str | None = None
        """Why the last clip had no worker and was decoded from end to end; None: it had one."""
        self._workers = self._open_workers(bounds)

    def sandbox(self) -> dict[str, bool]:
        """The layers of confinement by name, and whether each is in force, whichever decodes."""
        layers = dict(self._sandbox.layers)
        if self._workers is not None:
            layers = {name: holds and self._workers.layers[name] for name, holds in layers.items()}
        return layers

    @property
    def file_system(self) -> str | None:
        """What keeps the decoder from all other files: bubblewrap, landlock or nothing."""
        return self._sandbox.file_system

    def describe(self) -> dict[str, Any]:
        """How clips are decoded on this machine, for its operator."""
        return {
            "workers": self.without_workers is None,
            "without_workers": self.without_workers,
            "sandbox": self.sandbox(),
            "file_system": self.file_system,
        }

    def decode(self, clip: bytes, *, size: int, frames: int) -> Frames:
        """At most `frames` frames of `clip`, evenly spread, cut to `size` x `size`; blocking.

        Raises ClipError, or the subclass that says what is wrong with the clip; UnavailableError
        if the machine could not start a decoder.
        """
        if not clip:
            raise ClipEmptyError("The clip has no bytes; send a video file.")
        with private_file(clip) as source:
            found = self._read(source, clip, size=size, frames=frames)
            if found is None:
                os.lseek(source, 0, os.SEEK_SET)
                found = self._watch(source, clip, size=size, frames=frames)
        return found

    def _read(self, source: int, clip: bytes, *, size: int, frames: int) -> Frames | None:
        """By a worker; None of a clip that is not for it."""
        if self._workers is None:
            return None
        try:
            read = self._workers.read(self._task(size, frames), source)
        except WorkersUnavailableError as error:
            self.without_workers = str(error)
            _LOG.warning("a clip is decoded without a worker: %s", error)
            return None
        self.without_workers = None
        report = read.report
        if report is None:
            raise _ended(cut=read.cut)
        if report.too_large is not None:
            raise decoder_log.too_large(report.too_large)
        if report.not_sure is not None or decoder_log.is_encrypted(clip):
            return None
        return Frames(read.pixels, report.duration_s, report.partial)

    def _task(self, size: int, frames: int) -> Task:
        limits = self._limits
        return Task(
            size=size,
            frames=frames,
            tolerance=limits.frame_tolerance,
            max_clip_s=limits.max_clip_s,
            max_pixels=limits.max_frame_pixels,
            max_streams=limits.max_streams,
            threads=limits.decode_threads,
            budget_s=_BUDGET * limits.decode_wall_s,
        )

    def _watch(self, source: int, clip: bytes, *, size: int, frames: int) -> Frames:
        """By an ffmpeg child, from the beginning to the end."""
        density = _DENSITY * frames
        most = _MOST_TAKEN * density
        with private_file() as ledger:
            command = self._command(source, ledger, size=size, density=density, most=most)
            finished = self._sandbox.run(
                command, output_bytes=most * size * size * 3, inherit=(source, ledger)
            )
            times = _read_ledger(ledger)
        taken = np.frombuffer(finished.output, np.uint8)
        count = min(len(times), len(taken) // (size * size * 3))
        self._raise_if_refused(finished, clip, count)
        pixels = taken[: count * size * size * 3].reshape(count, size, size, 3)
        return self._choose(pixels, times[:count], finished, density=density, frames=frames)

    def _raise_if_refused(self, finished: Finished, clip: bytes, count: int) -> None:
        log = finished.log
        if not decoder_log.is_whole(log) and decoder_log.is_encrypted(clip):
            raise ClipEncryptedError("The clip is encrypted; send it without protection.")
        if count == 0 and finished.cut is not None:
            raise _stopped(finished.cut)
        if count == 0 or decoder_log.has_too_many_streams(log):
            raise decoder_log.refusal(log, max_streams=self._limits.max_streams)

    def _choose(
        self,
        pixels: npt.NDArray[np.uint8],
        times: npt.NDArray[np.float64],
        finished: Finished,
        *,
        density: int,
        frames: int,
    ) -> Frames:
        promised = decoder_log.promised_s(finished.log, times[0])
        times = _usable_times(times)
        end = _end_of_last_frame(times)
        promised = min(promised or end, self._limits.max_clip_s)
        # The true end may lie one gap behind the last frame taken, and sound may outlast the
        # picture a little. Within that the container is believed, beyond it the frames are.
        latest = end + times[-1] / density + clip_rules.SLACK_S
        duration = promised if times[-1] <= promised <= latest else end
        whole = finished.cut is None and promised <= latest and decoder_log.is_whole(finished.log)
        return Frames(
            pixels=pixels[_evenly_spread(times, duration, frames)],
            duration_s=float(duration),
            partial=not whole,
        )

    def _command(
        self, source: int, ledger: int, *, size: int, density: int, most: int
    ) -> list[str]:
        """Frames go to standard output, their times to the descriptor `ledger`."""
        limits = self._limits
        clip = ffmpeg_child.clip_input(
            source,
            limits,
            decoders=clip_rules.DECODERS,
            max_pixels=limits.max_frame_pixels,
            probesize=clip_rules.PROBE_BYTES,
            threads=limits.decode_threads,
            an=None,
        )
        chosen = f"isnan(prev_selected_t)+gt(t-prev_selected_t,(t-start_t)/{density})"
        square = (
            clip["V:0"]
            .filter("select", chosen)
            .filter("crop", **clip_rules.CROP)
            .filter("scale", size, size, **clip_rules.SCALE)
            .filter("format", clip_rules.PIXELS)
        )
        output = ffmpeg.output(
            square,
            "pipe:1",
            format="rawvideo",
            fps_mode="passthrough",
            stats_enc_pre=f"pipe:{ledger}",
            stats_enc_pre_fmt="{ptsi} {tbi} {pts} {tb}",
            **{"frames:v": most},
        )
        return ffmpeg_child.command(
            self._executable,
            output,
            *("-loglevel", "level+verbose"),
            *("-max_alloc", str(_BYTES_PER_PIXEL * limits.max_frame_pixels)),
            *("-max_error_rate", "1"),  # of one that is mostly damaged something is shown
            *("-filter_complex_threads", "1"),
        )

    def _check_executable(self) -> None:
        command = [self._executable, "-hide_banner", "-protocols"]
        try:
            protocols = self._sandbox.run(command, output_bytes=100_000)
        except UnavailableError as error:
            raise StartupError(f"{self._executable}: {error.detail}") from error
        if b"fd" not in protocols.output.split():
            raise StartupError(
                f"{self._executable} does not run under the limits, or is older than ffmpeg 6: "
                f"{protocols.log.strip()[-300:] or 'no fd: protocol'}"
            )
        missing = [layer for layer, holds in self._sandbox.layers.items() if not holds]
        if missing:
            _LOG.warning("clips are decoded without these layers of confinement: %s", missing)

    def _open_workers(self, bounds: SandboxLimits) -> Workers | None:
        try:
            return Workers(bounds)
        except WorkersUnavailableError as error:
            self.without_workers = str(error)
            _LOG.warning("clips are decoded from end to end, for there are no workers: %s", error)
            return None


def _ended(*, cut: bool) -> ClipError:
    """Why a worker gave no report. The clip is not tried again: it may have been an attack."""
    return _stopped("time") if cut else decoder_log.undecodable()


def _stopped(limit: str) -> ClipError:
    return ClipError(
        f"Decoding the clip was stopped at the limit of {limit}, before its first frame; "
        "send a shorter or smaller clip."
    )


def _read_ledger(ledger: int) -> npt.NDArray[np.float64]:
    """Seconds of each frame handed over, as the clip tells them; where it tells none of a frame,
    as in AVI, those of all are ffmpeg's own, from the first one on.

    From lines of `<ticks> <seconds of a tick as a ratio>` of the clip, then the same of ffmpeg.
    """
    os.lseek(ledger, 0, os.SEEK_SET)
    told, reckoned, is_told = [], [], True
    with os.fdopen(os.dup(ledger), "rb") as file:
        for line in file:
            try:
                ticks, tick, own_ticks, own_tick = line.removesuffix(b"\n").split(b" ")
                of_clip, own = int(ticks) * _seconds(tick), int(own_ticks) * _seconds(own_tick)
            except (ValueError, ArithmeticError):
                break  # a line cut by the kill: the frames behind it are not looked at
            told.append(of_clip)
            reckoned.append(own)
            is_told = is_told and int(ticks) != _UNTOLD
    if is_told:
        return np.array(told, np.float64)
    return np.array(reckoned, np.float64) - reckoned[0]


def _seconds(ratio: bytes) -> float:
    numerator, _, denominator = ratio.partition(b"/")
    return int(numerator) / int(denominator)


def _usable_times(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Seconds since the first frame, never falling; frame numbers where the clip tells no times."""
    times = np.maximum.accumulate(times - times[0])
    return times if times[-1] > 0 else np.arange(len(times), dtype=np.float64)


def _end_of_last_frame(times: npt.NDArray[np.float64]) -> float:
    """A frame lasts as long as the one before it."""
    return float(times[-1] + (times[-1] - times[-2] if len(times) > 1 else 0.0))


def _evenly_spread(
    times: npt.NDArray[np.float64], duration: float, frames: int
) -> npt.NDArray[np.intp]:
    """Indices of the frames nearest to the middles of `frames` equal parts, each frame once.

    A frame is where its middle is, so of a clip that has just `frames` none is missed.
    """
    frame_s = np.diff(times).min() if len(times) > 1 else 0.0
    middles = (np.arange(frames) + 0.5) * duration / frames
    return np.unique(np.abs(times[:, None] + frame_s / 2 - middles).argmin(axis=0))
