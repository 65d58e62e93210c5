"""What a run minimises: the losses of RICE or of SGMN on the batch of all processes.

Encodes this process's share of a batch and gathers what the losses compare; knows nothing of
optimizers and schedules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.configs import Recipe
from training.data.batches import Batch
from training.distributed import first_of_each, gather, mean_of_all, share
from training.gradient_cache import in_chunks
from training.losses import icl_loss, pfr_loss, pmd_loss, text_loss
from training.models.rice import Clips, Encode, Pictures, Rice
from training.models.sgmn.instance_graph import Nodes, fine_grained_similarity
from training.models.sgmn.model import Sgmn
from training.models.text import Words
from training.sgmn_losses import (
    graph_triplet_loss,
    multi_modal,
    presence_loss,
    relation_loss,
    triplet_loss,
)
from training.words_in_sight import of_clips, of_pictures, words_in_sight


class Objective(nn.Module):
    """The model's losses as the module that DistributedDataParallel wants; pictures and frames are
    encoded `chunk` at a time, or at once."""

    def __init__(self, model: Rice, recipe: Recipe, chunk: int | None) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.encode = model.encode if chunk is None else in_chunks(model.encode, chunk)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if isinstance(self.model, Sgmn):
            return sgmn_losses(self.model, batch, self.recipe, self.encode)
        return rice_losses(self.model, batch, self.recipe, self.encode)


@dataclass(frozen=True)
class Encoded:
    """A batch: what this process encoded, and what is compared over all of them.

    Of all N clips and P different products.
    """

    pictures: Pictures  # this process's
    clips: Clips  # this process's
    kept: Tensor  # bool, which of the gathered pictures are the P
    product: Tensor  # int64 [N]
    nodes: Nodes  # embeddings, N and P
    visual: Tensor  # [N,P], their cosines
    text: Tensor | None = None  # [N,P], cosines of speech and titles, 0 where one is missing
    heard: Tensor | None = None  # bool [N], clips with speech of their own product
    titled: Tensor | None = None  # bool [P]
    titles: Words | None = None  # of this process's pictures
    speech: Words | None = None  # of this process's clips


def encoded(model: Rice, batch: Batch, encode: Encode | None = None) -> Encoded:
    """`encode` stands in for the model's own."""
    titles, speech = model.read(batch.titles), model.read(batch.speech)
    pictures, clips = model.encode_together(
        batch.pictures, batch.frames, batch.frame_mask, batch.patch_mask, encode,
        titles=titles, speech=speech,
    )  # fmt: skip
    kept, product = _products(batch)
    with full_precision(product):
        nodes = Nodes(gather(clips.embedding.float()), gather(pictures.embedding.float())[kept])
        visual = nodes.clips @ nodes.pictures.T
        if titles is None or speech is None:
            return Encoded(pictures, clips, kept, product, nodes, visual)
        text = gather(speech.embedding) @ gather(titles.embedding)[kept].T
    heard = speech.there if batch.wrong_speech is None else speech.there & ~batch.wrong_speech
    return Encoded(
        pictures, clips, kept, product, nodes, visual, text,
        heard=gather(heard.long()).bool(), titled=gather(titles.there.long())[kept].bool(),
        titles=titles, speech=speech,
    )  # fmt: skip


def rice_losses(
    model: Rice, batch: Batch, recipe: Recipe, encode: Encode | None = None
) -> dict[str, Tensor]:
    """ICL and, where the recipe weighs them, PMD and PFR, and of a model that reads the contrast
    of speech with titles; each a scalar and not yet weighted.

    They are of the batches of all processes together; `encode` stands in for the model's own.
    """
    of = encoded(model, batch, encode)
    with full_precision(of.product):
        losses = {"icl": icl_loss(of.visual, of.product, model.temperature)}
        losses |= _text_loss(model, of) | _talk_loss(model, _talk(model, batch))
    if recipe.matching_weight == recipe.reconstruction_weight == 0:
        return losses
    if model.reconstruction is not None and recipe.reconstruction_weight > 0:
        logits, losses["pfr"] = _matched_and_rebuilt(model, batch, of)
    else:
        logits = _matched(model, of)
    losses["pmd"] = _pairwise(logits, of, recipe)
    return losses


def sgmn_losses(
    model: Sgmn, batch: Batch, recipe: Recipe, encode: Encode | None = None
) -> dict[str, Tensor]:
    """Triplets, those of the instance graph and its relations, the contrasts of speech with titles
    and of words with patches, which frames show the product, the pairwise cross-entropy over mined
    examples and, where the recipe weighs it, RICE's ICL.

    Otherwise as `rice_losses`.
    """
    weights = recipe.sgmn
    assert weights is not None  # noqa: S101  Recipe
    of = encoded(model, batch, encode)
    alike = None if model.instance_graph is None else _likeness(model, of)
    pictured = None
    if batch.talk_pictures is not None:
        _, pictured = (encode or model.encode)(batch.talk_pictures, None)
    with full_precision(of.product):
        losses = {"triplet": triplet_loss(of.nodes, of.product)}
        talk = _talk(model, batch)
        losses |= _text_loss(model, of) | _talk_loss(model, talk)
        losses |= _guidance_loss(model, weights.guidance, of, talk, pictured)
        losses |= _presence_loss(of, batch)
        if weights.icl > 0:
            losses["icl"] = icl_loss(of.visual, of.product, model.temperature)
        if model.instance_graph is not None and alike is not None:
            after = model.instance_graph(of.nodes, alike)
            losses["graph"] = graph_triplet_loss(of.nodes, after, of.product)
            losses["relation"] = relation_loss(of.nodes, after)
    if recipe.matching_weight > 0:
        losses["pmd"] = _pairwise(_matched(model, of), of, recipe)
    return losses


def _pairwise(logits: Tensor, of: Encoded, recipe: Recipe) -> Tensor:
    """The loss of PMD's logits [N,P], over negatives that the score by both modalities chooses."""
    score = of.visual
    if of.text is not None:
        score = multi_modal(of.visual, of.text, recipe.mining_text)
    return pmd_loss(logits, score, of.product, recipe.hard_negatives, recipe.contest)


def full_precision(like: Tensor) -> torch.autocast:
    """Cosines and their losses need the digits."""
    return torch.autocast(like.device.type, enabled=False)


def _text_loss(model: Rice, of: Encoded) -> dict[str, Tensor]:
    if model.text is None or of.text is None or of.heard is None or of.titled is None:
        return {}
    return {"text": text_loss(of.text, of.product, of.heard, of.titled, model.text.temperature)}


def _talk(model: Rice, batch: Batch) -> tuple[Words, Words] | None:
    """Titles and speech that stand beside the clips', this process's."""
    if model.text is None or batch.talk is None:
        return None
    titles, speech = (model.text.tower(*texts) for texts in batch.talk)
    return titles, speech


def _talk_loss(model: Rice, talk: tuple[Words, Words] | None) -> dict[str, Tensor]:
    if model.text is None or talk is None:
        return {}
    titles, speech = talk
    heard, titled = (gather(words.there.long()).bool() for words in (speech, titles))
    similarity = gather(speech.embedding) @ gather(titles.embedding).T
    own = torch.arange(len(titled), device=similarity.device)
    return {"talk": text_loss(similarity, own, heard, titled, model.text.temperature)}


def _guidance_loss(
    model: Sgmn,
    weight: float,
    of: Encoded,
    talk: tuple[Words, Words] | None,
    pictured: Tensor | None,
) -> dict[str, Tensor]:
    """The contrasts of sight and words that text-guided attention learns from, added up: frames
    with titles, and pictures with what is said of them; of talk with pictures, whose tokens
    [M,1+P,W] are given, its first M pairs, pictures with both."""
    guidance, titles, speech = model.text_guidance, of.titles, of.speech
    if guidance is None or titles is None or speech is None or weight == 0:
        return {}
    assert of.heard is not None and of.titled is not None and model.config.text  # noqa: S101
    patches, longest = model.config.encoder.patches, model.config.text.max_tokens
    seen = torch.ones_like(of.titled)
    named = words_in_sight(guidance, of_clips(of.clips, patches), titles, longest)
    said = words_in_sight(guidance, of_pictures(of.pictures.tokens, patches), speech, longest)
    scale = guidance.temperature
    loss = text_loss(named[:, of.kept], of.product, seen[of.product], of.titled, scale)
    loss = loss + text_loss(said[of.kept].T, of.product, of.heard, seen, scale)
    if talk is None or pictured is None:
        return {"guidance": loss}
    shown = of_pictures(pictured, patches)
    for texts in talk:
        words = Words(*(part[: len(pictured)] for part in texts))
        found = words_in_sight(guidance, shown, words, longest).T
        own = torch.arange(len(found), device=found.device)
        heard = gather(words.there.long()).bool()
        loss = loss + text_loss(found, own, heard, torch.ones_like(heard), scale)
    return {"guidance": loss}


def _presence_loss(of: Encoded, batch: Batch) -> dict[str, Tensor]:
    if of.clips.shown is None:
        return {}
    told = batch.annotated & batch.frame_mask
    own = presence_loss(of.clips.shown.float(), batch.boxes, told)
    return {"presence": mean_of_all(own, int(told.sum()))}


def _matched(model: Rice, of: Encoded, states: Tensor | None = None) -> Tensor:
    """PMD's logits [N,P]. Each process matches its own clips with all products: states are small,
    keys are not. `states` are this process's pictures', where they are known."""
    decoder = model.decoder
    if states is None:
        states = decoder.match_state(of.pictures.tokens, of.pictures.token_mask)
    key, value = decoder.keys_values(of.clips.tokens)
    logits = decoder.match(gather(states)[of.kept], key, value, of.clips.token_mask)
    return gather(logits.float())


def _matched_and_rebuilt(model: Rice, batch: Batch, of: Encoded) -> tuple[Tensor, Tensor]:
    """PMD's logits [N,P] and PFR's loss, from one pass of the decoder's self block."""
    assert model.reconstruction is not None  # noqa: S101  Recipe
    decoder, tokens = model.decoder, of.clips.tokens
    decoded = decoder.self_block(of.pictures.tokens, of.pictures.token_mask)
    key, _ = decoder.keys_values(tokens)
    attention = decoder.cross_block.attention_map(decoded[batch.product], key, of.clips.token_mask)
    # What is rebuilt is the picture, from the frames: without the tokens of title and speech.
    seen = 1 + model.config.encoder.patches
    shown = seen * batch.frame_mask.shape[1]
    rebuilt = model.reconstruction(
        attention[:, :, :seen, :shown], tokens[:, :shown], of.clips.token_mask[:, :shown]
    )
    own = pfr_loss(rebuilt, of.pictures.tokens[batch.product, :seen])
    return _matched(model, of, decoded[:, 0]), mean_of_all(own, len(batch.product))


@torch.no_grad()
def _likeness(model: Sgmn, of: Encoded) -> Tensor:
    """How alike clips and pictures are, patch by patch, [N,P]: each process compares its own clips
    with all pictures."""
    patches = model.config.encoder.patches
    project = model.encoder.project if model.config.tokens == "last_block" else nn.Identity()
    pictures = project(of.pictures.tokens[:, 1 : 1 + patches]).float()
    shown = of.clips.tokens.shape[1] // (1 + patches) * (1 + patches)  # without the speech's token
    clips = project(of.clips.tokens[:, :shown]).float()
    mask = of.clips.token_mask[:, :shown]
    return gather(fine_grained_similarity(clips, mask, gather(pictures)[of.kept]))


def _products(batch: Batch) -> tuple[Tensor, Tensor]:
    """Of all processes: bool [P], pictures without those of a product that is there already;
    int64 [N], each clip's row in what is left."""
    kept, place = first_of_each(gather(batch.identity))
    before = gather(torch.tensor([len(batch.identity)], device=batch.product.device))
    offset = before[: share().rank].sum()
    return kept, place[gather(batch.product + offset)]


def total_loss(losses: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """The weighted sum, a scalar."""
    weights = recipe.loss_weights()
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def has_unused(model: Rice, recipe: Recipe) -> bool:
    """Whether some of the model's parameters take no part in the recipe's losses."""
    reconstructs = model.reconstruction is None or recipe.reconstruction_weight > 0
    listens = model.text is None or recipe.text_weight > 0
    contrasts = recipe.sgmn is None or (recipe.sgmn.icl > 0 and recipe.sgmn.guidance > 0)  # scales
    return recipe.matching_weight == 0 or not (reconstructs and listens and contrasts)
