"""The torch modules that become a bundle's graphs, and the names and shapes they are called by.

Each module takes pixels as they are decoded (uint8, height before width before RGB) or vectors as
another graph gave them, and is one part of `Rice`: no numbers are made here but the normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.data.transforms import normalise
from training.models.rice import Rice, RiceConfig


class ImageEncoderGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B,S,S,3] -> embedding [B,E], match_state [B,D]."""
        encoded = self.model.encode_pictures(normalise(pictures))
        return encoded.embedding, self.model.decoder.match_state(encoded.tokens)


class ClipEncoderGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, frames: Tensor, frame_mask: Tensor, patch_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 [N,F,S,S,3], bool [N,F], bool [N,F,P] -> embedding, keys, values, token_mask."""
        clips = self.model.encode_clips(normalise(frames), frame_mask, patch_mask)
        keys, values = self.model.decoder.keys_values(clips.tokens)
        return clips.embedding, keys, values, clips.token_mask


class MatcherGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, match_state: Tensor, keys: Tensor, values: Tensor, token_mask: Tensor
    ) -> Tensor:
        """Match states [K,D] against one clip, [L,D], [L,D], bool [L] -> logits [K]."""
        logits = self.decoder.match(match_state[None], keys[None], values[None], token_mask[None])
        return logits[0]


class ExplainerGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor, keys: Tensor, token_mask: Tensor) -> Tensor:
        """uint8 [B,S,S,3] against one clip -> attention [B,1+P,L], the mean over heads."""
        decoder = self.model.decoder
        tokens = decoder.self_block(self.model.encode_pictures(normalise(pictures)).tokens)
        return decoder.cross_block.attention_map(tokens, keys[None], token_mask[None]).mean(dim=1)


@dataclass(frozen=True)
class TensorSpec:
    """A name in `shape` is a length that varies."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def example(self, lengths: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """A random tensor of this shape. Masks keep their first place: nothing is masked whole."""
        shape = [length if isinstance(length, int) else lengths[length] for length in self.shape]
        if self.dtype == "uint8":
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        if self.dtype == "bool":
            mask = torch.rand(shape, generator=generator) < 0.7
            mask[..., 0] = True
            return mask
        return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class GraphSpec:
    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shares_weights: bool
    """Whether the graph holds the encoder, whose weights all such graphs have in common."""

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"


def graph_specs(model: Rice) -> list[GraphSpec]:
    """The four graphs of a bundle."""
    config: RiceConfig = model.config
    size, patches = config.encoder.image_size, config.encoder.patches
    embedding, width = config.encoder.embedding, config.token_width
    pictures = TensorSpec("pictures", "uint8", ("batch", size, size, 3))
    keys = TensorSpec("keys", "float32", ("tokens", width))
    values = TensorSpec("values", "float32", ("tokens", width))
    token_mask = TensorSpec("token_mask", "bool", ("tokens",))
    return [
        GraphSpec(
            "image_encoder",
            ImageEncoderGraph(model),
            (pictures,),
            (
                TensorSpec("embedding", "float32", ("batch", embedding)),
                TensorSpec("match_state", "float32", ("batch", width)),
            ),
            shares_weights=True,
        ),
        GraphSpec(
            "clip_encoder",
            ClipEncoderGraph(model),
            (
                TensorSpec("frames", "uint8", ("clips", "frames", size, size, 3)),
                TensorSpec("frame_mask", "bool", ("clips", "frames")),
                TensorSpec("patch_mask", "bool", ("clips", "frames", patches)),
            ),
            (
                TensorSpec("embedding", "float32", ("clips", embedding)),
                TensorSpec("keys", "float32", ("clips", "tokens", width)),
                TensorSpec("values", "float32", ("clips", "tokens", width)),
                TensorSpec("token_mask", "bool", ("clips", "tokens")),
            ),
            shares_weights=True,
        ),
        GraphSpec(
            "matcher",
            MatcherGraph(model),
            (
                TensorSpec("match_state", "float32", ("candidates", width)),
                keys,
                values,
                token_mask,
            ),
            (TensorSpec("logit", "float32", ("candidates",)),),
            shares_weights=False,
        ),
        GraphSpec(
            "explainer",
            ExplainerGraph(model),
            (pictures, keys, token_mask),
            (TensorSpec("attention", "float32", ("batch", 1 + patches, "tokens")),),
            shares_weights=True,
        ),
    ]
