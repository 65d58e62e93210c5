"""SGMN: speech guides the look at the frames, and a graph over them makes the clip's embedding.

Source: "Spatiotemporal Graph Guided Multi-modal Network for Livestreaming Product Retrieval"
(ACM MM 2024). It shares RICE's encoder for both views, its pairwise decoder and its text tower,
so that whatever trains, scores, exports or serves a `Rice` does the same with an `Sgmn`: only what
a clip's frames count for in its embedding, and which of them are matched, is another. Each part can
be left out, for ablations. Its third part, mining, is in the losses alone (training.sgmn_losses).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from training.models.encoder import STRICT, check_heads
from training.models.patch_reconstruction import Reconstruction
from training.models.rice import Clips, Frames, Rice, RiceConfig
from training.models.sgmn.frame_graph import FrameGraph, matched, weights
from training.models.sgmn.instance_graph import InstanceGraph
from training.models.sgmn.text_guided_attention import TextGuidedAttention, or_all, shares_of
from training.models.text import Words


@dataclass(frozen=True)
class SgmnConfig(RiceConfig):
    __pydantic_config__ = STRICT

    reconstruction: Reconstruction | None = None
    """SGMN has no PFR."""
    text_guidance: bool = True
    """Text-guided attention; needs `text`."""
    frame_graph: bool = True
    """Whether frames and their differences tell which frames count, or all do as in RICE."""
    frame_width: int | None = None
    """Of the frame graph; None: the embedding's."""
    frame_heads: int = 8
    detected: bool = False
    """Whether the frame graph is told a detector's scores of the frames, too."""
    instance_graph: bool = True
    """Whether training has the graph over a batch's clips and pictures."""
    instance_heads: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reconstruction is not None:
            raise ValueError(
                "SGMN has no patch feature reconstruction: reconstruction must be None"
            )
        if self.text_guidance and self.text is None:
            raise ValueError("text_guidance needs a text tower")
        embedding = self.encoder.embedding
        check_heads(self.frame_width or embedding, self.frame_heads, "frame_heads")
        check_heads(embedding, self.instance_heads, "instance_heads")


def as_sgmn(config: RiceConfig) -> SgmnConfig:
    """SGMN of the same sizes, with all its parts."""
    return SgmnConfig(**_of_rice(config))


def as_rice(config: SgmnConfig) -> RiceConfig:
    """RICE of the same sizes."""
    return RiceConfig(**_of_rice(config))


def _of_rice(config: RiceConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(RiceConfig)}


class Sgmn(Rice):
    family = "sgmn"

    def __init__(self, config: SgmnConfig) -> None:
        super().__init__(config)
        self.config: SgmnConfig = config
        embedding, activation = config.encoder.embedding, config.encoder.activation
        self.text_guidance = (
            TextGuidedAttention(config.token_width, config.text.width, config.text.embedding)
            if config.text_guidance and config.text is not None
            else None
        )
        self.frame_graph = (
            FrameGraph(
                embedding,
                config.token_width,
                config.frames,
                config.frame_width or embedding,
                config.frame_heads,
                activation=activation,
                detected=config.detected,
            )
            if config.frame_graph
            else None
        )
        self.instance_graph = (
            InstanceGraph(embedding, config.instance_heads, activation=activation)
            if config.instance_graph
            else None
        )

    @property
    def decodes_speech(self) -> bool:
        """Also where what is said has a say in which frames are matched."""
        guided = self.text_guidance is not None and self.frame_graph is not None
        return guided or super().decodes_speech

    def pool_frames(self, frames: Frames, speech: Words | None = None) -> Clips:
        patches, seen = frames.tokens[:, :, 1:], frames.patch_mask & frames.mask[..., None]
        spoken = torch.zeros_like(frames.shares)
        if self.text_guidance is not None and speech is not None:
            spoken = self.text_guidance(patches, seen, speech)
            frames = frames._replace(shares=shares_of(spoken, frames.mask))
        if self.frame_graph is None:
            return super().pool_frames(frames, speech)
        most = shown_most(patches, seen)
        shown = self.frame_graph(frames.embedding, most, spoken, frames.scores, frames.mask)
        kept = frames._replace(mask=matched(shown, frames.mask), shares=weights(shown, frames.mask))
        return super().pool_frames(kept, speech)._replace(shown=shown)


def shown_most(patches: Tensor, seen: Tensor) -> Tensor:
    """Patches [...,P,D], bool [...,P] -> the largest of each number over those that take part,
    [...,D]."""
    return patches.masked_fill(~or_all(seen)[..., None], float("-inf")).amax(dim=-2)
