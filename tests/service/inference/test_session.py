"""Sessions: the provider that was asked for, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import onnxruntime as ort
import pytest

from service.errors import BundleError, InferenceError, StartupError
from service.inference import session as module
from service.inference.bundle import Bundle
from service.inference.session import Session, cores
from service.settings import InferenceSettings

without_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime has CUDA here"
)


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def open_matcher(bundle: Bundle, settings: InferenceSettings) -> Session:
    return Session(bundle.path, bundle.manifest.graphs.matcher, settings, shares_weights=False)


@without_gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed(
    bundle: Bundle, provider: Literal["cuda", "tensorrt"]
) -> None:
    with pytest.raises(StartupError, match="pip uninstall onnxruntime") as caught:
        open_matcher(bundle, InferenceSettings(provider=provider))
    assert not isinstance(caught.value, BundleError), "the bundle is not at fault"


@without_gpu
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fall_back_to_the_cpu_is_noticed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime-gpu does where CUDA's libraries do not load."""
    monkeypatch.setattr(module, "_check_available", lambda provider: None)
    loaded: list[dict[str, str]] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda **where: loaded.append(where))
    module._load_libraries.cache_clear()
    with pytest.raises(StartupError, match="runs on CPUExecutionProvider, not on CUDA"):
        open_matcher(bundle, InferenceSettings(provider="cuda"))
    assert loaded == [{"directory": ""}], "the wheels of CUDA and cuDNN are looked into first"


def test_a_graph_that_is_not_there(bundle: Bundle, tmp_path: Path) -> None:
    graph = bundle.manifest.graphs.matcher
    with pytest.raises(BundleError, match=r"onnxruntime cannot load matcher\.onnx"):
        Session(tmp_path, graph, InferenceSettings(), shares_weights=False)


def test_a_missing_input_is_an_inference_error(bundle: Bundle) -> None:
    session = open_matcher(bundle, InferenceSettings(threads=1))
    with pytest.raises(InferenceError, match=r"matcher\.onnx could not be run"):
        session.run()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert cores() == 3


def test_nobody_is_told_how_it_is_used() -> None:
    """onnxruntime decides it once, when it is imported."""
    program = "import os, service.inference.session; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True)
    assert done.stdout.split() == [b"1"]
