"""PFR, patch feature reconstruction of RICE: a picture's tokens rebuilt from its clip's tokens.

The decoder's cross-attention maps of all heads become one weight for each pair of a picture token
and a clip token, by two 1x1 convolutions over the heads. The rebuilt tokens are held against the
picture's own (`training.losses.pfr_loss`), which teaches the attention to look at the product.
Used in training only, on pairs of a picture and a clip of its product.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Reconstruction = Literal["softmax", "plain"]

CHANNELS = 4  # between the two convolutions


class PatchReconstruction(nn.Module):
    """Attention maps and clip tokens -> reconstructed picture tokens.

    `softmax` (released): weights are a softmax over the clip's tokens. `plain` (paper-style): they
    are the convolutions' output as it is, and class tokens take no part on either side.
    """

    def __init__(self, width: int, heads: int, variant: Reconstruction) -> None:
        super().__init__()
        self.variant = variant
        self.scale = (width / heads) ** 0.5
        self.combine = nn.Sequential(
            nn.Conv2d(heads, CHANNELS, 1), nn.ReLU(), nn.Conv2d(CHANNELS, 1, 1), nn.ReLU()
        )
        for name, parameter in self.combine.named_parameters():
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)

    def forward(
        self, attention: Tensor, clip_tokens: Tensor, token_mask: Tensor | None = None
    ) -> Tensor:
        """Attention [B,heads,T,L] (rows sum to 1), tokens [B,L,D], mask bool [B,L] -> [B,T,D].

        [B,T-1,D], for the patches alone, in the `plain` variant. Clip tokens get no gradient.
        What `token_mask` excludes gets no weight (the released code leaves it some).
        """
        if self.variant == "plain":
            attention, clip_tokens, token_mask = patches_alone(attention, clip_tokens, token_mask)
        # The released code's maps are softmax times sqrt(D/heads), and the 1s are made for that.
        weights: Tensor = self.combine(self.scale * attention)[:, 0]
        excluded = None if token_mask is None else ~token_mask[:, None]
        if self.variant == "softmax":
            if excluded is not None:
                weights = weights.masked_fill(excluded, float("-inf"))
            weights = weights.softmax(dim=-1)
        elif excluded is not None:
            weights = weights.masked_fill(excluded, 0.0)
        return weights @ clip_tokens.detach()


def patches_alone(
    attention: Tensor, clip_tokens: Tensor, token_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same without class tokens: a picture's first, and each frame's first in the clip."""
    tokens_a_frame = attention.shape[2]  # pictures and frames have as many
    position = torch.arange(clip_tokens.shape[1], device=clip_tokens.device)
    patch = position % tokens_a_frame != 0
    return (
        attention[:, :, 1:, patch],
        clip_tokens[:, patch],
        None if token_mask is None else token_mask[:, patch],
    )
