"""Starting weights: CLIP's towers as others publish them, into our encoder and decoder.

Two families of names are known: OpenAI's (its TorchScript archives, OpenCLIP, Chinese-CLIP) and
Hugging Face's (CLIPModel, CLIPVisionModelWithProjection). A CLIP block is our `Block`; the
decoder's two blocks begin as the vision tower's last two (released code), or the self block as the
text tower's last (paper-style).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from training.models.encoder import EncoderConfig
from training.models.rice import Rice
from training.models.weights_file import WeightsError, config_in, read_tensors, weights_in

Tensors = dict[str, Tensor]

OPENAI_BLOCK = {
    "ln_1": "norm_attention",
    "attn.out_proj": "attention.out",
    "ln_2": "norm_feedforward",
    "mlp.c_fc": "feedforward.0",
    "mlp.c_proj": "feedforward.2",
}
HUGGING_FACE_BLOCK = {
    "layer_norm1": "norm_attention",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out",
    "layer_norm2": "norm_feedforward",
    "mlp.fc1": "feedforward.0",
    "mlp.fc2": "feedforward.2",
}


@dataclass(frozen=True)
class Pretrained:
    """CLIP's weights under our names."""

    encoder: Tensors  # of `ImageEncoder`
    text_block: Tensors | None  # of a `Block`, the text tower's last; None where there is none


def begin_with(model: Rice, path: Path) -> list[str]:
    """Puts the weights at `path` into the encoder and, where they fit, into the decoder's blocks.

    `path` is a file, or a folder as `save_pretrained` writes it. Returns what the weights went to.
    Raises WeightsError, and then the model is as it was.
    """
    config = model.config
    if config.encoder.stem != "patch":
        raise WeightsError(
            "CLIP's weights are for the patch stem; the recipe's encoder has another"
        )
    found = read_pretrained(path, config.encoder)
    parts = {"encoder": found.encoder}
    if config.token_width == config.encoder.width:
        last = config.encoder.layers - 1
        parts["decoder.self_block"] = _block_of(found.encoder, last - 1)
        parts["decoder.cross_block"] = _block_of(found.encoder, last)
    if config.self_block_from == "text":
        if found.text_block is None:
            raise WeightsError(f"{path}: no text tower of CLIP's kind for the decoder's self block")
        parts["decoder.self_block"] = found.text_block
    for name, weights in parts.items():
        _check_fit(weights, model.get_submodule(name).state_dict(), path, name)
    for name, weights in parts.items():
        model.get_submodule(name).load_state_dict(weights)
    return list(parts)


def read_pretrained(path: Path, config: EncoderConfig) -> Pretrained:
    """Raises WeightsError, also where a folder's config.json tells of another encoder."""
    if path.is_dir():
        _check_config(path, config)
        path = weights_in(path)
    tensors = read_tensors(path)
    try:
        return _pretrained(tensors)
    except KeyError as error:
        raise WeightsError(f"{path} has no {error}: no vision transformer of CLIP") from error


def _pretrained(tensors: Tensors) -> Pretrained:
    if "visual.class_embedding" in tensors:
        text = _last_block(tensors, "transformer.resblocks.")
        text = text or _last_block(tensors, "text.transformer.resblocks.")
        return Pretrained(
            openai_encoder(tensors, "visual."), openai_block(tensors, text) if text else None
        )
    text = _last_block(tensors, "text_model.encoder.layers.")
    return Pretrained(
        hugging_face_encoder(tensors), _hugging_face_block(tensors, text) if text else None
    )


def openai_encoder(tensors: Tensors, prefix: str) -> Tensors:
    """OpenAI's names of a vision transformer, below `prefix`, to ours. Raises KeyError."""
    ours = {
        "class_embedding": tensors[f"{prefix}class_embedding"],
        "positions": tensors[f"{prefix}positional_embedding"],
        "stem.weight": tensors[f"{prefix}conv1.weight"],
        "projection.weight": tensors[f"{prefix}proj"].T.contiguous(),
        **_affine(tensors, f"{prefix}ln_pre", "norm_before"),
        **_affine(tensors, f"{prefix}ln_post", "norm_after"),
    }
    blocks = f"{prefix}transformer.resblocks."
    for number in range(count_blocks(tensors, blocks)):
        block = openai_block(tensors, f"{blocks}{number}.")
        ours |= {f"blocks.{number}.{name}": value for name, value in block.items()}
    return ours


def openai_block(tensors: Tensors, prefix: str) -> Tensors:
    """One residual attention block of OpenAI's, below `prefix`, as our `Block`."""
    ours: Tensors = {}
    for theirs, name in OPENAI_BLOCK.items():
        ours |= _affine(tensors, prefix + theirs, name)
    for kind in ("weight", "bias"):
        stacked = tensors[f"{prefix}attn.in_proj_{kind}"]
        for name, part in zip(("query", "key", "value"), stacked.chunk(3), strict=True):
            ours[f"attention.{name}.{kind}"] = part.contiguous()
    return ours


def hugging_face_encoder(tensors: Tensors) -> Tensors:
    """Hugging Face's names of CLIP's vision tower and projection to ours. Raises KeyError."""
    vision = "vision_model."
    ours = {
        "class_embedding": tensors[f"{vision}embeddings.class_embedding"].flatten(),
        "positions": tensors[f"{vision}embeddings.position_embedding.weight"],
        "stem.weight": tensors[f"{vision}embeddings.patch_embedding.weight"],
        "projection.weight": tensors["visual_projection.weight"],
        **_affine(tensors, f"{vision}pre_layrnorm", "norm_before"),  # their spelling
        **_affine(tensors, f"{vision}post_layernorm", "norm_after"),
    }
    blocks = f"{vision}encoder.layers."
    for number in range(count_blocks(tensors, blocks)):
        block = _hugging_face_block(tensors, f"{blocks}{number}.")
        ours |= {f"blocks.{number}.{name}": value for name, value in block.items()}
    return ours


def _hugging_face_block(tensors: Tensors, prefix: str) -> Tensors:
    ours: Tensors = {}
    for theirs, name in HUGGING_FACE_BLOCK.items():
        ours |= _affine(tensors, prefix + theirs, name)
    return ours


def _block_of(encoder: Tensors, number: int) -> Tensors:
    """One block of our encoder's state dict."""
    start = f"blocks.{number}."
    return {k.removeprefix(start): v for k, v in encoder.items() if k.startswith(start)}


def count_blocks(tensors: Tensors, prefix: str) -> int:
    """How many numbered blocks lie below `prefix`."""
    numbers = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return len(numbers)


def _last_block(tensors: Tensors, prefix: str) -> str | None:
    count = count_blocks(tensors, prefix)
    return f"{prefix}{count - 1}." if count else None


def _affine(tensors: Tensors, theirs: str, ours: str) -> Tensors:
    return {f"{ours}.{kind}": tensors[f"{theirs}.{kind}"] for kind in ("weight", "bias")}


def _check_fit(found: Tensors, expected: Tensors, path: Path, part: str) -> None:
    """Names the tensors that do not fit a part of the model."""
    wrong = []
    for name in sorted(found.keys() | expected.keys()):
        there, here = _shape(found.get(name)), _shape(expected.get(name))
        if there != here:
            wrong.append(f"{part}.{name}: {there} there, {here} in the recipe")
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(f"{path} is of another size: {'; '.join(wrong[:3])}{more}")


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else "x".join(map(str, tensor.shape)) or "one number"


def _check_config(folder: Path, config: EncoderConfig) -> None:
    """Holds what tensors do not tell, heads and activation, against config.json.

    What the file leaves out has Hugging Face's default.
    """
    told = config_in(folder)
    vision = told.get("vision_config", told)
    for field, default, expected in (
        ("num_attention_heads", 12, config.heads),
        ("hidden_act", "quick_gelu", config.activation),
        ("layer_norm_eps", 1e-5, 1e-5),
    ):
        if (there := vision.get(field, default)) != expected:
            raise WeightsError(f"{folder}: {field} is {there} there, {expected} in the recipe")
