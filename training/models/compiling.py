"""torch.compile for the part of a model that it makes faster: the transformer blocks.

Measured by `lpr-train bench RECIPE --compile` (docs/LOG.md): blocks alone gain more than the whole
encoder, whose stem gets slower, and are translated once for all that are alike.
"""

from __future__ import annotations

import torch
from torch import nn

from training.errors import TrainingError
from training.models.encoder import Block

TRANSLATIONS = 64  # of `Block.forward`: one for each share of dropped paths, masked and not


class CompilerError(TrainingError):
    """torch.compile does not work on this machine."""


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Has each `Block` of the model translated when it is first used; parameters and their names
    stay as they are, for any number of pictures.

    Raises CompilerError where the device's compiler is missing: on a CPU that of C++.
    """
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).partition("\n")[0]
        raise CompilerError(f"torch.compile does not work here: {reason}") from error
    torch._dynamo.config.recompile_limit = TRANSLATIONS
    for block in model.modules():
        if isinstance(block, Block):
            block.compile(dynamic=True)
