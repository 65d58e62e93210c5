"""The image encoder shared by shop pictures and clip frames: CLIP's vision transformer.

Follows CLIP (Radford et al., 2021, section 2.4) as RICE uses it: `tokens` are the last block's
output before the final LayerNorm, the class token included; the embedding is the projection of
the normalised class token. Knows nothing of clips, matching or losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's constants, RGB, of pixels in [0, 1]
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


Activation = Literal["quick_gelu", "gelu"]

STRICT: Final[ConfigDict] = {"extra": "forbid"}  # a field that is not known is refused, not lost


class PatchGrid:
    """Of pictures that are cut into square patches, a token each: what their configs share."""

    image_size: int
    patch_size: int

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    def check_grid(self, *, halved: bool) -> None:
        """Raises ValueError where patches do not fill a picture or, `halved`, where halving it
        does not lead to them."""
        size = self.patch_size
        if size < 1 or self.image_size < size or self.image_size % size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {size}")
        if halved and size & (size - 1):
            raise ValueError(f"the conv stem halves: patch_size {size} is no power of 2")


def check_heads(width: int, heads: int, name: str = "heads") -> None:
    """Raises ValueError where attention `width` wide cannot be split."""
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} is no multiple of {name} {heads}")


@dataclass(frozen=True)
class EncoderConfig(PatchGrid):
    """Sizes of the vision transformer; the defaults are ViT-B/32."""

    __pydantic_config__ = STRICT

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    embedding: int = 512
    stem: Literal["patch", "conv"] = "patch"
    """`patch`: CLIP's one strided convolution. `conv`: a stack of 3x3 convolutions of stride 2
    (Xiao et al., 2021, "Early convolutions help transformers see better"), for training from
    nothing on few pictures."""
    stem_depth: int = 1
    """Convolutions a stage of the `conv` stem; those after a stage's first are residual."""
    drop_path: float = 0.0
    """Share of residual branches dropped in training, growing linearly to this with depth."""
    activation: Activation = "quick_gelu"
    """OpenAI's weights and Chinese-CLIP's are trained with `quick_gelu`, most of OpenCLIP's own
    with `gelu`; a state dict does not tell."""

    def __post_init__(self) -> None:
        self.check_grid(halved=self.stem == "conv")
        check_heads(self.width, self.heads)


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU: x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class DropPath(nn.Module):
    """Stochastic depth: drops a sample's whole residual branch in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Attention(nn.Module):
    """Multi-head attention of `queries` [B,Q,D] over `context` [B,L,D].

    `mask` is bool [B,L], True where a context token takes part.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """[B,L,D] -> [B,heads,L,D/heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.attend(self.query(queries), self.key(context), self.value(context), mask)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0
    ) -> Tensor:
        """Attention of projected queries [B,Q,D] over projected keys and values [B,L,D].

        `dropout` is the share of attention weights dropped in training.
        """
        attended = F.scaled_dot_product_attention(
            self.split(query),
            self.split(key),
            self.split(value),
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(-2, -3).flatten(-2))


class FeedForward(nn.Sequential):
    """Two linear layers with the activation between, four times as wide inside."""

    def __init__(self, width: int, activation: Activation) -> None:
        between = QuickGELU() if activation == "quick_gelu" else nn.GELU()
        super().__init__(nn.Linear(width, 4 * width), between, nn.Linear(4 * width, width))


@torch.no_grad()
def set_to_zero(*layers: nn.Module) -> None:
    """Weights of layers whose output is added to something: it stays as it is, and they learn from
    there."""
    for layer in layers:
        for weights in layer.parameters():
            weights.zero_()


class Block(nn.Module):
    """Pre-LayerNorm transformer block of self-attention over tokens [B,T,D]."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        activation: Activation = "quick_gelu",
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads)
        self.norm_feedforward = nn.LayerNorm(width, eps=eps)
        self.feedforward = FeedForward(width, activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.norm_attention(tokens)
        tokens = tokens + self.drop_path(self.attention(normed, normed, mask))
        return tokens + self.drop_path(self.feedforward(self.norm_feedforward(tokens)))

    def first_token(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """What `forward` gives for token 0, [B,D], without computing the others."""
        normed = self.norm_attention(tokens)
        first = tokens[:, :1] + self.attention(normed[:, :1], normed, mask)
        return (first + self.feedforward(self.norm_feedforward(first)))[:, 0]


class ResidualConv(nn.Module):
    """One 3x3 convolution around which the input is carried: [B,C,H,W] -> [B,C,H,W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.conv(x)))


def conv_stem(patch_size: int, width: int, depth: int, first_stride: int = 2) -> nn.Sequential:
    """Shrinks the picture by `first_stride`, then halves it until `patch_size` pixels are one,
    while doubling channels up to `width`; `depth` convolutions a stage."""
    strides = [first_stride]
    while math.prod(strides) < patch_size:
        strides.append(2)
    channels = [max(width >> (len(strides) - 1 - i), 24) for i in range(len(strides))]
    layers: list[nn.Module] = []
    for before, after, stride in zip([3, *channels[:-1]], channels, strides, strict=True):
        layers += [
            nn.Conv2d(before, after, 2 * stride - 1, stride, padding=stride - 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        if before > 3:  # at full resolution a further convolution costs most and sees least
            layers += [ResidualConv(after) for _ in range(depth - 1)]
    layers.append(nn.Conv2d(width, width, 1))
    return nn.Sequential(*layers)


class ImageEncoder(nn.Module):
    """Pictures [B,3,S,S], normalised pixels -> embedding [B,E], tokens [B,1+P,D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.checkpointing = False
        """Whether training keeps each block's input alone and computes the rest of it again."""
        self.stem: nn.Module = (
            conv_stem(config.patch_size, width, config.stem_depth)
            if config.stem == "conv"
            else nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        )
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn(1 + config.patches, width))
        self.norm_before = nn.LayerNorm(width)
        rates = [config.drop_path * i / max(config.layers - 1, 1) for i in range(config.layers)]
        self.blocks = nn.ModuleList(
            Block(width, config.heads, activation=config.activation, drop_path=rate)
            for rate in rates
        )
        self.norm_after = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.embedding, bias=False)

    def forward(
        self, pixels: Tensor, patch_mask: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`patch_mask` is bool [B,P]: the patches that others may attend to (IPD in RICE). With
        `places`, int64 [B,K], all other patches are dropped: it is then of these, bool [B,K], and
        tokens are [B,1+K,D].

        The embedding is not normalised: a clip averages its frames' embeddings first.
        """
        patches = self.stem(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.positions
        if places is not None:
            chosen = F.pad(1 + places, (1, 0))[..., None]
            tokens = tokens.gather(1, chosen.expand(-1, -1, tokens.shape[-1]))
        tokens = self.norm_before(tokens)
        mask = None if patch_mask is None else with_class_token(patch_mask)
        for block in self.blocks:
            if self.checkpointing and self.training:
                tokens = checkpoint(block, tokens, mask, use_reentrant=False)
            else:
                tokens = block(tokens, mask)
        return self.project(tokens[:, 0]), tokens

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens [...,D] into the space of the embeddings, [...,E]."""
        return self.projection(self.norm_after(tokens))


def resized_positions(positions: Tensor, patches: int) -> Tensor:
    """Position embeddings [1+P,D] for a square grid of another number of patches, [1+patches,D].

    The class token keeps its own; the grid's are interpolated, as when a vision transformer is
    fine-tuned on larger pictures (Dosovitskiy et al., 2021, section 3.2).
    """
    side, wanted = math.isqrt(len(positions) - 1), math.isqrt(patches)
    if side == wanted:
        return positions
    grid = positions[1:].T.unflatten(1, (side, side))[None]
    resized = F.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T])


def with_class_token(patch_mask: Tensor) -> Tensor:
    """[B,P] -> [B,1+P]: the class token always takes part."""
    return F.pad(patch_mask, (1, 0), value=True)
