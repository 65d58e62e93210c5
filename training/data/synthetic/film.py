"""Films a script: room, presenter, what is held, light, camera and codec, frame by frame.

Boxes are relative to the frame. The intended product's box spans what is really seen of it; the
box of another product is left out where the presenter stands before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from training.data.records import Box
from training.data.synthetic.arms import Arms
from training.data.synthetic.articles import Article
from training.data.synthetic.presenter import (
    Body,
    Point,
    Presenter,
    Stance,
    draw_body,
)
from training.data.synthetic.room import MARGIN, Room, Shelved
from training.data.synthetic.script import Script, Shot
from training.data.synthetic.sprites import (
    Sprite,
    blend,
    corners,
    mark,
    paste,
    turned,
)

SEEN = 0.25  # share of the product that is seen, from which on the frame shows it
OUTWARDS = (-1.0, 1.0)  # of the left and the right hand in the picture
ASIDE = 0.2  # of the frame's width, that a product is held off the middle beside another
FAR, NEAR = 0.7, 1.1  # how much the wall and the table move, against the presenter
NOISE = 256


@dataclass(frozen=True)
class Stage:
    """What stays the same in a livestream."""

    room: Room
    presenter: Presenter
    tone: np.ndarray
    """uint8 [256,3]: white balance and contrast of the camera."""
    noise: float
    """Deviation of the sensor's noise."""
    quality: int
    """Of JPEG."""
    shrink: float
    """Below 1, the stream was sent smaller and scaled up again."""


@dataclass(frozen=True)
class Props:
    """What is shown in a clip."""

    sold: Article
    worn: Article
    """The same drawn as worn, where the script has it worn."""
    other: Article


class Grasp(NamedTuple):
    """Something held in a frame."""

    article: Article
    hands: tuple[int, ...]
    """0 is the left one of the picture, 1 the right one."""
    area: float
    """Of its box over the frame."""
    place: Point
    """Its middle, as shares of width and height."""
    turn: tuple[float, float, float]
    """Yaw, pitch and roll, degrees."""


@dataclass(frozen=True)
class Film:
    frames: list[bytes]  # JPEG
    boxes: list[Box | None]
    """The intended product, where it is seen."""
    others: list[list[Box]]
    """All other products."""


def make_stage(room: Room, presenter: Presenter, rng: Generator) -> Stage:
    level = np.linspace(0, 1, 256)[:, None]
    gain = np.exp(rng.normal(0, 0.06, 3))
    tone = (
        level ** float(rng.uniform(0.8, 1.25)) * gain * 255 * float(rng.uniform(0.85, 1.1))
    ).clip(0, 255)
    return Stage(
        room, presenter, tone.astype(np.uint8), float(rng.uniform(0.5, 5.0)),
        int(rng.integers(45, 92)), float(rng.choice((1.0, 0.75, 0.55), p=(0.6, 0.25, 0.15))),
    )  # fmt: skip


def film(stage: Stage, script: Script, props: Props, rng: Generator) -> Film:
    dressed = replace(stage, presenter=replace(stage.presenter, wears=props.worn))
    worn = script.shown == "worn"
    taken = [
        _Frame(dressed if worn and shot.visible else stage, script, shot, props, rng)
        for shot in script.shots
    ]
    drawn = [frame.draw() for frame in taken]
    return Film(
        [picture for picture, _ in drawn], [box for _, box in drawn], [f.others for f in taken]
    )


class _Frame:
    """One frame, drawn from back to front."""

    def __init__(
        self, stage: Stage, script: Script, shot: Shot, props: Props, rng: Generator
    ) -> None:
        self.stage, self.script, self.shot = stage, script, shot
        self.article, self.other = props.sold, props.other
        self.rng = rng
        self.width, self.height = stage.room.width, stage.room.height
        self.picture = np.empty((self.height, self.width, 3), np.uint8)
        self.own = np.zeros((self.height, self.width), np.uint8)
        self.arms = Arms(self.picture, self.own, stage.presenter)
        self._cameras: dict[float, np.ndarray] = {}  # by depth
        self.whole = 0  # pixels of the intended product before anything covers it
        self.others: list[Box] = []

    def draw(self) -> tuple[bytes, Box | None]:
        room = self.stage.room
        paste(self.picture, room.backdrop, self._canvas(FAR))
        if self.shot.here:
            self._people()
        if room.table is not None and self._behind_table:
            paste(self.picture, room.table, self._canvas(NEAR), own=self.own)
        if self.script.shown == "stood" and self.shot.visible:
            self._stand(self.article)
        self._lie_about()
        return self._developed(), self._box()

    @property
    def _behind_table(self) -> bool:
        return self.stage.room.table is not None and not self.script.standing

    # Who is there, and what they hold.

    def _people(self) -> None:
        shot, presenter = self.shot, self.stage.presenter
        stance = self._stance()
        sold = self.script.shown == "worn" and shot.visible
        body = draw_body(
            self.picture,
            presenter,
            stance,
            legs=not self._behind_table,
            own=self.own if sold else None,
        )
        if sold:
            self._count()
        grasps = self._grasps()
        for hand in {0, 1}.difference(*(grasp.hands for grasp in grasps)):
            self._gesture(hand, body, stance)
        for grasp in grasps:
            self._hold(grasp, body, stance)

    def _grasps(self) -> list[Grasp]:
        """What is held: the other product, the one that is sold, or both, one beside the other."""
        shot, script = self.shot, self.script
        sold = shot.visible and script.shown in ("held", "hung")
        hand = 0 if shot.turn[0] > 0 else 1
        beside = shot.visible and shot.other
        x, y = shot.place
        aside = ASIDE * OUTWARDS[hand] if beside else 0.0
        grasps = []
        if shot.other:
            yaw, pitch, roll = shot.turn
            turn = (-yaw, pitch, -roll) if beside else shot.turn
            other_hand = 1 - hand if beside else hand
            grasps.append(Grasp(self.other, (other_hand,), script.other_area, (x - aside, y), turn))
        if sold:
            hands = (0, 1) if script.both_hands else (hand,)
            grasps.append(Grasp(self.article, hands, script.area, (x + aside, y), shot.turn))
        if script.alike:
            grasps.sort(key=lambda grasp: grasp.hands)  # else what is sold is always in front
        return grasps

    def _stance(self) -> Stance:
        shot = self.shot
        unit = 0.34 * self.width * self.script.closeness
        neck = (0.5 + shot.sway[0], 0.37 + shot.sway[1])
        if self.script.standing:
            unit, neck = 0.18 * self.width, (neck[0], 0.22 + shot.sway[1])
        if self.script.shown == "worn":
            unit = float(np.sqrt(self.script.area * self.width * self.height / 9))
            unit = float(np.clip(unit, 0.14 * self.width, 0.36 * self.width))
            neck = (neck[0], 0.14 + 1.0 * unit / self.height + shot.sway[1])
        at = self._seen((neck[0] * self.width, neck[1] * self.height))
        return Stance(at, unit * shot.zoom, shot.lean, shot.speaks)

    def _hold(self, grasp: Grasp, body: Body, stance: Stance) -> None:
        """Arms and palms, then what is held, then fingers."""
        held = grasp.article
        width = self._width_for(held.sprite, grasp.area)
        place = self._seen((grasp.place[0] * self.width, grasp.place[1] * self.height))
        matrix = turned(held.sprite, place, width * self.shot.zoom, grasp.turn)
        grips = corners(held.sprite, matrix, np.array(held.shape.grips))
        near = float(np.clip(np.sqrt(grasp.area / 0.12), 0.85, 1.5))
        unit = 0.9 * stance.head * near
        for hand in grasp.hands:
            self._reach(hand, grips[hand], body, stance, near)
        self._show(held, matrix)
        for hand in grasp.hands:
            self._grip(hand, grips, unit, slight=width < 1.3 * stance.head)

    def _reach(self, hand: int, grip: np.ndarray, body: Body, stance: Stance, near: float) -> None:
        outwards, unit = OUTWARDS[hand], 0.9 * stance.head * near
        wrist = _point(grip + np.array((0.42 * outwards, 0.5)) * unit)
        self.arms.arm(body[hand], wrist, stance.head, outwards=outwards, near=near)
        self.arms.palm(wrist, _point(grip), unit)

    def _show(self, held: Article, matrix: np.ndarray) -> None:
        if held is self.article:
            self._mark(held.sprite, matrix)
        else:
            self._note(corners(held.sprite, matrix))
        across, down = (max(1, round(part * self.width)) for part in self.shot.streak)
        own = None if held is self.article else self.own
        paste(self.picture, held.sprite, matrix, streak=(across, down), own=own)

    def _grip(self, hand: int, grips: np.ndarray, unit: float, *, slight: bool) -> None:
        """In front of what is held; of something slight, fingers would leave nothing to see."""
        towards = grips[1 - hand] - grips[hand]
        towards = towards / max(float(np.hypot(*towards)), 1e-3)
        draw = self.arms.thumb if slight or self.shot.thumbs[hand] else self.arms.fingers
        draw(_point(grips[hand]), _point(towards), unit)

    def _gesture(self, hand: int, body: Body, stance: Stance) -> None:
        outwards = OUTWARDS[hand]
        reach = np.array(self.shot.gesture[2 * hand : 2 * hand + 2])
        wrist = np.array(stance.neck) + reach * stance.head
        palm = wrist + np.array((-0.12 * outwards, -0.32)) * stance.head
        self.arms.arm(body[hand], _point(wrist), stance.head, outwards=outwards)
        self.arms.palm(_point(wrist), _point(palm), 0.9 * stance.head)
        self.arms.thumb(_point(palm), (0.0, -1.0), 0.8 * stance.head)

    def _stand(self, article: Article) -> None:
        """The product stands in front, on the table."""
        sprite = article.sprite
        width = self._width_for(sprite, self.script.area)
        height = width * sprite.height / sprite.width
        foot = self._seen((self.shot.place[0] * self.width, 0.86 * self.height))
        centre = (foot[0], foot[1] - height / 2)
        shadow = (
            (round(foot[0]), round(foot[1])),
            (round(0.5 * width), round(0.03 * self.height) + 1),
        )
        ground = self.picture.copy()
        cv2.ellipse(ground, *shadow, 0, 0, 360, (40, 36, 34), -1, cv2.LINE_AA)
        cv2.addWeighted(ground, 0.5, self.picture, 0.5, 0, self.picture)
        turn = (self.shot.turn[0], 0.0, self.shot.tilt)
        matrix = turned(sprite, centre, width * self.shot.zoom, turn)
        self._mark(sprite, matrix)
        paste(self.picture, sprite, matrix)

    def _width_for(self, sprite: Sprite, area: float) -> float:
        """Of a sprite whose box covers that share of the frame, as far as the frame is wide."""
        width = float(np.sqrt(area * self.width * self.height * sprite.width / sprite.height))
        return min(width, 0.98 * self.width, 0.8 * self.height * sprite.width / sprite.height)

    # The camera.

    def _seen(self, point: Point, depth: float = 1.0) -> Point:
        matrix = self._camera(depth)
        x, y = matrix[:, :2] @ point + matrix[:, 2]
        return float(x), float(y)

    def _camera(self, depth: float) -> np.ndarray:
        """The map [2,3] of the frame that pan, zoom and tilt make; what is far moves less."""
        if depth not in self._cameras:
            self._cameras[depth] = self._aim(depth)
        return self._cameras[depth]

    def _aim(self, depth: float) -> np.ndarray:
        shot = self.shot
        middle = np.array((self.width / 2, self.height / 2))
        turn = cv2.getRotationMatrix2D(
            (middle[0], middle[1]), shot.tilt, 1 + (shot.zoom - 1) * depth
        )
        shift = np.zeros((2, 3))
        shift[:, 2] = np.array(shot.pan) * self.width * depth
        moved: np.ndarray = turn + shift
        return moved

    def _canvas(self, depth: float) -> np.ndarray:
        """The map of a canvas, which is larger than the frame by MARGIN on each side."""
        matrix = self._camera(depth).copy()
        matrix[:, 2] -= matrix[:, :2] @ (MARGIN * self.width, MARGIN * self.height)
        return matrix

    def _developed(self) -> bytes:
        """Blur, light, tone, noise, what the app draws, and the codec."""
        stage, shot = self.stage, self.shot
        picture: np.ndarray = self.picture
        if shot.defocus:
            picture = cv2.GaussianBlur(picture, (0, 0), shot.defocus * self.width / 224)
        cv2.multiply(picture, stage.room.light, picture, scale=shot.exposure / 128)
        picture = cv2.LUT(picture, stage.tone[None])
        picture = self._noisy(picture)
        if stage.shrink < 1:
            small = (round(self.width * stage.shrink), round(self.height * stage.shrink))
            picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
            picture = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        if stage.room.overlay is not None:
            blend(picture, stage.room.overlay)
            cv2.multiply(
                self.own, cv2.bitwise_not(stage.room.overlay[..., 3]), self.own, scale=1 / 255
            )
        return encode(picture, stage.quality)

    def _noisy(self, picture: np.ndarray) -> np.ndarray:
        x, y = self.rng.integers(0, NOISE, 2)
        grain = _grain(self.height, self.width)[y : y + self.height, x : x + self.width]
        amount = self.stage.noise / 32
        return cv2.addWeighted(picture, 1.0, grain, amount, -128 * amount)

    # What is seen.

    def _mark(self, sprite: Sprite, matrix: np.ndarray) -> None:
        mark(self.own, sprite, matrix)
        self._count()

    def _count(self) -> None:
        self.whole = cv2.countNonZero(cv2.inRange(self.own, 100, 255))

    def _box(self) -> Box | None:
        if not self.whole:
            return None
        seen = cv2.inRange(self.own, 100, 255)
        if cv2.countNonZero(seen) < SEEN * self.whole:
            return None
        x, y, width, height = cv2.boundingRect(seen)
        return self._relative(x, y, x + width, y + height)

    def _lie_about(self) -> None:
        """Notes the products on shelves and table."""
        room, far, near = self.stage.room, self._canvas(FAR), self._canvas(NEAR)
        for place in room.shelved:
            self._note(self._through(place, far), behind=True)
        if self._behind_table:
            for place in room.tabled:
                self._note(self._through(place, near))

    @staticmethod
    def _through(place: Shelved, matrix: np.ndarray) -> np.ndarray:
        return place.quad @ matrix[:, :2].T + matrix[:, 2]

    def _note(self, quad: np.ndarray, *, behind: bool = False) -> None:
        """Another product, if enough of it is in the picture."""
        low, high = quad.min(axis=0), quad.max(axis=0)
        size = np.maximum(high - low, 1e-3)
        low, high = np.maximum(low, 0), np.minimum(high, (self.width, self.height))
        if ((high - low) / size).min() < 0.4 or (behind and self._hidden((low + high) / 2)):
            return
        self.others.append(self._relative(*low, *high))

    def _hidden(self, point: np.ndarray) -> bool:
        """Behind the presenter: a head and a trunk, roughly."""
        if not self.shot.here:
            return False
        stance = self._stance()
        across, down = (point - np.array(stance.neck)) / stance.head
        on_head = abs(across) < 0.45 and -1.25 < down <= 0
        return bool(on_head or (abs(across) < 1.15 and 0 < down < 6))

    def _relative(self, left: float, top: float, right: float, bottom: float) -> Box:
        return Box(
            *(
                round(float(v), 4)
                for v in (
                    left / self.width,
                    top / self.height,
                    right / self.width,
                    bottom / self.height,
                )
            )
        )


def _point(values: np.ndarray) -> Point:
    return float(values[0]), float(values[1])


def encode(picture: np.ndarray, quality: int) -> bytes:
    """RGB to JPEG."""
    written, data = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not written:
        raise ValueError("a picture could not be encoded")
    return data.tobytes()


@lru_cache(maxsize=2)
def _grain(height: int, width: int) -> np.ndarray:
    """Noise of deviation 32 around 128, larger than a frame by NOISE; one for all."""
    noise = np.random.default_rng(7).normal(128, 32, (height + NOISE, width + NOISE, 3))
    grain: np.ndarray = noise.clip(0, 255).astype(np.uint8)
    return grain
