"""Which samples of a clip to decode for a few frames, evenly spread; knows numbers, no decoder.

A sample (ISO 14496-12: one coded frame) is named by its place in decoding order. Times are in ticks
of any one unit, as the container tells them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


class UnplannableError(Exception):
    """The container does not tell enough: the clip has to be decoded to see what is in it."""


@dataclass(frozen=True)
class Sample:
    time: int  # when it is shown
    key: bool  # it can be decoded by itself
    shown: bool = True  # not so: it lies before an edit list's beginning, others may need it


@dataclass(frozen=True)
class Plan:
    """`feed`: samples to decode, in decoding order; each jump in it lands on a key frame.

    `reach[i]` is how far the frame of `places[i]` may lie from it, and `distinct` how many frames
    there are if each place gets the one nearest to it.
    """

    feed: tuple[int, ...]
    places: tuple[float, ...]
    reach: tuple[float, ...]
    distinct: int

    def holds(self, times: Sequence[int]) -> bool:
        """Whether frames of these times, ascending, are as many and as near as was asked."""
        found = nearest(times, self.places) if times else []
        near = all(
            abs(times[i] - place) <= reach
            for i, place, reach in zip(found, self.places, self.reach, strict=False)
        )
        return near and len(set(found)) == self.distinct


def even_places(start: int, length: float, frames: int, frame: float) -> tuple[float, ...]:
    """Middles of `frames` equal parts; a frame is where its middle is, so half a frame earlier."""
    return tuple(start + (i + 0.5) * length / frames - frame / 2 for i in range(frames))


def nearest(times: Sequence[int], places: Iterable[float]) -> list[int]:
    """For each place the index of the nearest of `times`, which ascend; the earlier of two."""
    found = []
    for place in places:
        after = bisect_left(times, place)
        around = range(max(0, after - 1), min(len(times), after + 1))
        found.append(min(around, key=lambda i: abs(times[i] - place)))
    return found


def plan(samples: Sequence[Sample], places: Sequence[float], tolerance: float) -> Plan:
    """The cheapest samples to decode so that each place has a frame within `tolerance` of it.

    A key frame that near costs one sample. Else the frame that comes first in decoding order of
    those twice as near is decoded, from the key frame before it on: in most streams others are
    predicted from it, so it is there when frames that no other needs are left out. Where no frame
    is so near, the nearest is near enough. `tolerance` is at most half of the distance between two
    places. Raises UnplannableError.
    """
    shown = sorted((s.time, i) for i, s in enumerate(samples) if s.shown)
    keys = sorted((s.time, i) for i, s in enumerate(samples) if s.key and s.shown)
    times = [time for time, _ in shown]
    if not times:
        raise UnplannableError("no frame is shown")
    closest = nearest(times, places)
    feed: set[int] = set()
    for place, at in zip(places, closest, strict=True):
        key = min(_near(keys, place, tolerance), key=lambda key: abs(key[0] - place), default=None)
        if key is not None:
            feed.add(key[1])
            continue
        near = [i for _, i in _near(shown, place, tolerance / 2)]
        feed.update(_chain(samples, min(near, default=shown[at][1])))
    reach = tuple(
        max(tolerance, abs(times[at] - place)) for place, at in zip(places, closest, strict=True)
    )
    return Plan(tuple(sorted(feed)), tuple(places), reach, len(set(closest)))


def _near(
    frames: Sequence[tuple[int, int]], place: float, tolerance: float
) -> Sequence[tuple[int, int]]:
    """Of frames (time, sample) in order those within `tolerance`; half open, so that none serves
    two places."""
    first = bisect_left(frames, (place - tolerance, -1))
    last = bisect_left(frames, (place + tolerance, -1))
    return frames[first:last]


def _chain(samples: Sequence[Sample], wanted: int) -> Iterable[int]:
    """All that `wanted` may be predicted from, itself last.

    Without the frames that are decoded after the key frame but shown before it: nothing that is
    shown later needs them, and they need what lies before the key frame.
    """
    until = samples[wanted].time
    for key in range(wanted, -1, -1):
        if samples[key].key and samples[key].time <= until:
            begin = samples[key].time
            return [i for i in range(key, wanted + 1) if samples[i].time >= begin]
    raise UnplannableError("a frame has no key frame before it")


def frame_length(times: Sequence[int]) -> int:
    """The shortest distance of two frames, for `times` that ascend; 0 of a single one."""
    return min((b - a for a, b in pairwise(times)), default=0)
