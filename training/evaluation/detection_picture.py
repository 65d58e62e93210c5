"""A picture of a detector's hits and misses: clips as rows of frames with boxes.

Annotated boxes are green; the detector's best is white where it is right, red where it is not, and
left out where the frame is said to show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from training.data.clip_index import evenly
from training.data.queries import QuerySet
from training.evaluation.detection import FoundClip, has_area

TILE, GAP, CAPTION = 128, 4, 16
GREEN, WHITE, RED, GROUND = (40, 200, 90), (255, 255, 255), (230, 40, 40), (24, 24, 28)


ROWS = 12


def draw_examples(found: Sequence[FoundClip], data: QuerySet, threshold: float) -> Image.Image:
    """Clips spread evenly over all that were looked at."""
    clips = [found[place] for place in evenly(len(found), ROWS)]
    captions = []
    for clip in clips:
        query = data.queries[clip.query]
        told = " ".join(filter(None, (query.scale, query.duration, query.products)))
        right = int(clip.right(threshold).sum())
        captions.append(f"{query.clip_id}  {told}  {right} of {len(clip.frames)} frames right")
    return draw_found(clips, captions, threshold)


def draw_found(
    clips: Sequence[FoundClip], captions: Sequence[str], threshold: float
) -> Image.Image:
    """A row a clip, under its caption."""
    columns = max(len(clip.frames) for clip in clips)
    row_height = CAPTION + TILE + GAP
    size = (GAP + columns * (TILE + GAP), GAP + len(clips) * row_height)
    sheet = Image.new("RGB", size, GROUND)
    for row, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        top = GAP + row * row_height
        ImageDraw.Draw(sheet).text((GAP, top), caption, WHITE)
        for column, tile in enumerate(_tiles(clip, threshold)):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top + CAPTION))
    return sheet


def _tiles(clip: FoundClip, threshold: float) -> list[Image.Image]:
    boxes, scores = clip.best
    right = clip.right(threshold)
    tiles = []
    for place, frame in enumerate(clip.frames):
        tile = Image.fromarray(frame.pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(tile)
        for box in clip.truth[place][has_area(clip.truth[place])].tolist():
            draw.rectangle([TILE * side for side in box], outline=GREEN, width=2)
        colour = WHITE if right[place] else RED
        if scores[place] >= threshold:
            draw.rectangle([TILE * side for side in boxes[place].tolist()], outline=colour, width=2)
            draw.text((4, TILE - 14), f"{scores[place]:.2f}", colour)
        elif not right[place]:
            draw.text((4, TILE - 14), "none", RED)
        tiles.append(tile)
    return tiles
