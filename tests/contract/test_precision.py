"""Bundles of lower precision: near the model they are of, and opened by the service."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

import onnx  # noqa: E402

from service.errors import BundleError  # noqa: E402
from service.inference.bundle import Bundle  # noqa: E402
from service.inference.model import Model  # noqa: E402
from service.settings import InferenceSettings  # noqa: E402
from tests.contract.bundles import copy_of, edit_json, read_manifest, sign  # noqa: E402
from tests.contract.models import (  # noqa: E402
    TINY,
    export_reading,
    export_tiny,
    random_rice,
    tiny_detector,
    tiny_rice,
)
from training.data.transforms import normalise  # noqa: E402
from training.export import bundle as exporting  # noqa: E402
from training.export.errors import ExportError  # noqa: E402
from training.export.golden import drawn_pictures  # noqa: E402
from training.export.graphs import write_graphs  # noqa: E402
from training.export.parity import LOSS  # noqa: E402
from training.export.precision import FEWEST_HALVED, Precision  # noqa: E402
from training.export.specs import graph_specs  # noqa: E402
from training.models.matching_decoder import LOGIT_SCALE  # noqa: E402

LOWER = ("fp16-weights", "fp16", "int8")
SETTINGS = InferenceSettings(threads=1)


@pytest.fixture(scope="module", params=LOWER)
def precision(request: pytest.FixtureRequest) -> Precision:
    chosen: Precision = request.param
    return chosen


@pytest.fixture(scope="module")
def bundle(precision: Precision, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lower") / precision
    return export_tiny(tiny_rice(), out, precision=precision)


def share_of_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_service_opens_it_and_is_near_the_model(bundle: Path, precision: str) -> None:
    model = Model.open(Bundle.load(bundle), SETTINGS)
    assert model.manifest.precision == precision
    pictures = drawn_pictures(TINY.encoder.image_size, 60)[-8:]  # beyond those it was ranged by
    found, clip = model.encode_pictures(pictures), model.encode_clip(pictures[:4])
    logits = model.match(found.match_state, clip)
    rice = tiny_rice()
    with torch.inference_mode():
        encoded = rice.encode_pictures(normalise(torch.from_numpy(pictures)))
        mask = torch.ones(1, 4, dtype=torch.bool)
        patches = torch.ones(1, 4, TINY.encoder.patches, dtype=torch.bool)
        clips = rice.encode_clips(normalise(torch.from_numpy(pictures[:4]))[None], mask, patches)
        expected = rice.decoder(encoded.tokens, clips.tokens.expand(8, -1, -1)).logits
    allowed = LOSS[precision]
    assert share_of_error(found.embedding, encoded.embedding.numpy()) < allowed
    assert share_of_error(clip.embedding, clips.embedding[0].numpy()) < allowed
    scale = LOGIT_SCALE[TINY.matching_head]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=allowed * scale)
    assert expected.std() > 1e-2, "the pictures are told apart"


def test_a_vector_does_not_depend_on_the_batch(bundle: Path) -> None:
    model = Model(Bundle.load(bundle), SETTINGS)
    pictures = drawn_pictures(TINY.encoder.image_size, 5)
    loud = np.where(np.indices(pictures[:1].shape).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    alone = model.encode_pictures(pictures[:1])
    among = model.encode_pictures(np.concatenate([pictures, loud]))
    np.testing.assert_allclose(among.embedding[0], alone.embedding[0], rtol=0, atol=2e-3)


def test_weights_are_smaller_and_still_written_once(bundle: Path, tiny_bundle: Path) -> None:
    def size(folder: Path, name: str) -> int:
        return (folder / name).stat().st_size

    whole = size(tiny_bundle, "encoder.data")
    assert size(bundle, "encoder.data") < 0.6 * whole
    assert sum(size(bundle, f"{name}.onnx") for name in read_manifest(bundle)["graphs"]) < 2 * whole


def test_wrong_vectors_are_still_refused(bundle: Path, tmp_path: Path) -> None:
    spoiled = copy_of(bundle, tmp_path)
    weights = bytearray((spoiled / "encoder.data").read_bytes())
    weights[: len(weights) // 4] = bytes(len(weights) // 4)
    (spoiled / "encoder.data").write_bytes(weights)
    sign(spoiled)
    with pytest.raises(BundleError, match="golden example"):
        Model.open(Bundle.load(spoiled), SETTINGS)


def test_a_nudged_golden_answer_is_refused(bundle: Path, tmp_path: Path) -> None:
    def nudge(golden: dict[str, list[dict[str, list[float]]]]) -> None:
        golden["pictures"][0]["embedding"][0] += 0.05

    spoiled = copy_of(bundle, tmp_path)
    edit_json(spoiled / "golden.json", nudge)
    sign(spoiled)
    with pytest.raises(BundleError, match="golden example"):
        Model.open(Bundle.load(spoiled), SETTINGS)


def test_graphs_of_other_weights_are_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = graph_specs(random_rice(TINY, seed=1))
    monkeypatch.setattr(
        exporting, "write_graphs", lambda specs, *arguments: write_graphs(other, *arguments)
    )
    with pytest.raises(ExportError, match="in this precision"):
        export_tiny(tiny_rice(), tmp_path / "bundle", precision="int8")
    assert not (tmp_path / "bundle").exists()


def test_int8_has_integer_weights_of_seven_bits(bundle: Path, precision: str) -> None:
    """With eight, products overflow on x86 CPUs without VNNI. Convolutions stay as they are."""
    if precision != "int8":
        pytest.skip("of int8 alone")
    for name in ("image_encoder", "clip_encoder", "matcher", "explainer"):
        model = onnx.load(bundle / f"{name}.onnx")
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        weights = [t for t in tensors.values() if t.dtype == np.int8 and t.ndim > 1]
        assert weights and all(np.abs(each).max() <= 64 for each in weights)
        floats = {name for name, t in tensors.items() if t.dtype == np.float32 and t.ndim > 1}
        multiplied = {op: _seconds(model.graph, op) for op in ("MatMul", "Conv")}
        assert not multiplied["MatMul"] & floats
        assert multiplied["Conv"] <= floats


def _seconds(graph: onnx.GraphProto, operator: str) -> set[str]:
    """What such nodes multiply with."""
    return {node.input[1] for node in graph.node if node.op_type == operator}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reads and finds, in fp32."""
    return export_reading(tmp_path_factory.mktemp("full") / "bundle", detector=tiny_detector())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_read_and_where_it_is_found_stay_exact(
    precision: Precision, full: Path, tmp_path: Path
) -> None:
    """Text is little work; a detector is lowered where that is asked for."""
    lower = export_reading(tmp_path / "lower", precision, tiny_detector())
    for graph in ("text_encoder.onnx", "detector.onnx"):
        assert (lower / graph).read_bytes() == (full / graph).read_bytes()
    for graph in ("image_encoder.onnx", "clip_encoder.onnx", "matcher.onnx"):
        assert (lower / graph).read_bytes() != (full / graph).read_bytes()
    pictures = drawn_pictures(TINY.encoder.image_size, 4)
    found, exact = (
        Model.open(Bundle.load(each), SETTINGS).encode_clip(pictures, "red shoes")
        for each in (lower, full)
    )
    assert share_of_error(found.embedding, exact.embedding) < LOSS[precision]


@pytest.fixture(scope="module")
def lower_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in fp32 but for its detector, which is in int8."""
    detector = tiny_detector(closer=True)._replace(int8=True)
    return export_tiny(tiny_rice(), tmp_path_factory.mktemp("finds") / "bundle", detector=detector)


def test_a_detector_in_int8_goes_with_exact_vectors(lower_detector: Path) -> None:
    graphs = {
        name: onnx.load(lower_detector / f"{name}.onnx").graph
        for name in ("detector", "image_encoder", "clip_encoder")
    }
    lowered = {
        name for name, graph in graphs.items()
        if any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)
    }  # fmt: skip
    assert lowered == {"detector"}
    tensors = {t.name: t.data_type for t in graphs["detector"].initializer}
    multiplied = _seconds(graphs["detector"], "MatMul") | _seconds(graphs["detector"], "Conv")
    assert onnx.TensorProto.FLOAT not in {tensors.get(name) for name in multiplied}


def test_a_detector_in_int8_is_near_the_model(lower_detector: Path) -> None:
    frames = drawn_pictures(2 * TINY.encoder.image_size, 90)[-TINY.frames :]  # beyond its ranges'
    found = Model.open(Bundle.load(lower_detector), SETTINGS).detect(frames)
    looking = tiny_detector(closer=True).looking(TINY.encoder)
    with torch.inference_mode():
        expected = looking(torch.from_numpy(frames)[None], torch.ones(1, len(frames)).bool())
    assert found is not None
    assert share_of_error(found.boxes, expected.boxes[0].numpy()) < LOSS["int8"]
    assert share_of_error(found.scores, expected.scores[0].numpy()) < LOSS["int8"]


@pytest.mark.parametrize(("nudge", "refused"), [(0.005, False), (0.05, True)])
def test_golden_boxes_of_a_detector_in_int8_have_their_own_tolerance(
    lower_detector: Path, tmp_path: Path, nudge: float, refused: bool
) -> None:
    def move(golden: dict[str, dict[str, list[list[float]]]]) -> None:
        golden["clip"]["boxes"][0][0] += nudge

    moved = copy_of(lower_detector, tmp_path)
    edit_json(moved / "golden.json", move)
    sign(moved)
    with pytest.raises(BundleError, match="the clip's boxes") if refused else nullcontext():
        Model.open(Bundle.load(moved), SETTINGS)


def test_halved_weights_are_all_the_large_ones(tmp_path: Path) -> None:
    path = export_tiny(tiny_rice(), tmp_path / "bundle", "fp16-weights")
    for name in ("image_encoder", "matcher"):
        graph = onnx.load(path / f"{name}.onnx", load_external_data=False).graph
        large = [t for t in graph.initializer if np.prod(t.dims) >= FEWEST_HALVED]
        assert {t.data_type for t in large} == {onnx.TensorProto.FLOAT16}
