"""Intended-product detectors of RICE: of single frames, and of a clip's frames together.

The paper's detectors are of the DETR family and were not released; these are ours. In a frame,
convolutions and a transformer encoder give tokens, the most promising tokens become queries with
anchor boxes (RT-DETR: Zhao et al., 2024), and decoder layers refine the boxes (DAB-DETR: Liu et
al., 2022). Over a clip, a temporal transformer looks at the queries of all frames together and
judges again which of them is the product being sold, and where it is. Knows nothing of losses and
matching.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import (
    STRICT,
    Attention,
    Block,
    FeedForward,
    PatchGrid,
    check_heads,
    conv_stem,
)
from training.models.padding import padded

RARE = -math.log((1 - 0.05) / 0.05)  # scores begin low: most queries show no intended product
ANCHOR_SIDE = 0.4  # of a token's first box, as a share of the frame
PASSED_OVER = 100.0  # what a logit loses beside a higher one: more than logits differ by
CONTENT = 8  # pixels across and down, in which what boxes show is compared
TEMPERATURE = 100.0  # of sine embeddings: their longest wave over the shortest


@dataclass(frozen=True)
class DetectorConfig(PatchGrid):
    __pydantic_config__ = STRICT

    image_size: int = 112
    patch_size: int = 16
    """Pixels a token stands for; a power of 2."""
    width: int = 128
    heads: int = 4
    stem_depth: int = 1
    """Convolutions a stage; those after a stage's first are residual."""
    first_stride: int = 2
    """Of the first convolution; 4 instead of 2 takes a third off a step's forward and backward
    pass: a picture's first stages are the dearest."""
    encoder_layers: int = 2
    decoder_layers: int = 2
    queries: int = 8
    """Boxes that are considered in each frame."""
    temporal_layers: int = 0
    """Layers over the queries of all frames; 0: each frame is judged alone."""
    frames: int = 10
    """Of a clip, at most."""

    def __post_init__(self) -> None:
        self.check_grid(halved=True)
        check_heads(self.width, self.heads)
        if self.first_stride not in (2, 4, 8) or self.first_stride > self.patch_size:
            raise ValueError(f"first_stride {self.first_stride} is not 2, 4, 8 within a patch")
        if self.width % 8:
            raise ValueError(f"width {self.width} is no multiple of 8: sine embeddings need that")
        if not 1 <= self.queries <= self.patches:
            raise ValueError(f"queries are 1 to {self.patches} tokens, not {self.queries}")
        if min(self.encoder_layers, self.temporal_layers) < 0 or self.decoder_layers < 1:
            raise ValueError("layers: encoder and temporal 0 or more, decoder 1 or more")
        if self.frames < 1:
            raise ValueError(f"frames must be positive, not {self.frames}")


class Detections(NamedTuple):
    """Q boxes of each frame; what the dots stand for is said where it is returned."""

    logits: Tensor  # [...,Q], how likely it is the intended product
    boxes: Tensor  # [...,Q,4], centre x, y, width, height, as shares of the frame


class FrameDetector(nn.Module):
    """Frames [B,3,S,S], normalised pixels -> detections, and what is known of each query."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        width, self.queries = config.width, config.queries
        self.convolutions = conv_stem(
            config.patch_size, width, config.stem_depth, config.first_stride
        )
        self.encoder = nn.ModuleList(
            Block(width, config.heads, activation="gelu") for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.token_head = Head(width)
        self.position = nn.Sequential(
            nn.Linear(4 * _SINES, width), nn.GELU(), nn.Linear(width, width)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(width, config.heads) for _ in range(config.decoder_layers)
        )
        self.heads = nn.ModuleList(Head(width) for _ in range(config.decoder_layers))
        centres = (torch.arange(config.grid) + 0.5) / config.grid
        down, across = torch.meshgrid(centres, centres, indexing="ij")
        sides = torch.full_like(across, ANCHOR_SIDE)
        anchors = torch.stack([across, down, sides, sides], dim=-1).flatten(0, 1)
        self.anchors: Tensor
        self.register_buffer("anchors", anchors, persistent=False)  # [P,4]

    def forward(self, frames: Tensor) -> tuple[list[Detections], Tensor]:
        """Detections of the tokens, of each decoder layer, the last is the answer, all [B,Q]; and
        the queries [B,Q,D] that the last were read off."""
        tokens = self.convolutions(frames).flatten(2).transpose(1, 2)
        place = self.position(sine_embedding(self.anchors))
        tokens = tokens + place
        for block in self.encoder:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        proposed = self.token_head(tokens, self.anchors.expand(tokens.shape[0], -1, -1))
        # Gradients pass from the decoder to the tokens that it begins with: from nothing it learns
        # faster so than as in RT-DETR, where they stop.
        best = peaks(proposed.logits).topk(self.queries, dim=1).indices[..., None]
        queries = tokens.gather(1, best.expand(-1, -1, tokens.shape[-1]))
        boxes = proposed.boxes.gather(1, best.expand(-1, -1, 4))
        stages = [proposed]
        for layer, head in zip(self.decoder, self.heads, strict=True):
            anchors = boxes.detach()
            queries = layer(queries, self.position(sine_embedding(anchors)), tokens, place)
            stages.append(head(queries, anchors))
            boxes = stages[-1].boxes
        return stages, queries


def peaks(logits: Tensor) -> Tensor:
    """Logits of a square grid's tokens [B,P], far lower where a neighbour's is higher, so that
    queries are spread over what there is (CenterNet: Zhou et al., 2019)."""
    side = math.isqrt(logits.shape[1])
    grid = logits.unflatten(1, (1, side, side))
    highest = F.max_pool2d(grid, kernel_size=3, stride=1, padding=1)
    return torch.where(grid == highest, grid, grid - PASSED_OVER).flatten(1)


class Head(nn.Module):
    """Reads a score and a box, relative to an anchor, off each vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        change = nn.Linear(width, 4)
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), change
        )
        nn.init.constant_(self.score.bias, RARE)
        nn.init.zeros_(change.weight)
        nn.init.zeros_(change.bias)

    def forward(self, vectors: Tensor, anchors: Tensor) -> Detections:
        """[B,Q,D], [B,Q,4] -> detections [B,Q]."""
        vectors = self.norm(vectors)
        return Detections(self.score(vectors)[..., 0], moved(anchors, self.box(vectors)))


def moved(boxes: Tensor, change: Tensor) -> Tensor:
    """Boxes [...,4] by a change [...,4] of their logits: they stay within 0 and 1."""
    return torch.sigmoid(torch.logit(boxes, eps=1e-4) + change)


class DecoderLayer(nn.Module):
    """Pre-LayerNorm: queries look at each other, then at the frame's tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.norm_feedforward = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, "gelu")

    def forward(self, queries: Tensor, position: Tensor, tokens: Tensor, place: Tensor) -> Tensor:
        """Queries [B,Q,D] at `position` [B,Q,D], tokens [B,P,D] at `place` [P,D] -> [B,Q,D]."""
        normed = self.norm_self(queries)
        queries = queries + _look(self.attention, normed + position, normed + position, normed)
        normed = self.norm_cross(queries)
        queries = queries + _look(self.cross_attention, normed + position, tokens + place, tokens)
        return queries + self.feedforward(self.norm_feedforward(queries))


class ClipDetector(nn.Module):
    """Clips' frames -> detections; with temporal layers they are judged over the whole clip."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.single = FrameDetector(config)
        self.temporal = TemporalTransformer(config) if config.temporal_layers else None

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Detections:
        """Normalised frames [N,F,3,D,D] of any size, bool [N,F] -> the answer, [N,F,Q]."""
        shape = frame_mask.shape
        frames = self.resized(frames.flatten(0, 1))
        stages, queries = self.single(frames)
        found = Detections(*(value.unflatten(0, shape) for value in stages[-1]))
        if self.temporal is None:
            return found
        likeness = likenesses(frames.unflatten(0, shape), found, frame_mask)
        return self.temporal(found, queries.unflatten(0, shape), likeness, frame_mask)

    def resized(self, frames: Tensor) -> Tensor:
        """Frames [B,3,D,D] -> [B,3,S,S], the model's own size."""
        size = self.config.image_size
        if frames.shape[-1] == size:
            return frames
        return F.interpolate(frames, (size, size), mode="bilinear")

    def stages(self, frames: Tensor, frame_mask: Tensor) -> list[Detections]:
        """For training: what every stage says of the M real frames, [M,Q], the last is the
        answer. Padded frames are not looked at."""
        stages, queries = self.single(frames[frame_mask])
        if self.temporal is None:
            return stages
        found = Detections(*(padded(value, frame_mask) for value in stages[-1]))
        likeness = likenesses(frames, found, frame_mask)
        judged = self.temporal(found, padded(queries, frame_mask), likeness, frame_mask)
        return [*stages, Detections(*(value[frame_mask] for value in judged))]


class TemporalTransformer(nn.Module):
    """Judges each query again, knowing those of the clip's other frames: which product is held
    up, moved, shown longest, centred, and how large it is."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        width = config.width
        self.place = nn.Linear(4 * _SINES, width)
        self.score = nn.Linear(1, width)
        self.likeness = nn.Linear(3, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.frames, 1, width))  # in time
        self.norm_before = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, activation="gelu") for _ in range(config.temporal_layers)
        )
        self.norm_after = nn.LayerNorm(width)
        self.change = nn.Linear(width, 1 + 4)  # of the logit, of the box
        nn.init.zeros_(self.change.weight)  # begins with what the single frames say
        nn.init.zeros_(self.change.bias)

    def forward(
        self, found: Detections, queries: Tensor, likeness: Tensor, frame_mask: Tensor
    ) -> Detections:
        """[N,F,Q], queries [N,F,Q,D], `likenesses` [N,F,Q,3], bool [N,F] -> [N,F,Q], the same
        judged again."""
        shape = found.logits.shape
        tokens = self.norm_before(queries) + self.place(sine_embedding(found.boxes))
        tokens = tokens + self.likeness(likeness)
        tokens = tokens + self.score(found.logits[..., None]) + self.positions[: shape[1]]
        tokens = tokens.flatten(1, 2)
        mask = frame_mask[..., None].expand(shape).flatten(1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        change = self.change(self.norm_after(tokens)).unflatten(1, shape[1:])
        return Detections(found.logits + change[..., 0], moved(found.boxes, change[..., 1:]))


_SINES = 16  # numbers an embedded coordinate has


def sine_embedding(boxes: Tensor) -> Tensor:
    """Boxes [...,4], shares of the frame -> sines and cosines of each number, [...,64]."""
    exponent = torch.arange(_SINES // 2, device=boxes.device, dtype=boxes.dtype)
    waves = math.pi * TEMPERATURE ** (exponent / (_SINES // 2) - 0.5)
    phase = boxes[..., None] * waves
    return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


@torch.no_grad()
def likenesses(frames: Tensor, found: Detections, frame_mask: Tensor) -> Tensor:
    """How like what each box shows is to other frames, [N,F,Q,3] between -1 and 1, of frames
    [N,F,3,S,S] and bool [N,F].

    First to what is likely the product there: of two that are held alike, one is seen elsewhere
    too. Then to what the same place shows there, on the mean and at most: what stands about stays
    where it is. 0 where there is no other frame.
    """
    _, count, queries = found.logits.shape
    shown = contents(frames, found.boxes.flatten(1, 2)).unflatten(1, (count, queries))
    own = shown.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # [N,F,Q,C]
    others = (
        frame_mask[:, :, None] & frame_mask[:, None] & ~torch.eye(count, device=own.device).bool()
    )

    likely = found.logits.flatten(1).softmax(dim=1).view_as(found.logits) * frame_mask[..., None]
    product = torch.einsum("nfq,nfqc->nfc", likely, own)
    product = F.normalize(torch.einsum("nfg,ngc->nfc", others.to(own.dtype), product), dim=-1)
    agreed = torch.einsum("nfqc,nfc->nfq", own, product)

    still = (shown @ own[..., None])[..., 0] * others[:, :, None]
    mean = still.sum(dim=-1) / others.sum(dim=-1).clamp(min=1)[..., None]
    return torch.stack([agreed, mean, still.amax(dim=-1)], dim=-1)


def contents(frames: Tensor, boxes: Tensor) -> Tensor:
    """What each frame [N,F,3,S,S] shows in each box [N,K,4], in few pixels whose mean is 0 and
    length 1, [N,K,F,C].

    Each pixel is copied from all frames of the clip at once: frame by frame, `grid_sample` takes
    longer on a CPU (docs/LOG.md).
    """
    clips, count = frames.shape[:2]
    small = F.interpolate(frames.flatten(0, 1), scale_factor=0.5, mode="bilinear")
    side = small.shape[-1]
    pixels = small.unflatten(0, (clips, count)).permute(0, 3, 4, 1, 2).flatten(0, 2)
    step = (torch.arange(CONTENT, device=frames.device) + 0.5) / CONTENT - 0.5
    across, down = (boxes[..., i, None] + step * boxes[..., i + 2, None] for i in (0, 1))
    begin = side * side * torch.arange(clips, device=frames.device).view(-1, 1, 1, 1)
    seen = torch.zeros((), device=frames.device)
    for row, of_row in between(down, side):
        for column, of_column in between(across, side):
            place = begin + (side * row)[..., None] + column[..., None, :]  # [N,K,8,8]
            weight = of_row[..., None] * of_column[..., None, :]
            found = pixels.index_select(0, place.flatten()).unflatten(0, place.shape)
            seen = seen + weight[..., None, None] * found
    seen = seen.flatten(2, 3).transpose(2, 3).flatten(3)
    return F.normalize(seen - seen.mean(dim=-1, keepdim=True), dim=-1)


def between(places: Tensor, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Shares of an axis of that length -> twice (int64, float), the pixels before and after each
    place, and what they weigh."""
    at = (places * length - 0.5).clamp(0, length - 1)
    before = at.floor()
    after = (before + 1).clamp(max=length - 1)
    return (before.long(), before + 1 - at), (after.long(), at - before)


def corners(boxes: Tensor) -> Tensor:
    """Centre x, y, width, height [...,4] -> left, top, right, bottom, within the frame."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1).clamp(0, 1)


def centred(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom [...,4] -> centre x, y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def best_of_frame(found: Detections) -> tuple[Tensor, Tensor]:
    """Of detections [...,Q], the box (left, top, right, bottom) that is most likely the intended
    product, [...,4], and its score between 0 and 1, [...]."""
    best = found.logits.argmax(dim=-1, keepdim=True)
    box = found.boxes.gather(-2, best[..., None].expand(*best.shape, 4))[..., 0, :]
    return corners(box), torch.sigmoid(found.logits.gather(-1, best)[..., 0])


def _look(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    projected = attention.query(queries), attention.key(keys), attention.value(values)
    return attention.attend(*projected, None)
