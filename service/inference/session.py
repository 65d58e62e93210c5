"""One ONNX graph ready to run: onnxruntime, and nothing of it beyond this file.

Knows providers, session options and onnxruntime's exceptions; not what the graphs mean.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

# Its makers are told how it is used, from 1.29 on, unless this is there before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from service import deadlines
from service.cores import cores
from service.errors import BundleError, InferenceError, StartupError
from service.inference.manifest import Graph, Tensor
from service.settings import InferenceSettings

Array = npt.NDArray[Any]

# The provider asked for comes first; onnxruntime adds the CPU for what that one cannot run.
# TF32 would miss the golden examples; the arena must not double itself for each new shape.
_CUDA = (
    "CUDAExecutionProvider",
    {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"},
)
_PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "cpu": [("CPUExecutionProvider", {})],
    "cuda": [_CUDA],
    "tensorrt": [("TensorrtExecutionProvider", {}), _CUDA],
}
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
}


class Session:
    """A graph on its provider. Safe to run from several threads."""

    def __init__(
        self, folder: Path, graph: Graph, settings: InferenceSettings, *, shares_weights: bool
    ) -> None:
        """Opens `folder / graph.file`.

        `shares_weights`: other sessions map the same weights file, so none may repack it.
        Raises StartupError when the provider asked for is not the one that runs, BundleError when
        onnxruntime refuses the graph or the graph's inputs and outputs are not the manifest's.
        """
        self._graph = graph
        providers = _PROVIDERS[settings.provider]
        _check_available(providers[0][0])
        if settings.provider != "cpu":
            _load_libraries()
        try:
            self._session = ort.InferenceSession(
                folder / graph.file,
                sess_options=_options(settings, shares_weights=shares_weights),
                providers=providers,
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise BundleError(f"onnxruntime cannot load {graph.file}: {error}") from error
        self._session.disable_fallback()
        self.providers: list[str] = self._session.get_providers()
        if self.providers[0] != providers[0][0]:
            raise StartupError(
                f"{graph.file} runs on {self.providers[0]}, not on {providers[0][0]}: "
                "see onnxruntime's log for the library it misses"
            )
        _check_tensors(graph.file, graph.inputs, self._session.get_inputs())
        _check_tensors(graph.file, graph.outputs, self._session.get_outputs())

    def run(self, **inputs: Array) -> list[Array]:
        """Outputs in the manifest's order.

        Raises InferenceError; onnxruntime's own words are its cause, for the log and no caller.
        Not begun once the request is over: raises as `deadlines.check` does.
        """
        deadlines.check()
        names = [output.name for output in self._graph.outputs]
        try:
            outputs: list[Array] = self._session.run(names, inputs)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise InferenceError(f"{self._graph.file} could not be run; try again") from error
        return outputs


def _options(settings: InferenceSettings, *, shares_weights: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads or cores()
    options.inter_op_num_threads = 1
    # Each session has threads of its own; those of an idle one must not burn the others' cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if shares_weights:
        # Repacked weights are a private copy; without it a session reads the mapped file itself,
        # and however many sessions map it, it is in memory once.
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _check_available(provider: str) -> None:
    available = ort.get_available_providers()
    if provider not in available:
        raise StartupError(
            f"this onnxruntime has no {provider} (only {', '.join(available)}). The packages "
            "onnxruntime and onnxruntime-gpu bring one module, so the one must go for the other: "
            "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'. "
            "Or set LPR_INFERENCE__PROVIDER=cpu"
        )


@cache
def _load_libraries() -> None:
    """Load CUDA and cuDNN from their wheels, which the dynamic linker does not look into."""
    ort.preload_dlls(directory="")


def _check_tensors(file: str, stated: Sequence[Tensor], actual: Sequence[ort.NodeArg]) -> None:
    found = [(arg.name, _DTYPES.get(arg.type, arg.type), tuple(arg.shape)) for arg in actual]
    expected = [(tensor.name, tensor.dtype, tensor.shape) for tensor in stated]
    if found != expected:
        raise BundleError(f"{file} has {found}, the manifest says {expected}")
