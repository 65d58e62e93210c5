"""The JSON Schema is the contract; the exporter writes to it, the service reads by it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from service.inference.manifest import Manifest
from tests.contract.bundles import read_manifest

SCHEMA = json.loads((Path(__file__).parent / "manifest.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

TENSOR = {"name": "pictures", "dtype": "uint8", "shape": ["batch", 8, 8, 3]}
GRAPH = {"file": "graph.onnx", "inputs": [TENSOR], "outputs": []}
MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "bundle_id": "rice-tiny-0123456789ab",
    "model": {"family": "rice", "recipe": "tiny", "parameters": 12},
    "precision": "fp32",
    "dims": {"image_size": 8, "frames": 10, "patches": 4, "embedding": 6, "match_state": 5},
    "preprocessing": {
        "resize": "shorter-side",
        "size": 8,
        "filter": "bicubic",
        "crop": "centre",
    },
    "files": {"graph.onnx": {"sha256": "0f" * 32, "bytes": 0}},
    "graphs": {
        "image_encoder": GRAPH,
        "clip_encoder": GRAPH,
        "matcher": GRAPH,
        "explainer": GRAPH,
    },
    "fusion": {"coarse": 1.0, "match": 0.1},
    "calibration": {"temperature": 0.1, "none_logit": -5.0, "threshold": 0.5},
    "metrics": {"protocol": "none", "r1": 0.5, "by_family": {"juice": [0.1, None, True]}},
    "golden": "golden.json",
}

TEXT = {
    "tokenizer": "tokenizer.json",
    "max_characters": 4000,
    "max_tokens": 64,
    "width": 32,
    "embedding": 24,
}
TEXT_FUSION = {"weight": 0.5, "scale": 16.0, "doubt": 0.2}
GONE = object()

ACCEPTED: list[tuple[str, Any]] = [
    ("fusion/match", 0),
    ("calibration/temperature", 3),
    ("calibration/none_logit", -1000),
    ("calibration/threshold", 1),
    ("precision", "fp16-weights"),
    ("precision", "fp16"),
    ("precision", "int8"),
    ("metrics", {}),
    ("files", {}),
    ("files/golden~10.jpg", {"sha256": "0" * 64, "bytes": 1}),
    ("golden", "folder/golden-1_2.json"),
    ("graphs/matcher/inputs", []),
    ("graphs/matcher/inputs/0/shape", []),
    ("bundle_id", "r-0123456789ab"),
    ("text", TEXT),
    ("fusion/text", TEXT_FUSION),
    ("fusion/text", TEXT_FUSION | {"weight": 0}),
    ("graphs/text_encoder", GRAPH),
    ("graphs/detector", GRAPH),
    ("graphs/matcher/inputs/0/dtype", "int64"),
]
REFUSED: list[tuple[str, Any]] = [
    *((name, GONE) for name in MANIFEST),
    *((f"dims/{name}", GONE) for name in MANIFEST["dims"]),
    *((f"graphs/{name}", GONE) for name in MANIFEST["graphs"]),
    *((f"calibration/{name}", GONE) for name in MANIFEST["calibration"]),
    *((f"preprocessing/{name}", GONE) for name in MANIFEST["preprocessing"]),
    *((f"preprocessing/{name}", "other") for name in MANIFEST["preprocessing"]),
    *(("text", {key: value for key, value in TEXT.items() if key != name}) for name in TEXT),
    ("text", None),
    ("text", TEXT | {"max_tokens": 0}),
    ("text", TEXT | {"tokenizer": "../tokenizer.json"}),
    ("text", TEXT | {"surplus": 1}),
    *(("fusion/text", {k: v for k, v in TEXT_FUSION.items() if k != name}) for name in TEXT_FUSION),
    ("fusion/text", TEXT_FUSION | {"surplus": 1}),
    ("fusion/text", TEXT_FUSION | {"weight": -1}),
    ("fusion/text", TEXT_FUSION | {"scale": 0}),
    ("fusion/text", TEXT_FUSION | {"doubt": 0}),
    ("fusion/text", TEXT_FUSION | {"doubt": 1}),
    ("fusion/text", 0.5),
    ("fusion/text", None),
    ("graphs/text_encoder", None),
    ("surplus", 1),
    ("dims/surplus", 1),
    ("graphs/surplus", GRAPH),
    ("graphs/detector", None),
    ("graphs/matcher/surplus", 1),
    ("graphs/matcher/inputs/0/surplus", 1),
    ("files/graph.onnx/surplus", 1),
    ("schema_version", 2),
    ("schema_version", "1"),
    ("schema_version", None),
    ("bundle_id", "rice-tiny"),
    ("bundle_id", "Rice-0123456789ab"),
    ("bundle_id", "rice--0123456789ab"),
    ("bundle_id", "rice-0123456789abc/../x"),
    ("model/parameters", 0),
    ("model/parameters", 1.5),
    ("model/parameters", "12"),
    ("model/parameters", True),
    ("model/recipe", "../grocery"),
    ("model/recipe", ""),
    ("precision", "fp8"),
    ("dims/frames", 0),
    ("dims/frames", -1),
    ("dims/frames", 2.5),
    ("dims/frames", [10]),
    ("golden", "../golden.json"),
    ("golden", "/etc/passwd"),
    ("golden", "golden/../../x"),
    ("golden", "a//b"),
    ("golden", ".hidden"),
    ("golden", "a b"),
    ("golden", ""),
    ("files/graph.onnx/sha256", "0F" * 32),
    ("files/graph.onnx/sha256", "0f"),
    ("files/graph.onnx/bytes", -1),
    ("files/graph.onnx/bytes", "0"),
    ("files", []),
    ("files/..~1weights", {"sha256": "0" * 64, "bytes": 1}),
    ("graphs/matcher/inputs/0/dtype", "float16"),
    ("graphs/matcher/inputs/0/shape", ["batch", 0]),
    ("graphs/matcher/inputs/0/shape", ["Batch size"]),
    ("graphs/matcher/inputs/0/shape", [None]),
    ("graphs/matcher/inputs/0/shape", "batch"),
    ("fusion/coarse", -0.1),
    ("fusion/coarse", "1"),
    ("fusion/coarse", True),
    ("fusion/coarse", None),
    ("calibration/temperature", 0),
    ("calibration/threshold", 1.01),
    ("calibration/threshold", -0.01),
    ("metrics", []),
    ("metrics", None),
]


def changed(place: str, value: Any) -> dict[str, Any]:
    """MANIFEST with one place changed; `place` is a JSON pointer without its first slash."""
    document = copy.deepcopy(MANIFEST)
    *path, last = (part.replace("~1", "/").replace("~0", "~") for part in place.split("/"))
    holder: Any = document
    for part in path:
        holder = holder[int(part) if isinstance(holder, list) else part]
    if value is GONE:
        del holder[last]
    else:
        holder[last] = value
    return document


def service_accepts(document: Any) -> bool:
    try:
        Manifest.model_validate_json(json.dumps(document))
    except ValidationError:
        return False
    return True


def test_the_schema_itself_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_both_accept_the_plain_manifest() -> None:
    assert VALIDATOR.is_valid(MANIFEST)
    assert service_accepts(MANIFEST)


@pytest.mark.parametrize(("place", "value"), ACCEPTED)
def test_both_accept(place: str, value: Any) -> None:
    document = changed(place, value)
    assert VALIDATOR.is_valid(document)
    assert service_accepts(document)


@pytest.mark.parametrize(("place", "value"), REFUSED)
def test_both_refuse(place: str, value: Any) -> None:
    document = changed(place, value)
    assert not VALIDATOR.is_valid(document)
    assert not service_accepts(document)


@pytest.mark.parametrize("document", [None, [], "manifest", 1, {}])
def test_both_refuse_what_is_no_manifest(document: Any) -> None:
    assert not VALIDATOR.is_valid(document)
    assert not service_accepts(document)


def test_numbers_outside_json_are_refused() -> None:
    text = json.dumps(MANIFEST).replace('"none_logit": -5.0', '"none_logit": NaN')
    assert "NaN" in text
    with pytest.raises(ValidationError):
        Manifest.model_validate_json(text)


def test_the_exporter_writes_by_the_schema(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    errors = [error.message for error in VALIDATOR.iter_errors(manifest)]
    assert errors == []
    assert service_accepts(manifest)
