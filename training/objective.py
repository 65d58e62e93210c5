"""What a run minimises: the losses of RICE on the batch of all processes, weighted by the recipe.

Encodes this process's share of a batch and gathers what the losses compare; knows nothing of
optimizers and schedules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.configs import Recipe
from training.data.batches import Batch
from training.distributed import first_of_each, gather, mean_of_all, share
from training.gradient_cache import in_chunks
from training.losses import icl_loss, pfr_loss, pmd_loss, text_loss
from training.models.rice import Encode, Rice


class Objective(nn.Module):
    """`rice_losses` as the module that DistributedDataParallel wants; pictures and frames are
    encoded `chunk` at a time, or at once."""

    def __init__(self, model: Rice, recipe: Recipe, chunk: int | None) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.encode = model.encode if chunk is None else in_chunks(model.encode, chunk)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return rice_losses(self.model, batch, self.recipe, self.encode)


def rice_losses(
    model: Rice, batch: Batch, recipe: Recipe, encode: Encode | None = None
) -> dict[str, Tensor]:
    """ICL and, where the recipe weighs them, PMD and PFR, and of a model that reads the contrast
    of speech with titles; each a scalar and not yet weighted.

    They are of the batches of all processes together; `encode` stands in for the model's own.
    """
    titles, speech = model.read(batch.titles), model.read(batch.speech)
    pictures, clips = model.encode_together(
        batch.pictures, batch.frames, batch.frame_mask, batch.patch_mask, encode,
        titles=titles, speech=speech,
    )  # fmt: skip
    kept, product = _products(batch)
    with torch.autocast(batch.product.device.type, enabled=False):  # cosines need the digits
        shop = gather(pictures.embedding.float())[kept]
        similarity = gather(clips.embedding.float()) @ shop.T
    losses = {"icl": icl_loss(similarity, product, model.temperature)}
    if model.text is not None and titles is not None and speech is not None:
        heard = speech.there if batch.wrong_speech is None else speech.there & ~batch.wrong_speech
        losses["text"] = text_loss(
            gather(speech.embedding) @ gather(titles.embedding)[kept].T,
            product,
            gather(heard.long()).bool(),
            gather(titles.there.long())[kept].bool(),
            model.text.temperature,
        )
    if recipe.matching_weight == recipe.reconstruction_weight == 0:
        return losses
    key, value = model.decoder.keys_values(clips.tokens)
    if model.reconstruction is not None and recipe.reconstruction_weight > 0:
        decoded = model.decoder.self_block(pictures.tokens, pictures.token_mask)
        states = decoded[:, 0]
        attention = model.decoder.cross_block.attention_map(
            decoded[batch.product], key, clips.token_mask
        )
        # What is rebuilt is the picture, from the frames: without the tokens of title and speech.
        seen = 1 + model.config.encoder.patches
        shown = seen * batch.frame_mask.shape[1]
        reconstruction = model.reconstruction(
            attention[:, :, :seen, :shown], clips.tokens[:, :shown], clips.token_mask[:, :shown]
        )
        own = pfr_loss(reconstruction, pictures.tokens[batch.product, :seen])
        losses["pfr"] = mean_of_all(own, len(batch.product))
    else:
        states = model.decoder.match_state(pictures.tokens, pictures.token_mask)
    # Each process matches its own clips with all products: states are small, keys are not.
    logits = model.decoder.match(gather(states)[kept], key, value, clips.token_mask)
    losses["pmd"] = pmd_loss(
        gather(logits.float()), similarity, product, recipe.hard_negatives, recipe.contest
    )
    return losses


def _products(batch: Batch) -> tuple[Tensor, Tensor]:
    """Of all processes: bool [P], pictures without those of a product that is there already;
    int64 [N], each clip's row in what is left."""
    kept, place = first_of_each(gather(batch.identity))
    before = gather(torch.tensor([len(batch.identity)], device=batch.product.device))
    offset = before[: share().rank].sum()
    return kept, place[gather(batch.product + offset)]


def total_loss(losses: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """The weighted sum, a scalar."""
    total = losses["icl"]
    if "text" in losses:
        total = total + recipe.text_weight * losses["text"]
    if "pmd" in losses:
        total = total + recipe.matching_weight * losses["pmd"]
    if "pfr" in losses:
        total = total + recipe.reconstruction_weight * losses["pfr"]
    return total


def has_unused(model: Rice, recipe: Recipe) -> bool:
    """Whether some of the model's parameters take no part in the recipe's losses."""
    reconstructs = model.reconstruction is None or recipe.reconstruction_weight > 0
    listens = model.text is None or recipe.text_weight > 0
    return recipe.matching_weight == 0 or not reconstructs or not listens
