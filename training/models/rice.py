"""RICE: one encoder for shop pictures and clip frames, and the matching decoder on their tokens.

Source: "Cross-view Semantic Alignment for Livestreaming Product Recognition" (ICCV 2023), in the
released code's variant. Knows nothing of losses or data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import STRICT, EncoderConfig, ImageEncoder, with_class_token
from training.models.matching_decoder import PairwiseMatchingDecoder


@dataclass(frozen=True)
class RiceConfig:
    __pydantic_config__ = STRICT

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    frames: int = 10
    """Frames a clip is looked at with, at most."""
    matching_heads: int = 8
    own_direction: bool = False
    """Compares the decoded token with the product's own state instead of one learned vector."""

    def __post_init__(self) -> None:
        if self.encoder.width % self.matching_heads:
            raise ValueError(
                f"width {self.encoder.width} is no multiple of matching_heads {self.matching_heads}"
            )


class Pictures(NamedTuple):
    embedding: Tensor  # [B,E], L2
    tokens: Tensor  # [B,1+P,D]


class Clips(NamedTuple):
    embedding: Tensor  # [N,E], L2
    tokens: Tensor  # [N,F*(1+P),D]
    token_mask: Tensor  # bool [N,F*(1+P)], False for padded frames and masked patches


class Rice(nn.Module):
    """The model that a bundle is exported from."""

    def __init__(self, config: RiceConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.encoder)
        self.decoder = PairwiseMatchingDecoder(
            config.encoder.width, config.matching_heads, own_direction=config.own_direction
        )
        self.temperature = nn.Parameter(torch.tensor(4.0))  # ICL's s: logits are s^2 cos

    def encode_pictures(self, pixels: Tensor) -> Pictures:
        """Normalised pixels [B,3,S,S]."""
        embedding, tokens = self.encoder(pixels)
        return Pictures(F.normalize(embedding, dim=-1), tokens)

    def encode_clips(self, frames: Tensor, frame_mask: Tensor, patch_mask: Tensor) -> Clips:
        """Normalised frames [N,F,3,S,S]; bool [N,F], True for real frames; bool [N,F,P]."""
        embedding, tokens = self.encoder(frames.flatten(0, 1), patch_mask.flatten(0, 1))
        return self.pool_frames(embedding, tokens, frame_mask, patch_mask)

    def encode_together(
        self, pictures: Tensor, frames: Tensor, frame_mask: Tensor
    ) -> tuple[Pictures, Clips]:
        """Both views in one pass of the encoder, so that they share batch statistics.

        Pictures [B,3,S,S], frames [N,F,3,S,S], frame_mask [N,F]; padded frames are not encoded.
        """
        count = pictures.shape[0]
        embedding, tokens = self.encoder(torch.cat([pictures, frames[frame_mask]]))
        clip_embedding = embedding.new_zeros(*frame_mask.shape, embedding.shape[-1])
        clip_tokens = tokens.new_zeros(*frame_mask.shape, *tokens.shape[1:])
        clip_embedding[frame_mask] = embedding[count:]
        clip_tokens[frame_mask] = tokens[count:]
        every_patch = frame_mask.new_ones(*frame_mask.shape, self.config.encoder.patches)
        return (
            Pictures(F.normalize(embedding[:count], dim=-1), tokens[:count]),
            self.pool_frames(
                clip_embedding.flatten(0, 1), clip_tokens.flatten(0, 1), frame_mask, every_patch
            ),
        )

    @staticmethod
    def pool_frames(
        embedding: Tensor, tokens: Tensor, frame_mask: Tensor, patch_mask: Tensor
    ) -> Clips:
        """Frame embeddings [N*F,E] and tokens [N*F,1+P,D] -> clips.

        A clip's embedding is the mean over its real frames of the *unnormalised* embeddings, then
        L2 (released code).
        """
        clips, frames = frame_mask.shape
        weight = frame_mask.to(embedding.dtype)[..., None]
        summed = (embedding.unflatten(0, (clips, frames)) * weight).sum(dim=1)
        token_mask = with_class_token(patch_mask) & frame_mask[..., None]
        return Clips(
            F.normalize(summed, dim=-1),  # L2 makes the mean and the sum the same
            tokens.reshape(clips, -1, tokens.shape[-1]),
            token_mask.flatten(1),
        )
