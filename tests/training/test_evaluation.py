"""Metrics, fusion and calibration on scores whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.tiny import CONFIG, photographs, tiny_model
from tests.training.tiny_sgmn import tiny_sgmn, tiny_tokenizer
from training.data.frames import Frame
from training.data.sets import JudgedSet
from training.evaluation import fusion_search, protocol
from training.evaluation.calibration import (
    ABSENT_SHARE,
    OUT_OF_SHOP,
    UNFITTED,
    Calibration,
    confidence_shares,
    confidences,
    fit_calibration,
)
from training.evaluation.commands import measured
from training.evaluation.filming import sample_clips
from training.evaluation.fusion import Fusion
from training.evaluation.fusion_search import TEXT_COST, best_fusion, best_match_weight
from training.evaluation.hearings import Hearing
from training.evaluation.judging import Judge
from training.evaluation.metrics import (
    Accuracy,
    accuracy,
    interval,
    intervals,
    ranks,
    rows_of_groups,
)
from training.evaluation.protocol import score_clips, score_heard
from training.evaluation.scorers import Scorer, TorchScorer
from training.evaluation.scores import Scores, joined
from training.models.rice import Frames, Rice


def test_ranks_and_accuracy() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.5, 0.6, 0.7]])
    truth = torch.tensor([0, 1, 0])
    assert ranks(scores, truth).tolist() == [1, 3, 3]
    result = accuracy(scores, truth)
    assert (round(result.r1, 3), result.r5, round(result.mrr, 3)) == (0.333, 1.0, 0.556)


def test_ties_count_against_the_query() -> None:
    assert ranks(torch.zeros(1, 4), torch.tensor([0])).tolist() == [4]


def test_scores_that_are_no_numbers_are_the_worst() -> None:
    result = accuracy(torch.full((3, 4), math.nan), torch.tensor([0, 1, 2]))
    assert (result.r1, result.mrr) == (0.0, 0.25)


def test_fusion_gives_a_useless_matcher_no_say_and_a_perfect_one_much() -> None:
    torch.manual_seed(0)
    truth = torch.arange(50) % 10
    own = torch.nn.functional.one_hot(truth, 10).float()
    coarse = own + torch.randn(50, 10)
    useless = Scores(own.clone(), 10 * torch.randn(50, 10), truth)
    perfect = Scores(coarse, 3 * own, truth)
    assert accuracy(useless.fused(Fusion(best_match_weight([useless]))), truth).r1 == 1
    assert accuracy(perfect.fused(Fusion(best_match_weight([perfect]))), truth).r1 == 1
    known: dict[Hearing, Scores] = {"missing": useless}  # val knows its products by heart
    unseen: dict[Hearing, Scores] = {"missing": perfect}
    assert best_fusion(known).match < best_fusion(known, unseen).match < 4


def spoken_scores(noise: float) -> dict[Hearing, Scores]:
    """Of clips that eyes mostly recognise and words always name: their own product, or another."""
    torch.manual_seed(0)
    truth = torch.arange(300) % 10
    own = torch.nn.functional.one_hot(truth, 10).float()
    coarse, match = own + noise * torch.randn(300, 10), torch.zeros(300, 10)
    said = 0.1 + 0.8 * own
    named = {"right": said, "wrong": said.roll(1, 1), "missing": torch.zeros_like(said)}
    return {of: Scores(coarse, match, truth, text=text) for of, text in named.items()}


def repeated(scores: Scores, speeches: int) -> Scores:
    """As if each clip were judged with so many speeches, all alike."""
    parts = (scores.coarse, scores.match, scores.truth, scores.text)
    coarse, match, truth, text = (
        part.repeat_interleave(speeches, dim=0) for part in parts if part is not None
    )
    return Scores(coarse, match, truth, text=text, speeches=speeches)


def judged(scores: Scores, fusion: Fusion) -> Accuracy:
    return accuracy(scores.fused(fusion), scores.truth)


def is_borne(wrong: Scores, fusion: Fusion) -> bool:
    """Whether wrong words cost as little of R@1, and of the rank, as they may."""
    unheard, misled = judged(wrong, Fusion(fusion.match)), judged(wrong, fusion)
    return unheard.r1 - misled.r1 <= TEXT_COST and unheard.mrr - misled.mrr <= TEXT_COST / 2


def test_text_weighs_as_much_as_wrong_words_may_cost() -> None:
    of = spoken_scores(noise=0.45)
    fusion = best_fusion(of)
    unheard = Fusion(fusion.match, 0.0)
    assert judged(of["missing"], fusion).mrr == judged(of["missing"], unheard).mrr
    assert judged(of["right"], fusion).mrr > judged(of["right"], unheard).mrr
    assert is_borne(of["wrong"], fusion)
    assert not is_borne(of["wrong"], fusion._replace(text=1.1 * fusion.text))
    assert best_fusion({"missing": of["missing"]}) == unheard


def test_what_wrong_words_cost_the_eyes_is_not_held_against_the_weight_of_text() -> None:
    """Where they say which frames to look at."""
    of = spoken_scores(noise=0.45)
    looked = of["wrong"].coarse.clone()
    looked[:3] = -looked[:3]
    misguided = {**of, "wrong": replace(of["wrong"], coarse=looked)}
    assert best_fusion(misguided).text > 0


class Spoken(Judge):
    """Whose val and test are the same."""

    def __init__(self, scores: dict[Hearing, Scores]) -> None:
        self._scores = scores

    def val_scores(self, scorer: Scorer, takes: int = 1) -> dict[Hearing, Scores]:
        return self._scores

    def scores(self, *_: object, **__: object) -> dict[Hearing, Scores]:
        return self._scores


def test_a_run_is_ranked_by_weights_that_trust_speech_and_told_of_by_wary_ones() -> None:
    of, unseen = spoken_scores(noise=0.35), spoken_scores(noise=0.45)
    scorer = TorchScorer(tiny_sgmn(), tiny_tokenizer())
    found = measured(scorer, Spoken(of), [], coarse=False)
    silent = judged(of["missing"], Fusion(0.0)).r1
    assert found.accuracy.r1 == 1 > found.further["wary"] > silent
    assert found.further["silent"] == silent >= found.further["misled"] >= silent - TEXT_COST
    warier = measured(scorer, Spoken(of), [Spoken(unseen)], coarse=False)
    assert warier.further["wary"] < found.further["wary"], "others have a say"
    by_embedding = measured(scorer, Spoken(of), [], coarse=True)
    assert by_embedding.accuracy == judged(of["missing"], Fusion(0.0))


def test_ranks_that_rise_further_down_do_not_pay_for_the_best_that_is_lost() -> None:
    """Wrong words, of a product of a like name, lift 98 right answers from the fifth place to the
    second, and take the first from two."""
    truth = torch.zeros(100, dtype=torch.long)
    coarse = torch.tensor([0.99, 1.3, 1.0, 1.0, 1.0]).repeat(100, 1)
    coarse[:2, 0] = 1.32
    seen = Scores(coarse, torch.zeros(100, 5), truth)
    right = replace(seen, text=torch.tensor([0.9, 0.1, 0.1, 0.1, 0.1]).repeat(100, 1))
    wrong = replace(seen, text=torch.tensor([0.85, 0.9, 0.1, 0.1, 0.1]).repeat(100, 1))
    unheard, heavy = judged(wrong, Fusion(0.0)), judged(wrong, Fusion(0.0, 1.0))
    assert heavy.mrr > unheard.mrr and heavy.r1 < unheard.r1
    fusion = best_fusion({"missing": seen, "right": right, "wrong": wrong})
    assert judged(wrong, fusion).r1 == unheard.r1


def test_fusion_has_a_scale_and_a_doubt_of_those_it_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusion_search, "SCALES", (32.0,))
    monkeypatch.setattr(fusion_search, "DOUBTS", (0.6,))
    fusion = best_fusion(spoken_scores(noise=0.45))
    assert fusion.text > 0 and (fusion.scale, fusion.doubt) == (32.0, 0.6)


def test_wrong_words_may_cost_no_more_where_products_are_unseen() -> None:
    known, unseen = spoken_scores(noise=0.35), spoken_scores(noise=0.45)
    assert is_borne(known["wrong"], best_fusion(known))
    assert not is_borne(unseen["wrong"], best_fusion(known))
    fusion = best_fusion(known, unseen)
    assert fusion.text > 0 and is_borne(unseen["wrong"], fusion)


def test_what_speech_is_worth_in_any_set_counts() -> None:
    told = spoken_scores(noise=0.45)
    untold: dict[Hearing, Scores] = {"missing": told["missing"]}
    assert best_fusion(untold).text == 0
    assert best_fusion(untold, told).text == best_fusion(told).text > 0


def test_what_reads_is_scored_by_all_that_it_may_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    of = spoken_scores(noise=0.1)
    asked: list[Hearing] = []

    def score(
        scorer: Scorer, data: JudgedSet, *, hearings: Sequence[Hearing], **options: object
    ) -> dict[Hearing, Scores]:
        asked.extend(hearings)
        return {hearing: of[hearing] for hearing in hearings}

    monkeypatch.setattr(protocol, "score", score)
    scorer, data = TorchScorer(tiny_sgmn(), tiny_tokenizer()), photographs()
    of["wrong"] = repeated(of["wrong"], speeches=3)
    every = joined(score_heard(scorer, data))
    assert asked == ["right", "wrong", "missing"] and len(every.truth) == 900
    assert every.text is not None and every.text[600:].count_nonzero() == 0
    of["right"] = replace(of["missing"], text=None)
    for reader in (scorer, TorchScorer(tiny_model())):
        silent = score_heard(reader, data)
        assert list(silent) == ["missing"] and joined(silent).text is None
    assert asked[3:] == ["right", "wrong", "missing", "right"], "what reads nothing is asked once"


def test_scoring_is_the_same_every_time_and_counts_every_clip() -> None:
    model, data = tiny_model(), photographs()
    seen = []
    first = score_clips(model, data, done=lambda: seen.append(1))["right"]
    again = score_clips(model, data)["right"]
    assert torch.equal(first.coarse, again.coarse)
    assert torch.equal(first.match, again.match)
    assert len(seen) == len(first.truth) == 10
    assert first.coarse.shape == first.match.shape == (10, 5)


def test_nothing_is_cut_or_dropped_when_scoring() -> None:
    """The released code cuts tails off at evaluation too, by chance. A model
    left in training mode is scored on all frames and without chance."""
    torch.manual_seed(0)
    model, data = Rice(replace(CONFIG, attention_dropout=0.5)), photographs()
    seen = []
    encode = model.encode_frames

    def spy(
        frames: torch.Tensor,
        frame_mask: torch.Tensor,
        patch_mask: torch.Tensor,
        scores: torch.Tensor | None,
    ) -> Frames:
        assert scores is None
        seen.append((frames.shape[1], bool(frame_mask.all() and patch_mask.all())))
        return encode(frames, frame_mask, patch_mask, scores)

    model.encode_frames = spy  # type: ignore[method-assign]
    first = score_clips(model.train(), data)["right"]
    torch.manual_seed(1)
    again = score_clips(model.train(), data)["right"]
    assert torch.equal(first.match, again.match)
    assert torch.equal(first.coarse, again.coarse)
    assert set(seen) == {(CONFIG.frames, True)}


def test_samples_of_photographs_are_clips_as_they_are_judged() -> None:
    data = photographs()
    clips = sample_clips(data, 2, frames=3, size=CONFIG.encoder.image_size)
    seen: list[torch.Tensor] = []

    def boxes(frames: Sequence[Frame]) -> torch.Tensor:
        seen.append(torch.from_numpy(np.stack([frame.pixels for frame in frames])))
        return torch.zeros(len(frames), 1, 4)

    score_clips(tiny_model(), data, boxes=boxes)
    assert len(clips) == 2 and clips[0].shape == (3, *seen[0].shape[1:])
    torch.testing.assert_close(clips[0], seen[0])


def test_boxes_decide_what_is_seen_of_photographs_too() -> None:
    model, data = tiny_model(), photographs()
    whole = score_clips(model, data)["right"]
    corner = score_clips(
        model, data, boxes=lambda f: torch.tensor([0, 0, 0.3, 0.3]).expand(len(f), 1, 4)
    )["right"]
    nowhere = score_clips(model, data, boxes=lambda f: torch.zeros(len(f), 1, 4))["right"]
    assert not torch.allclose(whole.coarse, corner.coarse, atol=1e-4)
    assert torch.allclose(whole.coarse, nowhere.coarse, atol=1e-5), "without a box, the whole frame"


def test_confidences_leave_room_for_none() -> None:
    held = confidences(torch.tensor([[1.0, 0.0]]), Calibration(0.5, none_logit=2.0))
    exp = torch.tensor([2.0, 0.0, 2.0]).exp()
    assert torch.allclose(held[0], exp[:2] / exp.sum())


def test_calibrated_confidence_is_the_share_that_is_right() -> None:
    torch.manual_seed(1)
    truth = torch.randint(0, 20, (4000,))
    scores = 3 * torch.nn.functional.one_hot(truth, 20) + torch.randn(4000, 20)
    calibration = fit_calibration(scores, truth)
    absent = scores.scatter(1, truth[:, None], -math.inf)
    held, best = torch.cat([confidences(both, calibration) for both in (scores, absent)]).max(1)
    right = torch.cat([best[:4000] == truth, torch.zeros(4000, dtype=torch.bool)]).float()
    share = torch.tensor([1 - ABSENT_SHARE, ABSENT_SHARE]).repeat_interleave(4000)
    for low in (0.1, 0.3, 0.5, 0.7):
        weight = share * ((held >= low) & (held < low + 0.2))
        assert abs(((right - held) * weight).sum() / weight.sum()) < 0.06


def test_scores_that_separate_everything_still_calibrate() -> None:
    truth = torch.arange(30) % 10
    fitted = fit_calibration(torch.nn.functional.one_hot(truth, 10).float(), truth)
    assert fitted.temperature >= 1e-3
    assert math.isfinite(fitted.none_logit)


def test_clips_that_cannot_be_answered_take_no_part_in_calibration() -> None:
    torch.manual_seed(1)
    truth = torch.randint(0, 20, (200,))
    scores = 3 * torch.nn.functional.one_hot(truth, 20) + torch.randn(200, 20)
    expected = fit_calibration(scores, truth)
    without_frames = torch.full((1, 20), 2 * OUT_OF_SHOP)
    without_picture = torch.randn(1, 20)
    without_picture[0, 7] = OUT_OF_SHOP
    lost = torch.cat([without_frames, without_picture])
    fitted = fit_calibration(torch.cat([scores, lost]), torch.cat([truth, torch.tensor([7, 7])]))
    assert fitted == expected
    assert fit_calibration(lost, torch.tensor([7, 7])) == UNFITTED


def test_clips_that_cannot_be_answered_choose_no_fusion() -> None:
    def with_a_lost_one(scores: Scores) -> Scores:
        row = torch.full((1, 10), OUT_OF_SHOP)
        parts = (scores.coarse, scores.match, scores.text)
        coarse, match, text = (torch.cat([part, row]) for part in parts if part is not None)
        return Scores(coarse, match, torch.cat([scores.truth, torch.tensor([7])]), text=text)

    of = spoken_scores(noise=0.45)
    assert best_fusion({name: with_a_lost_one(one) for name, one in of.items()}) == best_fusion(of)


def test_the_reference_distribution_is_the_share_of_clips_up_to_each_confidence() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    shares = confidence_shares(scores, Calibration(temperature=1.0, none_logit=0.0))
    # the best confidences are e^2 / (e^2 + 2) = 0.787 and 1/3
    assert shares["0.3"] == 0
    assert shares["0.35"] == shares["0.75"] == 0.5
    assert shares["0.8"] == shares["1.0"] == 1


def test_the_interval_is_the_bootstrap_of_the_clips() -> None:
    torch.manual_seed(0)
    hits = (torch.arange(283) < 230).float()
    resampled = hits[torch.randint(283, (20_000, 283))].mean(dim=1)
    expected = torch.quantile(resampled, torch.tensor([0.025, 0.975])).tolist()
    assert interval(hits) == pytest.approx(expected, abs=0.005)
    assert interval(torch.ones(50)) == (1.0, 1.0)
    low, high = interval(torch.arange(20) % 2)
    assert high - low > 0.3, "few clips say little"


def test_a_clip_is_resampled_with_all_its_takes() -> None:
    scores, truth = torch.eye(2).repeat(20, 1), torch.zeros(40, dtype=torch.long)
    once = Scores(scores, scores, truth)
    often = Scores(scores.repeat(5, 1), scores.repeat(5, 1), truth.repeat(5), takes=5)
    assert often.clips == once.clips == 40
    first, again = (intervals(one.coarse, one.truth, one.clip) for one in (once, often))
    assert first == again, "the same clips again tell nothing new"


def test_groups_are_scored_on_their_own_rows() -> None:
    found = rows_of_groups(["small", "large", "small", ""])
    assert {group: rows.tolist() for group, rows in found.items()} == {
        "large": [1],
        "small": [0, 2],
    }


def test_photographs_are_grouped_by_their_products_category() -> None:
    data = replace(photographs(), categories=["fruit", "fruit", "milk", "milk", "milk"])
    groups = score_clips(tiny_model(), data, takes=2)["right"].groups
    assert groups == {"category": 2 * (4 * ["fruit"] + 6 * ["milk"])}
