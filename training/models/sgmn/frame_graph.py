"""The frame level of SGMN's spatiotemporal graph: a clip's embedding from its frames and changes.

Between the embeddings of a clip's frames stand the differences of adjacent ones, made into tokens
of their own; a transformer goes over both. Knows nothing of encoders and losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import Activation, Block, set_to_zero
from training.models.sgmn.text_guided_attention import or_all

LAYERS = 2


class FrameGraph(nn.Module):
    """Frames' embeddings, at most `frames` of them -> the clip's."""

    def __init__(self, width: int, frames: int, heads: int, *, activation: Activation) -> None:
        super().__init__()
        self.difference_positions = _embeddings(frames, width)
        self.difference_block = Block(width, heads, activation=activation)
        self.difference_norm = nn.LayerNorm(width)
        self.positions = _embeddings(2 * frames, width)
        self.types = _embeddings(2, width)  # a frame, a difference
        self.blocks = nn.ModuleList(
            Block(width, heads, activation=activation) for _ in range(LAYERS)
        )

    def begin_silent(self) -> None:
        """The clip's embedding is at first the frames' mean."""
        for block in self.blocks.modules():
            if isinstance(block, Block):
                set_to_zero(block.attention.out, block.feedforward[-1])
        with torch.no_grad():
            self.positions.zero_()
            self.types.zero_()

    def forward(self, frames: Tensor, frame_mask: Tensor, shares: Tensor) -> Tensor:
        """Embeddings [N,F,E] as they are, bool [N,F], what each counts for [N,F] -> [N,E], L2."""
        differences, difference_mask = self.differences(frames, frame_mask)
        tokens = torch.stack([frames, differences], dim=2) + self.types
        tokens = tokens.flatten(1, 2) + self.positions[: 2 * frames.shape[1]]
        mask = torch.stack([frame_mask, difference_mask], dim=2).flatten(1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        refined = F.normalize(tokens.unflatten(1, (-1, 2))[:, :, 0] + frames, dim=-1)
        return F.normalize((refined * shares[..., None]).sum(dim=1), dim=-1)

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


def _embeddings(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(width**-0.5 * torch.randn(count, width))
