"""From torch modules to ONNX files: traced with lengths that vary, stripped, weights stored once.

Knows torch.onnx and ONNX's protobuf; not what the graphs compute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset23 as op
from torch.export import Dim

from training.export.errors import ExportError
from training.export.precision import Feed, Precision, in_precision
from training.export.quiet import quiet
from training.export.specs import GraphSpec, TensorSpec

Value = Any  # a value of the graph being built, for which onnxscript has no public type

OPSET = 23  # the first with Attention as one operator; before it, ten with a NaN check a block
WEIGHTS_FILE = "encoder.data"
INLINE_BYTES = 1024  # smaller tensors (shapes, biases) stay in the graph
ALIGNMENT = 64  # a cache line, and what the widest vector instructions want
TRACED_LENGTHS = {
    "batch": 2,
    "clips": 2,
    "frames": 3,
    "candidates": 5,
    "tokens": 7,
    "words": 6,
}


class SharedWeights:
    """`encoder.data`: the tensors of several graphs, each distinct content written once."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / WEIGHTS_FILE
        self._file.touch()
        self._offsets: dict[bytes, int] = {}

    def externalise(self, graph: onnx.GraphProto) -> None:
        """Moves the graph's large initializers into the file."""
        for tensor in graph.initializer:
            content = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(content) >= INLINE_BYTES:
                _point(tensor, self._store(content), len(content))

    def _store(self, content: bytes) -> int:
        digest = hashlib.sha256(content).digest()
        if digest not in self._offsets:
            with self._file.open("ab") as stream:
                stream.write(bytes(-stream.tell() % ALIGNMENT))
                self._offsets[digest] = stream.tell()
                stream.write(content)
        return self._offsets[digest]


def write_graphs(
    specs: list[GraphSpec],
    folder: Path,
    precision: Precision = "fp32",
    examples: Mapping[str, list[Feed]] | None = None,
) -> None:
    """Writes each graph's file and `encoder.data`. Raises ExportError.

    `precision` is the bundle's, from which a graph's own may differ (GraphSpec.in_bundle_of).
    `examples` are inputs by the graph's name, which int8 takes its ranges from.
    """
    weights = SharedWeights(folder)
    for spec in specs:
        model = traced(spec)
        _name_lengths(model.graph, spec)
        if (own := spec.in_bundle_of(precision)) != "fp32":
            shown = (examples or {}).get(spec.name, [])
            model = in_precision(model, own, shown, spec.quantised)
            _strip(model)
        if spec.shares_weights:
            weights.externalise(model.graph)
        (folder / spec.file).write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(folder / spec.file)


def traced(spec: GraphSpec) -> onnx.ModelProto:
    """The graph in full precision, with all weights inside. Raises ExportError."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(tensor.example(TRACED_LENGTHS, generator) for tensor in spec.inputs)
    with quiet("torch.onnx"), torch.no_grad():
        program = torch.onnx.export(
            spec.module.eval(),
            inputs,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=_dynamic_shapes(spec),
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention
            },
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ExportError(f"torch gave no ONNX program for {spec.name}")
    model = program.model_proto
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        raise ExportError(f"{spec.name}: a BatchNorm was not folded into its convolution")
    _strip(model)
    return model


def _attention(  # noqa: PLR0917  torch's signature
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """torch's attention as ONNX's.

    The standard lets a mask broadcast over queries; onnxruntime 1.31 wants that axis written out.
    """
    if dropout_p or is_causal or enable_gqa:
        raise ExportError("attention with dropout, causal masks or shared heads is not exported")
    if attn_mask is not None:
        one: Value = op.Constant(value_ints=[1])
        shape: Value = op.Concat(one, one, op.Shape(query, start=2, end=3), one, axis=0)
        attn_mask = op.Expand(attn_mask, shape)
    attended, *_ = op.Attention(query, key, value, attn_mask, scale=scale)
    return attended


def _dynamic_shapes(spec: GraphSpec) -> tuple[dict[int, Dim], ...]:
    names = {length for tensor in spec.inputs for length in tensor.shape if isinstance(length, str)}
    dims = {name: Dim(name) for name in sorted(names)}
    return tuple(
        {axis: dims[length] for axis, length in enumerate(tensor.shape) if isinstance(length, str)}
        for tensor in spec.inputs
    )


def _strip(model: onnx.ModelProto) -> None:
    """Removes what tells of the machine and the code that exported: stack traces, file names."""
    model.producer_name, model.producer_version, model.doc_string = "lpr", "", ""
    graph = model.graph
    graph.name, graph.doc_string = "lpr", ""
    del graph.value_info[:]
    holders = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""
    if model.functions:
        raise ExportError("the graph calls functions of its own, which are not stripped")


def _name_lengths(graph: onnx.GraphProto, spec: GraphSpec) -> None:
    """Writes the contract's shapes onto inputs and outputs, which torch names its own way."""
    for found, stated in [
        *zip(graph.input, spec.inputs, strict=True),
        *zip(graph.output, spec.outputs, strict=True),
    ]:
        _name_axes(found, stated)


def _name_axes(found: onnx.ValueInfoProto, stated: TensorSpec) -> None:
    axes = found.type.tensor_type.shape.dim
    if found.name != stated.name or len(axes) != len(stated.shape):
        raise ExportError(f"{found.name} of {len(axes)} axes was traced for {stated}")
    for axis, length in zip(axes, stated.shape, strict=True):
        if isinstance(length, str):
            axis.Clear()
            axis.dim_param = length
        elif axis.dim_value != length:
            raise ExportError(f"an axis of {found.name} was traced as {axis}, not {length}")


def _point(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    for content in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(content)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
