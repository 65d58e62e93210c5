"""Titles and speech: the towers, the tokens they become in PMD, and how they reach a batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from numpy.random import default_rng
from tokenizers import Tokenizer
from torch.nn import functional as F

from tests.training.tiny import CONFIG, RECIPE, photographs
from training.checkpoint import load, save
from training.configs import Compute, recipe_from_dict
from training.data.batches import Batch, BatchDrawer
from training.data.drawn import Drawn
from training.data.errors import DataError
from training.data.frames import Frame
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.data.spoken import spoken
from training.data.synthetic.catalogue import COLOURS
from training.data.talk import made_up_talk, pictured_talk
from training.data.texts import corpus, heard
from training.data.tokenizing import TextTokenizer, train_tokenizer
from training.engine import Run, RunError, fit
from training.evaluation.hearings import MISHEARD, said_in, said_of_product
from training.evaluation.judging import Judge
from training.evaluation.protocol import score, score_clips
from training.evaluation.scorers import TorchScorer
from training.export.commands import measured
from training.losses import text_loss
from training.models.build import build_model
from training.models.commands import begun
from training.models.pretrained_text import begin_text_with, read_text_folder
from training.models.rice import Clips, Pictures, Rice
from training.models.text import TextConfig, Texts, TextTower
from training.models.weights_file import WeightsError
from training.recipes import RECIPES
from training.terminal import progress_bars

TEXT = TextConfig(vocabulary=512, width=32, layers=2, heads=2, max_tokens=12, embedding=24)
READING = replace(CONFIG, text=TEXT)
RECIPE_READS = replace(
    RECIPE, model=READING, schedule=replace(RECIPE.schedule, text_rate=1e-3), text_dropout=0.0
)
TITLES = ["red apple juice", "green tea", "blue milk of the moon", "bread", "salt"]


def tokenizer() -> TextTokenizer:
    return TextTokenizer(train_tokenizer(TITLES, TEXT.vocabulary), TEXT.max_tokens)


def reading_model(seed: int = 0) -> Rice:
    torch.manual_seed(seed)
    return Rice(READING).eval()


def seen() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures, frames, and masks of frames and patches."""
    generator = torch.Generator().manual_seed(1)
    frame_mask = torch.tensor([[True, True, True], [True, False, False]])
    return (
        torch.randn(3, 3, 32, 32, generator=generator),
        torch.randn(2, 3, 3, 32, 32, generator=generator),
        frame_mask,
        torch.rand(2, 3, CONFIG.encoder.patches, generator=generator) < 0.6,
    )


def encoded(model: Rice, titles: list[str], speech: list[str]) -> tuple[Pictures, Clips]:
    pictures, *clip = seen()
    read = tokenizer()
    return (
        model.add_titles(model.encode_pictures(pictures), model.read(read(titles))),
        model.encode_clips(*clip, model.read(read(speech))),
    )


def logits(model: Rice, pictures: Pictures, clips: Clips) -> torch.Tensor:
    states = model.decoder.match_state(pictures.tokens, pictures.token_mask)
    return model.decoder.match(states, *model.decoder.keys_values(clips.tokens), clips.token_mask)


@pytest.mark.parametrize("own_direction", [False, True])
@torch.inference_mode()
def test_the_shortcut_stays_exact_with_titles_and_speech(own_direction: bool) -> None:
    torch.manual_seed(0)
    model = Rice(replace(READING, own_direction=own_direction)).eval()
    pictures, clips = encoded(model, ["red apple juice", "", "bread"], ["the red juice", ""])
    short = logits(model, pictures, clips)
    assert pictures.token_mask is not None
    for clip in range(2):
        whole = model.decoder(
            pictures.tokens,
            clips.tokens[clip].expand(3, -1, -1),
            clips.token_mask[clip].expand(3, -1),
            pictures.token_mask,
        )
        assert torch.allclose(short[clip], whole.logits, atol=1e-4)


@torch.inference_mode()
def test_a_text_that_is_missing_changes_nothing_and_one_that_is_there_does() -> None:
    model = reading_model()
    pixels, *clip = seen()
    unread = logits(model, model.encode_pictures(pixels), model.encode_clips(*clip))
    silent = logits(model, *encoded(model, ["", " \n", ""], ["", "\t"]))
    assert torch.allclose(unread, silent, atol=1e-5)
    read = logits(model, *encoded(model, ["bread", "", ""], ["", ""]))
    assert torch.allclose(unread[:, 1:], read[:, 1:], atol=1e-5)
    assert (unread[:, 0] - read[:, 0]).abs().min() > 1e-4
    said = logits(model, *encoded(model, ["", "", ""], ["bread", ""]))
    assert torch.allclose(unread[1], said[1], atol=1e-5)
    assert (unread[0] - said[0]).abs().min() > 1e-4


@torch.inference_mode()
def test_text_that_is_in_the_score_alone_moves_no_match() -> None:
    torch.manual_seed(0)
    model = Rice(replace(READING, text_tokens=False)).eval()
    pixels, *clip = seen()
    unread = logits(model, model.encode_pictures(pixels), model.encode_clips(*clip))
    read = logits(model, *encoded(model, ["bread", "salt", ""], ["bread", ""]))
    assert torch.equal(unread, read)
    assert model.text is not None
    assert not any("token" in name.split(".")[0] for name, _ in model.text.named_parameters())


@torch.inference_mode()
def test_a_tower_hears_no_padding_and_gives_zeros_for_no_text() -> None:
    tower = reading_model().get_submodule("text.tower")
    ids, mask = tokenizer()(["green tea", "", "blue milk of the moon"])
    words = tower(ids, mask)
    alone = tower(*tokenizer()(["green tea"]))
    assert torch.allclose(words.embedding[:1], alone.embedding, atol=1e-5)
    assert torch.allclose(words.tokens[0][mask[0]], alone.tokens[0], atol=1e-5)
    assert words.there.tolist() == [True, False, True]
    assert torch.equal(words.embedding[1], torch.zeros(TEXT.embedding))
    assert torch.allclose(words.embedding[[0, 2]].norm(dim=1), torch.ones(2))


def test_any_script_and_length_is_tokenized_and_cut_at_the_end() -> None:
    read = tokenizer()
    texts = ["Красная 香蕉 🍌 موز", "x" * 100_000, "", "   ", "\u0000\u202e"]
    ids, mask = read(texts)
    assert ids.shape == mask.shape and ids.shape[1] <= TEXT.max_tokens
    assert mask.any(dim=1).tolist() == [True, True, False, False, True]
    assert mask[1].sum() == TEXT.max_tokens
    definition = Tokenizer.from_str(read.definition)
    assert definition.encode(texts[0]).ids == ids[0][mask[0]].tolist(), "the file is the rule"
    told = definition.decode(Tokenizer.from_str(train_tokenizer(TITLES, 512)).encode("香 moon").ids)
    assert told.strip() == "香 moon", "no character is unknown"
    long = "green tea " * 50
    assert torch.equal(read([long]).ids, read([long + " bread"]).ids), "the beginning stays"
    assert read(["GREEN Tea"]).ids.tolist() == read(["green tea"]).ids.tolist()


def test_a_tokenizer_needs_text_and_a_definition_of_one() -> None:
    with pytest.raises(DataError, match="there are none"):
        train_tokenizer(["", "  "], 512)
    with pytest.raises(DataError, match="no tokenizer"):
        TextTokenizer("{}", 12)


def save_clip(folder: Path) -> hf.CLIPTextModelWithProjection:
    torch.manual_seed(3)
    config = hf.CLIPTextConfig(
        vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=20, projection_dim=24,
        bos_token_id=1, eos_token_id=599, pad_token_id=0,
    )  # fmt: skip
    model = hf.CLIPTextModelWithProjection(config).eval()
    model.save_pretrained(folder)
    return model


def save_chinese_clip(folder: Path) -> hf.ChineseCLIPModel:
    torch.manual_seed(3)
    config = hf.ChineseCLIPConfig(
        text_config={
            "vocab_size": 600, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 20,
        },
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "image_size": 32, "patch_size": 16,
        },
        projection_dim=24,
    )  # fmt: skip
    model = hf.ChineseCLIPModel(config).eval()
    model.save_pretrained(folder)
    return model


def ids_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """Two texts of 7 and 4 tokens; CLIP's end token is the last."""
    ids = torch.randint(2, 590, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([7, 4])[:, None]
    ids[0, 6] = ids[1, 3] = 599
    return ids * mask, mask


def with_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(train_tokenizer(TITLES, 512))
    return folder


@torch.inference_mode()
def test_clips_text_tower_is_read_from_a_folder(tmp_path: Path) -> None:
    theirs = save_clip(tmp_path)
    found = read_text_folder(with_tokenizer(tmp_path))
    assert (found.config.family, found.config.max_tokens, found.config.embedding) == (
        "clip",
        20,
        24,
    )
    tower = TextTower(found.config).eval()
    begin_text_with(tower, found)
    ids, mask = ids_and_mask()
    expected = F.normalize(theirs(input_ids=ids, attention_mask=mask.long()).text_embeds, dim=-1)
    assert torch.allclose(tower(ids, mask).embedding, expected, atol=1e-5)


@torch.inference_mode()
def test_chinese_clips_text_tower_is_read_from_the_whole_model(tmp_path: Path) -> None:
    theirs = save_chinese_clip(tmp_path)
    found = read_text_folder(with_tokenizer(tmp_path))
    tower = TextTower(found.config).eval()
    begin_text_with(tower, found)
    ids, mask = ids_and_mask()
    last = theirs.text_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    expected = F.normalize(theirs.text_projection(last[:, 0]), dim=-1)
    assert torch.allclose(tower(ids, mask).embedding, expected, atol=1e-5)


@torch.inference_mode()
def test_another_text_encoder_is_pooled_by_the_mean(tmp_path: Path) -> None:
    config = hf.BertConfig(
        vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=20,
    )  # fmt: skip
    theirs = hf.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    found = read_text_folder(with_tokenizer(tmp_path))
    assert found.config.family == "hugging_face"
    tower = TextTower(found.config).eval()
    begin_text_with(tower, found)
    ids, mask = ids_and_mask()
    last = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    ours = tower(ids, mask).tokens
    assert torch.allclose(ours[mask], last[mask], atol=1e-5)


def test_a_folder_that_holds_no_text_tower_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        read_text_folder(tmp_path)
    save_clip(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | {"num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"has no encoder\.layers\.2"):
        read_text_folder(with_tokenizer(tmp_path))


def a_share() -> Drawn:
    nothing = torch.empty(0)
    said = ["one", "also one", "two", ""]
    return Drawn(
        pictures=nothing,
        frames=nothing,
        boxes=nothing,
        annotated=nothing,
        lengths=[1] * 4,
        product=[0, 0, 1, 1],
        identity=[0, 1],
        titles=["first", "second"],
        speech=said,
    )


def test_texts_are_dropped_and_swapped_as_the_recipe_says() -> None:
    def found(dropout: float, wrong: float) -> object:
        recipe = replace(RECIPE_READS, text_dropout=dropout, wrong_speech=wrong)
        return heard([a_share()], recipe, default_rng(0))

    assert found(0.0, 0.0).speech == a_share().speech
    assert found(0.0, 0.0).wrong == [False] * 4
    assert found(1.0, 0.0).titles == ["", ""] and found(1.0, 0.0).speech == [""] * 4
    swapped = found(0.0, 1.0)
    assert swapped.speech[0] == swapped.speech[1] == "two", "another product's, never its own"
    assert swapped.speech[2] in ("one", "also one")
    assert swapped.speech[3] == "", "silence stays silence"
    assert swapped.wrong == [True, True, True, False]


def test_batches_carry_text_only_where_the_model_reads() -> None:
    data = {"made": replace(photographs(), titles=TITLES)}
    device = torch.device("cpu")
    plain = BatchDrawer(RECIPE, data, device).draw(3)
    read = BatchDrawer(RECIPE_READS, data, device, tokenizer=tokenizer()).draw(3)
    assert plain.titles is plain.speech is plain.wrong_speech is None
    assert torch.equal(plain.frames, read.frames), "text costs the pictures no randomness"
    assert read.titles is not None and read.speech is not None
    assert len(read.titles.mask) == len(read.pictures) and read.titles.mask.any(dim=1).all()
    assert len(read.speech.mask) == len(read.product)
    again = BatchDrawer(RECIPE_READS, data, device, tokenizer=tokenizer()).draw(3)
    assert again.speech is not None and torch.equal(again.speech.ids, read.speech.ids)


def test_speech_is_of_the_products_own_description_mostly() -> None:
    rng = default_rng(0)
    said = [spoken("crimson pomegranate nectar", TITLES, rng) for _ in range(200)]
    named = sum("pomegranate" in one or "crimson" in one or "nectar" in one for one in said)
    assert 120 < named < 200
    assert "" in said, "now and then nothing is said"
    assert spoken("", TITLES, rng) == ""


def test_the_text_loss_is_zero_for_right_pairs_and_ignores_what_is_missing() -> None:
    product, scale = torch.tensor([0, 1, 2]), torch.tensor(10.0)
    every = torch.ones(3, dtype=torch.bool)
    right = torch.eye(3)
    assert text_loss(right, product, every, every, scale) < 1e-6
    assert text_loss(right.roll(1, 0), product, every, every, scale) > 10
    spoilt = right.clone()
    spoilt[2] = torch.tensor([1.0, 1.0, -1.0])
    heard_two = torch.tensor([True, True, False])
    assert text_loss(spoilt, product, heard_two, every, scale) < 1e-6
    unnamed = torch.tensor([True, True, False])
    assert text_loss(spoilt, product, every, unnamed, scale) < 1e-6
    assert text_loss(right, product, ~every, every, scale) == 0


def test_a_run_that_reads_is_trained_scored_and_resumed(tmp_path: Path) -> None:
    data = replace(photographs(), titles=TITLES)
    arguments = {"device": torch.device("cpu"), "compute": Compute("fp32")}
    best = fit(RECIPE_READS, {"made": data}, data, tmp_path, tokenizer=tokenizer(), **arguments)
    resumed = Run.resume(RECIPE_READS, tmp_path, torch.device("cpu"), Compute("fp32"))
    assert resumed is not None and resumed.step == RECIPE.schedule.steps
    kept = load(best)
    assert kept.tokenizer == tokenizer().definition
    scorer = TorchScorer(kept.model(), TextTokenizer(kept.tokenizer, TEXT.max_tokens))
    scores = score(scorer, data)["right"]
    assert scores.text is not None and scores.text.shape == scores.match.shape
    unread = score(kept.model(), data)["right"]
    assert unread.text is None, "without its tokenizer it reads nothing"
    with pytest.raises(RunError, match="needs a tokenizer"):
        fit(RECIPE_READS, {"made": data}, data, tmp_path / "other", **arguments)


def test_a_resumed_run_reads_with_the_tokenizer_that_its_weights_know(tmp_path: Path) -> None:
    data = replace(photographs(), titles=TITLES)
    recipe = replace(RECIPE_READS, schedule=replace(RECIPE_READS.schedule, steps=2))
    other = TextTokenizer(train_tokenizer(["shoes and bags"], TEXT.vocabulary), TEXT.max_tokens)
    begun_with = tokenizer()
    for given in (begun_with, other):
        fit(recipe, {"made": data}, data, tmp_path, device=torch.device("cpu"), tokenizer=given)
        last = tmp_path / "last.safetensors"
        kept = load(last)
        assert kept.tokenizer == begun_with.definition
        save(last, replace(kept, state=kept.state | {"judged": False}))


@pytest.mark.parametrize("reads", [True, False])
def test_what_is_scored_tells_whether_its_bundle_reads(reads: bool) -> None:
    """The recipe of that name may have another text tower by now, or none."""
    recipe = RECIPE if reads else RECIPE_READS
    model = reading_model() if reads else build_model(CONFIG)
    scorer = TorchScorer(model, tokenizer() if reads else None)
    with progress_bars() as bars:
        told = measured(recipe, scorer, Judge(lambda split: photographs(), bars))
    assert ("text" in told["fusion"]) == reads


def test_training_reaches_every_part_that_reads() -> None:
    data = {"made": replace(photographs(), titles=TITLES)}
    batch = BatchDrawer(RECIPE_READS, data, torch.device("cpu"), tokenizer=tokenizer()).draw(0)
    run = Run(RECIPE_READS, Path(), torch.device("cpu"), compute=Compute("fp32"))
    losses = run.backward(0, batch)
    assert losses["text"] > 0
    assert run.model.text is not None
    unreached = [
        name
        for name, parameter in run.model.text.named_parameters()
        # A bias that all tokens share moves no softmax over them.
        if name != "tower.backbone.weigh.bias"
        and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
        and not name.endswith("attention.key.bias")
    ]
    assert unreached == []


def test_talk_is_of_its_title_and_of_other_shops_each_time() -> None:
    titles, said = made_up_talk(40, default_rng(0))
    assert len(titles) == len(set(titles)) == len(said) > 20
    words = [set(text.lower().split()) for text in (*titles, *said)]
    named, spoken_of = words[: len(titles)], words[len(titles) :]
    own = sum(len(a & b) for a, b in zip(named, spoken_of, strict=True))
    others = sum(len(a & b) for a, b in zip(named, [*spoken_of[9:], *spoken_of[:9]], strict=True))
    assert own > 2 * others
    assert made_up_talk(40, default_rng(0)) == (titles, said)
    assert not set(titles) & set(made_up_talk(40, default_rng(1))[0])
    texts = set(corpus({}, default_rng(0), talk=True))
    assert len(texts) > 1000


def test_pictured_talk_shows_what_it_names() -> None:
    pictures, (titles, said) = pictured_talk(40, 48, default_rng(0))
    assert pictures.shape == (len(titles), 48, 48, 3) and len(said) == len(titles) > 20
    again, texts = pictured_talk(40, 48, default_rng(0))
    assert texts == (titles, said) and np.array_equal(again, pictures)
    named = [next(COLOURS[word] for word in title.split() if word in COLOURS) for title in titles]
    middles = np.median(pictures[:, 18:30, 18:30].reshape(len(titles), -1, 3), axis=1)
    apart = np.abs(middles[:, None] - np.array(named)).mean(axis=2)
    assert np.diag(apart).mean() < 0.85 * apart.mean(), "the colour of the title is seen"


def test_a_corpus_holds_titles_and_what_issaid_of_product() -> None:
    texts = list(corpus({"made": replace(photographs(), titles=TITLES)}, default_rng(0)))
    assert set(TITLES) < set(texts) and len(texts) > 50


def test_batches_without_any_text_still_train() -> None:
    """All titles are missing: nothing is said to be 0, and no gradient is a NaN."""
    run = Run(RECIPE_READS, Path(), torch.device("cpu"), compute=Compute("fp32"))
    drawer = BatchDrawer(
        RECIPE_READS, {"made": photographs()}, torch.device("cpu"), tokenizer=tokenizer()
    )
    batch: Batch = drawer.draw(0)
    assert isinstance(batch.titles, Texts)
    losses = run.backward(0, batch)
    assert losses["text"] == 0
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("reads", "sees"),
    [("rice_text_small_synth", "rice_small_synth_96"), ("grocery_text_small", "grocery_small_128")],
)
def test_a_small_recipe_adds_text_to_the_model_that_sees(reads: str, sees: str) -> None:
    recipe = RECIPES[reads]
    assert replace(recipe.model, text=None, text_tokens=True) == RECIPES[sees].model
    tower = build_model(recipe.model).get_submodule("text.tower")
    assert sum(parameter.numel() for parameter in tower.parameters()) < 3_000_000
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_groceries_are_read_about_without_being_seen_anew() -> None:
    """What is neither titled nor spoken of is recognised as before."""
    schedule = RECIPES["grocery_text_small"].schedule
    assert schedule.encoder_rate == schedule.decoder_rate == 0


def test_other_speech_is_heard_where_that_is_asked_for() -> None:
    queries = [
        Query("a", "live", (), ("x",), speech="of x"),
        Query("b", "live", (), ("x",), speech="also of x"),
        Query("c", "live", (), ("y",), speech="of y"),
        Query("d", "elsewhere", (), ("z",), speech="of z"),
    ]
    assert said_in(queries, "right") == [[query.speech] for query in queries]
    of_x = ["of x", "also of x"] * (MISHEARD // 2)
    assert said_in(queries, "wrong") == [*([["of y"] * MISHEARD] * 2), of_x, [""] * MISHEARD]
    assert said_in(queries, "missing") == [[""]] * 4
    said = [
        one for seed in range(4) for one in said_of_product(2, TITLES, "wrong", default_rng(seed))
    ]
    assert said_of_product(2, TITLES, "missing", default_rng(0)) == [""]
    assert said_of_product(0, TITLES[:1], "wrong", default_rng(0)) == [""] * MISHEARD, (
        "there is no other"
    )
    assert len(said) == 4 * MISHEARD
    assert sum("moon" in one for one in said) < len(said) / 2, "others' may mention it"


def test_a_clip_is_judged_with_many_wrong_speeches() -> None:
    """Each is a row of its own; what reads no speech to see is the same in all of them."""
    scorer = TorchScorer(reading_model(), tokenizer())
    data = replace(photographs(), titles=TITLES)
    found = score_clips(scorer, data, hearings=["wrong", "missing"])
    wrong, missing = found["wrong"], found["missing"]
    assert wrong.clips == missing.clips == len(missing.truth) == len(wrong.truth) / MISHEARD
    assert torch.equal(wrong.once().truth, missing.truth)
    assert torch.equal(wrong.coarse, missing.coarse.repeat_interleave(MISHEARD, dim=0))
    assert wrong.text is not None and len(wrong.text.unique(dim=0)) > MISHEARD
    assert len(wrong.groups.get("category", wrong.truth)) == len(wrong.truth)


@pytest.mark.parametrize(("titles", "told"), [("", 0), ("red apple", 1)])
def test_shops_that_are_titled_in_part_are_told_for_speech_finds_among_those_alone(
    titles: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    """LPR4M's test has titles of what is sold, one picture in eleven."""
    data = QuerySet(
        [Query("clip", "live", ("a",), ("a",))],
        {"live": [ShopPicture("a", "a", titles), ShopPicture("b", "b")]},
        lambda name, size: np.full((size, size, 3), ord(name), np.uint8),
        lambda query, count, size: [Frame(np.full((size, size, 3), 97, np.uint8))],
        lambda name: True,
    )
    score(TorchScorer(reading_model(), tokenizer()), data)
    assert len(caplog.records) == told
    assert all("of 2 pictures in the shops 1 have a title" in r.message for r in caplog.records)
    caplog.clear()
    score(reading_model(), data)
    assert not caplog.records, "without a tokenizer nothing is read"


def test_a_recipe_begins_with_the_text_tower_of_a_folder(tmp_path: Path) -> None:
    theirs = save_clip(tmp_path)
    made = begun(RECIPE, None, with_tokenizer(tmp_path))
    text = made.recipe.model.text
    assert text is not None and (text.family, text.embedding) == ("clip", 24)
    assert made.tokenizer == (tmp_path / "tokenizer.json").read_text()
    model = made.model()
    kept = model.get_submodule("text.tower.projection").weight
    assert torch.equal(kept, theirs.text_projection.weight)
    run = Run(made.recipe, tmp_path / "run", torch.device("cpu"), made, Compute("fp32"))
    frozen = [n for n, p in run.model.named_parameters() if not p.requires_grad]
    assert frozen and all(name.startswith("text.tower.backbone.") for name in frozen)
