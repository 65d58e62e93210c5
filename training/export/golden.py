"""Golden examples: pictures drawn here, and what the model gives for them.

The service decodes the same JPEG bytes, resizes them itself and must come to the same vectors. So
the pictures have what tells one way of resizing from another: sizes above and below the model's,
both orientations, fine stripes, hard edges.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from training.data.photographs import read_picture
from training.data.tokenizing import TextTokenizer
from training.evaluation.scorers import FRAME_SCORES
from training.export.parity import (
    LOSS,
    Array,
    Run,
    onnx_graph,
    require_equal,
    require_near,
    torch_graph,
)
from training.export.precision import Feed, Precision
from training.export.specs import GraphSpec, frame_size, scores_of
from training.models.matching_decoder import LOGIT_SCALE
from training.models.rice import RiceConfig

GOLDEN_FILE = "golden.json"
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16-weights": 1e-3, "fp16": 5e-3, "int8": 1e-2}
"""Leaves room for another JPEG decoder's rounding, for a GPU, and in int8 for what another CPU's
last digits move over a step; the service bears none above 1e-2."""
JPEG_QUALITY = 92
PICTURE_SIDES = ((2.9, 2.2), (1.2, 1.9), (0.8, 0.7))  # width, height, in the model's sizes
FRAME_SIDES = (1.1, 2.0)
FRAMES = 3
DRAWN_CLIPS = 8  # that stand in where none are given
DETECTED = ("boxes", "scores")  # of the clip's frames, where there is a detector
# Of the golden pictures and the clip: cut, of another script, missing; and what is said.
TITLES = ("Red apple juice, 1 l " * 60, "\u041a\u0440\u0430\u0441\u043d\u0430\u044f \u678c", "")
SPEECH = "look at this red apple juice everyone"


def write_golden(
    specs: list[GraphSpec],
    config: RiceConfig,
    folder: Path,
    tokenizer: TextTokenizer | None = None,
    precision: Precision = "fp32",
) -> None:
    """Draws the pictures and writes them and `golden.json`; of a model that reads, with titles and
    speech.

    In fp32 with torch's answers. A lower precision is meant to differ: of such graphs they are the
    written ones' own, after torch's were found to be near. Raises ExportError.
    """
    pictures, frames = _draw_all(config.encoder.image_size, folder)
    answers = _answers(specs, torch_graph, config, folder, pictures, frames, tokenizer)
    precisions = {name: _precision_of(name, specs, precision) for name in answers}
    lower = {name: own for name, own in precisions.items() if own != "fp32"}
    if lower:
        written = partial(onnx_graph, folder=folder)
        found = _answers(specs, written, config, folder, pictures, frames, tokenizer)
        for name, own in lower.items():
            scale = _scale(name, config)
            require_near(f"golden {name}", found[name], answers[name], LOSS[own], scale)
        answers |= {name: found[name] for name in lower}
    golden = _told(answers, pictures, frames, reads=tokenizer is not None)
    if scores_of(config):
        golden["clip"]["frame_scores"] = frame_scores(len(frames)).tolist()
    golden["tolerance"] = TOLERANCE[precision]
    if (of_boxes := precisions.get(DETECTED[0], precision)) != precision:
        golden["clip"]["boxes_tolerance"] = TOLERANCE[of_boxes]
    (folder / GOLDEN_FILE).write_text(json.dumps(golden, allow_nan=False) + "\n")


def _precision_of(answer: str, specs: Sequence[GraphSpec], precision: Precision) -> Precision:
    """What one of a bundle's answers is computed in."""
    graph = next((spec for spec in specs if spec.name == "detector"), None)
    return graph.in_bundle_of(precision) if graph and answer in DETECTED else precision


def _scale(answer: str, config: RiceConfig) -> float:
    """What an answer's error is compared with at least."""
    if answer in DETECTED:
        return 1.0  # shares of a frame, and scores
    return LOGIT_SCALE[config.matching_head] if answer == "logits" else 0.0


def _told(
    answers: Mapping[str, Array], pictures: list[str], frames: list[str], *, reads: bool
) -> dict[str, Any]:
    """What `golden.json` has, but for its tolerances."""
    clip = {
        "frames": frames,
        "embedding": answers["clip_embedding"].tolist(),
        "logits": answers["logits"].tolist(),
    }
    if reads:
        clip |= {"speech": SPEECH, "text": answers["text"].tolist()}
    clip |= {name: answers[name].tolist() for name in DETECTED if name in answers}
    return {
        "pictures": [
            {
                "file": name,
                "embedding": answers["embedding"][index].tolist(),
                "match_state": answers["match_state"][index].tolist(),
                **({"title": TITLES[index]} if reads else {}),
            }
            for index, name in enumerate(pictures)
        ],
        "clip": clip,
    }


def check_golden(
    specs: list[GraphSpec],
    config: RiceConfig,
    folder: Path,
    tokenizer: TextTokenizer | None = None,
    run_of: Callable[[GraphSpec], Run] | None = None,
) -> None:
    """Asks the written graphs, or those that `run_of` runs, for what `golden.json` says. Raises
    ExportError."""
    golden = json.loads((folder / GOLDEN_FILE).read_text())
    pictures, clip = golden["pictures"], golden["clip"]
    run_of = run_of or partial(onnx_graph, folder=folder)
    names = [picture["file"] for picture in pictures]
    answers = _answers(specs, run_of, config, folder, names, clip["frames"], tokenizer)
    read = [] if tokenizer is None else [("text", clip["text"])]
    read += [(name, clip[name]) for name in DETECTED if name in answers]
    tolerance = golden["tolerance"]
    for name, expected in (
        *read,
        ("embedding", [picture["embedding"] for picture in pictures]),
        ("match_state", [picture["match_state"] for picture in pictures]),
        ("clip_embedding", clip["embedding"]),
        ("logits", clip["logits"]),
    ):
        allowed = clip.get("boxes_tolerance", tolerance) if name in DETECTED else tolerance
        require_equal(f"golden {name}", answers[name], np.array(expected), allowed)


def golden_pictures(folder: Path, size: int) -> Array:
    """All that `golden.json` names, uint8 [B,size,size,3]."""
    golden = json.loads((folder / GOLDEN_FILE).read_text())
    names = [*(picture["file"] for picture in golden["pictures"]), *golden["clip"]["frames"]]
    return np.stack([read_picture(folder / name, size) for name in names])


def drawn_pictures(size: int, count: int) -> Array:
    """Pictures like the golden ones and none of them, uint8 [count,size,size,3]."""
    first = len(PICTURE_SIDES)
    return np.stack([np.asarray(draw_picture(first + i, size, size)) for i in range(count)])


def examples_of(
    specs: list[GraphSpec], config: RiceConfig, pictures: Array, tokenizer: TextTokenizer | None
) -> dict[str, list[Feed]]:
    """Inputs, for pictures uint8 [B,S,S,3], which are also the frames of clips, of each graph that
    may be lowered; of a model that reads with the golden texts."""
    graphs = {spec.name: torch_graph(spec) for spec in specs}
    titles, speech = _texts(graphs["text_encoder"], tokenizer) if tokenizer else ({}, {})
    found: dict[str, list[Feed]] = {spec.name: [] for spec in specs if spec.lowered}
    for first in range(0, len(pictures), config.frames):
        few = pictures[first : first + config.frames]
        named = {name: each[np.arange(len(few)) % len(each)] for name, each in titles.items()}
        product = {"pictures": few, **named}
        clip = {**_clip_of(few, config), **speech}
        [_, match_state] = graphs["image_encoder"](product)
        [_, keys, values, token_mask] = (out[0] for out in graphs["clip_encoder"](clip))
        attended = {"keys": keys, "token_mask": token_mask}
        found["image_encoder"].append(product)
        found["clip_encoder"].append(clip)
        found["matcher"].append({"match_state": match_state, "values": values, **attended})
        found["explainer"].append({**product, **attended})
    return found


def examples_for_detector(
    specs: Sequence[GraphSpec], config: RiceConfig, clips: Sequence[Array]
) -> dict[str, list[Feed]]:
    """The same of the detector, for its clips uint8 [F,D,D,3], or drawn ones where there are
    none."""
    side, most = frame_size(specs, config), config.frames
    if not clips:
        drawn = drawn_pictures(side, DRAWN_CLIPS * most)
        clips = [drawn[first : first + most] for first in range(0, len(drawn), most)]
    return {"detector": [_shown(clip) for clip in clips]}


def _shown(frames: Array) -> Feed:
    """uint8 [F,D,D,3] as the one clip that the detector is called with."""
    return {"frames": frames[None], "frame_mask": np.ones((1, len(frames)), np.bool_)}


def _clip_of(frames: Array, config: RiceConfig) -> Feed:
    """uint8 [F,S,S,3] as the one clip that the clip encoder is called with."""
    scored = {FRAME_SCORES: frame_scores(len(frames))[None]} if scores_of(config) else {}
    return scored | {
        "frames": frames[None],
        "frame_mask": np.ones((1, len(frames)), np.bool_),
        "patch_mask": np.ones((1, len(frames), config.encoder.patches), np.bool_),
    }


def frame_scores(frames: int) -> Array:
    """A detector's, as they are made up of the golden clip, [F]."""
    return np.linspace(0.9, 0.3, frames, dtype=np.float32)


def draw_picture(seed: int, width: int, height: int, shift: int = 0) -> Image.Image:
    """A made-up package before a made-up background; `shift` moves it, as a hand would."""
    dice = random.Random(seed)  # noqa: S311  a drawing, no secret
    image = Image.new("RGB", (width, height), _colour(dice))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = dice.uniform(-0.2, 1.0) * width, dice.uniform(-0.2, 1.0) * height
        box = (
            left,
            top,
            left + dice.uniform(0.1, 0.5) * width,
            top + dice.uniform(0.1, 0.4) * height,
        )
        draw.ellipse(box, fill=_colour(dice))
    move = 0.04 * shift
    left, top = (0.25 + move) * width, (0.2 + move) * height
    right, bottom = left + 0.4 * width, top + 0.6 * height
    draw.rectangle((left, top, right, bottom), fill=_colour(dice), outline=_colour(dice), width=3)
    for stripe in range(12):
        x = left + (right - left) * (0.1 + 0.8 * stripe / 12)
        draw.line((x, top + 0.1 * height, x + 0.05 * width, bottom - 0.1 * height), _colour(dice))
    centre, radius = ((left + right) / 2, (top + bottom) / 2), 0.15 * min(width, height)
    corners = dice.randrange(3, 8)
    points = [
        (
            centre[0] + radius * math.cos(2 * math.pi * corner / corners),
            centre[1] + radius * math.sin(2 * math.pi * corner / corners),
        )
        for corner in range(corners)
    ]
    draw.polygon(points, fill=_colour(dice))
    return image


def _draw_all(size: int, folder: Path) -> tuple[list[str], list[str]]:
    """Writes all pictures; the names of the product pictures and of the clip's frames."""
    (folder / "golden").mkdir()
    pictures = [
        draw_picture(seed, *_scaled(sides, size)) for seed, sides in enumerate(PICTURE_SIDES)
    ]
    frames = [draw_picture(0, *_scaled(FRAME_SIDES, size), shift=shift) for shift in range(FRAMES)]
    names = []
    for number, image in enumerate([*pictures, *frames]):
        names.append(f"golden/{number}.jpg")
        image.save(folder / names[-1], "JPEG", quality=JPEG_QUALITY)
    return names[: len(pictures)], names[len(pictures) :]


def _scaled(sides: tuple[float, float], size: int) -> tuple[int, int]:
    return round(sides[0] * size), round(sides[1] * size)


def _colour(dice: random.Random) -> tuple[int, int, int]:
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


def _answers(  # noqa: PLR0917
    specs: list[GraphSpec],
    run_of: Callable[[GraphSpec], Run],
    config: RiceConfig,
    folder: Path,
    picture_files: list[str],
    frame_files: list[str],
    tokenizer: TextTokenizer | None,
) -> dict[str, Array]:
    """What the graphs give for the pictures, for the frames as one clip, and for them together."""
    graphs, size = {spec.name: run_of(spec) for spec in specs}, config.encoder.image_size
    pictures = np.stack([read_picture(folder / name, size) for name in picture_files])
    frames = np.stack([read_picture(folder / name, size) for name in frame_files])
    titles, speech = _texts(graphs["text_encoder"], tokenizer) if tokenizer else ({}, {})
    embedding, match_state = graphs["image_encoder"]({"pictures": pictures, **titles})
    clip_embedding, keys, values, token_mask = graphs["clip_encoder"](
        {**_clip_of(frames, config), **speech}
    )
    [logits] = graphs["matcher"](
        {
            "match_state": match_state,
            "keys": keys[0],
            "values": values[0],
            "token_mask": token_mask[0],
        }
    )
    text = {}
    if titles:
        text["text"] = titles["title_embedding"] @ speech["speech_embedding"][0]
    if "detector" in graphs:
        side = frame_size(specs, config)
        larger = np.stack([read_picture(folder / name, side) for name in frame_files])
        boxes, scores, *_ = graphs["detector"](_shown(larger))
        text |= dict(zip(DETECTED, (boxes[0], scores[0]), strict=True))
    return {
        **text,
        "embedding": embedding,
        "match_state": match_state,
        "clip_embedding": clip_embedding[0],
        "logits": logits,
    }


def _texts(encode: Run, tokenizer: TextTokenizer) -> tuple[dict[str, Array], dict[str, Array]]:
    """What graphs take of the golden titles, and of the golden speech."""
    titles, speech = tokenizer(TITLES), tokenizer([SPEECH])
    _, title_embedding = encode({"token_ids": titles.ids.numpy(), "mask": titles.mask.numpy()})
    tokens, embedding = encode({"token_ids": speech.ids.numpy(), "mask": speech.mask.numpy()})
    return (
        {"title_embedding": title_embedding, "has_title": titles.mask.any(dim=1).numpy()},
        {
            "speech_tokens": tokens,
            "speech_mask": speech.mask.numpy(),
            "speech_embedding": embedding,
        },
    )
