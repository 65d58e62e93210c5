"""Our models written down under others' names: the inverse of what reads them, one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from training.models.rice import Rice, RiceConfig

Tensors = dict[str, Tensor]

OPENAI = {
    "norm_attention": "ln_1",
    "attention.out": "attn.out_proj",
    "norm_feedforward": "ln_2",
    "feedforward.0": "mlp.c_fc",
    "feedforward.2": "mlp.c_proj",
}


def below(state: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def openai_block(block: Tensors, prefix: str) -> Tensors:
    theirs = {
        f"{prefix}{name}.{kind}": block[f"{ours}.{kind}"]
        for ours, name in OPENAI.items()
        for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = [block[f"attention.{name}.{kind}"] for name in ("query", "key", "value")]
        theirs[f"{prefix}attn.in_proj_{kind}"] = torch.cat(parts)
    return theirs


def openai_encoder(encoder: Tensors, prefix: str) -> Tensors:
    theirs = {
        f"{prefix}class_embedding": encoder["class_embedding"],
        f"{prefix}positional_embedding": encoder["positions"],
        f"{prefix}conv1.weight": encoder["stem.weight"],
        f"{prefix}proj": encoder["projection.weight"].T.contiguous(),
    }
    for ours, name in (("norm_before", "ln_pre"), ("norm_after", "ln_post")):
        for kind in ("weight", "bias"):
            theirs[f"{prefix}{name}.{kind}"] = encoder[f"{ours}.{kind}"]
    numbers = {name.split(".")[1] for name in encoder if name.startswith("blocks.")}
    for number in numbers:
        block = below(encoder, f"blocks.{number}.")
        theirs |= openai_block(block, f"{prefix}transformer.resblocks.{number}.")
    return theirs


def randomised(config: RiceConfig, seed: int = 0) -> Rice:
    """No parameter at 0 or 1, so that none can take another's place unseen."""
    torch.manual_seed(seed)
    model = Rice(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def released(model: Rice) -> Tensors:
    """A model's weights as the released code would have saved them."""
    state, decoder = model.state_dict(), "transformer.transformer."
    theirs = openai_encoder(below(state, "encoder."), "image_encoder.model.")
    for number, block in enumerate(("self_block", "cross_block")):
        prefix = f"{decoder}transformer.layers.{number}."
        theirs |= openai_block(below(state, f"decoder.{block}."), prefix)
    for kind in ("weight", "bias"):
        theirs[f"{decoder}pooler.layer_norm.{kind}"] = state[f"decoder.norm_pool.{kind}"]
    theirs[f"{decoder}pooler.dense.weight"] = state["decoder.pool.weight"]
    for name, value in below(state, "reconstruction.combine.").items():
        theirs[f"transformer.heads.rec.{name}"] = value
    theirs["transformer.logit_scale"] = state["temperature"]
    if model.config.matching_head == "linear":
        theirs["transformer.heads.vim.weight"] = state["decoder.direction.weight"]
        theirs["transformer.heads.vim.bias"] = state["decoder.direction.bias"]
    else:
        theirs["transformer.heads.vim.weight"] = state["decoder.direction"][None]
    return theirs
