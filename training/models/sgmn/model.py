"""SGMN: speech guides the look at the frames, and a graph over them makes the clip's embedding.

Source: "Spatiotemporal Graph Guided Multi-modal Network for Livestreaming Product Retrieval"
(ACM MM 2024). It shares RICE's encoder for both views, its pairwise decoder and its text tower,
so that whatever trains, scores, exports or serves a `Rice` does the same with an `Sgmn`: only how
a clip's frames become its embedding is another. Each part can be left out, for ablations. Its
third part, mining, is in the losses alone (training.sgmn_losses).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from training.models.encoder import STRICT, check_heads
from training.models.patch_reconstruction import Reconstruction
from training.models.rice import Clips, Frames, Rice, RiceConfig
from training.models.sgmn.frame_graph import FrameGraph
from training.models.sgmn.instance_graph import InstanceGraph
from training.models.sgmn.text_guided_attention import TextGuidedAttention
from training.models.text import Words


@dataclass(frozen=True)
class SgmnConfig(RiceConfig):
    __pydantic_config__ = STRICT

    reconstruction: Reconstruction | None = None
    """SGMN has no PFR."""
    text_guidance: bool = True
    """Text-guided attention; needs `text`."""
    frame_graph: bool = True
    """Whether frames and their differences become a clip's embedding, or their mean as in RICE."""
    frame_heads: int = 8
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
        for name in ("frame_heads", "instance_heads"):
            check_heads(self.encoder.embedding, getattr(self, name), name)


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
            FrameGraph(embedding, config.frames, config.frame_heads, activation=activation)
            if config.frame_graph
            else None
        )
        self.instance_graph = (
            InstanceGraph(embedding, config.instance_heads, activation=activation)
            if config.instance_graph
            else None
        )

    def pool_frames(self, frames: Frames, speech: Words | None = None) -> Clips:
        if self.text_guidance is not None and speech is not None:
            seen = frames.patch_mask & frames.mask[..., None]
            shares = self.text_guidance(frames.tokens[:, :, 1:], seen, speech)
            frames = frames._replace(shares=shares)
        clips = super().pool_frames(frames, speech)
        if self.frame_graph is None:
            return clips
        embedding = self.frame_graph(frames.embedding, frames.mask, frames.shares)
        return clips._replace(embedding=embedding)
