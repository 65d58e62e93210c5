from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from service.api.schemas import Clip, FrameBox
from service.deadlines import Deadline, working_under
from service.errors import (
    CatalogueUnavailableError,
    ImageError,
    InferenceError,
    ShopNotFoundError,
)
from service.gallery.catalogue import image_id
from service.gallery.entries import Candidates, Picture
from service.gallery.shops import HotShops
from service.gallery.storage import LocalStorage
from service.indexing import NewProduct
from service.inference.features import ClipFeatures
from service.inference.speech import Said
from service.listening import Listener
from service.recognition import Query, Recognizer, Stopwatch, evenly, on_frames, rank
from service.settings import MediaSettings, SearchSettings
from tests.service.fakes import (
    BLUE,
    FRAMES,
    GREEN,
    PATCHES,
    RED,
    SIZE,
    FakeDecoder,
    FakeEpochs,
    FakeIndex,
    FakeModel,
    FakeService,
)


@pytest.fixture
def recognizer(tmp_path: Path) -> Recognizer:
    model, index, epochs = FakeModel(), FakeIndex(), FakeEpochs()
    service = FakeService(LocalStorage(tmp_path), index, epochs)
    for name, images in {"red": (RED,), "green": (BLUE, GREEN)}.items():
        service.indexer.put(NewProduct("shop", name, name.title(), None, images))
    shops = HotShops(index, epochs, SearchSettings())
    return Recognizer(model, FakeDecoder(), shops, service.catalogue, MediaSettings())


def test_the_product_shown_comes_first_and_is_decided(recognizer: Recognizer) -> None:
    answer = recognizer.recognize(Query("shop", clip=bytes([20, 220, 20])), Stopwatch())
    assert [product.picture.product_id for product in answer.ranked] == ["green", "red"]
    assert answer.decided
    assert answer.exact
    assert (answer.frames, answer.duration_s) == (FRAMES, 2.0)


def test_frames_are_as_good_as_a_clip(recognizer: Recognizer) -> None:
    answer = recognizer.recognize(Query("shop", pictures=(RED, RED)), Stopwatch())
    assert answer.ranked[0].picture.product_id == "red"
    assert (answer.frames, answer.duration_s) == (2, None)


def test_something_else_is_not_decided(recognizer: Recognizer) -> None:
    answer = recognizer.recognize(Query("shop", clip=bytes([128, 128, 128])), Stopwatch())
    assert len(answer.ranked) == 2
    assert not answer.decided


def test_every_stage_is_timed(recognizer: Recognizer) -> None:
    watch = Stopwatch()
    recognizer.recognize(Query("shop", clip=bytes(3 * [9])), watch)
    assert all(watch.ms[stage] > 0 for stage in ("decode", "encode", "search", "match"))
    assert watch.ms["detect"] == 0


def test_an_explanation_is_the_score_querys_row_without_summary_tokens(
    recognizer: Recognizer,
) -> None:
    query = Query("shop", clip=bytes([220, 20, 20]), explain=True)
    explanation = recognizer.recognize(query, Stopwatch()).explanation
    assert explanation is not None
    assert explanation.picture.product_id == "red"
    expected = np.arange(FRAMES * (1 + PATCHES)).reshape(FRAMES, 1 + PATCHES)[:, 1:]
    np.testing.assert_array_equal(explanation.attention.reshape(FRAMES, PATCHES), expected)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"damaged")])
def test_an_answer_stands_without_the_explanation_of_a_picture_that_is_gone(
    recognizer: Recognizer, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    damage(next(tmp_path.rglob(image_id(RED))))
    answer = recognizer.recognize(
        Query("shop", clip=bytes([220, 20, 20]), explain=True), Stopwatch()
    )
    assert answer.ranked[0].picture.product_id == "red"
    assert answer.explanation is None


def test_an_unknown_shop_is_refused_before_anything_is_decoded(recognizer: Recognizer) -> None:
    watch = Stopwatch()
    with pytest.raises(ShopNotFoundError):
        recognizer.recognize(Query("nowhere", clip=b"abc"), watch)
    assert watch.ms["decode"] == 0


def test_a_hot_shop_is_recognised_while_the_catalogue_is_away(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = Query("shop", clip=bytes([20, 220, 20]))
    recognizer.recognize(query, Stopwatch())

    def away(_: str) -> bool:
        raise CatalogueUnavailableError("the object store is away")

    monkeypatch.setattr(recognizer._catalogue, "has_shop", away)
    assert recognizer.recognize(query, Stopwatch()).decided
    with pytest.raises(CatalogueUnavailableError):
        recognizer.recognize(replace(query, shop_id="cold"), Stopwatch())


def test_a_bad_frame_is_pointed_at(recognizer: Recognizer) -> None:
    with pytest.raises(ImageError) as caught:
        recognizer.recognize(Query("shop", pictures=(RED, RED[:60])), Stopwatch())
    assert caught.value.pointer == "/frames/1"


def test_a_product_is_as_good_as_its_best_picture() -> None:
    pictures = tuple(Picture(product, None, image) for product, image in ("a1", "b1", "a2", "c1"))
    candidates = Candidates(
        pictures, np.array([0.1, 0.5, 0.9, 0.2], np.float32), np.zeros((4, 3), np.float32), True
    )
    ranked = rank(candidates, np.array([0, 1.0, 0, 0], np.float32), FakeModel().manifest)
    assert [(p.picture.product_id, p.picture.image_id) for p in ranked] == [
        ("b", "1"),  # 0.5 + 0.5 * 1
        ("a", "2"),
        ("c", "1"),
    ]
    assert ranked[0].score == pytest.approx(1.0)
    assert sum(product.confidence for product in ranked) < 1


def test_equal_scores_are_ordered_by_id_not_by_chance() -> None:
    pictures = (Picture("b", "x", "1"), Picture("a", None, "1"), Picture("a", "x", "0"))
    candidates = Candidates(pictures, np.ones(3, np.float32), np.zeros((3, 3), np.float32), True)
    ranked = rank(candidates, np.zeros(3, np.float32), FakeModel().manifest)
    assert [product.picture for product in ranked] == [pictures[2], pictures[0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error(bad: float) -> None:
    candidates = Candidates(
        (Picture("a", None, "1"),), np.ones(1, np.float32), np.zeros((1, 3), np.float32), True
    )
    with pytest.raises(InferenceError):
        rank(candidates, np.array([bad], np.float32), FakeModel().manifest)


def test_frames_are_chosen_from_the_middles_of_equal_parts() -> None:
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(30, 3) == [5, 15, 25]
    assert evenly(11, 10) == sorted(set(evenly(11, 10)))


class Ears:
    """Both what decodes sound and what recognises speech in it."""

    def __init__(self) -> None:
        self.clips: list[bytes] = []

    def decode(self, clip: bytes) -> np.ndarray:
        self.clips.append(clip)
        return np.ones(8, np.float32)

    def recognize(self, samples: np.ndarray) -> list[Said]:
        return [Said(0.0, 1.0, "look at"), Said(1.0, 2.5, "the green tea")]


class ReadingModel(FakeModel):
    """Remembers what it was told is said."""

    def __init__(self, *, reads: bool = True) -> None:
        super().__init__()
        self.manifest.text = SimpleNamespace() if reads else None
        self.told: list[str] = []

    def encode_clip(
        self,
        frames: np.ndarray,
        speech: str = "",
        patch_mask: np.ndarray | None = None,
        scores: np.ndarray | None = None,
    ) -> ClipFeatures:
        self.told.append(speech)
        return super().encode_clip(frames)


@pytest.mark.parametrize(
    ("reads", "speech", "told"),
    [
        (True, None, "look at the green tea"),
        (True, "red tea", "red tea"),
        (True, "", ""),
        (False, None, ""),
    ],
)
def test_a_clip_is_listened_to_where_nobody_tells_what_is_said(
    recognizer: Recognizer, reads: bool, speech: str | None, told: str
) -> None:
    model, ears = ReadingModel(reads=reads), Ears()
    recognizer._model, recognizer._listener = model, Listener(ears, ears)
    clip = bytes([20, 220, 20])
    answer = recognizer.recognize(Query("shop", clip=clip, speech=speech), Stopwatch())
    assert model.told == [told]
    listened = reads and speech is None
    assert ears.clips == ([clip] if listened else [])
    assert (answer.heard is not None) == listened
    recognizer.recognize(Query("shop", pictures=(RED,)), Stopwatch())
    assert len(ears.clips) == int(listened), "pictures have no sound"


class HearingModel(FakeModel):
    """Hears no more in one title than in another."""

    def match_text(self, states: np.ndarray, clip: ClipFeatures) -> np.ndarray:
        return np.full(len(states), 0.25, np.float32)


def test_a_product_whose_words_are_said_is_nearer_to_what_is_said(recognizer: Recognizer) -> None:
    recognizer._model = HearingModel()
    query = Query("shop", clip=bytes([20, 220, 20]), speech="now the RED one")
    answer = recognizer.recognize(query, Stopwatch())
    text = {product.picture.product_id: product.text for product in answer.ranked}
    assert text == {"red": 1.25, "green": 0.25}
    silent = recognizer.recognize(replace(query, speech=""), Stopwatch())
    assert {product.text for product in silent.ranked} == {0.25}


def test_waiting_for_a_turn_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("service.recognition.time", SimpleNamespace(perf_counter=lambda: now))
    deadline, watch = Deadline(60, lambda: asyncio.sleep(0)), Stopwatch()
    deadline.waited_s = 1.0
    with working_under(deadline), watch.stage("encode"):
        now += 5.0
        deadline.waited_s += 3.0
    assert (watch.ms["queue"], watch.ms["encode"]) == (3_000, 2_000)


def test_the_products_box_is_looked_for_first(recognizer: Recognizer) -> None:
    model = recognizer._model
    assert isinstance(model, FakeModel)
    query, watch = Query("shop", clip=bytes([20, 220, 20])), Stopwatch()
    plain = recognizer.recognize(query, watch)
    assert plain.detections is None and model.patch_mask is None and watch.ms["detect"] == 0
    assert Clip.of(plain).boxes == []
    model.manifest.graphs.detector = object()
    found = recognizer.recognize(query, watch)
    assert found.detections is not None and watch.ms["detect"] > 0
    assert model.seen is not None and model.patch_mask is not None
    assert model.seen.shape == (FRAMES - 1, SIZE, SIZE, 3), "closer, and where it was found alone"
    assert (model.seen == found.detections.pixels[1:]).all()
    assert (model.patch_mask == found.detections.patch_mask[1:]).all()
    assert model.scores.tolist() == [0.75] * (FRAMES - 1)
    none, *boxes = Clip.of(found).boxes
    assert none is None, "nothing was found in the first frame"
    assert boxes == [FrameBox(box=[0.0, 0.0, 0.5, 1.0], score=0.75)] * (FRAMES - 1)
    off = recognizer.recognize(replace(query, detect=False), Stopwatch())
    assert off.detections is None and model.patch_mask is None and model.scores is None
    assert model.seen.shape == (FRAMES, SIZE, SIZE, 3), "decoded so"


def test_a_clip_without_a_box_is_looked_at_whole(recognizer: Recognizer) -> None:
    model = recognizer._model
    assert isinstance(model, FakeModel)
    model.manifest.graphs.detector = object()
    found = recognizer.recognize(Query("shop", pictures=(GREEN,)), Stopwatch())
    assert Clip.of(found).boxes == [None]
    assert model.seen is not None and len(model.seen) == 1


def test_an_explanation_lies_on_the_frame_where_the_view_was(recognizer: Recognizer) -> None:
    recognizer._model.manifest.graphs.detector = object()
    query = Query("shop", clip=bytes([220, 20, 20]), explain=True)
    explanation = recognizer.recognize(query, Stopwatch()).explanation
    assert explanation is not None
    seen = FRAMES - 1  # the product is not found in the first
    expected = np.arange(seen * (1 + PATCHES)).reshape(seen, 1 + PATCHES)[:, 1:]
    sums = explanation.attention.sum(axis=(1, 2))
    np.testing.assert_allclose(sums, [0, *expected.sum(axis=1)])
    half = explanation.attention.shape[1] // 2
    assert (
        not explanation.attention[:, half:].any() and not explanation.attention[:, :, half:].any()
    )


def test_attention_moves_with_its_view() -> None:
    attention = np.arange(16.0).reshape(1, 4, 4)
    whole, shifted = np.array([[0.0, 0, 1, 1]]), np.array([[0.25, 0.0, 0.75, 0.5]])
    np.testing.assert_allclose(on_frames(attention, whole), attention)
    [moved] = on_frames(attention, shifted)
    np.testing.assert_allclose(moved[:2, 1:3], [[0 + 1 + 4 + 5, 2 + 3 + 6 + 7], [42, 50]])
    assert moved.sum() == pytest.approx(attention.sum())
