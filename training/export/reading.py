"""A bundle read back into the model that it was exported from: the inverse of an export.

Graphs name most weights as the model does, but not all: a linear layer's is transposed and numbered
by the tracer, and a batch norm has become part of its convolution. So the bundle's recipe is traced
anew: what stands in its graph where one of its own weights stands is the bundle's weight. The
golden examples prove it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from training import checkpoint
from training.configs import Recipe
from training.data.transforms import normalise
from training.export.errors import ExportError
from training.export.golden import check_golden, golden_pictures
from training.export.graphs import traced
from training.export.manifest import MANIFEST, TOKENIZER
from training.export.parity import Array, torch_graph
from training.export.precision import HALVED
from training.export.specs import GraphSpec, graph_specs
from training.export.wrappers import takes_normalised_pixels
from training.models.build import build_model
from training.models.rice import Rice
from training.recipes import recipe_named

EXACT = ("fp32", "fp16-weights")  # the others have rounded ranges, too
FOLDED = ".weight_bias"  # what the tracer calls a norm's part in a convolution


def read_bundle(folder: Path) -> checkpoint.Checkpoint:
    """The model with its numbers as the bundle stores them, so of `fp16-weights` rounded, and
    without its detector and patch reconstruction; what else is for training alone (the contrast's
    temperature, SGMN's instance graph) begins anew.

    Raises ExportError where the bundle cannot be read, or is of another model than its recipe
    is today.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        recipe = _recipe(manifest)
        model = _model(recipe, folder)
        kept = checkpoint.of_model(recipe, model, _tokenizer(folder))
        check_golden(graph_specs(model), recipe.model, folder, kept.text_tokenizer(), torch_graph)
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        raise ExportError(f"{folder} is no bundle: {error!r}") from error
    return kept


def _recipe(manifest: Mapping[str, Any]) -> Recipe:
    """The run that the bundle stands for, without what its graphs do not hold."""
    if (precision := manifest["precision"]) not in EXACT:
        raise ExportError(f"a bundle of {precision} has lost what it was rounded from")
    recipe = recipe_named(manifest["model"]["recipe"]).at_size(manifest["dims"]["image_size"])
    if "detector" in manifest["graphs"] and not recipe.looks_closer:
        raise ExportError("graphs that drop the patches outside boxes are not read back")
    model = replace(recipe.model, reconstruction=None)
    return replace(recipe, model=model, reconstruction_weight=0.0)


def _tokenizer(folder: Path) -> str | None:
    path = folder / TOKENIZER
    return path.read_text(encoding="utf-8").rstrip("\n") if path.exists() else None


@torch.no_grad()
def _model(recipe: Recipe, folder: Path) -> Rice:
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model).eval()
    begun = copy.deepcopy(model.state_dict())
    _tell_apart(model)
    specs = graph_specs(model)
    for spec in specs:
        if spec.name != "explainer":  # which has no weights of its own
            _fill(spec, folder)
    filled: Any = specs[0].module
    read = takes_normalised_pixels(filled.model).state_dict()
    unread = {name for name, value in model.state_dict().items() if torch.equal(value, read[name])}
    model.load_state_dict(read | {name: begun[name] for name in unread})
    _set_statistics(model, golden_pictures(folder, recipe.image_size))
    return model


def _tell_apart(model: nn.Module) -> None:
    """Weights of which no two are alike, and norms that change nothing of their convolutions."""
    for name, weight in model.named_parameters():
        if not name.endswith("temperature"):
            weight.normal_()
    for _, norm in _normed(model):
        norm.weight.fill_((1 + norm.eps) ** 0.5)


def _normed(model: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    """Each batch norm, and the name of the convolution before it."""
    found, before = [], ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            before = name
        elif isinstance(module, nn.BatchNorm2d):
            found.append((before, module))
    return found


def _fill(spec: GraphSpec, folder: Path) -> None:
    """The graph's module with the weights of the bundle's graph, traced from another like it."""
    weights = dict(spec.module.named_parameters())
    transposed = {_content(each.T): each for each in weights.values() if each.ndim == 2}
    biases = {conv + FOLDED: norm.bias for conv, norm in _normed(spec.module)}
    own, given = _uses(traced(spec).graph), _uses(onnx.load(folder / spec.file).graph)
    if [(use.operator, use.value.shape) for use in own] != [
        (use.operator, use.value.shape) for use in given
    ]:
        raise ExportError(f"{spec.file} is of another model than its recipe is today")
    for (_, name, value), (*_, new) in zip(own, given, strict=True):
        if name in weights:
            weights[name].copy_(new)
        elif name in biases:
            biases[name].copy_(new)
        elif (turned := transposed.get(_content(value))) is not None:
            turned.copy_(new.T)


class _Use(NamedTuple):
    """Where a graph computes with floats that it holds."""

    operator: str
    name: str  # of the floats
    value: Tensor


def _uses(graph: onnx.GraphProto) -> list[_Use]:
    """In the order of the computation; alike weights of different layers may be one tensor."""
    held = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    floats = {
        name.removesuffix(HALVED): torch.from_numpy(array.astype(np.float32))
        for name, array in held.items()
        if array.dtype in (np.float16, np.float32)
    }
    return [
        _Use(node.op_type, name, floats[name])
        for node in graph.node
        for name in node.input
        if name in floats
    ]


def _content(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def _set_statistics(model: Rice, pictures: Array) -> None:
    """What norms are told to expect is what they meet in these pictures, uint8 [B,S,S,3]; in
    evaluation they do as before."""

    def meet(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean, norm.running_var = mean, variance
        norm.bias.add_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())

    hooks = [norm.register_forward_pre_hook(meet) for _, norm in _normed(model)]
    model.encode_pictures(normalise(torch.from_numpy(pictures)))
    for hook in hooks:
        hook.remove()
