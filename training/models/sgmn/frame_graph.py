"""The frame level of SGMN's spatiotemporal graph: which frames of a clip show what is sold.

Between the frames of a clip stand the differences of adjacent ones, made into tokens of their own;
a transformer goes over both. In the paper it adds to the frames' embeddings, which was of no use
here (docs/LOG.md); it tells instead how likely each frame shows the product. By that frames count
in the clip's embedding, and those that hardly show it are not matched. Where a detector has chosen
the frames, its scores tell more than they do, and the graph hears them, too. Knows nothing of
encoders and losses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import Activation, Block, set_to_zero
from training.models.sgmn.text_guided_attention import or_all

LAYERS = 2
LEAST_SCORE = 1e-3  # of a detector; and as near to 1 at most
LEAST = 0.1  # probability that a frame shows the product; less is not matched


class FrameGraph(nn.Module):
    """Of clips of at most `frames` frames. E is `embedding`, D `token_width`."""

    def __init__(
        self,
        embedding: int,
        token_width: int,
        frames: int,
        width: int,
        heads: int,
        *,
        activation: Activation,
        detected: bool,
    ) -> None:
        """`detected`: a detector's scores tell of frames, too."""
        super().__init__()
        self.at = nn.Identity() if width == embedding else nn.Linear(embedding, width)
        self.seen = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, width))
        self.spoken_of = nn.Linear(2, width, bias=False)
        self.found = nn.Linear(2, width, bias=False) if detected else None
        self.difference_positions = _embeddings(frames, width)
        self.difference_block = Block(width, heads, activation=activation)
        self.difference_norm = nn.LayerNorm(width)
        self.positions = _embeddings(2 * frames, width)
        self.types = _embeddings(2, width)  # a frame, a difference
        self.blocks = nn.ModuleList(
            Block(width, heads, activation=activation) for _ in range(LAYERS)
        )
        self.norm_after = nn.LayerNorm(width)
        self.show = nn.Linear(width, 1)

    def begin_silent(self) -> None:
        """Frames count alike at first."""
        set_to_zero(self.show)

    def forward(
        self, frames: Tensor, patches: Tensor, spoken: Tensor, scores: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """Embeddings [N,F,E] as they are, what the patches of each show most [N,F,D], how much each
        shows of what is said [N,F], a detector's scores [N,F], bool [N,F] -> logits that they show
        the product, [N,F]. Where a detector tells and has found nothing, all are 0."""
        frames = self.at(math.sqrt(frames.shape[-1]) * F.normalize(frames, dim=-1))
        differences, difference_mask = self.differences(frames, frame_mask)
        nodes = frames + self.seen(patches) + self.spoken_of(_beside_mean(spoken, frame_mask))
        if self.found is not None:
            nodes = nodes + self.found(_beside_mean(_logits(scores), frame_mask))
        tokens = torch.stack([nodes, differences], dim=2) + self.types
        tokens = tokens.flatten(1, 2) + self.positions[: 2 * frames.shape[1]]
        mask = torch.stack([frame_mask, difference_mask], dim=2).flatten(1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        logits: Tensor = self.show(self.norm_after(tokens.unflatten(1, (-1, 2))[:, :, 0]))[..., 0]
        if self.found is not None:
            logits = logits * ((scores > 0) & frame_mask).any(dim=1, keepdim=True)
        return logits

    def differences(self, frames: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
        """-> tokens [N,F,E] between -1 and 1 of each frame's change to the next one; bool [N,F].

        There are F - 1 changes: the last token is of none, and masked like those of padding.
        """
        mask = frame_mask & F.pad(frame_mask[:, 1:], (0, 1))
        change = F.pad(frames[:, 1:], (0, 0, 0, 1)) - frames
        tokens = self.difference_block(
            change + self.difference_positions[: frames.shape[1]], or_all(mask)
        )
        return 2 * torch.sigmoid(self.difference_norm(tokens)) - 1, mask


def weights(shown: Tensor, frame_mask: Tensor) -> Tensor:
    """Logits [N,F], bool [N,F] -> what frames count for [N,F]: how likely each shows the product,
    beside the likeliest."""
    likely = -F.softplus(-shown)  # log sigmoid, of which ONNX's would underflow
    likely = likely.masked_fill(~or_all(frame_mask), float("-inf"))
    return (likely - likely.amax(dim=1, keepdim=True)).exp() * frame_mask


def matched(shown: Tensor, frame_mask: Tensor) -> Tensor:
    """Logits [N,F], bool [N,F] -> bool [N,F], frames that are matched: each clip's best, and all
    that are as likely as LEAST to show the product."""
    best = shown.masked_fill(~frame_mask, float("-inf")).amax(dim=1, keepdim=True)
    return frame_mask & (shown >= best.clamp(max=math.log(LEAST / (1 - LEAST))))


def _logits(scores: Tensor) -> Tensor:
    """Of scores from 0 to 1, about as large as what else a node is made of."""
    scores = scores.clamp(LEAST_SCORE, 1 - LEAST_SCORE)
    return (scores / (1 - scores)).log() / 4


def _beside_mean(values: Tensor, frame_mask: Tensor) -> Tensor:
    """[N,F], bool [N,F] -> [N,F,2], also as what is above the mean of the clip's frames."""
    kept = values * frame_mask
    mean = kept.sum(dim=1, keepdim=True) / frame_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.stack([values, values - mean], dim=-1)


def _embeddings(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(width**-0.5 * torch.randn(count, width))
