"""ICL, PMD and PFR on numbers small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from training.losses import Contest, icl_loss, pfr_loss, pmd_loss


def test_icl_with_one_clip_a_product_is_symmetric_infonce() -> None:
    similarity = torch.randn(4, 4)
    product = torch.arange(4)
    scale = torch.tensor(3.0)
    expected = (
        F.cross_entropy(9 * similarity, product) + F.cross_entropy(9 * similarity.T, product)
    ) / 2
    assert torch.allclose(icl_loss(similarity, product, scale), expected)


def test_icl_never_holds_clips_of_one_product_against_each_other() -> None:
    """Both clips of product 0 count as its positives, alike or not."""
    product = torch.tensor([0, 0, 1])
    similarity = torch.tensor([[0.9, 0.1], [0.3, 0.2], [0.1, 0.8]])
    logits = 4 * similarity
    clip_side = F.cross_entropy(logits, product)
    columns = logits.log_softmax(dim=0)
    picture_side = -((columns[0, 0] + columns[1, 0]) / 2 + columns[2, 1]) / 2
    expected = (clip_side + picture_side) / 2
    assert torch.allclose(icl_loss(similarity, product, torch.tensor(2.0)), expected)


def test_pmd_is_four_way_with_the_positive_first() -> None:
    logits = torch.randn(6, 6)
    similarity = torch.randn(6, 6)
    product = torch.arange(6)

    def by_hand(logits: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
        losses = []
        for row in range(6):
            others = [j for j in range(6) if j != row]
            hardest = sorted(others, key=lambda j: -similarity[row, j].item())[:3]
            ways = torch.stack([logits[row, row], *(logits[row, j] for j in hardest)])
            losses.append(-ways.log_softmax(0)[0])
        return torch.stack(losses).mean()

    among_clips = by_hand(logits.T, similarity.T)
    assert torch.allclose(
        pmd_loss(logits, similarity, product, negatives=3, contest="clips"), among_clips
    )
    expected = (by_hand(logits, similarity) + among_clips) / 2
    assert torch.allclose(
        pmd_loss(logits, similarity, product, negatives=3, contest="both"), expected
    )


@pytest.mark.parametrize("contest", ["clips", "both"])
def test_pmd_never_takes_a_clip_of_the_same_product_as_negative(contest: Contest) -> None:
    product = torch.tensor([0, 0, 1])
    similarity = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    logits = torch.tensor([[1.0, 0.0], [50.0, 0.0], [0.0, 1.0]])
    loss = pmd_loss(logits, similarity, product, negatives=3, contest=contest)
    # Had clip 1 been a negative of picture 0 for clip 0, its logit of 50 would cost some 49.
    assert loss < 1


def test_pfr_is_the_mean_square_to_a_target_without_gradient() -> None:
    reconstruction = torch.zeros(1, 2, 2, requires_grad=True)
    tokens = torch.tensor([[[9.0, 9.0], [1.0, 3.0], [0.0, 0.0]]], requires_grad=True)
    loss = pfr_loss(reconstruction, tokens)  # two of three: the class token is left out
    assert loss.item() == (1 + 9) / 4
    loss.backward()
    assert reconstruction.grad is not None
    assert tokens.grad is None
