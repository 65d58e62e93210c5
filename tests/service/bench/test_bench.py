"""`lpr bench` as it is typed: one object of JSON, a baseline beside each time, errors in words.

On the default bundle or a tiny one, with one round of everything: how long anything takes is not
looked at, only that what is compared is the same work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.bench import decode, load, material, rival
from service.bench.timing import take_turns
from service.cli import app
from service.client import Client
from service.errors import RivalMissingError
from service.settings import DEFAULT_BUNDLE

runner = CliRunner()
PROMISED = {"ms", "baseline", "baseline_ms", "ratio", "setting", "machine"}


def bench(*arguments: str) -> Result:
    return runner.invoke(app, ["bench", *arguments])


def told(*arguments: str) -> dict[str, Any]:
    """The one object on standard output."""
    result = bench(*arguments, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert report.keys() >= PROMISED
    assert report["ms"] > 0 and report["machine"]["cores"] > 0
    assert report["ratio"] == pytest.approx(report["baseline_ms"] / report["ms"])
    return report


def assert_share_of_speech(figures: dict[str, float]) -> None:
    seen_share = figures["ms_seen"] / figures["ms_with_speech"]
    assert figures["speech_share"] == pytest.approx(1 - seen_share)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny random model as a checkpoint and as the bundle exported from it."""
    pytest.importorskip("torch", reason="the training extra")
    from dataclasses import replace

    from tests.contract.models import TINY, export_tiny, tiny_rice
    from tests.training.tiny import RECIPE
    from training import checkpoint

    folder, model = tmp_path_factory.mktemp("exported"), tiny_rice()
    saved = folder / "tiny.safetensors"
    checkpoint.save(saved, checkpoint.of_model(replace(RECIPE, model=TINY), model))
    return saved, export_tiny(model, folder / "bundle")


def test_match_is_compared_with_the_papers_decoder(exported: tuple[Path, Path]) -> None:
    saved, bundle = exported
    report = told(
        *("match", "--candidates", "40", "--rounds", "1"),
        *("--bundle", str(bundle), "--checkpoint", str(saved)),
    )
    assert report["setting"]["candidates"] == report["setting"]["pairs_measured"] == 40
    assert report["figures"]["logits_differ_by"] < 1e-3
    assert report["figures"]["share_of_encoding"] > 0


def test_match_refuses_a_checkpoint_of_another_model(tiny_bundle: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.contract.models import TINY, random_rice
    from tests.training.tiny import RECIPE
    from training import checkpoint

    other = tmp_path / "other.safetensors"
    kept = checkpoint.of_model(replace(RECIPE, model=TINY), random_rice(TINY, seed=5))
    checkpoint.save(other, kept)
    result = bench("match", "--bundle", str(tiny_bundle), "--checkpoint", str(other))
    assert result.exit_code == 1
    assert "is it the one that the bundle was exported from" in result.output


def test_match_by_a_recipe_and_as_a_table() -> None:
    pytest.importorskip("torch", reason="the training extra")
    result = bench("match", "--candidates", "5", "--rounds", "1")
    assert result.exit_code == 0, result.output
    assert "pair by pair" in result.output and "share_of_encoding" in result.output


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where only what serves is installed."""
    monkeypatch.setattr(rival.shutil, "which", lambda *_, **__: None)


@pytest.mark.usefixtures("no_torch")
def test_without_torch_there_is_no_baseline() -> None:
    result = bench("match", "--candidates", "5", "--rounds", "1", "--json")
    report = json.loads(result.stdout)
    assert report["baseline"] is report["baseline_ms"] is report["ratio"] is None
    assert report["ms"] > 0
    assert "lpr[training]" in result.stderr


def test_what_torch_says_is_told() -> None:
    pytest.importorskip("torch", reason="the training extra")
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    with (
        pytest.raises(RivalMissingError, match="pictures and frames must be"),
        rival.torch_rival("grocery_small", pictures, pictures, threads=1),
    ):
        pass


@pytest.mark.usefixtures("no_torch")
def test_encode_against_the_bare_session() -> None:
    report = told("encode", "--rounds", "1")
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_text())
    assert report["setting"]["bundle"] == manifest["bundle_id"]
    assert report["baseline"] == "bare onnxruntime session"
    figures = report["figures"]
    assert figures["clips_per_s"] == pytest.approx(1e3 / report["ms"])
    assert_share_of_speech(figures)


def test_patches_are_kept_as_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the training extra")
    from tests.contract.models import export_tiny, tiny_detector, tiny_rice

    finding = str(export_tiny(tiny_rice(), tmp_path / "bundle", detector=tiny_detector()))
    asked = ("patches", "--rounds", "1", "--candidates", "30", "--bundle", finding)
    report = told(*asked, "--kept", "3,5")
    some, *_, whole = report["figures"]["kept"]
    assert (some["patches"], some["tokens"]) == (3, 10 * (1 + 3)), "of ten frames"
    assert (whole["patches"], whole["tokens"]) == (16, 10 * (1 + 16))
    assert report["ms"] == pytest.approx(some["encode_ms"] + some["match_ms"])
    assert report["baseline_ms"] == pytest.approx(whole["encode_ms"] + whole["match_ms"])
    assert some["ratio"] == pytest.approx(report["ratio"])
    with_detecting = report["ms"] + report["others_ms"]["detecting"]
    assert some["ratio_with_detecting"] == pytest.approx(report["baseline_ms"] / with_detecting)
    assert [point["patches"] for point in told(*asked)["figures"]["kept"]] == [2, 4, 8, 16]
    refused = bench(*asked, "--kept", "17")
    assert refused.exit_code == 1 and "a frame has 16 patches" in refused.output


def test_a_bundle_that_drops_no_patches_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the training extra")
    from tests.contract.models import export_tiny, tiny_detector, tiny_rice

    for detector in (None, tiny_detector(closer=True)):
        whole = export_tiny(tiny_rice(), tmp_path / "bundle", detector=detector)
        result = bench("patches", "--rounds", "1", "--bundle", str(whole))
        assert result.exit_code == 1
        assert "drops no patch" in result.output


def test_decode_against_the_whole_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    small = decode.Case(2, 10, width=160, height=120)
    monkeypatch.setattr("service.bench.command.CASES", (small, decode.Case(1, 25, 160, 120)))
    report = told("decode", "--rounds", "1", "--cases", "2")
    assert [case["clip"] for case in report["figures"]["cases"]] == [
        "2 s of 160x120, a key frame every 0.4 s",
        "1 s of 160x120, a key frame every 1 s",
    ]
    assert report["ms"] == report["figures"]["cases"][0]["ms"]


def test_recognize_tells_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, answers = Client.recognize, []

    def heard(*given: Any, **options: Any) -> Any:
        answers.append(ask(*given, **options))
        return answers[-1]

    monkeypatch.setattr(Client, "recognize", heard)
    report = told("recognize", "--rounds", "1", "--shop", "20")
    best = [answer["candidates"][0] for answer in answers]
    assert {candidate["scores"]["text"] is None for candidate in best} == {True, False}
    assert all(candidate["title"] for candidate in best)
    assert report["figures"]["stages_ms"]["match"] > 0
    assert 0 < report["figures"]["share_of_detecting"] < 1
    assert_share_of_speech(report["figures"])
    assert report["baseline_ms"] == pytest.approx(sum(report["others_ms"].values()))


def test_index_is_told_a_picture() -> None:
    report = told("index", "--rounds", "1", "--pictures", "20")
    assert report["figures"]["pictures_per_s"] == pytest.approx(1e3 / report["ms"])


def test_load_counts_every_request() -> None:
    report = told("load", "--frames", "--seconds", "1", "--shop", "20")
    below = report["figures"]["at_80_percent"]
    assert below["p50_ms"] <= below["p90_ms"] <= below["p95_ms"] <= below["p99_ms"]
    assert below["requests"] > 0 and report["figures"]["lost"] == 0
    assert sum(below["errors"].values()) <= below["requests"]
    assert report["ms"] == pytest.approx(1e3 / report["figures"]["saturation_clips_per_s"])


def test_concurrency_has_a_point_for_each_number_of_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = {"seconds": 1, "width": 160, "height": 120, "rate": 10, "gop": 10}
    monkeypatch.setattr(load, "bench_clip", lambda folder: material.clip(folder / "c.mp4", **short))
    report = told("concurrency", "--clients", "1,2", "--seconds", "0.5", "--shop", "20")
    assert [point["clients"] for point in report["figures"]["points"]] == [1, 2]
    assert all(point["clips_per_s"] > 0 for point in report["figures"]["points"])


@pytest.mark.parametrize(
    ("kind", "sizes"), [("shop", (20, 2_100)), ("gallery", (600, 1_200)), ("shops", (1, 5))]
)
def test_scale_has_a_point_for_each_size(kind: str, sizes: tuple[int, ...]) -> None:
    report = told("scale", kind, "--sizes", ",".join(map(str, sizes)), "--rounds", "1")
    points = report["figures"]["points"]
    assert [point[kind] for point in points] == list(sizes)
    assert all(point["hot"] > 0 and point["index"] > 0 for point in points)
    assert "cold" in points[0]


def test_scale_goes_as_far_as_there_is_time() -> None:
    report = told("scale", "shops", "--sizes", "1,1000000", "--rounds", "1", "--budget", "1")
    first, last = (point["shops"] for point in report["figures"]["points"])
    assert first == 1 <= last < 1_000_000
    assert report["setting"]["sizes_asked_for"] == [1, 1_000_000]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["match", "--candidates", "0"], "--candidates"),
        (["encode", "--rounds", "0"], "--rounds"),
        (["encode", "--bundle", "nowhere"], "nowhere"),
        (["concurrency", "--clients", "1,two"], "--clients takes numbers from 1 on"),
        (["scale", "everything"], "everything"),
        (["scale", "shop", "--sizes", "0"], "--sizes takes numbers from 1 on"),
        (["load", "--seconds", "0"], "--seconds"),
    ],
    ids=["candidates", "rounds", "bundle", "clients", "kind", "sizes", "seconds"],
)
def test_what_is_wrong_is_told(arguments: list[str], complaint: str) -> None:
    result = bench(*arguments)
    assert result.exit_code != 0
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_a_checkpoint_that_is_not_there_is_no_reason_to_go_without(tmp_path: Path) -> None:
    result = bench("match", "--checkpoint", str(tmp_path / "gone.safetensors"), "--rounds", "1")
    assert result.exit_code == 1
    assert "torch ended" in result.output or "lpr[training]" in result.output


def test_runs_take_turns() -> None:
    order: list[str] = []

    def run(name: str, ms: float) -> float:
        order.append(name)
        return ms * len(order)

    medians = take_turns({"a": lambda: run("a", 1.0), "b": lambda: run("b", 10.0)}, rounds=3)
    assert order == ["a", "b"] * 4  # the first of each warms up
    assert medians == {"a": 5.0, "b": 60.0}
