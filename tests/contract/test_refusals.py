"""What the service says to bundles that are not what was exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleError
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.settings import InferenceSettings
from tests.contract.bundles import copy_of, edit_json, flip_byte, read_manifest, sign


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_of(tiny_bundle, tmp_path)


def open_model(bundle: Path) -> Model:
    return Model.open(Bundle.load(bundle), InferenceSettings(threads=1))


def nudge(vector: list[float]) -> None:
    """Changes one number, a little: ten times what is allowed at the vector's scale."""
    scale = max(1.0, sum(value**2 for value in vector) ** 0.5 / len(vector) ** 0.5)
    vector[0] += 0.01 * scale


def test_the_exported_bundle_opens(bundle: Path) -> None:
    model = open_model(bundle)
    assert model.manifest.bundle_id == read_manifest(bundle)["bundle_id"]


def test_a_flipped_byte_in_any_file(bundle: Path) -> None:
    names = list(read_manifest(bundle)["files"])
    assert {"encoder.data", "image_encoder.onnx", "golden.json", "golden/0.jpg"} <= set(names)
    for name in names:
        for offset in (0, -1, (bundle / name).stat().st_size // 2):
            flip_byte(bundle / name, offset)
            with pytest.raises(BundleError, match="content differs"):
                Bundle.load(bundle)
            flip_byte(bundle / name, offset)
    Bundle.load(bundle)


def test_a_missing_file(bundle: Path) -> None:
    for name in read_manifest(bundle)["files"]:
        content = (bundle / name).read_bytes()
        (bundle / name).unlink()
        with pytest.raises(BundleError, match=f"lacks {name}"):
            Bundle.load(bundle)
        (bundle / name).write_bytes(content)


@pytest.mark.parametrize("name", ["weights.bin", "golden/9.jpg", ".hidden"])
def test_an_extra_file(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")
    with pytest.raises(BundleError, match=f"not in its manifest: {name}"):
        Bundle.load(bundle)


def test_a_truncated_file(bundle: Path) -> None:
    content = (bundle / "encoder.data").read_bytes()
    (bundle / "encoder.data").write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"encoder\.data"):
        Bundle.load(bundle)


@pytest.mark.parametrize(("part", "field"), [("fusion", "match"), ("calibration", "temperature")])
def test_scores_weighed_otherwise_than_exported(bundle: Path, part: str, field: str) -> None:
    edit_json(bundle / "manifest.json", lambda m: m[part].update({field: 0.7}))
    with pytest.raises(BundleError, match="fingerprint"):
        Bundle.load(bundle)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_wrong_schema_version_is_named(bundle: Path, version: Any) -> None:
    edit_json(bundle / "manifest.json", lambda m: m.update(schema_version=version))
    with pytest.raises(BundleError, match=f"schema version is {version!r}, this service reads 1"):
        Bundle.load(bundle)


def test_a_newer_schema_version_is_named_before_its_new_fields(bundle: Path) -> None:
    edit_json(bundle / "manifest.json", lambda m: m.update(schema_version=2, news=True))
    with pytest.raises(BundleError, match="schema version"):
        Bundle.load(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 1}', "[" * 100_000])
def test_a_broken_manifest(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError):
        Bundle.load(bundle)


def test_a_manifest_that_is_no_text(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="UTF-8"):
        Bundle.load(bundle)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["preprocessing"].update(size=64), "resized to 64"),
        (lambda m: m["dims"].update(match_state=7), "other inputs or outputs"),
        (lambda m: m["graphs"]["matcher"]["inputs"].reverse(), "matcher has other inputs"),
        (lambda m: m.update(golden="absent.json"), r"absent\.json is used"),
        (lambda m: m["graphs"]["matcher"].update(file="absent.onnx"), r"absent\.onnx is used"),
        (lambda m: m.update(bundle_id="rice-other-0123456789ab"), "does not end in"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    bundle: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit_json(bundle / "manifest.json", change)
    with pytest.raises(BundleError, match=said):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: nudge(g["pictures"][1]["embedding"]),
        lambda g: nudge(g["pictures"][0]["match_state"]),
        lambda g: nudge(g["clip"]["logits"]),
        lambda g: g["clip"]["embedding"].reverse(),
        lambda g: g["clip"]["logits"].reverse(),
        lambda g: g["clip"]["logits"].pop(),
        lambda g: g["pictures"][0].update(file="absent.jpg"),
        lambda g: g["pictures"].reverse(),
        lambda g: g["clip"]["frames"].pop(),
        lambda g: g.update(tolerance=1e9),
        lambda g: g.pop("clip"),
        lambda g: g.update(pictures=[]),
    ],
)  # fmt: skip
def test_other_golden_answers_under_right_hashes(
    bundle: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit_json(bundle / "golden.json", change)
    sign(bundle)
    verified = Bundle.load(bundle)
    with pytest.raises(BundleError, match="golden"):
        Model.open(verified, InferenceSettings(threads=1))


def test_another_golden_picture_under_right_hashes(bundle: Path) -> None:
    shutil.copy(bundle / "golden/1.jpg", bundle / "golden/0.jpg")
    sign(bundle)
    with pytest.raises(BundleError, match=r"golden/0\.jpg: differs"):
        open_model(bundle)


def test_a_golden_picture_that_is_none(bundle: Path) -> None:
    (bundle / "golden/0.jpg").write_bytes(b"no picture")
    sign(bundle)
    with pytest.raises(BundleError, match=r"golden/0\.jpg cannot be read"):
        open_model(bundle)


def test_other_weights_under_right_hashes(bundle: Path) -> None:
    weights = bytearray((bundle / "encoder.data").read_bytes())
    weights[: len(weights) // 4] = bytes(len(weights) // 4)
    (bundle / "encoder.data").write_bytes(weights)
    sign(bundle)
    with pytest.raises(BundleError, match="golden example"):
        open_model(bundle)


def test_a_graph_that_is_none_under_right_hashes(bundle: Path) -> None:
    (bundle / "matcher.onnx").write_bytes(b"no graph")
    sign(bundle)
    with pytest.raises(BundleError, match=r"onnxruntime cannot load matcher\.onnx"):
        open_model(bundle)


def test_a_graph_with_other_tensors_under_right_hashes(bundle: Path) -> None:
    shutil.copy(bundle / "explainer.onnx", bundle / "image_encoder.onnx")
    sign(bundle)
    with pytest.raises(BundleError, match=r"image_encoder\.onnx has .* the manifest says"):
        open_model(bundle)


def test_hashes_made_right_again_are_believed(bundle: Path) -> None:
    """So that the refusals above are known to be for what they say."""
    golden = json.loads((bundle / "golden.json").read_text())
    (bundle / "golden.json").write_text(json.dumps(golden, indent=1))
    sign(bundle)
    assert open_model(bundle).manifest.bundle_id.startswith("rice-spoiled-")
