"""Two processes that train one model do what one process does with the whole batch."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.tiny import RECIPE, photographs
from tests.training.tiny_sgmn import SGMN_RECIPE, sgmn_batch
from training import engine
from training.checkpoint import load
from training.configs import Compute, Recipe
from training.data.batches import Batch, BatchDrawer
from training.data.errors import DataError
from training.detection_loss import detection_loss
from training.distributed import Share, first_of_each, parallel, wait
from training.models.detector import Detections
from training.models.text import Texts

CPU = torch.device("cpu")
# Without what is random in a forward pass, and without batch statistics, which are each process's.
MODEL = replace(
    RECIPE.model,
    encoder=replace(RECIPE.model.encoder, stem="patch", drop_path=0.0),
    attention_dropout=0.0,
)
EXACT = replace(RECIPE, model=MODEL, contest="both")
EXACT_SGMN = replace(
    SGMN_RECIPE,
    model=replace(SGMN_RECIPE.model, encoder=MODEL.encoder, attention_dropout=0.0),
    contest="both",
)
WAYS = {
    "plain": (EXACT, Compute("fp32")),
    "chunked": (EXACT, Compute("fp32", chunk=3, checkpointing=True)),
    "compiled": (EXACT, Compute("fp32", compiled=True)),
    "sgmn": (EXACT_SGMN, Compute("fp32")),
}
LOSSES = {
    EXACT.name: {"icl", "pmd", "pfr"},
    EXACT_SGMN.name: {"triplet", "icl", "graph", "relation", "text", "guidance", "presence", "pmd"},
}
ROWS = (([0, 1, 2], [0, 1, 2, 3, 4]), ([3, 0], [6, 7, 5]))
"""Pictures and clips of each process: not as many, and a clip of product 0, whose picture the
other has too."""

CUTS = (1, 4)
"""Where six frames are shared out between the two: the first alone has no box."""


class KilledError(Exception):
    """Stands for a kill: the run ends between two steps."""


def whole_batch(recipe: Recipe) -> Batch:
    if recipe.sgmn is not None:
        batch = sgmn_batch()
        clips, frames = batch.frame_mask.shape
        shows = (torch.arange(clips * frames) % 3 == 0).view(clips, frames, 1, 1)
        return replace(
            batch,
            wrong_speech=torch.arange(clips) == 1,
            boxes=torch.tensor([0.2, 0.2, 0.6, 0.6]) * shows,
            annotated=torch.arange(clips)[:, None].expand(clips, frames) != 6,
        )
    return BatchDrawer(EXACT, {"made": photographs()}, CPU).draw(0)


def part(recipe: Recipe, rank: int) -> Batch:
    """Clip 5, of product 2, is made one of product 0 in both `part` and `joint`."""
    batch, (pictures, clips) = joint(recipe), ROWS[rank]
    return Batch(
        batch.pictures[pictures],
        batch.frames[clips],
        batch.frame_mask[clips],
        torch.tensor([pictures.index(int(row)) for row in batch.product[clips]]),
        batch.identity[pictures],
        batch.boxes[clips],
        batch.annotated[clips],
        titles=None if batch.titles is None else Texts(*(t[pictures] for t in batch.titles)),
        speech=None if batch.speech is None else Texts(*(t[clips] for t in batch.speech)),
        wrong_speech=None if batch.wrong_speech is None else batch.wrong_speech[clips],
    )


def joint(recipe: Recipe) -> Batch:
    batch = whole_batch(recipe)
    product = batch.product.clone()
    product[5] = 0
    return replace(batch, product=product)


def gradients(
    recipe: Recipe, batch: Batch, compute: Compute, out: Path
) -> tuple[dict[str, float], list[Tensor]]:
    run = engine.Run(recipe, out, CPU, compute=compute)
    losses = run.backward(0, batch)
    return losses, [parameter.grad for parameter in run.model.parameters()]  # type: ignore[misc]


class Shifted(nn.Module):
    """Detections that all move by the same parameters, where the gradients of frames meet."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(5))

    def forward(self, frames: slice) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        boxes = torch.rand(6, 2, 4, generator=generator).sort(dim=-1).values
        boxes[0], boxes[1, 1] = 0.0, 0.0
        logits = torch.randn(6, 8, generator=generator) + self.shift[0]
        given = 0.2 + 0.5 * torch.rand(6, 8, 4, generator=generator) + self.shift[1:]
        return detection_loss([Detections(logits[frames], given[frames])], boxes[frames])


def detected(frames: slice) -> tuple[dict[str, float], Tensor]:
    """Losses of these frames, and their gradient as processes share it."""
    shifted = Shifted()
    sharing = parallel(shifted, CPU, unused=False)
    losses = sharing(frames)
    torch.stack(list(losses.values())).sum().backward()
    assert shifted.shift.grad is not None
    return {name: loss.item() for name, loss in losses.items()}, shifted.shift.grad


def fit(out: Path, stop_after: int | None = None) -> None:
    def watch(progress: engine.Progress) -> None:
        if progress.step == stop_after:
            raise KilledError

    data = photographs()
    with contextlib.suppress(KilledError):
        engine.fit(RECIPE, {"made": data}, data, out, device=CPU, watch=watch)


def one_of_two(rank: int, out: Path) -> None:
    """What each process does, told in files."""
    torch.set_num_threads(1)
    meeting = (out / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for name, (recipe, compute) in WAYS.items():
        found = gradients(recipe, part(recipe, rank), compute, out)
        torch.save(found, out / f"{name}-{rank}.pt")
    for cut in CUTS:
        found = detected((slice(cut), slice(cut, None))[rank])
        torch.save(found, out / f"detected-{cut}-{rank}.pt")
    fit(out / "whole")
    fit(out / "killed", stop_after=4)
    fit(out / "killed")
    dist.destroy_process_group()


def one_is_late(rank: int, out: Path) -> None:
    """By more than a computing process may be."""
    meeting, patience = (out / "meeting").as_uri(), timedelta(seconds=2)
    dist.init_process_group("gloo", init_method=meeting, timeout=patience, rank=rank, world_size=2)
    wait()
    time.sleep(4 * rank)
    wait()
    dist.destroy_process_group()


def run_two(work: Callable[[int, Path], None], out: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=work, args=(rank, out)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    run_two(one_of_two, out)
    return out


@pytest.mark.parametrize("name", list(WAYS))
def test_losses_and_gradients_are_those_of_one_process(
    told: Path, tmp_path: Path, name: str
) -> None:
    recipe, _ = WAYS[name]
    losses, expected = gradients(recipe, joint(recipe), Compute("fp32"), tmp_path)
    for rank in range(2):
        found, grads = torch.load(told / f"{name}-{rank}.pt")
        assert found == pytest.approx(losses, abs=1e-4)
        assert found.keys() == LOSSES[recipe.name]
        for gradient, wanted in zip(grads, expected, strict=True):
            assert torch.allclose(gradient, wanted, atol=1e-4)
    assert max(gradient.abs().max() for gradient in expected) > 0.1, "1e-4 is small beside them"


@pytest.mark.parametrize("cut", CUTS)
def test_losses_of_detection_are_those_of_one_process(told: Path, cut: int) -> None:
    losses, expected = detected(slice(None))
    for rank in range(2):
        found, gradient = torch.load(told / f"detected-{cut}-{rank}.pt")
        assert found == pytest.approx(losses, rel=1e-5)
        assert torch.allclose(gradient, expected, atol=1e-5)
    assert expected.abs().max() > 0.1, "1e-5 is small beside it"


def test_a_killed_run_of_two_goes_on_as_if_nothing_had_happened(told: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        expected, got = load(told / "whole" / name), load(told / "killed" / name)
        assert got.state == expected.state
        assert got.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(got.tensors[k], v) for k, v in expected.tensors.items())


def test_one_that_indexes_or_validates_is_waited_for_longer_than_one_that_computes(
    tmp_path: Path,
) -> None:
    run_two(one_is_late, tmp_path)


def test_processes_draw_different_products_of_one_batch() -> None:
    def drawn(share: Share) -> list[int]:
        drawer = BatchDrawer(RECIPE, {"made": photographs()}, CPU, share)
        return [product for step in range(3) for _, product in drawer.draw(step).identity.tolist()]

    first, second = drawn(Share(0, 2)), drawn(Share(1, 2))
    assert all(set(first[i : i + 2]).isdisjoint(second[i : i + 2]) for i in (0, 2, 4))
    assert len(first) == len(second) == 6
    with pytest.raises(DataError, match="4 products a batch cannot be shared out evenly among 3"):
        drawn(Share(0, 3))


def test_processes_vary_the_same_pictures_differently() -> None:
    data = photographs()
    data = replace(data, pictures=data.pictures[:1].expand_as(data.pictures))
    first, second = (
        BatchDrawer(RECIPE, {"made": data}, CPU, Share(rank, 2)).draw(0).pictures
        for rank in range(2)
    )
    assert not torch.allclose(first, second)


def test_of_a_product_that_two_have_drawn_the_first_picture_counts() -> None:
    identity = torch.tensor([[0, 7], [0, 8], [1, 7], [0, 8], [0, 7], [0, 9]])
    kept, place = first_of_each(identity)
    assert kept.tolist() == [True, True, True, False, False, True]
    assert place.tolist() == [0, 1, 2, 1, 0, 3]
