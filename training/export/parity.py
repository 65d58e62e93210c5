"""torch against onnxruntime: every graph, on lengths other than the traced ones.

The torch side is the model itself, the onnxruntime side the written files; both are run by the
same call on named numpy arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

# Its makers are told how it is used, from 1.29 on, unless this is there before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from training.export.errors import ExportError
from training.export.specs import GraphSpec

TOLERANCE = 1e-4  # fp32
ROUNDING = 1  # of a pixel: what lies between two values may be rounded either way
LOSS = {"fp16-weights": 0.003, "fp16": 0.01, "int8": 0.1}
"""Of a lower precision, the share of an output that may be error: both as root mean squares."""
LENGTHS = (
    {"batch": 1, "clips": 1, "frames": 1, "candidates": 1, "tokens": 3, "words": 1},
    {"batch": 3, "clips": 1, "frames": 10, "candidates": 40, "tokens": 130, "words": 9},
    {"batch": 5, "clips": 3, "frames": 4, "candidates": 2, "tokens": 64, "words": 12},
)

Array = npt.NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], list[Array]]
"""Named inputs to outputs in the graph's order."""


def torch_graph(spec: GraphSpec) -> Run:
    """The graph as the model computes it."""

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        tensors = [torch.from_numpy(inputs[tensor.name]) for tensor in spec.inputs]
        with torch.no_grad():
            outputs = spec.module(*tensors)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return [output.numpy() for output in outputs]

    return run


def onnx_graph(spec: GraphSpec, folder: Path) -> Run:
    """The graph as it was written, on the CPU. Raises ExportError when onnxruntime fails."""
    try:
        session = ort.InferenceSession(folder / spec.file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ExportError(f"onnxruntime cannot load {spec.file}: {error}") from error

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        try:
            outputs: list[Array] = session.run(None, dict(inputs))
        except Exception as error:
            raise ExportError(f"onnxruntime cannot run {spec.file}: {error}") from error
        return outputs

    return run


def check_parity(specs: list[GraphSpec], folder: Path, frames: int) -> None:
    """Raises ExportError when torch and onnxruntime differ by more than TOLERANCE. Clips have at
    most `frames` frames, and no graph is asked for more."""
    for spec in specs:
        expected, found = torch_graph(spec), onnx_graph(spec, folder)
        generator = torch.Generator().manual_seed(1)
        for some in LENGTHS:
            lengths = some | {"frames": min(some["frames"], frames)}
            inputs = {
                tensor.name: tensor.example(lengths, generator).numpy() for tensor in spec.inputs
            }
            for tensor, left, right in zip(
                spec.outputs, found(inputs), expected(inputs), strict=True
            ):
                what = f"{spec.name}, {tensor.name}, at {lengths}"
                if tensor.dtype == "uint8":
                    require_pixels(what, left, right)
                else:
                    require_equal(what, left, right, TOLERANCE)


def require_equal(what: str, found: Array, expected: Array, tolerance: float) -> None:
    """Raises ExportError where they differ by more than `tolerance`.

    The tolerance is times the scale (root mean square) of `expected` where that is above 1.
    Embeddings and logits are of scale 1 or near it; keys, values and match states come from a
    residual stream that may be far larger, and float32 is only as exact there as its digits.
    """
    if found.shape != expected.shape:
        raise ExportError(f"{what}: {found.shape} from onnxruntime, {expected.shape} from torch")
    reference = expected.astype(np.float64)
    scale = max(1.0, float(np.sqrt(np.mean(reference**2))))
    difference = float(np.abs(found.astype(np.float64) - reference).max())
    if not difference <= tolerance * scale:  # a NaN fails too
        raise ExportError(
            f"{what}: torch and onnxruntime differ by {difference:.2g}, "
            f"{tolerance * scale:.2g} is allowed"
        )


def require_pixels(what: str, found: Array, expected: Array) -> None:
    """Raises ExportError where uint8 pixels differ by more than their rounding."""
    difference = np.abs(found.astype(int) - expected.astype(int)).max()
    if difference > ROUNDING:
        raise ExportError(f"{what}: torch and onnxruntime differ by {difference} of 255")


def require_near(
    what: str, found: Array, expected: Array, share: float, scale: float = 0.0
) -> None:
    """Raises ExportError where the error is more than `share` of `expected`, or of `scale` where
    that is more."""
    reference = expected.astype(np.float64)
    error = float(np.sqrt(np.mean((found.astype(np.float64) - reference) ** 2)))
    allowed = share * max(scale, float(np.sqrt(np.mean(reference**2))))
    if not error <= allowed:  # a NaN fails too
        raise ExportError(f"{what}: off by {error:.2g} in this precision, {allowed:.2g} is allowed")
