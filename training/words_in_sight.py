"""How much of what is said or written is seen in pictures and clips, as SGMN's text-guided
attention finds it; over all processes. Its contrast teaches the attention (training.objective).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.distributed import gather, share
from training.models.rice import Clips
from training.models.sgmn.text_guided_attention import TextGuidedAttention
from training.models.text import Words


class Patches(NamedTuple):
    """Of this process's views: pictures, or clips with all their frames."""

    tokens: Tensor  # [B,L,D]
    mask: Tensor  # bool [B,L]


def of_pictures(tokens: Tensor, count: int) -> Patches:
    """Of tokens [B,1+P,D], a title's after them or not; P is `count`."""
    patches = tokens[:, 1 : 1 + count]
    return Patches(patches, torch.ones_like(patches[..., 0], dtype=torch.bool))


def of_clips(clips: Clips, count: int) -> Patches:
    """Without class tokens and the speech's token; a frame has `count` patches."""
    shown = clips.tokens.shape[1] // (1 + count) * (1 + count)
    tokens = clips.tokens[:, :shown].unflatten(1, (-1, 1 + count))[:, :, 1:]
    mask = clips.token_mask[:, :shown].unflatten(1, (-1, 1 + count))[:, :, 1:]
    return Patches(tokens.flatten(1, 2), mask.flatten(1))


def words_in_sight(
    guidance: TextGuidedAttention, patches: Patches, texts: Words, longest: int
) -> Tensor:
    """Views and texts of this process, of at most `longest` words -> [all views, all texts]."""
    missing = longest - texts.mask.shape[1] if share().ranks > 1 else 0  # as long on all of them
    padded = texts._replace(
        tokens=F.pad(texts.tokens, (0, 0, 0, missing)), mask=F.pad(texts.mask, (0, missing))
    )
    keys, weight = (gather(part) for part in guidance.keys(padded))
    return gather(guidance.likeness(patches.tokens.float(), patches.mask, keys, weight))
