"""A bundle's graphs: their modules, and the names and shapes they are called by.

What is told here is written onto the graphs and into the manifest, and the service asks for it by
these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.evaluation.scorers import FRAME_SCORES
from training.export.precision import CONVOLUTIONS, MATRICES, Precision
from training.export.wrappers import (
    ClipEncoderGraph,
    Detector,
    ExplainerGraph,
    ImageEncoderGraph,
    MatcherGraph,
    TextEncoderGraph,
    WeighingClipEncoderGraph,
    takes_raw_pixels,
)
from training.models.looking import Looking
from training.models.rice import Rice, RiceConfig
from training.models.sgmn.model import SgmnConfig
from training.models.text import TextTower

FEWEST_TOKENS = 64  # of any vocabulary


@dataclass(frozen=True)
class TensorSpec:
    """A name in `shape` is a length that varies."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def example(self, lengths: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """A random tensor of this shape. Masks keep their first place: nothing is masked whole."""
        shape = [length if isinstance(length, int) else lengths[length] for length in self.shape]
        if self.dtype == "uint8":
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        if self.dtype == "int64":
            return torch.randint(0, FEWEST_TOKENS, shape, generator=generator)
        if self.dtype == "bool":
            mask = torch.rand(shape, generator=generator) < 0.7
            mask[..., 0] = True
            return mask
        return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class GraphSpec:
    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shares_weights: bool
    """Whether the graph holds the encoder, whose weights all such graphs have in common."""
    lowered: bool = True
    """Whether a bundle of lower precision has the graph in it too, and not in float32."""
    precision: Precision | None = None
    """Its own, whatever the bundle's is."""
    quantised: tuple[str, ...] = MATRICES
    """Operators that int8 lowers."""

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"

    def in_bundle_of(self, precision: Precision) -> Precision:
        """The graph's precision in a bundle of this one: `fp16-weights` is of all graphs."""
        if self.precision is not None:
            return self.precision
        return precision if self.lowered or precision == "fp16-weights" else "fp32"


def graph_specs(model: Rice, detector: Detector | None = None) -> list[GraphSpec]:
    """The four graphs of a bundle, one more of a model that reads, and the detector's."""
    config = model.config
    model = takes_raw_pixels(model)
    specs = [
        _image_encoder(model, config),
        _clip_encoder(model, config, drops=_masks(detector) and model.family == "rice"),
        _matcher(model, config),
        _explainer(model, config),
    ]
    if model.text is not None:
        specs.append(_text_encoder(model.text.tower))
    if detector is not None:
        specs.append(_detector(detector, config))
    return specs


def _masks(detector: Detector | None) -> bool:
    """Whether patches are left out."""
    return detector is not None and not detector.closer


def frame_size(specs: Sequence[GraphSpec], config: RiceConfig) -> int:
    """Side of the frames that are looked at first, in pixels."""
    found = (spec.module.frame_size for spec in specs if isinstance(spec.module, Looking))
    return next(found, config.encoder.image_size)


def state_length(config: RiceConfig) -> int:
    """Of a match state: D, and of a model that reads its title's embedding as well."""
    return config.token_width + (config.text.embedding if config.text else 0)


def _image_encoder(model: Rice, config: RiceConfig) -> GraphSpec:
    return GraphSpec(
        "image_encoder",
        ImageEncoderGraph(model),
        (_pixels("pictures", config, "batch"), *_title(config)),
        (
            _floats("embedding", "batch", config.encoder.embedding),
            _floats("match_state", "batch", state_length(config)),
        ),
        shares_weights=True,
    )


def _clip_encoder(model: Rice, config: RiceConfig, *, drops: bool) -> GraphSpec:
    width = config.token_width
    kind = WeighingClipEncoderGraph if scores_of(config) else ClipEncoderGraph
    return GraphSpec(
        "clip_encoder",
        kind(model, drops=drops),
        (
            *_frames(config),
            _bools("patch_mask", "clips", "frames", config.encoder.patches),
            *scores_of(config),
            *_speech(config),
        ),
        (
            _floats("embedding", "clips", config.encoder.embedding),
            _floats("keys", "clips", "tokens", width),
            _floats("values", "clips", "tokens", width),
            _bools("token_mask", "clips", "tokens"),
        ),
        shares_weights=True,
    )


def _matcher(model: Rice, config: RiceConfig) -> GraphSpec:
    return GraphSpec(
        "matcher",
        MatcherGraph(model),
        (
            _floats("match_state", "candidates", state_length(config)),
            _floats("keys", "tokens", config.token_width),
            _floats("values", "tokens", config.token_width),
            _bools("token_mask", "tokens"),
        ),
        (_floats("logit", "candidates"),),
        shares_weights=False,
    )


def _explainer(model: Rice, config: RiceConfig) -> GraphSpec:
    return GraphSpec(
        "explainer",
        ExplainerGraph(model),
        (
            _pixels("pictures", config, "batch"),
            _floats("keys", "tokens", config.token_width),
            _bools("token_mask", "tokens"),
            *_title(config),
        ),
        (_floats("attention", "batch", 1 + config.encoder.patches, "tokens"),),
        shares_weights=True,
    )


def _text_encoder(tower: TextTower) -> GraphSpec:
    return GraphSpec(
        "text_encoder",
        TextEncoderGraph(tower),
        (TensorSpec("token_ids", "int64", ("batch", "words")), _bools("mask", "batch", "words")),
        (
            _floats("word_tokens", "batch", "words", tower.config.width),
            _floats("text_embedding", "batch", tower.config.embedding),
        ),
        shares_weights=False,
        lowered=False,  # a hundredth of the work, and no pictures show it its ranges
    )


def _detector(detector: Detector, config: RiceConfig) -> GraphSpec:
    looking = detector.looking(config.encoder)
    side = looking.frame_size
    return GraphSpec(
        "detector",
        looking,
        (
            TensorSpec("frames", "uint8", ("clips", "frames", side, side, 3)),
            _bools("frame_mask", "clips", "frames"),
        ),
        (
            _floats("boxes", "clips", "frames", 4),
            _floats("scores", "clips", "frames"),
            _bools("found", "clips", "frames"),
            _bools("patch_mask", "clips", "frames", config.encoder.patches),
            _floats("views", "clips", "frames", 4),
            _pixels("pixels", config, "clips", "frames"),
        ),
        shares_weights=False,
        lowered=False,
        precision="int8" if detector.int8 else None,
        quantised=(*MATRICES, *CONVOLUTIONS),  # boxes bear it, stem and all (docs/LOG.md)
    )


def _title(config: RiceConfig) -> tuple[TensorSpec, ...]:
    """What graphs of products take of a model that reads."""
    if config.text is None:
        return ()
    embedding = _floats("title_embedding", "batch", config.text.embedding)
    return (embedding, _bools("has_title", "batch"))


def scores_of(config: RiceConfig) -> tuple[TensorSpec, ...]:
    """What the graph of clips takes of a model that weighs frames by a detector's scores."""
    if not (isinstance(config, SgmnConfig) and config.frame_graph and config.detected):
        return ()
    return (_floats(FRAME_SCORES, "clips", "frames"),)


def _speech(config: RiceConfig) -> tuple[TensorSpec, ...]:
    """What the graph of clips takes of a model that reads."""
    if config.text is None:
        return ()
    return (
        _floats("speech_tokens", "clips", "words", config.text.width),
        _bools("speech_mask", "clips", "words"),
        _floats("speech_embedding", "clips", config.text.embedding),
    )


def _frames(config: RiceConfig) -> tuple[TensorSpec, ...]:
    return (
        _pixels("frames", config, "clips", "frames"),
        _bools("frame_mask", "clips", "frames"),
    )


def _pixels(name: str, config: RiceConfig, *lengths: str) -> TensorSpec:
    size = config.encoder.image_size
    return TensorSpec(name, "uint8", (*lengths, size, size, 3))


def _floats(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def _bools(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "bool", shape)
