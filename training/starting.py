"""How a model begins with the weights of a checkpoint: of its own kind, or with fewer parts.

A model that reads, rebuilds or has graphs may begin with one that only sees: what the two have in
common is loaded. Further parts are random; SGMN's graphs, which stand in the way from a clip to its
embedding, change nothing at first, or the embedding would be lost. Nothing else may differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from training.checkpoint import Checkpoint, CheckpointError, resized
from training.configs import Recipe
from training.models.rice import Rice
from training.models.sgmn.frame_graph import FrameGraph
from training.models.sgmn.instance_graph import InstanceGraph

# Fields of a model's config, and the modules of that name, which another model may lack.
PARTS = ("text", "reconstruction", "text_guidance", "frame_graph", "instance_graph")
# Further fields, which say what a part is like.
OF_PART = {"text": ("text_tokens",), "frame_graph": ("frame_width", "frame_heads", "detected")}


def begin_with(model: Rice, recipe: Recipe, start: Checkpoint) -> None:
    """Loads `start` into the recipe's model. Weights for another picture size fit too: positions
    are interpolated. Raises CheckpointError where `start` is of another model."""
    if differing := _differing(start.recipe, recipe):
        raise CheckpointError(
            f"the starting weights are of another model, {start.recipe.name}: it differs in "
            f"{', '.join(differing)}"
        )
    weights = resized(start, recipe.image_size).group("model")
    try:
        missing, surplus = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # torch's, of other shapes
        raise CheckpointError(f"the starting weights do not fit: {error}") from error
    new = set(PARTS) - {name.partition(".")[0] for name in weights}
    begin_silently(model, new)
    lacking = [name for name in missing if name.partition(".")[0] not in new]
    if surplus or lacking:
        raise CheckpointError(
            f"the starting weights are of another model, {start.recipe.name}: they lack "
            f"{_told(lacking)}, and only they have {_told(surplus)}"
        )


def begin_silently(model: Rice, parts: Iterable[str] = PARTS) -> None:
    """Those of the parts that stand in the way from a clip to its embedding change nothing."""
    for part in parts:
        new = getattr(model, part, None)
        if isinstance(new, FrameGraph | InstanceGraph):
            new.begin_silent()


def reduced(start: Checkpoint, recipe: Recipe) -> Checkpoint:
    """The checkpoint without the parts that the recipe's model lacks, and without a frame graph of
    another kind, which begins anew."""
    theirs, ours = _shapes(start.recipe), _shapes(recipe)
    another = any(theirs.get(name) != ours.get(name) for name in OF_PART["frame_graph"])
    kept = {part for part in PARTS if ours.get(part)} - ({"frame_graph"} if another else set())
    left_out = [part for part in PARTS if theirs.get(part) and part not in kept]
    without = {part: None if part in ("text", "reconstruction") else False for part in left_out}
    model = replace(start.recipe.model, **without)  # type: ignore[arg-type]
    weight = start.recipe.reconstruction_weight if model.reconstruction else 0.0
    pictured = start.recipe.pictured_talk and "text_guidance" not in left_out
    tensors = {
        name: value
        for name, value in start.tensors.items()
        if not name.startswith(tuple(f"model.{part}." for part in left_out))
    }
    return replace(
        start,
        recipe=replace(
            start.recipe, model=model, reconstruction_weight=weight, pictured_talk=pictured
        ),
        tensors=tensors,
        tokenizer=start.tokenizer if model.text else None,
    )


def _differing(start: Recipe, recipe: Recipe) -> list[str]:
    """Fields of both models that are not of a part which `start` lacks."""
    theirs, ours = _shapes(start), _shapes(recipe)
    lacked = {part for part in PARTS if not theirs.get(part)}
    lacked |= {name for part in lacked for name in OF_PART.get(part, ())}  # is said of nothing
    return [
        name
        for name, value in theirs.items()
        if name in ours.keys() - lacked and value != ours[name]
    ]


def _shapes(recipe: Recipe) -> dict[str, Any]:
    """The model's config, but for what its weights, positions aside, do not depend on."""
    encoder = replace(
        recipe.model.encoder, image_size=recipe.model.encoder.patch_size, drop_path=0.0
    )
    model = replace(recipe.model, encoder=encoder, attention_dropout=0.0)
    return {each.name: getattr(model, each.name) for each in fields(model)}


def _told(names: list[str]) -> str:
    return f"{names[0]} and others" if len(names) > 1 else "".join(names) or "nothing"
