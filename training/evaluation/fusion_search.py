"""The weights of a score's parts that rank val's clips best, and bear that speech is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import mean

from training.evaluation.evidence import DOUBTS, SCALES
from training.evaluation.fusion import Fusion
from training.evaluation.hearings import Hearing
from training.evaluation.metrics import Accuracy, accuracy
from training.evaluation.scores import Scores

WEIGHTS = (0.0, *(2.0 ** (exponent / 2) for exponent in range(-18, 5)))  # that fusion may have
TOLD_APART = 0.005  # of mean reciprocal rank on val: less is chance
TEXT_COST = 0.003  # of R@1, at most, where what is heard is wrong, and half of it of the rank's


def best_fusion(*sets: Mapping[Hearing, Scores]) -> Fusion:
    """The weights that rank the clips of these sets best, by the mean of their mean reciprocal
    ranks: of the match without any text; then of text's evidence, its scale and doubt, where what
    is heard is right, no heavier than what costs TEXT_COST in any set where it is wrong."""
    match = best_match_weight([scores["missing"] for scores in sets])
    told = [scores["right"] for scores in sets if "right" in scores]
    if not told:
        return Fusion(match)
    misled = [scores["wrong"] for scores in sets if "wrong" in scores]
    unheard = [_accuracy(scores, Fusion(match)) for scores in misled]
    borne: dict[Fusion, float] = {}
    for scale, doubt in product(SCALES, DOUBTS):
        fusion = Fusion(match, 0.0, scale, doubt)
        of_wrong = [_by_weight_of_text(scores, fusion) for scores in misled]
        of_right = [_by_weight_of_text(scores, fusion) for scores in told]
        for weight in WEIGHTS:
            costs = zip(unheard, (accuracy_at(weight) for accuracy_at in of_wrong), strict=True)
            if not all(_costs_little(silent, wrong) for silent, wrong in costs):
                break
            ranks_well = mean(accuracy_at(weight).mrr for accuracy_at in of_right)
            borne[fusion._replace(text=weight)] = ranks_well
    return max(borne, key=borne.__getitem__)


def _by_weight_of_text(scores: Scores, fusion: Fusion) -> Callable[[float], Accuracy]:
    """Accuracy at any weight of text; what takes long, its evidence, is computed once."""
    seen, said = scores.seen(fusion), scores.said(fusion)
    return lambda weight: accuracy(scores.judged(seen + weight * said), scores.truth)


def _costs_little(silent: Accuracy, misled: Accuracy) -> bool:
    """Both, because ranks may rise further down while the best is lost."""
    return silent.r1 - misled.r1 <= TEXT_COST and silent.mrr - misled.mrr <= TEXT_COST / 2


def _accuracy(scores: Scores, fusion: Fusion) -> Accuracy:
    return accuracy(scores.fused(fusion), scores.truth)


def best_match_weight(sets: Sequence[Scores]) -> float:
    """The weight of the match logit that ranks the clips of all sets best by the mean of their mean
    reciprocal ranks: the middle of those that a few hundred clips cannot tell from the best."""
    reciprocal = [mean(_accuracy(scores, Fusion(w)).mrr for scores in sets) for w in WEIGHTS]
    least = max(reciprocal) - TOLD_APART
    plateau = [w for w, r in zip(WEIGHTS, reciprocal, strict=True) if r >= least]
    return plateau[len(plateau) // 2]
