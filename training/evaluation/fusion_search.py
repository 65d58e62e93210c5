"""The weights of a score's parts that rank val's clips best, and bear that speech is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from statistics import mean

from training.evaluation.evidence import DOUBTS, SCALES
from training.evaluation.fusion import Fusion
from training.evaluation.hearings import Hearing
from training.evaluation.metrics import accuracy
from training.evaluation.scores import Scores

WEIGHTS = (0.0, *(2.0 ** (exponent / 2) for exponent in range(-18, 5)))  # that fusion may have
TOLD_APART = 0.005  # of mean reciprocal rank on val: less is chance
TEXT_COST = 0.0015  # the same, at most, where what is heard is wrong: of R@1 it may be twice that


def best_fusion(*sets: Mapping[Hearing, Scores]) -> Fusion:
    """The weights that rank the clips of these sets best, by the mean of their mean reciprocal
    ranks: of the match without any text; then of text's evidence, its scale and doubt, where what
    is heard is right, no heavier than what costs TEXT_COST in any set where it is wrong."""
    match = best_match_weight([scores["missing"] for scores in sets])
    told = [scores["right"] for scores in sets if "right" in scores]
    if not told:
        return Fusion(match)
    misled = [scores["wrong"] for scores in sets if "wrong" in scores]
    least = [_mrr(scores, Fusion(match)) - TEXT_COST for scores in misled]

    def is_borne(fusion: Fusion) -> bool:
        return all(_mrr(s, fusion) >= bound for s, bound in zip(misled, least, strict=True))

    borne = [
        fusion
        for scale in SCALES
        for doubt in DOUBTS
        for fusion in takewhile(is_borne, (Fusion(match, w, scale, doubt) for w in WEIGHTS))
    ]
    return max(borne, key=lambda fusion: mean(_mrr(scores, fusion) for scores in told))


def _mrr(scores: Scores, fusion: Fusion) -> float:
    return accuracy(scores.fused(fusion), scores.truth).mrr


def best_match_weight(sets: Sequence[Scores]) -> float:
    """The weight of the match logit that ranks the clips of all sets best by the mean of their mean
    reciprocal ranks: the middle of those that a few hundred clips cannot tell from the best."""
    reciprocal = [
        mean(accuracy(scores.fused(Fusion(weight)), scores.truth).mrr for scores in sets)
        for weight in WEIGHTS
    ]
    least = max(reciprocal) - TOLD_APART
    plateau = [w for w, r in zip(WEIGHTS, reciprocal, strict=True) if r >= least]
    return plateau[len(plateau) // 2]
