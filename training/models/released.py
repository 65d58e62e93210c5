"""Checkpoints in the format of RICE's released code (deepalchemist/crossview-semantic-alignment).

All sizes are read from the tensors, but for the encoder's heads: CLIP's are 64 wide, and no tensor
tells. The encoder lies below `image_encoder.model`, decoder and heads below `transformer`.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from training.models.encoder import EncoderConfig
from training.models.matching_decoder import Head
from training.models.pretrained import Tensors, count_blocks, openai_block, openai_encoder
from training.models.rice import Rice, RiceConfig
from training.models.weights_file import WeightsError, read_tensors

ENCODER = "image_encoder.model."
DECODER = "transformer.transformer."
LAYERS = f"{DECODER}transformer.layers."
MATCHING = "transformer.heads.vim."
RECONSTRUCTION = "transformer.heads.rec."
HEAD_WIDTH = 64


class Released(NamedTuple):
    model: Rice  # in evaluation mode
    left_out: list[str]  # tensors that have no place in it


def read_released(path: Path, head: Head) -> Released:
    """Reads a released `.pth`. Raises WeightsError.

    `head` says what the matching weights are for, which no tensor tells: the released code
    compares with them by a cosine, its older revision multiplies by them.
    """
    theirs = _Read(read_tensors(path))
    try:
        model = Rice(_config(theirs, head))
        model.load_state_dict(_ours(theirs, head))
    except KeyError as error:
        raise WeightsError(f"{path} is no checkpoint of the released code: no {error}") from error
    except (ValueError, RuntimeError) as error:  # nonsense as a configuration, or shapes
        raise WeightsError(f"{path} is no checkpoint of the released code: {error}") from error
    return Released(model.eval(), sorted(theirs.keys() - theirs.read))


class _Read(dict[str, Tensor]):
    """Remembers which tensors were asked for."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def _config(theirs: Tensors, head: Head) -> RiceConfig:
    embedding_of = theirs[f"{ENCODER}proj"]
    patch_size = theirs[f"{ENCODER}conv1.weight"].shape[-1]
    grid = isqrt(theirs[f"{ENCODER}positional_embedding"].shape[0] - 1)
    reconstructs = f"{RECONSTRUCTION}0.weight" in theirs
    if (layers := count_blocks(theirs, LAYERS)) != 2:
        raise ValueError(f"{layers} layers in the decoder, one self and one cross block are known")
    return RiceConfig(
        encoder=EncoderConfig(
            image_size=grid * patch_size,
            patch_size=patch_size,
            width=embedding_of.shape[0],
            layers=count_blocks(theirs, f"{ENCODER}transformer.resblocks."),
            heads=embedding_of.shape[0] // HEAD_WIDTH,
            embedding=embedding_of.shape[1],
        ),
        matching_heads=theirs[f"{RECONSTRUCTION}0.weight"].shape[1] if reconstructs else 8,
        matching_head=head,
        reconstruction="softmax" if reconstructs else None,
    )


def _ours(theirs: Tensors, head: Head) -> Tensors:
    """The state dict of `Rice`."""
    ours = {f"encoder.{k}": v for k, v in openai_encoder(theirs, ENCODER).items()}
    for number, block in enumerate(("self_block", "cross_block")):
        weights = openai_block(theirs, f"{LAYERS}{number}.")
        ours |= {f"decoder.{block}.{name}": value for name, value in weights.items()}
    for kind in ("weight", "bias"):
        ours[f"decoder.norm_pool.{kind}"] = theirs[f"{DECODER}pooler.layer_norm.{kind}"]
    ours["decoder.pool.weight"] = theirs[f"{DECODER}pooler.dense.weight"]
    ours["temperature"] = theirs["transformer.logit_scale"]
    for name in theirs:
        if name.startswith(RECONSTRUCTION):
            ours[f"reconstruction.combine.{name.removeprefix(RECONSTRUCTION)}"] = theirs[name]
    return ours | _matching(theirs, head)


def _matching(theirs: Tensors, head: Head) -> Tensors:
    weight, biased = theirs[f"{MATCHING}weight"], f"{MATCHING}bias" in theirs
    if head == "linear":
        bias = theirs[f"{MATCHING}bias"] if biased else torch.zeros(1)
        return {"decoder.direction.weight": weight, "decoder.direction.bias": bias}
    if biased:
        raise ValueError("its matching weights have a bias: they are a linear head's")
    return {"decoder.direction": weight[0]}
