"""How a model is scored: clips of a split against the pictures of the whole shop.

A clip is made of the photographs that share a clip id, each held and moved a little (HELD), with
at most `frames` frames. Clips are the same for every model: their randomness has a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.photographs import PhotographSet
from training.data.transforms import HELD, draw_views, normalise
from training.evaluation.metrics import Accuracy, accuracy
from training.models.rice import Rice

CLIP_SEED = 20_231
VAL_TAKES = 5  # the few val clips are filmed often, to choose on more than their accidents


@dataclass(frozen=True)
class Scores:
    """Of N clips against P products."""

    coarse: Tensor  # [N,P], cosine of the embeddings
    match: Tensor  # [N,P], logits of the matching decoder
    truth: Tensor  # int64 [N]

    def fused(self, match_weight: float) -> Tensor:
        return self.coarse + match_weight * self.match


@torch.inference_mode()
def score_clips(
    model: Rice, data: PhotographSet, *, takes: int = 1, done: Callable[[], None] = lambda: None
) -> Scores:
    """Scores each clip `takes` times, every take with another hand; calls `done` a clip."""
    model.eval()
    device = next(model.parameters()).device
    size = model.config.encoder.image_size
    pictures = [
        model.encode_pictures(normalise(shrink(chunk.to(device), size)))
        for chunk in data.pictures.split(128)
    ]
    embedding = torch.cat([chunk.embedding for chunk in pictures])
    states = torch.cat([model.decoder.match_state(chunk.tokens) for chunk in pictures])
    generator = torch.Generator().manual_seed(CLIP_SEED)
    coarse, match, truth = [], [], []
    for clip in data.clips() * takes:
        photographs = data.photographs[_spread(clip, model.config.frames)].to(device)
        frames = draw_views(photographs, size, HELD, generator)[None]
        frame_mask = frames.new_ones(frames.shape[:2], dtype=torch.bool)
        patch_mask = frame_mask.new_ones(*frame_mask.shape, model.config.encoder.patches)
        encoded = model.encode_clips(frames, frame_mask, patch_mask)
        key, value = model.decoder.keys_values(encoded.tokens)
        coarse.append(encoded.embedding @ embedding.T)
        match.append(model.decoder.match(states, key, value, encoded.token_mask))
        truth.append(int(data.product[clip[0]]))
        done()
    return Scores(torch.cat(coarse).cpu(), torch.cat(match).cpu(), torch.tensor(truth))


def shrink(pictures: Tensor, size: int) -> Tensor:
    """Square pictures, uint8 [B,H,H,3] -> uint8 [B,size,size,3], bicubic and antialiased."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    resized = torch.nn.functional.interpolate(
        pictures.movedim(-1, 1).float(), (size, size), mode="bicubic", antialias=True
    )
    return resized.round_().clamp_(0, 255).byte().movedim(1, -1)


def _spread(clip: list[int], frames: int) -> list[int]:
    """`frames` entries spread evenly over the photographs, in order."""
    return [clip[i * len(clip) // frames] for i in range(frames)]


def best_match_weight(scores: Scores) -> float:
    """The weight of the match logit that ranks these clips best by mean reciprocal rank."""
    weights = [0.0, *(2.0 ** (exponent / 2) for exponent in range(-18, 5))]
    reciprocal = [accuracy(scores.fused(weight), scores.truth).mrr for weight in weights]
    best = max(reciprocal)
    plateau = [w for w, r in zip(weights, reciprocal, strict=True) if r >= best - 1e-4]
    return plateau[len(plateau) // 2]


def summary(scores: Scores, match_weight: float) -> dict[str, Accuracy]:
    """Accuracy of the coarse score, of the match alone, and of both fused."""
    return {
        "coarse": accuracy(scores.coarse, scores.truth),
        "match": accuracy(scores.match, scores.truth),
        "fused": accuracy(scores.fused(match_weight), scores.truth),
    }
