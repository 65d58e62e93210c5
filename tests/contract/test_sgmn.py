"""An SGMN's bundle is served as RICE's is: by the same graphs, with torch's numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

from service.errors import BundleError  # noqa: E402
from service.inference.bundle import Bundle  # noqa: E402
from service.inference.model import Model  # noqa: E402
from service.settings import InferenceSettings  # noqa: E402
from service.words import overlap  # noqa: E402
from tests.contract.bundles import copy_of, edit_json, sign  # noqa: E402
from tests.contract.models import (  # noqa: E402
    TEXT_FUSION,
    TINY,
    export_tiny,
    tiny_detector,
    widened,
)
from tests.training.tiny_hearings import assert_one_pass_is_many, spoken_queries  # noqa: E402
from training.data.tokenizing import TextTokenizer, train_tokenizer  # noqa: E402
from training.evaluation.scorers import BundleScorer, TorchScorer  # noqa: E402
from training.export.bundle import export_bundle  # noqa: E402
from training.models.sgmn.model import Sgmn, SgmnConfig  # noqa: E402
from training.models.text import TextConfig  # noqa: E402

TEXT = TextConfig(vocabulary=512, width=32, layers=1, heads=2, max_tokens=12, embedding=20)
TITLES = ["red apple juice", "", "blue milk"]
TOLERANCE = 1e-4
CONFIG = SgmnConfig(
    **{field.name: getattr(TINY, field.name) for field in fields(TINY)}
    | {"reconstruction": None, "text": TEXT, "instance_heads": 8}
)


def random_sgmn(config: SgmnConfig) -> Sgmn:
    torch.manual_seed(0)
    return widened(Sgmn(config))


def drawn(count: int, seed: int) -> np.ndarray:
    size = TINY.encoder.image_size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_a_bundle_that_listens_scores_as_training_does(tmp_path: Path) -> None:
    sgmn = random_sgmn(CONFIG)
    assert sgmn.frame_graph is not None
    with torch.no_grad():
        for layer in (sgmn.frame_graph.spoken_of, sgmn.frame_graph.show):
            layer.weight *= 10  # a graph that heeds what is said
    tokenizer = TextTokenizer(train_tokenizer(TITLES, TEXT.vocabulary), TEXT.max_tokens)
    out = export_bundle(
        sgmn, tmp_path / "bundle", name="sgmn-tiny", recipe="tiny_sgmn", tokenizer=tokenizer,
        fusion={"coarse": 1.0, "match": 0.1, "text": TEXT_FUSION},
        calibration={"temperature": 0.1, "none_logit": 5.0, "threshold": 0.5},
        metrics={"protocol": "none: random weights"},
    )  # fmt: skip
    bundle = Bundle.load(out)
    assert bundle.manifest.model.family == "sgmn"
    model = Model.open(bundle, InferenceSettings(threads=1))
    pictures, frames = drawn(3, seed=0), drawn(4, seed=1)
    for frame, colour in zip(frames, ((250, 20, 20), (20, 20, 250), (5, 5, 5)), strict=False):
        frame[:] = (
            frame // 8 + np.asarray(colour, np.uint8) // 8 * 7
        )  # frames that can be told apart
    found = model.encode_pictures(pictures, TITLES)
    coarse = {}
    for speech in ("", "the red juice", "blue"):
        clip = model.encode_clip(frames, speech)
        coarse[speech] = found.embedding @ clip.embedding
        text = model.match_text(found.match_state, clip)
        ours = (
            coarse[speech],
            model.match(found.match_state, clip),
            np.zeros(3) if text is None else text + overlap(speech, TITLES),
        )
        for scorer in (TorchScorer(sgmn, tokenizer), BundleScorer(out)):
            with torch.inference_mode():
                shop = scorer.products(torch.from_numpy(pictures), TITLES)
                [theirs] = scorer.compare(shop, torch.from_numpy(frames), [speech])
            for mine, other in zip(ours, theirs, strict=True):
                assert np.abs(mine - other.numpy()).max() < TOLERANCE
    for scorer in (TorchScorer(sgmn, tokenizer), BundleScorer(out)):
        assert_one_pass_is_many(scorer, spoken_queries())
    assert np.abs(coarse[""] - coarse["blue"]).max() > 10 * TOLERANCE, "speech guides the look"
    assert np.abs(coarse["the red juice"] - coarse["blue"]).max() > 10 * TOLERANCE


def test_a_bundle_without_text_is_served_too(tmp_path: Path) -> None:
    sgmn = random_sgmn(replace(CONFIG, text=None, text_guidance=False))
    bundle = Bundle.load(export_tiny(sgmn, tmp_path / "bundle"))
    model = Model.open(bundle, InferenceSettings(threads=1))
    pictures, frames = drawn(3, seed=0), drawn(1, seed=1)  # of one frame: nothing changes
    found, clip = model.encode_pictures(pictures), model.encode_clip(frames)
    scorer = TorchScorer(sgmn)
    with torch.inference_mode():
        [theirs] = scorer.compare(
            scorer.products(torch.from_numpy(pictures)), torch.from_numpy(frames)
        )
    assert np.abs(found.embedding @ clip.embedding - theirs.coarse.numpy()).max() < TOLERANCE
    assert np.abs(model.match(found.match_state, clip) - theirs.match.numpy()).max() < TOLERANCE


@pytest.fixture(scope="module")
def weighing() -> Sgmn:
    """One that weighs the frames in which the product is found; some it does not match."""
    sgmn = random_sgmn(
        replace(CONFIG, text=None, text_guidance=False, frame_width=16, detected=True)
    )
    assert sgmn.frame_graph is not None
    with torch.no_grad():
        sgmn.frame_graph.show.weight *= 20
        sgmn.frame_graph.show.bias -= 2
    return sgmn


@pytest.fixture(scope="module")
def weighing_bundle(weighing: Sgmn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weighs") / "bundle"
    return export_tiny(weighing, out, detector=tiny_detector(closer=True))


def test_found_frames_are_weighed_as_in_training(weighing: Sgmn, weighing_bundle: Path) -> None:
    model = Model.open(Bundle.load(weighing_bundle), InferenceSettings(threads=1))
    pictures, size = drawn(3, seed=0), 2 * TINY.encoder.image_size
    found = model.encode_pictures(pictures)
    looking = tiny_detector(closer=True).looking(TINY.encoder)
    kinds = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 256, (TINY.frames, size, size, 3), dtype=np.uint8)
        seen = model.detect(frames)
        assert seen is not None
        shown, scores = seen.shown, (seen.scores * seen.found)[seen.shown]
        clip = model.encode_clip(seen.pixels[shown], scores=scores)
        ours = (found.embedding @ clip.embedding, model.match(found.match_state, clip))
        for scorer in (TorchScorer(weighing, looking=looking), BundleScorer(weighing_bundle)):
            with torch.inference_mode():
                shop = scorer.products(torch.from_numpy(pictures))
                [theirs] = scorer.compare(shop, torch.from_numpy(frames))
            for mine, other in zip(ours, theirs, strict=False):
                assert np.abs(mine - other.numpy()).max() < TOLERANCE
        unweighed = model.encode_clip(seen.pixels[shown])
        assert clip.kept is not None
        kinds |= {
            ("is weighed", np.abs(unweighed.embedding - clip.embedding).max() > 10 * TOLERANCE),
            ("is matched whole", bool(clip.kept.all())),
        }
        whole, patches = model.explain(pictures[0], clip), 1 + TINY.encoder.patches
        assert whole.shape == (patches, shown.sum() * patches)
        assert ((whole > 0).all(axis=0) == clip.kept.ravel()).all()
    assert kinds >= {("is weighed", True), ("is matched whole", False)}


def test_what_a_golden_clip_s_frames_score_is_told(weighing_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_of(weighing_bundle, tmp_path)
    edit_json(bundle / "golden.json", lambda golden: golden["clip"].pop("frame_scores"))
    sign(bundle)
    with pytest.raises(BundleError, match="the clip"):
        Model.open(Bundle.load(bundle), InferenceSettings(threads=1))
