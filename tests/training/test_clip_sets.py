"""Training and scoring on LPR4M's layouts: what batches hold, what is held out, what counts as a
hit, and that a run on LPR-Synth goes on exactly where it was killed."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.training.lpr_folders import (
    CLIPS,
    COLOURS,
    IMAGES,
    LIVES,
    SHOWN,
    full_line,
    write_lpr4m,
    write_lpr750k,
)
from tests.training.test_movingfashion import write_video
from tests.training.tiny import CONFIG, RECIPE, tiny_model
from training import cli, engine
from training.configs import Recipe, Schedule, Source
from training.data import clip_sets
from training.data.batches import BatchDrawer
from training.data.clip_drawer import ClipDrawer
from training.data.clip_index import held_out
from training.data.clip_sets import (
    HELD_OUT,
    Choose,
    LprClips,
    MovingFashionClips,
    lpr_test,
    lpr_validation,
    movingfashion_queries,
)
from training.data.errors import DataError
from training.data.frames import Frame
from training.data.lpr4m import open_lpr
from training.data.movingfashion import read_movingfashion
from training.data.opening import open_judging, open_training
from training.data.order import ShuffledOrder
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.data.shards import hash_of
from training.data.synthetic.writer import Synth, write_synth
from training.data.wrong_lines import DEFAULT_LIMIT, WrongLines
from training.evaluation.calibration import OUT_OF_SHOP
from training.evaluation.fusion import Fusion
from training.evaluation.metrics import accuracy, ranks
from training.evaluation.protocol import score_queries
from training.evaluation.scores import Scores
from training.models.text import TextConfig
from training.recipes import RECIPES

CPU = torch.device("cpu")
SIZE = CONFIG.encoder.image_size
SYNTH = replace(
    RECIPE,
    sources=(Source("synth", "lpr4m", products=6, clips_per_product=2, frames=3),),
    validate_on="synth",
)


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    write_synth(out, Synth(clips=90, seed=1, size=64, frames=4, shop_size=10))
    return out


class KilledError(Exception):
    """Stands for a kill: the run ends between two steps."""


def opened(folder: Path, recipe: Recipe = SYNTH) -> BatchDrawer:
    data = open_training(recipe.sources[0], folder, 40, lambda paths: paths)
    return BatchDrawer(recipe, {"synth": data}, CPU)


# The order.


@pytest.mark.parametrize("count", [1, 7, 100, 2_345])
def test_a_pass_is_every_clip_once_in_another_order_each_time(count: int) -> None:
    order = ShuffledOrder(count, seed=3, block=10, buffer=64)
    first, second = order.take(0, count), order.take(count, count)
    assert sorted(first) == sorted(second) == list(range(count))
    assert count < 100 or not np.array_equal(first, second)
    assert np.array_equal(
        order.take(count // 2, 3 * count)[: count - count // 2], first[count // 2 :]
    )


def test_the_order_is_shuffled_but_local() -> None:
    taken = ShuffledOrder(100_000, seed=0, block=100, buffer=1_000).take(0, 1_000)
    assert len({clip // 100 for clip in taken.tolist()}) == 10, "ten blocks fill the buffer"
    assert np.abs(np.diff(taken)).mean() > 1_000


def test_processes_share_a_step_and_miss_nothing() -> None:
    order = ShuffledOrder(50, seed=1)
    shares = [order.share(step, 5, rank, 2) for step in range(5) for rank in range(2)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(50))


# Batches.


def test_a_batch_of_clips_has_each_product_once_and_its_own_frames(tmp_path: Path) -> None:
    data = open_lpr(write_lpr4m(tmp_path), "lpr4m")
    clips = LprClips(data, 40)
    source = Source("lpr4m", "lpr4m", products=len(clips), clips_per_product=2, frames=3)
    drawn = ClipDrawer(source, clips, seed=0).draw(0, torch.Generator().manual_seed(0), 0.0)
    assert len(drawn.pictures) == len(set(clips.product.tolist()))
    assert drawn.lengths == [3] * len(clips), "no clip is there twice"
    frames = drawn.frames.split(drawn.lengths)
    for row, shown in zip(drawn.product, frames, strict=True):
        wanted = drawn.pictures[row, 20, 20].float()
        assert (shown[:, 20, 20].float() - wanted).abs().max() < 12, "each product is one colour"


def test_batches_depend_on_seed_and_step_alone(synth: Path) -> None:
    one, two = opened(synth), opened(synth)
    expected = [two.draw(step) for step in (2, 3, 4)]
    for batch, again in zip(one.batches(range(2, 5)), expected, strict=True):
        assert torch.equal(batch.frames, again.frames)
        assert torch.equal(batch.pictures, again.pictures)
        assert torch.equal(batch.product, again.product)
    other = opened(synth, replace(SYNTH, seed=1)).draw(2)
    assert not torch.equal(expected[0].pictures.mean((1, 2, 3)), other.pictures.mean((1, 2, 3)))


def test_a_clip_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    data = open_lpr(write_lpr750k(tmp_path), "lpr750k", wrong=WrongLines(limit=1))
    for frame in data.clips[2].frames:
        (tmp_path / frame).unlink()
    (tmp_path / data.clips[1].frames[3]).unlink()
    clips = LprClips(data, 40)
    clips._rows, clips.product = np.arange(3), data.clips.product[:]  # nothing held out
    drawer = ClipDrawer(Source("x", "lpr750k", products=3, frames=4), clips, seed=0)
    drawn = drawer.draw(0, torch.Generator().manual_seed(0), 0.0)
    assert sorted(drawn.lengths) == [3, 4], "of what is missing, the rest is drawn"
    assert (clips.wrong.count, data.wrong.count) == (1, 0), "no line of annotations is wrong"
    assert "training_videoinfo_750k.txt:3: none of the clip's 4 frames" in clips.wrong.examples[0]
    drawer.draw(1, torch.Generator().manual_seed(0), 0.0)
    assert clips.wrong.count == 1, "it is the same clip"
    for frame in data.clips[0].frames:
        (tmp_path / frame).unlink()
    with pytest.raises(DataError, match="more than 1 wrong lines"):
        drawer.draw(2, torch.Generator().manual_seed(0), 0.0)


@dataclass
class Missing:
    """Clips of which a share cannot be read."""

    share: float
    wrong: WrongLines = field(default_factory=lambda: WrongLines(limit=10))
    size: int = 2
    product: np.ndarray = field(default_factory=lambda: np.arange(2000, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self.product)

    def picture(self, clip: int) -> np.ndarray:
        if clip % 100 < 100 * self.share:
            raise DataError("gone")
        return np.zeros((2, 2, 3), np.uint8)

    def frames(self, clip: int, choose: Choose) -> list[Frame]:
        return [Frame(self.picture(clip))]

    def texts(self, clip: int) -> tuple[str, str]:
        return "", ""

    def place(self, clip: int) -> tuple[Path, int]:
        return Path("part"), clip


def test_a_share_of_the_clips_that_are_drawn_may_be_gone() -> None:
    source = Source("x", "lpr4m", products=100, frames=1)

    def passes(share: float) -> int:
        data = Missing(share)
        drawer = ClipDrawer(source, data, seed=0)
        for step in range(30):
            drawer.draw(step, torch.Generator().manual_seed(0), 0.0)
        return data.wrong.count

    assert passes(0.02) == 40, "more than the limit, which is for few draws"
    with pytest.raises(DataError, match=r"more than 1\d wrong lines"):
        passes(0.1)


# What is held out, and what is scored.


def test_validation_is_of_livestreams_that_training_never_sees(synth: Path) -> None:
    data = open_lpr(synth, "lpr4m")
    training, validation = LprClips(data, 40), lpr_validation(data)
    every = [data.clips[row] for row in range(len(data.clips))]
    held = {query.live_id for query in validation.queries}
    assert len(held) == 1
    assert len(training) == sum(clip.live_id not in held for clip in every)
    assert len(validation.queries) == sum(clip.live_id in held for clip in every)
    sold = {clip.image_id for clip in every if clip.live_id in held}
    shop = [picture.image_id for picture in validation.galleries[held.pop()]]
    assert sorted(shop) == sorted(sold), "each once, and no picture of training"


def sold_in(lives: dict[str, str]) -> list[str]:
    """Annotations of a clip of each product that is told, "1122" for four, in each livestream."""
    return [
        full_line(f"{live}-{1000 * place}-{1000 * place + 500}", f"{product * 8}-a-b-c-d")
        for live, products in lives.items()
        for place, product in enumerate(products)
    ]


@pytest.mark.parametrize(
    ("sold", "queries", "shop", "told"),
    [("1123", 3, "12", "3 of 4"), ("1333", 4, "13", "1 of 4"), ("1122", 4, "12", "4 of 4")],
)
def test_validation_is_of_products_that_training_never_sees_where_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    sold: str, queries: int, shop: str, told: str,
) -> None:  # fmt: skip
    """Product 3 is sold in a livestream of training, too."""
    caplog.set_level(logging.INFO)
    write_lpr4m(tmp_path, lines=sold_in({LIVES[0]: sold, LIVES[1]: "345"}))
    data, live = open_lpr(tmp_path, "lpr4m"), np.uint64(hash_of(LIVES[0]))
    monkeypatch.setattr(clip_sets, "held_out", lambda lives, share: lives == live)
    monkeypatch.setattr(type(data.pictures), "__contains__", lambda pictures, name: True)
    validation = lpr_validation(data)
    assert len(validation.queries) == queries
    pictures = {picture.image_id[0] for picture in validation.galleries[LIVES[0]]}
    assert pictures == set(shop)
    assert f"{told} held-out clips" in caplog.text


def test_validation_on_synth_is_of_every_clip_that_is_held_out(
    synth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its products belong to one livestream each."""
    data = open_lpr(synth, "lpr4m")
    kept = held_out(data.clips.live, HELD_OUT)
    assert not np.isin(data.clips.product[kept], data.clips.product[~kept]).any()
    clips = [data.clips[row].clip_id for row in np.flatnonzero(kept)]
    assert [query.clip_id for query in lpr_validation(data).queries] == clips


def test_a_shop_of_validation_is_filled_up_to_the_size_of_one_of_the_test(
    synth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_sets, "VAL_SHOP", 12)
    monkeypatch.setattr(clip_sets, "held_out", lambda live, share: live == live)  # all of them
    validation = lpr_validation(open_lpr(synth, "lpr4m"))
    for query in validation.queries:
        shop = {picture.image_id for picture in validation.galleries[query.live_id]}
        assert len(shop) == 12
        assert set(query.truth) <= shop


def test_every_picture_of_its_product_answers_a_clip_of_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lpr750k(tmp_path) / "annotations" / "training_videoinfo_750k.txt"
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    lines[1][3:5] = lines[2][3:5]  # another picture of the product of clip 0, in its livestream
    file.write_text("\n".join("\t".join(fields) for fields in lines))
    monkeypatch.setattr(clip_sets, "held_out", lambda live, share: live == live)  # all of them
    first, second, other = lpr_validation(open_lpr(tmp_path, "lpr750k")).queries
    assert set(first.truth) == set(second.truth) == set(IMAGES)
    assert other.truth == (IMAGES[1],)


def queries(truth: tuple[str, ...], *, frames: bool = True, missing: str = "") -> QuerySet:
    """One red clip; a shop of a red and a blue picture, and another shop of a green one."""
    colours = {"red": (250, 0, 0), "blue": (0, 0, 250), "green": (0, 250, 0)}

    def picture(name: str, size: int) -> np.ndarray:
        return np.full((size, size, 3), colours[name], np.uint8)

    return QuerySet(
        [Query("clip", "live", ("red",), truth)],
        {"live": [ShopPicture("blue", "blue"), ShopPicture("red", "red")],
         "other": [ShopPicture("green", "green")]},
        picture,
        lambda query, count, size: [Frame(picture("red", size))] if frames else [],
        lambda name: name != missing,
    )  # fmt: skip


def test_a_query_is_compared_with_its_own_shop() -> None:
    scores = score_queries(tiny_model(), queries(("red",)))["right"]
    assert scores.coarse.shape == (1, 3), "the other shop's picture is none of its candidates"
    assert scores.truth.tolist() == [1]
    assert scores.coarse[0, 1] == pytest.approx(1, abs=1e-4), "the same picture"
    assert scores.coarse[0, 2] == scores.match[0, 2] == OUT_OF_SHOP
    assert scores.largest_shop() == 2


@pytest.mark.parametrize(
    "lost", [queries(("green",)), queries(("red",), missing="red"), queries(("red",), frames=False)]
)
def test_a_query_that_cannot_be_answered_counts_as_a_miss(lost: QuerySet) -> None:
    scores = score_queries(tiny_model(), lost)["right"]
    assert len(scores.truth) == 1
    told = accuracy(scores.fused(Fusion(1.0)), scores.truth)
    assert (told.r1, told.r10, told.mrr) == (0, 0, 0), "the shop is smaller than 10, too"


def test_clips_that_cannot_be_answered_are_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    every = queries(("red",))
    every.queries.append(Query("dark clip", "live", ("red",), ("red",)))
    every.queries.extend(Query(f"clip {i}", "other", ("red",), ("blue",)) for i in range(2))
    assert not any(score_queries(tiny_model(), queries(("red",)))["right"].unanswerable)
    assert not caplog.records

    def frames(query: Query, count: int, size: int) -> list[Frame]:
        return [] if query.clip_id == "dark clip" else every.read_frames(query, count, size)

    scores = score_queries(tiny_model(), replace(every, read_frames=frames))["right"]
    assert scores.unanswerable == scores.once().unanswerable == (1, 2)
    [record] = caplog.records
    assert "of 4 clips, 1 have no frame" in record.message and "2 no right" in record.message


@pytest.mark.parametrize("broken", [True, False])
def test_a_shop_of_which_no_picture_can_be_read_does_not_stop_the_others(broken: bool) -> None:
    both = queries(("red",))
    both.queries.append(Query("other clip", "other", ("red",), ("green",)))

    def picture(name: str, size: int) -> np.ndarray:
        if name == "green":
            raise DataError("green: broken")
        return both.read_picture(name, size)

    read = replace(both, read_picture=picture, is_there=lambda name: broken or name != "green")
    done: list[None] = []
    scores = score_queries(tiny_model(), read, done=lambda: done.append(None))["right"]
    assert ranks(scores.fused(Fusion(0.0)), scores.truth).tolist() == [1, math.inf]
    assert len(done) == 2


def test_a_picture_that_a_shop_lists_twice_is_right_in_both_places() -> None:
    once = queries(("red",))
    twice = replace(once, galleries={"live": 2 * once.galleries["live"]})
    scores = score_queries(tiny_model(), twice)["right"]
    assert ranks(scores.fused(Fusion(0.0)), scores.truth).item() == 1


def test_a_picture_that_cannot_be_decoded_is_as_if_it_were_missing(tmp_path: Path) -> None:
    whole = queries(("red",))

    def picture(name: str, size: int) -> np.ndarray:
        if name == "blue":
            raise DataError("blue: broken")
        return whole.read_picture(name, size)

    scores = score_queries(tiny_model(), replace(whole, read_picture=picture))["right"]
    assert (scores.largest_shop(), scores.truth.tolist()) == (1, [0])
    test = lpr_test(open_lpr(write_lpr750k(tmp_path), "lpr750k"))
    (tmp_path / test.queries[0].frames[1]).write_bytes(b"no picture")
    assert len(test.read_frames(test.queries[0], 4, 16)) == 3
    video = tmp_path / "v.mp4"
    video.write_bytes(b"no video")
    pictures = tmp_path / "training_image"
    told = {"a": {"video_paths": ["v.mp4"], "img_path": f"{pictures}/{IMAGES[0]}.jpg", "source": 1}}
    (tmp_path / "test.json").write_text(json.dumps(told))
    videos = movingfashion_queries(read_movingfashion(tmp_path, "test"), validation=False)
    assert videos.read_frames(videos.queries[0], 4, 16) == []


def test_any_ground_truth_picture_is_a_hit() -> None:
    coarse = torch.tensor([[0.9, 0.1, 0.5, 0.8], [0.9, 0.1, 0.5, 0.8]])
    also = torch.tensor([[False, False, False, True], [False, False, True, False]])
    scores = Scores(coarse, torch.zeros(2, 4), torch.tensor([1, 1]), also)
    assert ranks(scores.fused(Fusion(0.0)), scores.truth).tolist() == [2, 3]
    plain = Scores(coarse, torch.zeros(2, 4), torch.tensor([1, 1]))
    assert ranks(plain.fused(Fusion(0.0)), plain.truth).tolist() == [4, 4]


def test_the_best_ground_truth_is_chosen_by_the_fused_score() -> None:
    coarse, match = torch.tensor([[0.9, 0.5, 0.6]]), torch.tensor([[0.0, 2.0, 0.0]])
    scores = Scores(coarse, match, torch.tensor([2]), torch.tensor([[False, True, False]]))
    assert ranks(scores.fused(Fusion(0.0)), scores.truth).item() == 2
    assert ranks(scores.fused(Fusion(1.0)), scores.truth).item() == 1


@pytest.mark.parametrize(("write", "layout"), [(write_lpr4m, "lpr4m"), (write_lpr750k, "lpr750k")])
def test_the_test_reads_frames_and_shops(write, layout, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    test = lpr_test(open_lpr(write(tmp_path), layout))
    query = next(query for query in test.queries if query.clip_id == CLIPS[2])
    frames = test.read_frames(query, 2, 16)
    assert [frame.pixels.shape for frame in frames] == [(16, 16, 3)] * 2
    assert np.abs(frames[0].pixels[8, 8] - COLOURS[IMAGES[1]]).max() < 12
    assert [p.image_id for p in test.there(LIVES[1])] == list(IMAGES)


def test_movingfashion_has_one_shop_and_holds_out_products(tmp_path: Path) -> None:
    write_lpr750k(tmp_path)
    write_video(tmp_path / "v.mp4", seconds=3)
    picture = "training_image/" + f"{IMAGES[0]}.jpg"
    told = {str(i): {"video_paths": ["v.mp4"], "img_path": picture, "source": 1} for i in range(3)}
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(told))
    source = Source("m", "movingfashion", products=2, frames=2)
    training = open_training(source, tmp_path, 40, lambda paths: paths)
    assert len(training) == 2  # type: ignore[arg-type]
    borne = open_training(source, tmp_path, 40, lambda paths: paths, limit=7)
    assert isinstance(borne, MovingFashionClips) and borne.wrong.limit == 7
    drawn = ClipDrawer(source, training, 0).draw(0, torch.Generator().manual_seed(0), 0.0)  # type: ignore[arg-type]
    assert drawn.frames.shape == (4, 40, 40, 3)
    test = movingfashion_queries(read_movingfashion(tmp_path, "test"), validation=False)
    val = movingfashion_queries(read_movingfashion(tmp_path, "train"), validation=True)
    assert (len(test.queries), len(test.galleries["shop"])) == (3, 3)
    assert (len(val.queries), len(val.galleries["shop"])) == (1, 1)
    assert len(test.read_frames(test.queries[0], 10, 16)) == 3
    assert test.queries[1].truth == ("1",)


def test_a_layout_without_the_split_is_refused(synth: Path) -> None:
    judge = partial(open_judging, "lpr4m", synth, size=SIZE, track=lambda paths: paths)
    assert isinstance(judge("test"), QuerySet)
    with pytest.raises(DataError, match="not on 'train'"):
        judge("train")


def test_a_single_livestream_leaves_nothing_to_validate_on(tmp_path: Path) -> None:
    lines = [full_line(clip, IMAGES[0]) for clip in CLIPS[:2]]
    write_lpr4m(tmp_path, lines=lines)
    with pytest.raises(DataError, match=r"no clip for val.*two livestreams"):
        open_judging("lpr4m", tmp_path, "val", SIZE, lambda paths: paths)


# The whole way.


def test_a_killed_run_on_synth_goes_on_as_if_nothing_had_happened(
    synth: Path, tmp_path: Path
) -> None:
    data = open_lpr(synth, "lpr4m")
    validation = lpr_validation(data)

    def losses(out: Path, stop: int | None = None) -> list[float]:
        seen: list[float] = []

        def watch(progress: engine.Progress) -> None:
            seen.append(progress.losses["icl"])
            if progress.step == stop:
                raise KilledError

        recipe = replace(SYNTH, schedule=replace(SYNTH.schedule, steps=6, evaluate_every=2))
        sets = {"synth": LprClips(data, 40)}
        with contextlib.suppress(KilledError):
            engine.fit(recipe, sets, validation, out, device=CPU, watch=watch)
        return seen

    whole = losses(tmp_path / "whole")
    losses(tmp_path / "killed", stop=5)
    assert losses(tmp_path / "killed") == whole[4:]


def test_fit_bears_as_many_wrong_lines_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", replace(SYNTH, schedule=replace(SYNTH.schedule, steps=2)))
    lines = [full_line(clip, image) for clip, image in zip(CLIPS, SHOWN, strict=True)]
    data = write_lpr4m(tmp_path / "data", lines=[*lines, "broken"])
    command = ["fit", "tiny", "--data", f"synth={data}", "--out", str(tmp_path / "run"), "--limit"]
    refused, borne = (CliRunner().invoke(cli.app, [*command, limit]) for limit in "01")
    assert refused.exit_code == 1 and "more than 0 wrong lines" in refused.output
    assert borne.exit_code == 0, borne.output


@pytest.mark.parametrize("command", ["ablate", "bench"])
def test_whatever_trains_may_be_told_how_many_wrong_lines_it_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", replace(SYNTH, schedule=Schedule(steps=60, warmup=1)))
    lines = [full_line(clip, image) for clip, image in zip(CLIPS, SHOWN, strict=True)]
    data = write_lpr4m(tmp_path / "data", lines=[*lines, "broken"])
    out = ["--out", str(tmp_path / "runs")] if command == "ablate" else []
    arguments = [command, "tiny", "--data", f"synth={data}", *out, "--limit", "0"]
    refused = CliRunner().invoke(cli.app, arguments)
    assert refused.exit_code == 1 and "more than 0 wrong lines" in refused.output


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_training_has_borne_does_not_stop_what_is_judged(tmp_path: Path, split: str) -> None:
    lines = [full_line(clip, image) for clip, image in zip(CLIPS, SHOWN, strict=True)]
    write_lpr4m(tmp_path, lines=[*lines, *["broken"] * (DEFAULT_LIMIT + 1)])
    for _ in range(2):  # read, then from the index
        judged = open_judging("lpr4m", tmp_path, split, SIZE, lambda paths: paths)
        assert isinstance(judged, QuerySet) and judged.queries
    with pytest.raises(DataError, match="more than 1000 wrong lines"):
        open_training(SYNTH.sources[0], tmp_path, SIZE, lambda paths: paths)


def test_fit_evaluate_and_export_on_synth(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(SYNTH, name="tiny_synth")
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    runner, data = CliRunner(), ["--data", f"synth={synth}"]
    fitted = runner.invoke(cli.app, ["fit", recipe.name, *data, "--out", str(tmp_path / "run")])
    assert fitted.exit_code == 0, fitted.output
    best = str(tmp_path / "run" / "best.safetensors")
    scored = runner.invoke(cli.app, ["evaluate", best, *data, "--split", "test"])
    assert scored.exit_code == 0, scored.output
    report = json.loads(scored.stdout.splitlines()[-1])
    assert report["clips"] == 9
    assert report["unanswerable"] == {"no_frame": 0, "no_picture": 0}
    assert {"scale", "duration", "products"} <= report["groups"].keys()
    assert "clips)" not in scored.stderr, "groups do not bury the result"
    grouped = runner.invoke(cli.app, ["evaluate", best, *data, "--split", "test", "--groups"])
    assert json.loads(grouped.stdout.splitlines()[-1]) == report
    told = grouped.stderr.count(" clips)  R@1 ")
    assert told == sum(len(groups) for groups in report["groups"].values()) > 3
    out = tmp_path / "bundle"
    exported = runner.invoke(cli.app, ["export", best, *data, "--out", str(out), "--name", "x"])
    assert exported.exit_code == 0, exported.output
    metrics = json.loads((out / "manifest.json").read_text())["metrics"]
    assert metrics["protocol"].startswith("synth, test: each clip against the pictures of its own")
    assert 10 <= metrics["products"] <= 20


def test_a_recipe_that_reads_is_fitted_scored_and_exported_on_synth(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TextConfig(vocabulary=400, width=32, layers=1, heads=2, max_tokens=24, embedding=24)
    recipe = replace(
        SYNTH,
        name="tiny_text",
        model=replace(SYNTH.model, text=text),
        schedule=replace(SYNTH.schedule, text_rate=1e-3, steps=2, evaluate_every=2),
    )
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    data = ["--data", f"synth={synth}"]

    def done(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(cli.app, [*map(str, arguments), *data])
        assert result.exit_code == 0, result.output
        last = result.stdout.splitlines()[-1:]
        return json.loads(last[0]) if last and last[0].startswith("{") else {}

    run, out = tmp_path / "run", tmp_path / "bundle"
    done("fit", recipe.name, "--out", run)
    assert (run / "tokenizer.json").is_file(), "trained on what the clips say"
    best = run / "best.safetensors"
    right, missing = done("evaluate", best), done("evaluate", best, "--speech", "missing")
    assert "text" in right and "text" not in missing
    wrong = done("evaluate", best, "--speech", "wrong")
    assert wrong["clips"] == right["clips"] and wrong["groups"].keys() == right["groups"].keys()
    assert all(
        wrong["groups"]["scale"][name]["clips"] == told["clips"]
        for name, told in right["groups"]["scale"].items()
    )
    assert wrong["coarse"]["mrr"] == pytest.approx(right["coarse"]["mrr"]), "of what is seen"
    done("export", best, "--out", out, "--name", "x")
    assert json.loads((out / "manifest.json").read_text())["fusion"]["text"]["weight"] >= 0
