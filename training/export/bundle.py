"""Exports a model: the graphs, the golden examples and the manifest of one bundle.

The whole is written and proven in a folder beside, and takes its place only then: a failed export
leaves what was there before.
"""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from training.data.tokenizing import TextTokenizer
from training.export.errors import ExportError
from training.export.golden import (
    check_golden,
    drawn_pictures,
    examples_for_detector,
    examples_of,
    write_golden,
)
from training.export.graphs import write_graphs
from training.export.manifest import MANIFEST, TOKENIZER, rewrite_manifest, write_manifest
from training.export.parity import Array, check_parity
from training.export.precision import Feed, Precision
from training.export.specs import graph_specs
from training.export.wrappers import Detector
from training.models.rice import Rice, RiceConfig

FUSION, TEXT_FUSION = ("coarse", "match"), ("weight", "scale", "doubt")
CALIBRATION = ("temperature", "none_logit", "threshold")
DRAWN = 40  # pictures that stand in where none are given

Module = TypeVar("Module", bound=nn.Module)


def export_bundle(
    model: Rice,
    out: Path,
    *,
    name: str,
    recipe: str,
    fusion: Mapping[str, Any],
    calibration: Mapping[str, float],
    metrics: Mapping[str, Any],
    tokenizer: TextTokenizer | None = None,
    precision: Precision = "fp32",
    pictures: Array | None = None,
    detector: Detector | None = None,
) -> Path:
    """Writes the bundle of `model` to the folder `out`, which it replaces; returns `out`.

    - `name` begins the bundle's id: lower case, digits, hyphens.
    - `fusion` has coarse and match, and where the model reads text, with its weight, scale and
      doubt; `calibration` temperature,
      none_logit and threshold; `metrics` is any JSON object.
    - `tokenizer` is what a model that reads was trained with.
    - `pictures`, uint8 [B,S,S,3] of the kind that is served, show int8 the ranges of activations;
      without them drawn ones do.
    - `detector` says what of a clip is looked at.

    The model itself is left as it is. Raises ExportError, and then `out` is as it was.
    """
    _check_parts(model, tokenizer, detector)
    _check_arguments(name, recipe, fusion, calibration, metrics, reads=model.text is not None)
    check_replaceable(out)
    model = _at_rest(model)
    if detector is not None:
        detector = detector._replace(model=_at_rest(detector.model))
    specs = graph_specs(model, detector)
    examples: dict[str, list[Feed]] = {}
    if precision == "int8":
        if pictures is None:
            pictures = drawn_pictures(model.config.encoder.image_size, DRAWN)
        examples |= examples_of(specs, model.config, pictures, tokenizer)
    if detector is not None and detector.int8:
        examples |= examples_for_detector(specs, model.config, detector.clips)
    with _folder_for(out) as folder:
        write_graphs(specs, folder, precision, examples)
        exact = [spec for spec in specs if spec.in_bundle_of(precision) == "fp32"]
        check_parity(exact, folder, model.config.frames)  # the golden examples prove the others
        write_golden(specs, model.config, folder, tokenizer, precision)
        check_golden(specs, model.config, folder, tokenizer)
        if tokenizer is not None:
            (folder / TOKENIZER).write_text(tokenizer.definition + "\n", encoding="utf-8")
        write_manifest(
            folder,
            specs,
            model,
            name=name,
            recipe=recipe,
            parameters=_parameters(model) + (_parameters(detector.model) if detector else 0),
            precision=precision,
            fusion=fusion,
            calibration=calibration,
            metrics=metrics,
        )
    return out


def recalibrate_bundle(
    bundle: Path,
    out: Path,
    *,
    fusion: Mapping[str, Any],
    calibration: Mapping[str, float],
    metrics: Mapping[str, Any],
) -> Path:
    """Writes to `out` the bundle with the same graphs that decides by these; returns `out`, which
    may be the bundle itself. Raises ExportError, and then `out` is as it was."""
    _check_decisions(fusion, calibration, metrics, reads=(bundle / TOKENIZER).is_file())
    check_replaceable(out)
    with _folder_for(out) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        rewrite_manifest(folder, fusion=fusion, calibration=calibration, metrics=metrics)
    return out


def _at_rest(model: Module) -> Module:
    """A copy on the CPU, in full precision and evaluation mode."""
    return copy.deepcopy(model).cpu().float().eval()


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_parts(model: Rice, tokenizer: TextTokenizer | None, detector: Detector | None) -> None:
    """What goes with a model."""
    if (model.text is None) != (tokenizer is None):
        raise ExportError("a model that reads text goes with its tokenizer, and no other does")
    if detector is not None:
        _check_detector(detector, model.config)


def _check_detector(detector: Detector, model: RiceConfig) -> None:
    found = detector.model.config
    if found.frames < model.frames:
        raise ExportError(f"the detector sees {found.frames} frames, the model {model.frames}")
    if not 0 <= detector.threshold <= 1:
        raise ExportError(f"the detector's threshold is a score, not {detector.threshold}")


def _check_arguments(
    name: str,
    recipe: str,
    fusion: Mapping[str, Any],
    calibration: Mapping[str, float],
    metrics: Mapping[str, Any],
    *,
    reads: bool,
) -> None:
    check_name(name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", recipe):
        raise ExportError(f"a recipe's name is lower case, digits and underscores, not {recipe!r}")
    _check_decisions(fusion, calibration, metrics, reads=reads)


def check_name(name: str) -> None:
    """Raises ExportError."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ExportError(f"a bundle's name is lower case, digits and hyphens, not {name!r}")


def _check_decisions(
    fusion: Mapping[str, Any],
    calibration: Mapping[str, float],
    metrics: Mapping[str, Any],
    *,
    reads: bool,
) -> None:
    _check_fusion(fusion, reads=reads)
    _check_numbers("calibration", calibration, CALIBRATION)
    if calibration["temperature"] <= 0 or not 0 <= calibration["threshold"] <= 1:
        raise ExportError("calibration: temperature is above 0, threshold between 0 and 1")
    try:
        json.dumps(metrics, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"metrics cannot be written as JSON: {error}") from error


def _check_fusion(fusion: Mapping[str, Any], *, reads: bool) -> None:
    text = fusion.get("text") if reads else None
    weights = {name: value for name, value in fusion.items() if text is None or name != "text"}
    _check_numbers("fusion", weights, FUSION)
    if reads:
        _check_numbers("fusion's text", text or {}, TEXT_FUSION)
    if min(*weights.values(), text["weight"] if text else 0) < 0:
        raise ExportError("fusion's weights are not negative")
    if text and not (text["scale"] > 0 and 0 < text["doubt"] < 1):
        raise ExportError("fusion's text: scale is above 0, doubt between 0 and 1")


def _check_numbers(what: str, values: Mapping[str, float], names: tuple[str, ...]) -> None:
    if set(values) != set(names):
        raise ExportError(f"{what} has {sorted(names)}, not {sorted(values)}")
    for name, value in values.items():
        if not math.isfinite(value):
            raise ExportError(f"{what}: {name} is {value}")


def check_replaceable(out: Path) -> None:
    """Only a bundle, or nothing, is ever replaced: `out` may be a mistyped path. Raises
    ExportError."""
    is_bundle = (out / MANIFEST).is_file()
    is_empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not (is_bundle or is_empty):
        raise ExportError(f"{out} exists and is no bundle: remove it, or export elsewhere")


@contextmanager
def _folder_for(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()  # by the umask: the scratch folder itself is the exporter's alone
        yield folder
        _replace(out, folder, aside=Path(scratch) / "old")


def _replace(out: Path, folder: Path, aside: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        aside.rename(out)
        raise
