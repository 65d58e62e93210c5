"""A bundle read back into the model that it was exported from: the inverse of an export.

Graphs name most weights as the model does, but not all: a linear layer's is transposed and numbered
by the tracer, and a batch norm has become part of its convolution. So the bundle's recipe is traced
anew: what stands in its graph where one of its own weights stands is the bundle's weight. The
golden examples prove it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from training.configs import DetectorRecipe, Recipe
from training.data.transforms import normalise
from training.export.errors import ExportError
from training.export.golden import check_golden, golden_pictures
from training.export.graphs import traced
from training.export.manifest import MANIFEST, TOKENIZER
from training.export.parity import Array, torch_graph
from training.export.precision import HALVED
from training.export.specs import GraphSpec, graph_specs
from training.export.wrappers import Detector, takes_normalised_pixels
from training.models.build import build_model
from training.models.detector import ClipDetector
from training.models.rice import Rice
from training.recipes import recipe_named

EXACT = ("fp32", "fp16-weights")  # the others have rounded ranges, too
FOLDED = ".weight_bias"  # what the tracer calls a norm's part in a convolution
UNLIKE = 81 / 128  # a threshold that is no other number of a detector's graph


def read_bundle(folder: Path) -> checkpoint.Checkpoint:
    """The model with its numbers as the bundle stores them, so of `fp16-weights` rounded, and
    without its detector and patch reconstruction; what else is for training alone (the contrast's
    temperature, SGMN's instance graph) begins anew.

    Raises ExportError where the bundle cannot be read, or is of another model than its recipe
    is today.
    """
    with _telling(folder):
        manifest = _manifest(folder)
        recipe = _recipe(manifest)
        model = _model(recipe, folder)
        kept = checkpoint.of_model(recipe, model, _tokenizer(folder))
        check_golden(graph_specs(model), recipe.model, folder, kept.text_tokenizer(), torch_graph)
    return kept


def read_detector(
    folder: Path, recipe: DetectorRecipe, model: checkpoint.Checkpoint
) -> checkpoint.DetectorCheckpoint:
    """The detector with its numbers as the bundle stores them, and its threshold; `model` is what
    `read_bundle` gave, and `recipe` the detector's, which a bundle does not tell.

    Raises ExportError where the bundle has no detector, has one of int8, or one of another recipe.
    """
    with _telling(folder):
        if "detector" not in _manifest(folder)["graphs"]:
            raise ExportError(f"{folder} has no detector")
        detector, threshold = _detector(recipe, model.recipe, folder)
        found = Detector(detector, threshold, model.recipe.looks_closer)
        specs = graph_specs(model.model(), found)
        tokenizer = model.text_tokenizer()
        check_golden(specs, model.recipe.model, folder, tokenizer, torch_graph)
    return checkpoint.of_detector(recipe, detector, threshold)


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """What goes wrong in reading the bundle becomes an ExportError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        raise ExportError(f"{folder} is no bundle: {error!r}") from error


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return manifest


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
            _fill(spec, _paired(spec, folder, recipe.name))
    filled: Any = specs[0].module
    read = takes_normalised_pixels(filled.model).state_dict()
    unread = {name for name, value in model.state_dict().items() if torch.equal(value, read[name])}
    model.load_state_dict(read | {name: begun[name] for name in unread})
    _set_statistics(model, model.encode_pictures, golden_pictures(folder, recipe.image_size))
    return model


@torch.no_grad()
def _detector(recipe: DetectorRecipe, beside: Recipe, folder: Path) -> tuple[ClipDetector, float]:
    """The recipe's detector in evaluation mode, beside the model of another, and its threshold."""
    torch.manual_seed(recipe.seed)
    detector = ClipDetector(recipe.model).eval()
    _tell_apart(detector)
    found = Detector(detector, UNLIKE, beside.looks_closer)
    *_, spec = graph_specs(build_model(beside.model), found)
    pairs = _paired(spec, folder, recipe.name)
    _fill(spec, pairs)
    threshold = next(float(new) for own, new in pairs if own.value.equal(torch.tensor(UNLIKE)))
    _set_statistics(detector, detector.single, golden_pictures(folder, recipe.image_size))
    return detector, threshold


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


class _Use(NamedTuple):
    """Where a graph computes with floats that it holds."""

    operator: str
    name: str  # of the floats
    value: Tensor


def _paired(spec: GraphSpec, folder: Path, recipe: str) -> list[tuple[_Use, Tensor]]:
    """What the graph computes with as it is traced from its module, and what the bundle's graph of
    that name has there."""
    given = onnx.load(folder / spec.file).graph
    if any(node.op_type == "DequantizeLinear" for node in given.node):
        raise ExportError(f"{spec.file} is of int8: it has lost what it was rounded from")
    ours, theirs = _uses(traced(spec).graph), _uses(given)
    if [(use.operator, use.value.shape) for use in ours] != [
        (use.operator, use.value.shape) for use in theirs
    ]:
        raise ExportError(f"{spec.file} is of another model than the recipe {recipe} is today")
    return [(own, use.value) for own, use in zip(ours, theirs, strict=True)]


def _fill(spec: GraphSpec, pairs: list[tuple[_Use, Tensor]]) -> None:
    """The graph's module with the bundle's weights."""
    weights = dict(spec.module.named_parameters())
    transposed = {_content(each.T): each for each in weights.values() if each.ndim == 2}
    biases = {conv + FOLDED: norm.bias for conv, norm in _normed(spec.module)}
    for (_, name, value), new in pairs:
        if name in weights:
            weights[name].copy_(new)
        elif name in biases:
            biases[name].copy_(new)
        elif (turned := transposed.get(_content(value))) is not None:
            turned.copy_(new.T)


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


def _set_statistics(model: nn.Module, see: Callable[[Tensor], object], pictures: Array) -> None:
    """What the model's norms are told to expect is what they meet as it sees these pictures, uint8
    [B,S,S,3]; in evaluation they do as before."""

    def meet(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean, norm.running_var = mean, variance
        norm.bias.add_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())

    hooks = [norm.register_forward_pre_hook(meet) for _, norm in _normed(model)]
    see(normalise(torch.from_numpy(pictures)))
    for hook in hooks:
        hook.remove()
