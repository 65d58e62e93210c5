"""SGMN's parts: each does what the paper says, and not what the released code does by mistake."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.losses import pmd_loss
from training.models.sgmn import text_guided_attention
from training.models.sgmn.frame_graph import LEAST, FrameGraph, matched, weights
from training.models.sgmn.instance_graph import (
    InstanceGraph,
    Nodes,
    fine_grained_similarity,
    graph_edges,
    strongest_half,
)
from training.models.sgmn.text_guided_attention import (
    POOLING,
    TextGuidedAttention,
    shares_of,
)
from training.models.text import Words
from training.sgmn_losses import (
    MARGIN,
    RELATION_SCALE,
    distance_weights,
    graph_triplet_loss,
    multi_modal,
    presence_loss,
    relation_loss,
    triplet_loss,
)

WIDTH, TEXT, EMBEDDING = 16, 12, 16


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


class Spoken:
    """Two clips of three frames of five patches, and four words each."""

    def __init__(self) -> None:
        self.guidance = TextGuidedAttention(WIDTH, TEXT, EMBEDDING).eval()
        self.patches = torch.randn(2, 3, 5, WIDTH)
        self.patch_mask = torch.ones(2, 3, 5, dtype=torch.bool)
        self.words = torch.randn(2, 4, TEXT)
        self.mask = torch.ones(2, 4, dtype=torch.bool)
        self.whole = unit(2, EMBEDDING)

    @property
    def speech(self) -> Words:
        return Words(self.words, self.mask, self.whole * self.mask.any(dim=1, keepdim=True))

    def salience(self) -> Tensor:
        return self.guidance.salience(self.patches, self.patch_mask, self.speech)

    def shares(self) -> Tensor:
        shown = self.guidance(self.patches, self.patch_mask, self.speech)
        return shares_of(shown, self.patch_mask.any(dim=2))


def test_patches_are_told_apart_by_the_words_of_the_speech() -> None:
    """The released code attends to one vector: its softmax is 1, each patch gets the same."""
    spoken = Spoken()
    salience = spoken.salience()
    assert torch.allclose(salience.sum(dim=(1, 2)), torch.ones(2))
    assert salience.std(dim=-1).min() > 1e-3
    moved = 3 * torch.randn(TEXT)
    spoken.words[0, 0] += moved
    spoken.words[0, 1] -= moved  # other words, whose mean is the same
    changed = spoken.salience()
    assert (changed[0] - salience[0]).abs().max() > 1e-3
    assert torch.equal(changed[1], salience[1])


def test_a_frame_counts_by_what_it_shows_of_what_is_said() -> None:
    spoken = Spoken()
    salience, shares = spoken.salience(), spoken.shares()
    assert torch.allclose(salience.sum(dim=-1), shares)
    spoken.patches[0, 1, 2] = _patch_that_shows(spoken, clip=0)
    assert spoken.shares()[0, 1] > shares[0, 1]
    assert spoken.salience()[0].flatten().argmax() == 1 * 5 + 2


def _patch_that_shows(spoken: Spoken, clip: int) -> Tensor:
    """What `look` takes to what is said as a whole."""
    with torch.no_grad():
        back = torch.linalg.pinv(spoken.guidance.look.weight) @ spoken.whole[clip]
        return torch.nn.functional.layer_norm(back, (WIDTH,))


def test_words_of_padding_and_masked_patches_take_no_part() -> None:
    spoken = Spoken()
    spoken.mask[:, 2:] = False
    spoken.patch_mask[1, 2, 1:] = False
    spoken.patch_mask[0, 1] = False
    salience, shares = spoken.salience(), spoken.shares()
    assert salience[1, 2, 1:].tolist() == [0, 0, 0, 0]
    assert shares[0, 1] == 0
    spoken.words[:, 2:] = 100
    spoken.patches[1, 2, 1:] = torch.randn(4, WIDTH)
    spoken.patches[0, 1] = torch.randn(5, WIDTH)
    assert torch.allclose(spoken.salience(), salience)
    assert torch.allclose(spoken.shares(), shares)


def test_without_speech_frames_are_alike() -> None:
    spoken = Spoken()
    spoken.mask[1] = False
    spoken.patch_mask[1, 0, 1:] = False  # however many patches they keep
    spoken.patch_mask[1, 2] = False
    assert spoken.shares()[1].tolist() == [0.5, 0.5, 0]
    assert spoken.shares()[0].std() > 1e-3


def test_the_contrast_compares_as_salience_does() -> None:
    """Frames as views of their own: how alike they are to what is said makes their shares."""
    spoken = Spoken()
    views, mask = spoken.patches.flatten(0, 1), spoken.patch_mask.flatten(0, 1)
    likeness = spoken.guidance.likeness(views, mask, *spoken.guidance.keys(spoken.speech))
    assert likeness.shape == (2 * 3, 2)
    for clip, shares in enumerate(spoken.shares()):
        own = likeness[3 * clip : 3 * clip + 3, clip]
        assert torch.allclose((POOLING * own).softmax(dim=0), shares, atol=1e-5)


def test_the_contrast_of_a_large_batch_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = Spoken()
    views, mask = spoken.patches.flatten(0, 1), spoken.patch_mask.flatten(0, 1)
    mask[2, 1:] = False

    def compared() -> tuple[Tensor, Tensor]:
        keys = spoken.guidance.keys(spoken.speech)
        likeness = spoken.guidance.likeness(views, mask, *keys)
        [gradient] = torch.autograd.grad(likeness.square().sum(), spoken.guidance.look.weight)
        return likeness, gradient

    at_once = compared()
    monkeypatch.setattr(text_guided_attention, "MOST_PAIRS", 2 * 2 * 5 * 5)
    for whole, part in zip(at_once, compared(), strict=True):
        assert torch.allclose(whole, part, atol=1e-6)


class Seen:
    """Two clips of four frames."""

    def __init__(self, width: int = EMBEDDING, *, detected: bool = False) -> None:
        graph = FrameGraph(EMBEDDING, WIDTH, 6, width, 8, activation="gelu", detected=detected)
        self.graph = graph.eval()
        self.frames = torch.randn(2, 4, EMBEDDING)
        self.patches = torch.randn(2, 4, WIDTH)
        self.spoken = torch.randn(2, 4)
        self.scores = torch.rand(2, 4)
        self.mask = torch.ones(2, 4, dtype=torch.bool)

    def shown(self, clips: slice = slice(None), frames: int = 4) -> Tensor:
        """In the first frames of the clips."""
        parts = (self.frames, self.patches, self.spoken, self.scores, self.mask)
        shown: Tensor = self.graph(*(part[clips, :frames] for part in parts))
        return shown


def test_a_frame_s_token_of_difference_is_of_its_change_to_the_next() -> None:
    graph, frames = Seen().graph, torch.randn(2, 4, EMBEDDING)
    seen: list[Tensor] = []
    graph.difference_block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1, 2:] = False
    tokens, difference_mask = graph.differences(frames, mask)
    expected = frames[:, 1:] - frames[:, :-1] + graph.difference_positions[:3]
    assert torch.allclose(seen[0][:, :3], expected)
    assert tokens.abs().max() <= 1
    assert difference_mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3]


@pytest.mark.parametrize("detected", [False, True])
def test_frames_of_padding_change_nothing(detected: bool) -> None:
    seen = Seen(detected=detected)
    seen.mask[0, 3:], seen.mask[1, 1:] = False, False
    whole = seen.shown()
    for clip, frames in enumerate((3, 1)):
        alone = seen.shown(slice(clip, clip + 1), frames)
        assert torch.allclose(alone[0], whole[clip, :frames], atol=1e-5)
    for part in (seen.frames, seen.patches, seen.spoken, seen.scores):
        part[0, 3:], part[1, 1:] = 100, -100
    assert torch.allclose(seen.shown()[seen.mask], whole[seen.mask], atol=1e-5)


def test_the_order_of_frames_counts() -> None:
    seen = Seen()
    before = seen.shown()
    for name in ("frames", "patches", "spoken"):
        setattr(seen, name, getattr(seen, name).flip(1))
    assert (seen.shown().flip(1) - before).abs().max() > 1e-3


def test_patches_and_speech_tell_whether_a_frame_shows_the_product() -> None:
    for name in ("patches", "spoken"):
        seen = Seen()
        before = seen.shown()
        getattr(seen, name)[0, 1] += torch.randn(WIDTH) if name == "patches" else 1
        changed = (seen.shown() - before).abs()
        assert changed[0].max() > 1e-3
        assert changed[1].max() == 0


def test_a_detector_s_scores_tell_where_the_graph_is_told_them() -> None:
    for detected in (False, True):
        seen = Seen(width=24, detected=detected)
        before = seen.shown()
        seen.scores[0, 1] = 0.01
        changed = (seen.shown() - before).abs()
        assert bool(changed[0].max() > 1e-3) is detected
        assert changed[1].max() == 0


def test_where_a_detector_finds_nothing_all_frames_count_alike() -> None:
    seen = Seen(detected=True)
    seen.scores[0], seen.mask[1, 2:] = 0, False
    seen.scores[1] = torch.tensor([0.0, 0.0, 0.9, 0.9])  # of padding
    shown = seen.shown()
    assert weights(shown, seen.mask).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert torch.equal(matched(shown, seen.mask), seen.mask)
    seen.scores[0, 2] = 0.5
    assert weights(seen.shown(), seen.mask)[0].std() > 1e-3


def test_frames_that_hardly_show_the_product_are_not_matched() -> None:
    least = math.log(LEAST / (1 - LEAST))
    shown = torch.tensor([[3.0, least, least - 0.1, 9.0], [least - 2, least - 1, least - 9, 9.0]])
    mask = torch.tensor([[True, True, True, False]] * 2)
    assert matched(shown, mask).tolist() == [
        [True, True, False, False],
        [False, True, False, False],  # one at least
    ]


def test_frames_count_by_how_likely_they_show_the_product() -> None:
    shown = torch.tensor(
        [[0.0, 30.0, -1.0, 9.0], [-90.0, -91.0, -92.0, -9.0], [1.0, 2.0, 3.0, 4.0]]
    )
    mask = torch.tensor([[True, True, True, False]] * 2 + [[False] * 4])
    expected = [
        [0.5, 1, 1 / (1 + math.e), 0],
        [1, math.exp(-1), math.exp(-2), 0],  # however unlikely all are
        [0, 0, 0, 0],
    ]
    assert torch.allclose(weights(shown, mask), torch.tensor(expected), atol=1e-5)


def test_presence_is_learned_of_the_frames_that_somebody_has_told_of() -> None:
    shown, none, box = torch.tensor([[2.0, -1.0, 5.0]]), [0.0] * 4, [0.1, 0.1, 0.5, 0.5]
    boxes = torch.tensor([[[box, none], [none, none], [none, none]]])
    told = torch.tensor([[True, True, False]])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert presence_loss(shown, boxes, told).item() == pytest.approx(expected, rel=1e-5)
    assert presence_loss(shown, boxes, ~told & False).item() == 0


def test_connectivity_within_a_view_is_of_that_view() -> None:
    """The released code takes it from the similarity across the views."""
    nodes, across = Nodes(unit(3, EMBEDDING), unit(4, EMBEDDING)), torch.rand(3, 4)
    edges = graph_edges(nodes, across)
    assert torch.equal(edges[:3, 3:], across)
    assert torch.equal(edges[3:, :3], across.T)
    for own, view in ((edges[:3, :3], nodes.clips), (edges[3:, 3:], nodes.pictures)):
        assert torch.allclose(own, torch.exp(-torch.cdist(view, view)), atol=2e-3)
    other = graph_edges(nodes, 1 - across)
    assert torch.equal(other[:3, :3], edges[:3, :3])
    assert torch.equal(other[3:, 3:], edges[3:, 3:])


def test_each_row_keeps_its_strongest_half_and_a_node_itself() -> None:
    nodes = Nodes(unit(3, EMBEDDING), unit(4, EMBEDDING))
    edges = graph_edges(nodes, 2 * torch.rand(3, 4) - 1)
    kept = strongest_half(edges)
    for row, of_row in zip(edges, kept, strict=True):
        finite = of_row.isfinite()
        assert finite.sum() == 4, "half of seven, rounded up"
        assert torch.equal(of_row[finite], row[finite])
        assert row[finite].min() >= row[~finite].max()
    assert kept.diagonal().isfinite().all()


def test_nodes_learn_of_their_neighbours_alone() -> None:
    graph = InstanceGraph(EMBEDDING, 16, activation="gelu").eval()
    clips, pictures = unit(2, EMBEDDING), unit(2, EMBEDDING)
    clips[1], pictures[1] = -clips[0], -pictures[0]  # far apart: half of a row is 2 of 4
    across = torch.tensor([[0.9, -0.9], [-0.9, 0.9]])
    before = graph(Nodes(clips, pictures), across)
    pictures[1] = unit(EMBEDDING) * 0.1 - 0.9 * pictures[0]
    after = graph(Nodes(clips, torch.nn.functional.normalize(pictures, dim=-1)), across)
    assert torch.allclose(after.clips[0], before.clips[0], atol=1e-5)
    assert (after.clips[1] - before.clips[1]).abs().max() > 1e-4
    assert all(torch.allclose(view.norm(dim=-1), torch.ones(2)) for view in after)


def test_an_edge_draws_attention_to_itself() -> None:
    graph = InstanceGraph(EMBEDDING, 16, activation="gelu").eval()
    nodes = Nodes(unit(2, EMBEDDING), unit(2, EMBEDDING))
    weak = graph(nodes, torch.tensor([[0.5, -9.0], [-9.0, 0.5]]))
    strong = graph(nodes, torch.tensor([[5.0, -9.0], [-9.0, 5.0]]))
    assert (weak.clips - strong.clips).abs().max() > 1e-3


def test_fine_grained_similarity_is_the_mean_of_each_patch_s_best() -> None:
    clips, pictures = torch.randn(2, 6, EMBEDDING), torch.randn(3, 4, EMBEDDING)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    found = fine_grained_similarity(clips, mask, pictures)
    for n in range(2):
        for p in range(3):
            best = [
                max(
                    torch.cosine_similarity(patch, token, dim=0).item()
                    for token in clips[n][mask[n]]
                )
                for patch in pictures[p]
            ]
            assert found[n, p].item() == pytest.approx(sum(best) / 4, abs=1e-5)


def test_triplets_hold_what_is_nearer_than_the_margin_against_it() -> None:
    product = torch.tensor([0, 1, 0])
    pictures = torch.eye(EMBEDDING)[:3]
    right = Nodes(pictures[product], pictures)
    assert triplet_loss(right, product) == 0
    wrong = Nodes(pictures[torch.tensor([1, 0, 1])], pictures)
    assert triplet_loss(wrong, product) > MARGIN
    nodes = Nodes(unit(3, EMBEDDING).requires_grad_(), unit(3, EMBEDDING).requires_grad_())
    triplet_loss(nodes, product).backward()
    for view in nodes:
        assert view.grad is not None and view.grad.isfinite().all() and view.grad.abs().max() > 0


def test_triplets_are_of_both_views() -> None:
    clips, pictures, product = unit(4, EMBEDDING), unit(4, EMBEDDING), torch.arange(4)
    one, other = (
        triplet_loss(Nodes(*views), product).item()
        for views in ((clips, pictures), (pictures, clips))
    )
    assert one == pytest.approx(other, abs=1e-6)


def test_clips_of_a_picture_s_own_product_are_no_negatives_of_it() -> None:
    product = torch.tensor([0, 0, 1])
    pictures = torch.eye(EMBEDDING)[:2]
    clips = torch.eye(EMBEDDING)[[0, 5, 1]]  # the second is far from its picture
    near = Nodes(clips, pictures)
    loss = triplet_loss(near, product)
    # Of the first clip's own picture the second clip would be a negative that is far enough; of
    # the second's it would be the first, which is as near as can be.
    without = triplet_loss(Nodes(clips[1:], pictures), product[1:])
    assert loss.item() == pytest.approx(without.item() * 2 / 3, abs=1e-5)


def test_negatives_weigh_inversely_to_how_common_their_distance_is() -> None:
    distance = torch.tensor([[0.2, 0.5, 0.9, 1.39, 1.45, 0.3]])
    excluded = torch.tensor([[False] * 5 + [True]])
    weight = distance_weights(distance, excluded, 8)[0]
    assert weight.sum() == pytest.approx(1)
    assert weight[0] == weight[1] > weight[2] > weight[3] > weight[4] == weight[5] == 0

    def common(d: float) -> float:
        return d**6 * (1 - d**2 / 4) ** 2.5

    assert weight[1] / weight[2] == pytest.approx(common(0.9) / common(0.5), rel=1e-4)
    far = distance_weights(
        torch.tensor([[1.41, 1.5, 0.1]]), torch.tensor([[False, False, True]]), 8
    )
    assert far.tolist() == [[0.5, 0.5, 0.0]]
    assert distance_weights(torch.ones(1, 2), torch.ones(1, 2).bool(), 8).tolist() == [[0, 0]]


def test_graph_triplets_tie_each_view_before_to_the_other_after() -> None:
    product = torch.arange(3)
    apart, swapped = torch.eye(EMBEDDING)[:3], torch.eye(EMBEDDING)[[1, 2, 0]]
    assert graph_triplet_loss(Nodes(apart, apart), Nodes(apart, apart), product) == 0
    for before, after in (
        (Nodes(apart, swapped), Nodes(apart, apart)),
        (Nodes(swapped, apart), Nodes(apart, apart)),
        (Nodes(apart, apart), Nodes(apart, swapped)),
        (Nodes(apart, apart), Nodes(swapped, apart)),
    ):
        assert graph_triplet_loss(before, after, product) > MARGIN / 2


def test_relations_before_the_graph_follow_those_after_it() -> None:
    before = Nodes(unit(3, EMBEDDING).requires_grad_(), unit(2, EMBEDDING).requires_grad_())
    after = Nodes(unit(3, EMBEDDING).requires_grad_(), unit(2, EMBEDDING).requires_grad_())
    assert relation_loss(before, before).item() == pytest.approx(0, abs=1e-6)
    loss = relation_loss(before, after)
    old, new = (RELATION_SCALE * nodes.clips @ nodes.pictures.T for nodes in (before, after))

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        target = teacher.softmax(dim=1)
        return (target * (target.log() - student.softmax(dim=1).log())).sum(dim=1).mean()

    expected = (divergence(old, new) + divergence(old.T, new.T)) / 2
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert before.clips.grad is not None and before.pictures.grad is not None
    assert after.clips.grad is None and after.pictures.grad is None


def test_the_positive_is_column_0_and_text_chooses_the_negatives() -> None:
    """The released code takes the diagonal of [B,4], and the paper mines by both modalities."""
    product = torch.arange(6)
    visual = torch.full((6, 6), 0.1)
    visual[2, 0] = 0.2  # clip 2 looks like product 0
    text = torch.zeros(6, 6)
    text[1, 0] = 1.0  # clip 1 is spoken of as product 0 is called
    logits = torch.zeros(6, 6)
    logits[product, product] = 5.0
    mined = multi_modal(visual, text, 0.5)
    assert mined[1, 0] == pytest.approx(0.6)
    right = pmd_loss(logits, mined, product, 3, "clips")
    assert right.item() == pytest.approx(math.log(1 + 3 * math.exp(-5)), abs=1e-5)
    logits[1, 0] = 9.0  # a mistake that only text finds among the hardest
    by_text = pmd_loss(logits, mined, product, 1, "clips")
    assert by_text > pmd_loss(logits, visual, product, 1, "clips")
