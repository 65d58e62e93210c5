"""The weights of a score's parts that rank val's clips best, and bear that speech is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product, takewhile
from statistics import mean

from training.evaluation.evidence import DOUBTS, SCALES
from training.evaluation.fusion import Fusion
from training.evaluation.hearings import Hearing
from training.evaluation.metrics import Accuracy, accuracy
from training.evaluation.scores import Scores

WEIGHTS = (0.0, *(2.0 ** (exponent / 2) for exponent in range(-18, 5)))  # that fusion may have
HALVINGS = 4  # of the step to what is too heavy: there a tenth more of text is worth a point of R@1
TOLD_APART = 0.005  # of mean reciprocal rank on val: less is chance
TEXT_COST = 0.003  # of R@1, at most, where what is heard is wrong, and half of it of the rank's


def best_fusion(*sets: Mapping[Hearing, Scores]) -> Fusion:
    """The weights that rank the clips of these sets best, by the mean of their mean reciprocal
    ranks: of the match without any text; then of text's evidence, its scale and doubt, where what
    is heard is right, no heavier than what costs TEXT_COST in any set where it is wrong. What
    wrong words do to where a model looks is no affair of weights."""
    match = best_match_weight([scores["missing"] for scores in sets])
    told = [scores["right"] for scores in sets if "right" in scores]
    if not told:
        return Fusion(match)
    misled = [scores["wrong"] for scores in sets if "wrong" in scores]
    unheard = [_accuracy(scores, Fusion(match)) for scores in misled]
    ranks_well: dict[Fusion, float] = {}
    for scale, doubt in product(SCALES, DOUBTS):
        fusion = Fusion(match, 0.0, scale, doubt)
        of_right = [_by_weight_of_text(scores, fusion) for scores in told]
        of_wrong = [_by_weight_of_text(scores, fusion) for scores in misled]
        for weight in _borne(unheard, of_wrong):
            found = mean(accuracy_at(weight).mrr for accuracy_at in of_right)
            ranks_well[fusion._replace(text=weight)] = found
    return max(ranks_well, key=ranks_well.__getitem__)


ByWeight = Callable[[float], Accuracy]


def _borne(unheard: Sequence[Accuracy], of_wrong: Sequence[ByWeight]) -> list[float]:
    """The weights of text up to the first that costs too much in some set, and nearly that one."""

    def is_borne(weight: float) -> bool:
        pairs = zip(unheard, of_wrong, strict=True)
        return all(_costs_little(silent, accuracy_at(weight)) for silent, accuracy_at in pairs)

    silence, *weights = WEIGHTS
    borne = [silence, *takewhile(is_borne, weights)]
    if len(borne) == len(WEIGHTS):
        return borne
    light, heavy = borne[-1], WEIGHTS[len(borne)]
    for _ in range(HALVINGS):
        middle = (light + heavy) / 2
        light, heavy = (middle, heavy) if is_borne(middle) else (light, middle)
    return [*borne, light]


def _by_weight_of_text(scores: Scores, fusion: Fusion) -> ByWeight:
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
