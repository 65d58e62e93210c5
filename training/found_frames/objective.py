"""What the frame graph learns of looks: which frames show the product, and that by these the clip
is near its product's picture.

The rest of the model is locked; each process has the losses of its own clips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.found_frames.looks import LookBatch
from training.losses import icl_loss
from training.models.sgmn.frame_graph import weights
from training.models.sgmn.model import Sgmn


class FrameObjective(nn.Module):
    """A batch of looks -> losses by name, each a scalar and not yet weighted."""

    def __init__(self, model: Sgmn) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: LookBatch) -> dict[str, Tensor]:
        graph, unspoken = self.model.frame_graph, torch.zeros_like(batch.scores)
        assert graph is not None  # noqa: S101  Recipe
        logits = graph(batch.embedding, batch.most, unspoken, batch.scores, batch.mask).float()
        each = F.binary_cross_entropy_with_logits(logits, batch.shown.float(), reduction="none")
        clips = self.model.summed(batch.embedding, weights(logits, batch.mask))
        return {
            "presence": each[batch.mask].mean(),
            "icl": icl_loss(clips @ batch.pictures.T, batch.product, self.model.temperature),
        }
