"""A bundle that reads titles and speech gives torch's numbers in the service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

from service.confidence import confidences  # noqa: E402
from service.errors import BundleError  # noqa: E402
from service.gallery.entries import Candidates, Picture  # noqa: E402
from service.inference.bundle import Bundle  # noqa: E402
from service.inference.features import ClipFeatures, PictureFeatures  # noqa: E402
from service.inference.model import Model  # noqa: E402
from service.recognition import rank  # noqa: E402
from service.settings import DEFAULT_BUNDLE, InferenceSettings  # noqa: E402
from service.words import overlap  # noqa: E402
from tests.contract.models import (  # noqa: E402
    TEXT,
    TEXT_FUSION,
    TINY,
    TITLES,
    random_rice,
    reading_rice,
    tokenizer,
)
from tests.training.tiny_hearings import assert_one_pass_is_many, spoken_queries  # noqa: E402
from tests.training.tiny_sgmn import titled_photographs  # noqa: E402
from training.data.tokenizing import TextTokenizer, train_tokenizer  # noqa: E402
from training.evaluation.scorers import BundleScorer, TorchScorer  # noqa: E402
from training.export.bundle import export_bundle  # noqa: E402
from training.export.errors import ExportError  # noqa: E402

SIZE = TINY.encoder.image_size
SETTINGS = InferenceSettings(threads=1)
TOLERANCE = 1e-4
FIGURES = {
    "fusion": {"coarse": 1.0, "match": 0.1},
    "calibration": {"temperature": 0.1, "none_logit": 5.0, "threshold": 0.5},
    "metrics": {"protocol": "none: random weights"},
}

rice = reading_rice()


@pytest.fixture(scope="module")
def path(reading_bundle: Path) -> Path:
    return reading_bundle


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return Model.open(Bundle.load(path), SETTINGS)


def drawn(count: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def scores(
    model: Model,
    pictures: PictureFeatures,
    clip: ClipFeatures,
    speech: str,
    titles: Sequence[str] = TITLES,
) -> tuple[npt.NDArray[np.float32], ...]:
    text = model.match_text(pictures.match_state, clip)
    return (
        pictures.embedding @ clip.embedding,
        model.match(pictures.match_state, clip),
        np.zeros(len(pictures.embedding), np.float32)
        if text is None
        else text + overlap(speech, titles),
    )


@pytest.mark.parametrize("speech", ["look the red apple juice", "", "  ", "香蕉 🍌", "so " * 500])
@pytest.mark.parametrize("scorer", ["torch", "bundle"])
def test_the_service_scores_as_training_does(
    model: Model, path: Path, scorer: str, speech: str
) -> None:
    pictures, frames = drawn(4, seed=0), drawn(3, seed=1)
    expected = TorchScorer(rice, tokenizer()) if scorer == "torch" else BundleScorer(path)
    with torch.inference_mode():
        shop = expected.products(torch.from_numpy(pictures), TITLES)
        [compared] = expected.compare(shop, torch.from_numpy(frames), [speech])
    clip = model.encode_clip(frames, speech)
    found = scores(model, model.encode_pictures(pictures, TITLES), clip, speech)
    for ours, theirs in zip(found, compared, strict=True):
        assert np.abs(ours - theirs.numpy()).max() < TOLERANCE
    assert (clip.speech is None) == (not speech.strip())


def runs_of_a_clip(bundle: Path) -> list[str]:
    """Of the graphs that look, where three speeches are heard in a clip, one of them twice."""
    scorer, runs = BundleScorer(bundle), []
    size, frame_size = scorer.size, scorer.frame_size
    with torch.inference_mode():
        shop = scorer.products(torch.zeros(2, size, size, 3, dtype=torch.uint8), ["juice", ""])
    for name in ("clip", "match"):
        session = getattr(scorer, f"_{name}")
        run = SimpleNamespace(run=lambda *a, s=session, n=name: runs.append(n) or s.run(*a))
        setattr(scorer, f"_{name}", run)
    frames = torch.zeros(3, frame_size, frame_size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        found = scorer.compare(shop, frames, ["juice", "", "blue milk", "juice"])
    assert len(found) == 4
    assert torch.equal(found[0].text, found[3].text)
    assert not torch.equal(found[0].text, found[2].text)
    return runs


def test_a_bundle_scores_by_all_that_is_heard_in_one_pass(path: Path) -> None:
    assert runs_of_a_clip(path) == 3 * ["clip", "match"], "each speech is a token of its own"
    for data in (titled_photographs(), spoken_queries()):
        found = assert_one_pass_is_many(BundleScorer(path), data)
        assert not torch.equal(found["right"].match, found["missing"].match)


def test_the_bundle_that_is_shipped_looks_at_a_clip_once_whatever_is_heard() -> None:
    assert runs_of_a_clip(DEFAULT_BUNDLE) == ["clip", "match"]
    assert_one_pass_is_many(BundleScorer(DEFAULT_BUNDLE), spoken_queries())


def test_text_that_is_missing_costs_and_changes_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    run = model._graphs.run_batch
    monkeypatch.setattr(
        model._reader, "_run", lambda graph, batch: runs.append(graph) or run(graph, batch)
    )
    pictures, frames = drawn(3, seed=2), drawn(2, seed=3)
    plain = model.encode_pictures(pictures)
    blank = model.encode_pictures(pictures, ["", " ", "\n"])
    silent, spoken = model.encode_clip(frames), model.encode_clip(frames, "juice")
    assert runs == ["text_encoder"], "only what is said was read"
    assert np.array_equal(plain.match_state, blank.match_state)
    assert not plain.match_state[:, -TEXT.embedding :].any()
    assert model.match_text(plain.match_state, silent) is None
    assert not model.match_text(plain.match_state, spoken).any(), "no title: 0"
    titled = model.encode_pictures(pictures, ["juice", "", ""])
    assert np.allclose(plain.match_state[1:], titled.match_state[1:], atol=1e-5)
    assert not np.allclose(plain.match_state[0], titled.match_state[0], atol=1e-3)
    assert np.array_equal(plain.embedding, titled.embedding)


def test_clips_of_all_lengths_with_and_without_speech_are_encoded_together(model: Model) -> None:
    asked = [(5, "red apple"), (1, ""), (3, "blue milk " * 9), (2, "juice")] * 3
    clips = [(drawn(count, seed=count), said) for count, said in asked]
    alone = [model.encode_clip(*clip) for clip in clips]
    with ThreadPoolExecutor(len(clips)) as pool:
        together = list(pool.map(lambda clip: model.encode_clip(*clip), clips))
    states = model.encode_pictures(drawn(4, seed=9), TITLES).match_state
    for (frames, said), one, other in zip(clips, alone, together, strict=True):
        assert len(other.keys) == len(other.token_mask) == len(frames) * (1 + 16) + 1
        assert bool(other.token_mask[-1]) == bool(said)
        assert np.allclose(model.match(states, one), model.match(states, other), atol=1e-4)


def test_a_product_whose_view_is_blocked_is_found_by_what_is_said(model: Model) -> None:
    """The clip is black; all products look alike. Only the title tells."""
    titles = ["green tea", "red apple juice", "blue milk of the moon", "bread"]
    features = model.encode_pictures(np.repeat(drawn(1, seed=4), 4, axis=0), titles)
    pictures = tuple(Picture(f"p{i}", title, "i") for i, title in enumerate(titles))
    for product, title in enumerate(titles):
        clip = model.encode_clip(np.zeros((3, SIZE, SIZE, 3), np.uint8), title.upper())
        coarse, match, text = scores(model, features, clip, title.upper(), titles)
        candidates = Candidates(pictures, coarse, features.match_state, exact=True)
        ranked = rank(candidates, match, model.manifest, text)
        assert ranked[0].picture.product_id == f"p{product}"
        assert ranked[0].text == pytest.approx(2.0, abs=1e-4), "as a whole, and each word"
        sure = confidences(np.array([one.score for one in ranked]), model.manifest.calibration)
        assert sure[0] == pytest.approx(ranked[0].confidence)


def test_an_explanation_is_of_the_clips_frames_and_the_rest_of_the_speech(model: Model) -> None:
    clip = model.encode_clip(drawn(3, seed=5), "red apple juice")
    picture = drawn(1, seed=6)[0]
    attention = model.explain(picture, clip, "red apple juice")
    assert attention.shape == (1 + 16, 3 * (1 + 16) + 1)
    assert np.allclose(attention.sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(attention, model.explain(picture, clip), atol=1e-6), "the title counts"
    silent = model.explain(picture, model.encode_clip(drawn(3, seed=5)))
    assert not silent[:, -1].any()


def broken(path: Path, tmp_path: Path, name: str, content: str) -> Bundle:
    """The bundle with another file, as its manifest were of it: hashes are tested elsewhere."""
    bundle = Bundle.load(path)
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in path.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / name).unlink()
    (folder / name).write_text(content)
    return Bundle(folder, bundle.manifest)


@pytest.mark.parametrize("content", ["{}", "", "no JSON"])
def test_a_broken_tokenizer_is_told(path: Path, tmp_path: Path, content: str) -> None:
    with pytest.raises(BundleError, match="no tokenizer"):
        Model.open(broken(path, tmp_path, "tokenizer.json", content), SETTINGS)


def test_another_tokenizer_fails_the_golden_examples(path: Path, tmp_path: Path) -> None:
    other = TextTokenizer(train_tokenizer(["zebra crossing"], 400), TEXT.max_tokens).definition
    with pytest.raises(BundleError, match="golden"):
        Model.open(broken(path, tmp_path, "tokenizer.json", other), SETTINGS)


def test_text_its_encoder_and_its_weight_come_together(path: Path) -> None:
    def refused(without: Sequence[str]) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        holder = manifest
        for name in without[:-1]:
            holder = holder[name]
        del holder[without[-1]]
        from service.inference import bundle as bundles
        from service.inference.manifest import Manifest

        parsed = Manifest.model_validate_json(json.dumps(manifest))
        with pytest.raises(BundleError, match="together"):
            bundles._check_consistency(parsed)

    for without in (["text"], ["graphs", "text_encoder"], ["fusion", "text"]):
        refused(without)


def test_a_model_that_reads_is_exported_with_its_tokenizer_alone(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="tokenizer"):
        export_bundle(rice, tmp_path / "b", name="b", recipe="r", **FIGURES)
    with pytest.raises(ExportError, match="tokenizer"):
        export_bundle(
            random_rice(TINY),
            tmp_path / "b",
            name="b",
            recipe="r",
            tokenizer=tokenizer(),
            **FIGURES,
        )


def test_text_that_is_in_the_score_alone_is_served_as_it_was_trained(tmp_path: Path) -> None:
    """Matching is by sight then: what is said and titles move no logit."""
    sees = random_rice(replace(TINY, text=TEXT, text_tokens=False))
    fusion = FIGURES["fusion"] | {"text": TEXT_FUSION}
    out = export_bundle(
        sees, tmp_path / "sees", name="rice-sees", recipe="sees",
        tokenizer=tokenizer(), **FIGURES | {"fusion": fusion},
    )  # fmt: skip
    served = Model.open(Bundle.load(out), SETTINGS)
    pictures, frames = drawn(4, seed=0), drawn(3, seed=1)
    states = served.encode_pictures(pictures, TITLES)
    clip = served.encode_clip(frames, "the red apple juice")
    assert len(clip.keys) == 3 * (1 + 16), "no token is of speech"
    unread = served.encode_clip(frames)
    plain = served.encode_pictures(pictures)
    assert np.array_equal(
        served.match(states.match_state, clip), served.match(plain.match_state, unread)
    )
    expected = TorchScorer(sees, tokenizer())
    with torch.inference_mode():
        shop = expected.products(torch.from_numpy(pictures), TITLES)
        [compared] = expected.compare(shop, torch.from_numpy(frames), ["the red apple juice"])
    for ours, theirs in zip(
        scores(served, states, clip, "the red apple juice"), compared, strict=True
    ):
        assert np.abs(ours - theirs.numpy()).max() < TOLERANCE
    attention = served.explain(pictures[0], clip, TITLES[0])
    assert attention.shape == (1 + 16, 3 * (1 + 16))
    assert runs_of_a_clip(out) == ["clip", "match"], "nothing that is said changes them"
    assert_one_pass_is_many(BundleScorer(out), spoken_queries())
