"""What happens in a clip: when the product is shown, how, how large, and how all of it moves.

Decides by the paper's three difficulties - product scale, visible duration, number of products -
and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from training.data.synthetic.catalogue import Shown
from training.data.synthetic.chance import pick

SCALES = ((0.05, 0.19), (0.2, 0.38), (0.46, 0.7))  # box over frame: small, medium, large
SCALE_SHARES = (0.45, 0.35, 0.2)
ONE_HANDED = 0.15  # the largest area that one hand holds
DURATIONS = ((0.15, 0.4), (0.45, 0.7), (0.75, 1.0))  # frames that show it: short, medium, long
DURATION_SHARES = (0.25, 0.3, 0.45)
ALIKE = (0.85, 1.15)  # size of another product that is held alike, over that of the one sold
BESIDE = (0.3, 0.6)  # of the frames that show the product, with another beside it
ALIKE_BESIDE = (0.4, 0.7)
UNDECIDED = 0.5  # of the clips whose other product is held alike: all the while, by request
COMPARED = 0.9  # of the clips in the most crowded room: there is much to compare the product with


@dataclass(frozen=True)
class Shot:
    """One frame. Lengths are shares of the frame's width, places shares of width and height."""

    visible: bool
    """Shows the product that is sold."""
    other: bool
    """Another product is held instead, or beside it."""
    here: bool
    """The presenter is in the picture."""
    place: tuple[float, float]
    """Middle of what is held."""
    turn: tuple[float, float, float]
    """Yaw, pitch and roll of what is held, degrees."""
    streak: tuple[float, float]
    """How far it moved while the frame was exposed, across and down."""
    sway: tuple[float, float]
    """Of the presenter."""
    lean: float
    speaks: bool
    thumbs: tuple[bool, bool]
    """Left and right hand: only the thumb is in front, not the fingers."""
    gesture: tuple[float, float, float, float]
    """Where empty hands are, left x, y and right x, y, from the neck, in heads."""
    pan: tuple[float, float]
    zoom: float
    tilt: float
    exposure: float
    defocus: float
    """Deviation of the blur, pixels at a width of 224; 0 is sharp."""


@dataclass(frozen=True)
class Script:
    shown: Shown
    area: float
    """Of the product's box over the frame, as planned."""
    other_area: float
    """Of the box of the other product that is held."""
    alike: bool
    """The other is held just like the one that is sold: only other frames tell which that is, or
    what is said."""
    both_hands: bool
    closeness: float
    """Of the presenter, about 1."""
    standing: bool
    """The presenter is seen from head to foot."""
    seconds: int
    shots: tuple[Shot, ...]


def write_script(
    frames: int,
    ways: tuple[Shown, ...],
    rng: Generator,
    *,
    crowded: float = 0.0,
    rivals: bool = False,
    by_speech: bool = False,
) -> Script:
    """A clip of that many frames, evenly over its seconds; the room is `crowded` in [0, 1].
    `rivals`: more is compared, and what is compared is held alike; `by_speech`: some of it all the
    while, so that no frame tells which is sold."""
    shown = pick(ways, rng)
    alike = rivals and shown in ("held", "hung") and rng.random() < COMPARED * crowded
    comparing = alike or (shown != "hung" and rng.random() < COMPARED * crowded**2)
    scale = int(rng.choice(3, p=SCALE_SHARES))
    if shown == "stood":
        scale = min(scale, 1)
    if alike or (shown == "held" and comparing):  # one in each hand
        scale = 0
    area = float(rng.uniform(*SCALES[scale]))
    both = (shown == "hung" and not alike) or (
        shown == "held" and not comparing and (area > ONE_HANDED or rng.random() < 0.5)
    )
    other_area = max(0.04, area * float(rng.uniform(*(ALIKE if alike else (0.5, 1.1)))))
    if comparing:
        other_area = min(other_area, ONE_HANDED)
    visible = _when(frames, rng)
    walk = _Walk(frames, rng)
    shares = ALIKE_BESIDE if alike else BESIDE
    if alike and by_speech and rng.random() < UNDECIDED:
        shares = (1.0, 1.0)
    other = _beside(visible, shares, rng) if comparing else _meanwhile(visible, rng)
    shots = tuple(
        _shot(bool(visible[i]), bool(other[i]), walk.values[i], walk.offset, rng)
        for i in range(frames)
    )
    closeness = float(rng.uniform(0.72, 1.08))
    standing = (shown == "hung" and area < 0.15) or (shown == "worn" and area < 0.25)
    seconds = int(rng.integers(2 * frames, 12 * frames))
    return Script(shown, area, other_area, alike, both, closeness, standing, seconds, shots)


def _when(frames: int, rng: Generator) -> np.ndarray:
    """Bool [frames]: one run of frames, or two."""
    low, high = DURATIONS[int(rng.choice(3, p=DURATION_SHARES))]
    count = max(1, round(float(rng.uniform(low, high)) * frames))
    visible = np.zeros(frames, bool)
    if count > 2 and rng.random() < 0.35:
        first = int(rng.integers(1, count))
        gap = int(rng.integers(0, frames - count + 1))
        visible[:first] = True
        visible[first + gap : count + gap] = True
        return np.roll(visible, int(rng.integers(0, frames - count - gap + 1)))
    start = int(rng.integers(0, frames - count + 1))
    visible[start : start + count] = True
    return visible


def _meanwhile(visible: np.ndarray, rng: Generator) -> np.ndarray:
    """Bool [frames]: another product is held, in fewer frames than the one that is sold."""
    hidden = np.flatnonzero(~visible)
    count = min(len(hidden), int(visible.sum()) // 2) if rng.random() < 0.5 else 0
    held = np.zeros(len(visible), bool)
    held[hidden[:count]] = True
    return held


def _beside(visible: np.ndarray, shares: tuple[float, float], rng: Generator) -> np.ndarray:
    """Bool [frames]: another product is held beside the one that is sold, for some of its frames
    in a row. In one of these alone, either could be the one."""
    shown = np.flatnonzero(visible)
    count = round(len(shown) * float(rng.uniform(*shares)))
    start = int(rng.integers(0, len(shown) - count + 1))
    held = np.zeros(len(visible), bool)
    held[shown[start : start + count]] = True
    return held


class _Walk:
    """Smooth random walks, one value a frame: what is held and who holds it move on slowly."""

    def __init__(self, frames: int, rng: Generator) -> None:
        steps = rng.normal(size=(frames + 2, 12))
        self.values = (steps[:-2] + 2 * steps[1:-1] + steps[2:]) / 2.5  # deviation about 1
        self.offset = rng.normal(size=12)


def _shot(visible: bool, other: bool, now: np.ndarray, base: np.ndarray, rng: Generator) -> Shot:
    """`now` and `base` are a walk's step and offset, [12]."""
    fast = rng.random() < 0.2
    streak = tuple(abs(float(v)) for v in rng.normal(size=2) * (0.035 if fast else 0.006))
    return Shot(
        visible=visible,
        other=other,
        here=bool(visible or other or rng.random() > 0.08),
        place=(0.5 + 0.05 * base[0] + 0.05 * now[0], 0.55 + 0.03 * base[1] + 0.035 * now[1]),
        turn=(
            float(np.clip(14 * base[2] + 17 * now[2], -52, 52)),
            float(np.clip(5 * base[3] + 8 * now[3], -28, 28)),
            float(np.clip(4 * base[4] + 7 * now[4], -35, 35)),
        ),
        streak=(streak[0], streak[1]),
        sway=(0.04 * base[5] + 0.025 * now[5], 0.01 * now[6]),
        lean=float(3 * now[7]),
        speaks=bool(rng.random() < 0.6),
        thumbs=(bool(base[8] > 0), bool(base[9] > 0)),
        gesture=(
            _uniform(-1.7, -0.5, rng),
            _uniform(0.6, 2.2, rng),
            _uniform(0.5, 1.7, rng),
            _uniform(0.6, 2.2, rng),
        ),
        pan=(0.02 * float(now[8]), 0.015 * float(now[9])),
        zoom=float(1.03 + 0.03 * base[10] + 0.015 * now[10]),
        tilt=float(1.2 * base[11] + 0.5 * now[11]),
        exposure=float(np.exp(0.05 * rng.normal())),
        defocus=float(rng.uniform(1.0, 2.2)) if rng.random() < 0.07 else 0.0,
    )


def _uniform(low: float, high: float, rng: Generator) -> float:
    return float(rng.uniform(low, high))
