"""What an exported folder is made of, and what a failed export leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="exports with torch: the training extra")

import onnx

from service.inference.bundle import Bundle
from tests.contract.bundles import copy_of, fingerprint, read_manifest
from tests.contract.models import export_tiny, random_rice, tiny_rice
from training.export import bundle as exporting
from training.export.bundle import export_bundle, recalibrate_bundle
from training.export.errors import ExportError
from training.export.graphs import write_graphs
from training.export.specs import graph_specs
from training.models.encoder import EncoderConfig
from training.models.rice import RiceConfig

ENCODERS = ("image_encoder", "clip_encoder", "explainer")
ARGUMENTS: dict[str, Any] = {
    "name": "rice-tiny-random",
    "recipe": "tiny_random",
    "fusion": {"coarse": 1.0, "match": 0.1},
    "calibration": {"temperature": 0.1, "none_logit": 5.0, "threshold": 0.5},
    "metrics": {},
}


def load_graph(bundle: Path, name: str) -> onnx.GraphProto:
    return onnx.load(bundle / f"{name}.onnx", load_external_data=False).graph


def external(graph: onnx.GraphProto) -> dict[tuple[str, str], int]:
    """(location, offset) of the graph's external tensors, with their lengths."""
    found = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {item.key: item.value for item in tensor.external_data}
            found[entry["location"], entry["offset"]] = int(entry["length"])
    return found


def test_encoder_weights_are_written_once(tiny_bundle: Path) -> None:
    tensors = [external(load_graph(tiny_bundle, name)) for name in ENCODERS]
    assert {location for each in tensors for location, _ in each} == {"encoder.data"}
    shared = tensors[0].keys() & tensors[1].keys() & tensors[2].keys()
    weights = {key: length for each in tensors for key, length in each.items()}
    file_size = (tiny_bundle / "encoder.data").stat().st_size
    assert sum(weights[key] for key in shared) > 0.7 * file_size
    assert sum(weights.values()) <= file_size < sum(weights.values()) + 64 * len(weights)


def test_only_small_tensors_stay_in_the_encoders_graphs(tiny_bundle: Path) -> None:
    for name in ENCODERS:
        assert (tiny_bundle / f"{name}.onnx").stat().st_size < 40_000
        assert all(
            len(tensor.raw_data) < 1024 for tensor in load_graph(tiny_bundle, name).initializer
        )


def test_attention_is_one_operator_and_batch_norms_are_folded(tiny_bundle: Path) -> None:
    expected = {"image_encoder": 3, "clip_encoder": 2, "explainer": 3, "matcher": 1}
    for name, attentions in expected.items():
        operators = [node.op_type for node in load_graph(tiny_bundle, name).node]
        assert operators.count("Attention") == attentions
        assert operators.count("Softmax") == (1 if name == "explainer" else 0)
        assert "BatchNormalization" not in operators


def test_nothing_tells_of_the_machine_that_exported(tiny_bundle: Path) -> None:
    traces = [str(Path.cwd()), str(Path.home()), sys.prefix, "site-packages", ".py", "torch."]
    for file in tiny_bundle.glob("*.*"):
        if file.suffix in (".onnx", ".json"):
            content = file.read_bytes()
            assert [trace for trace in traces if trace.encode() in content] == []


def test_the_id_ends_in_the_fingerprint_that_anyone_can_compute(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert manifest["bundle_id"] == f"rice-tiny-random-{fingerprint(tiny_bundle, manifest)}"


def test_the_same_weights_give_the_same_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    model = tiny_rice().train()
    again = export_tiny(model, tmp_path / "again")
    assert read_manifest(again) == read_manifest(tiny_bundle)
    assert model.training, "the exporter works on a copy"


def test_other_weights_replace_the_bundle_under_another_id(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    out = copy_of(tiny_bundle, tmp_path)
    (out / "stale.txt").touch()
    export_tiny(random_rice(tiny_rice().config, seed=1), out)
    assert read_manifest(out)["bundle_id"] != read_manifest(tiny_bundle)["bundle_id"]
    assert not (out / "stale.txt").exists()
    assert list(tmp_path.iterdir()) == [out]


def test_a_bundle_is_calibrated_anew_with_its_graphs_as_they_are(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    out = copy_of(tiny_bundle, tmp_path)
    calibration = ARGUMENTS["calibration"] | {"threshold": 0.75}
    fusion = {"coarse": 1.0, "match": 0.25}
    recalibrate_bundle(out, out, fusion=fusion, calibration=calibration, metrics={"r1": 0.5})
    before, found = read_manifest(tiny_bundle), read_manifest(out)
    assert found["bundle_id"] == f"rice-tiny-random-{fingerprint(out, found)}"
    assert found["bundle_id"] != before["bundle_id"]
    changed = {name for name in before if found[name] != before[name]}
    assert changed == {"bundle_id", "fusion", "calibration", "metrics"}
    assert Bundle.load(out).manifest.calibration.threshold == 0.75
    with pytest.raises(ExportError, match="fusion has"):
        recalibrate_bundle(out, out, fusion={"coarse": 1.0}, calibration=calibration, metrics={})
    assert read_manifest(out) == found


def test_graphs_of_other_weights_are_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the exporter, here writing another model, is found before anything is replaced."""
    other = random_rice(tiny_rice().config, seed=1)
    monkeypatch.setattr(
        exporting, "write_graphs", lambda specs, *rest: write_graphs(graph_specs(other), *rest)
    )
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "manifest.json").write_text("what was there")
    with pytest.raises(ExportError, match="torch and onnxruntime differ"):
        export_tiny(tiny_rice(), out)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (out / "manifest.json").read_text() == "what was there"


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ExportError, match="is no bundle"):
        export_tiny(tiny_rice(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("name", "Rice_Grocery", "name is lower case"),
        ("name", "", "name is lower case"),
        ("recipe", "grocery-small", "recipe's name"),
        ("fusion", {"coarse": 1.0}, "fusion has"),
        ("fusion", {"coarse": 1.0, "match": -1.0}, "not negative"),
        ("calibration", {"temperature": 0.0, "none_logit": 0.0, "threshold": 0.5}, "temperature"),
        ("calibration", {"temperature": 1.0, "none_logit": 0.0, "threshold": 1.5}, "threshold"),
        (
            "calibration",
            {"temperature": 1.0, "none_logit": float("nan"), "threshold": 0.5},
            "none_logit is nan",
        ),
        ("metrics", {"r1": float("nan")}, "metrics"),
        ("metrics", {"r1": Path()}, "metrics"),
    ],
)
def test_arguments_are_refused_before_the_work(
    tmp_path: Path, argument: str, value: Any, said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        export_bundle(tiny_rice(), tmp_path / "out", **{**ARGUMENTS, argument: value})
    assert not (tmp_path / "out").exists()


MEMORY = """
import sys
from pathlib import Path
from service.inference.bundle import Bundle
from service.inference.session import Session
from service.settings import InferenceSettings

def private_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

bundle = Bundle.load(Path(sys.argv[1]))
graphs, settings = bundle.manifest.graphs, InferenceSettings(threads=1)
shares = sys.argv[2] == "shared"
def opened(graph):
    return Session(bundle.path, graph, settings, shares_weights=shares)
sessions = [opened(graphs.matcher)]  # the library's own memory is not the weights'
before = private_bytes()
sessions += [opened(graphs.image_encoder), opened(graphs.clip_encoder), opened(graphs.explainer)]
print(private_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_encoder_weights_are_in_memory_once(tmp_path: Path) -> None:
    """Sessions that share weights hold no copy of their own: they map the one file."""
    encoder = EncoderConfig(
        image_size=64, patch_size=16, width=320, layers=4, heads=4, embedding=64
    )
    bundle = export_tiny(random_rice(RiceConfig(encoder, matching_heads=4)), tmp_path / "bundle")
    weights = (bundle / "encoder.data").stat().st_size

    def private_bytes(kind: str) -> int:
        output = subprocess.run(
            [sys.executable, "-c", MEMORY, str(bundle), kind],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return int(output)

    assert private_bytes("shared") < 0.5 * weights
    assert private_bytes("private") > 2 * weights, "repacked weights would be seen"
