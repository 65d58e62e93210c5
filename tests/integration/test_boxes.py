"""Where the product is in a clip, over HTTP and by `lpr recognize`: the boxes of `clip.boxes`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.client import Client
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.launch import running_service
from service.media.images import decode_square
from service.settings import InferenceSettings, MediaSettings
from tests.integration.material import Shop, picture

SEEN = range(20, 30)  # pictures of which the tiny detector is sure, and others of which it is not


@pytest.fixture(scope="module")
def finding_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny model with a detector."""
    pytest.importorskip("torch", reason="the training extra")
    from tests.contract.models import export_tiny, tiny_detector, tiny_rice

    out = tmp_path_factory.mktemp("bundles") / "finding"
    return export_tiny(tiny_rice(), out, detector=tiny_detector())


@pytest.fixture(scope="module")
def client(
    finding_bundle: Path, tmp_path_factory: pytest.TempPathFactory, shop: Shop
) -> Iterator[Client]:
    data_dir = tmp_path_factory.mktemp("finding")
    with running_service(data_dir, LPR_BUNDLE=finding_bundle, LPR_DRAIN_S=0) as client:
        for product_id, jpeg in shop.pictures.items():
            client.put_product("shop", product_id, [jpeg])
        yield client


@pytest.fixture(scope="module")
def model(finding_bundle: Path) -> Model:
    return Model.open(Bundle.load(finding_bundle), InferenceSettings(threads=1))


def test_the_boxes_are_the_detectors(client: Client, model: Model) -> None:
    jpegs = [picture(seed) for seed in SEEN]
    size = model.manifest.dims.image_size
    frames = np.stack([decode_square(jpeg, size, MediaSettings()).pixels for jpeg in jpegs])
    found = model.detect(frames)
    assert found is not None
    assert 0 < found.found.sum() < len(jpegs), "the test has both kinds of frames"
    answer = client.recognize_frames("shop", jpegs)
    boxes = answer["clip"]["boxes"]
    assert [box is not None for box in boxes] == found.found.tolist()
    for told, box, score in zip(boxes, found.boxes, found.scores, strict=True):
        if told is not None:
            assert told["box"] == pytest.approx(box.tolist(), abs=1e-3)
            assert told["score"] == pytest.approx(score, abs=1e-3)
    assert answer["timings_ms"]["detect"] > 0
    assert client.info()["bundle"]["detector"]


def test_detection_can_be_left_out(client: Client, shop: Shop) -> None:
    clip = shop.clips["product-1"]
    with_boxes, without = (
        client.recognize("shop", clip, detect=detect) for detect in (True, False)
    )
    assert len(with_boxes["clip"]["boxes"]) == with_boxes["clip"]["frames"]
    assert without["clip"]["boxes"] == [] and without["timings_ms"]["detect"] == 0
    frames = [picture(seed) for seed in SEEN]
    seen, whole = (client.recognize_frames("shop", frames, detect=d) for d in (True, False))
    assert whole["clip"]["boxes"] == []
    scores = [{c["product_id"]: c["score"] for c in one["candidates"]} for one in (seen, whole)]
    assert scores[0] != pytest.approx(scores[1], abs=1e-3), "boxes leave patches out"


def test_the_command_leaves_it_out_too(client: Client, shop: Shop, tmp_path: Path) -> None:
    clip = tmp_path / "c.mp4"
    clip.write_bytes(shop.clips["product-1"])
    command = ["recognize", str(clip), "--shop", "shop", "--url", client.base_url]

    def boxes(*options: str) -> list[object]:
        done = CliRunner().invoke(app, [*command, "--json", *options])
        assert done.exit_code == 0, done.output
        told: list[object] = json.loads(done.stdout)["clip"]["boxes"]
        return told

    assert len(boxes()) == 10
    assert boxes("--no-detect") == []


def test_the_command_tells_in_how_many_frames_it_was_found(
    client: Client, shop: Shop, tmp_path: Path
) -> None:
    clip = tmp_path / "c.mp4"
    clip.write_bytes(shop.clips["product-1"])
    command = ["recognize", str(clip), "--shop", "shop", "--url", client.base_url]
    told = "".join(CliRunner().invoke(app, command).stdout.split())  # lines are wrapped
    assert "itsboxin" in told and "of10frames" in told
    told = "".join(CliRunner().invoke(app, [*command, "--no-detect"]).stdout.split())
    assert "itsboxin" not in told
