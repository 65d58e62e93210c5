"""Lower precision: int8 for CPUs, fp16 for GPUs; a graph's inputs and outputs stay float32.

`fp16-weights` halves the file alone: onnxruntime makes float32 of the weights when it loads them,
and computes as it does with those.

int8 is static (QDQ, the ranges of activations fixed at the export): a picture's vectors do not
depend on what else is in its batch, as ranges found at run time would make them. Weights have 7
bits, a scale a channel: with 8, the products overflow on x86 CPUs without VNNI, and vectors were
20 % off. Of what gives vectors only products of matrices are lowered: a stem of few channels loses
twice as much by it as all else together (docs/LOG.md). Knows nothing of what the graphs compute.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array, to_array
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from training.export.quiet import quiet

Precision = Literal["fp32", "fp16-weights", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Feed = Mapping[str, npt.NDArray[np.generic]]
"""A graph's named inputs."""

MATRICES = ("MatMul",)
CONVOLUTIONS = ("Conv",)
HALVED = "_fp16"  # ends the names of what `fp16-weights` halves
FEWEST_HALVED = 256  # numbers of a tensor; of fewer, a node more is not worth it


def in_precision(
    model: onnx.ModelProto,
    precision: Precision,
    examples: list[Feed],
    operators: Sequence[str] = MATRICES,
) -> onnx.ModelProto:
    """`model`, which may be changed, in another precision; int8 lowers the `operators`, whose
    ranges `examples` show."""
    if precision == "fp16":
        return _fp16(model)
    if precision == "fp16-weights":
        return _fp16_weights(model)
    return _int8(model, examples, operators) if precision == "int8" else model


def _fp16_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= FEWEST_HALVED:
            name = tensor.name
            halved = to_array(tensor).astype(np.float16)
            tensor.CopyFrom(from_array(halved, name + HALVED))
            casts.append(make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # casts of the inputs were put last
    sorted_model: onnx.ModelProto = converted.model
    return sorted_model


def _int8(
    model: onnx.ModelProto, examples: list[Feed], operators: Sequence[str]
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantised = Path(folder) / "graph.onnx"
        quantize_static(
            model,
            quantised,
            _Examples(examples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=_kept(model.graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": list(MATRICES)},
        )
        return onnx.load(quantised)


def _kept(graph: onnx.GraphProto) -> list[str]:
    """Nodes that stay as they are: products of activations."""
    weights = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in MATRICES and node.input[1] not in weights
    ]


class _Examples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)
