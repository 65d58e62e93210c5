"""Arms and hands, drawn anew in each frame: they reach for what is held, behind it and before it.

Lengths are in heads, the height of the presenter's head, which is `unit` pixels where they are.
"""

from __future__ import annotations

import numpy as np

from training.data.synthetic.presenter import Point, Presenter
from training.data.synthetic.sprites import Colour, fill, limb, round_limb, tint

UPPER_ARM = 1.5  # heads; the forearm is as long
FINGERS = (0.2, 0.26, 0.27, 0.22)


class Arms:
    """Draws into `frame` [H,W,3], and takes what is covered off `own` [H,W]: the intended product
    as far as it is seen."""

    def __init__(self, frame: np.ndarray, own: np.ndarray, presenter: Presenter) -> None:
        self._frame, self._own = frame, own
        self._presenter = presenter

    def arm(
        self, shoulder: Point, wrist: Point, unit: float, *, outwards: float, near: float = 1.0
    ) -> None:
        """By an elbow that points `outwards` (-1 left, 1 right); `near` is how much larger the
        hand's end is because it is held towards the camera."""
        start, end = np.array(shoulder), np.array(wrist)
        elbow = _elbow(start, end, UPPER_ARM * unit, outwards)
        thick, thin, wrist_radius = 0.25 * unit, 0.2 * unit, 0.15 * unit * near
        self._limb(elbow, end, (thin, wrist_radius), self._presenter.skin)
        self._limb(start, elbow, (thick, thin), self._presenter.skin)
        sleeve, length = self._presenter.sleeve, self._presenter.sleeve_length
        upper, lower = min(2 * length, 1.0), max(2 * length - 1, 0.0)
        self._limb(start, start + (elbow - start) * upper, (1.15 * thick, 1.3 * thin), sleeve)
        if lower:
            cuff = elbow + (end - elbow) * lower * 0.95
            self._limb(elbow, cuff, (1.3 * thin, 1.27 * wrist_radius), tint(sleeve, 0.94))

    def palm(self, wrist: Point, grip: Point, unit: float) -> None:
        """The hand behind what it holds."""
        self._limb(
            np.array(wrist), np.array(grip), (0.17 * unit, 0.21 * unit), self._presenter.skin
        )

    def fingers(self, grip: Point, inwards: Point, unit: float) -> None:
        """Four, in front of what is held, from the grip along `inwards` (length 1)."""
        along = np.array(inwards)
        across = np.array((-along[1], along[0]))
        for number, length in enumerate(FINGERS):
            start = grip + across * (number - 1.5) * 0.108 * unit - along * 0.12 * unit
            end = start + along * (length + 0.08) * unit
            self._limb(start, end, (0.066 * unit, 0.055 * unit), self._presenter.skin, edge=0.7)

    def thumb(self, grip: Point, inwards: Point, unit: float) -> None:
        """Only the thumb is in front: the fingers are behind."""
        along = np.array(inwards)
        start = grip - along * 0.1 * unit
        end = start + np.add(along, (0, -0.35)) * 0.34 * unit
        self._limb(start, end, (0.085 * unit, 0.068 * unit), self._presenter.skin, edge=0.7)

    def _limb(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: tuple[float, float],
        colour: Colour,
        *,
        edge: float = 0.8,
    ) -> None:
        round_limb(self._frame, (start, end), radii, colour, edge=edge)
        fill(self._own, limb(start, end, *radii), (0,))


def _elbow(start: np.ndarray, end: np.ndarray, part: float, outwards: float) -> np.ndarray:
    """Where two parts of equal length bend; a reach too far stretches them."""
    middle, apart = (start + end) / 2, end - start
    distance = max(float(np.hypot(*apart)), 1e-3)
    high = np.sqrt(max(part**2 - (distance / 2) ** 2, (0.1 * part) ** 2))
    side = np.array((-apart[1], apart[0])) / distance
    if side[0] * outwards < 0:
        side = -side
    side = np.add(side, (0.0, 0.5))  # gravity
    bent: np.ndarray = middle + side / np.hypot(*side) * high
    return bent
