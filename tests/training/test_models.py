"""The models against their own definitions: the shortcut, the masks, the two views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from tests.training.tiny import CONFIG, tiny_model
from training.models.encoder import EncoderConfig, ImageEncoder
from training.models.rice import Rice, RiceConfig

PAPER_STYLE = replace(
    CONFIG,
    tokens="projected",
    frame_pooling="mean_of_unit",
    icl_scale="fixed",
    matching_head="linear",
    self_block_from="text",
    reconstruction="plain",
)


def views(pictures: int = 3, clips: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frame_mask = torch.tensor([[True, True, True], [True, False, False]])[:clips]
    return (
        torch.randn(pictures, 3, 32, 32, generator=generator),
        torch.randn(clips, 3, 3, 32, 32, generator=generator),
        frame_mask,
    )


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, own_direction=True), PAPER_STYLE])
@torch.inference_mode()
def test_the_shortcut_equals_the_whole_decoder_for_padded_and_masked_clips(
    config: RiceConfig,
) -> None:
    model = Rice(config).eval()
    pixels, frames, frame_mask = views()
    patch_mask = torch.rand(2, 3, CONFIG.encoder.patches) < 0.6
    pictures = model.encode_pictures(pixels)
    clips = model.encode_clips(frames, frame_mask, patch_mask)
    states = model.decoder.match_state(pictures.tokens)
    key, value = model.decoder.keys_values(clips.tokens)
    short = model.decoder.match(states, key, value, clips.token_mask)
    for clip in range(2):
        whole = model.decoder(
            pictures.tokens,
            clips.tokens[clip].expand(3, -1, -1),
            clips.token_mask[clip].expand(3, -1),
        )
        assert torch.allclose(short[clip], whole.logits, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_what_is_masked_changes_nothing() -> None:
    model = tiny_model()
    _, frames, frame_mask = views()
    patch_mask = torch.rand(2, 3, CONFIG.encoder.patches) < 0.6
    clips = model.encode_clips(frames, frame_mask, patch_mask)
    frames[1, 1:] = 7.0  # the padded frames
    other = model.encode_clips(frames, frame_mask, patch_mask)
    assert torch.equal(clips.embedding, other.embedding)
    assert torch.equal(clips.tokens[clips.token_mask], other.tokens[other.token_mask])


@torch.inference_mode()
def test_attention_rows_sum_to_one_and_skip_masked_tokens() -> None:
    model = tiny_model()
    pixels, frames, frame_mask = views(pictures=2)
    every = torch.ones(2, 3, CONFIG.encoder.patches, dtype=torch.bool)
    clips = model.encode_clips(frames, frame_mask, every)
    decoded = model.decoder(model.encode_pictures(pixels).tokens, clips.tokens, clips.token_mask)
    assert torch.allclose(decoded.attention.sum(-1), torch.ones(2, 4, 17))
    assert decoded.attention[1][..., ~clips.token_mask[1]].max() == 0


@torch.inference_mode()
def test_both_views_together_are_the_two_apart() -> None:
    model = tiny_model()
    pixels, frames, frame_mask = views()
    every = torch.ones(2, 3, CONFIG.encoder.patches, dtype=torch.bool)
    pictures, clips = model.encode_together(pixels, frames, frame_mask)
    apart = model.encode_clips(frames, frame_mask, every)
    assert torch.allclose(pictures.embedding, model.encode_pictures(pixels).embedding, atol=1e-5)
    assert torch.allclose(clips.embedding, apart.embedding, atol=1e-5)
    assert torch.equal(clips.token_mask, apart.token_mask)
    kept = clips.token_mask
    assert torch.allclose(clips.tokens[kept], apart.tokens[kept], atol=1e-5)


@torch.inference_mode()
def test_a_clip_embeds_as_the_mean_of_its_frames_before_l2() -> None:
    model = tiny_model()
    _, frames, frame_mask = views(clips=1)
    each, _ = model.encoder(frames[0])
    clips = model.encode_clips(
        frames, frame_mask, torch.ones(1, 3, CONFIG.encoder.patches, dtype=torch.bool)
    )
    assert torch.allclose(clips.embedding[0], F.normalize(each.mean(0), dim=-1), atol=1e-5)


def test_vit_b32_has_clips_sizes() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder(EncoderConfig())
    assert sum(p.numel() for p in encoder.parameters()) == 87_849_216  # CLIP ViT-B/32, visual


@pytest.mark.parametrize(
    "wrong",
    [{"image_size": 100}, {"heads": 7}, {"stem": "conv", "patch_size": 28, "image_size": 224}],
)
def test_impossible_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"multiple|power"):
        EncoderConfig(**wrong)  # type: ignore[arg-type]


@torch.inference_mode()
def test_paper_style_tokens_are_normed_and_projected() -> None:
    model = Rice(PAPER_STYLE).eval()
    pixels, _, _ = views()
    _, last = model.encoder(pixels)
    pictures = model.encode_pictures(pixels)
    expected = model.encoder.projection(model.encoder.norm_after(last))
    assert torch.allclose(pictures.tokens, expected, atol=1e-5)
    assert pictures.tokens.shape[-1] == CONFIG.encoder.embedding
    assert model.decoder.match_state(pictures.tokens).shape == (3, CONFIG.encoder.embedding)
    first = F.normalize(pictures.tokens[:, 0], dim=-1)
    assert torch.allclose(pictures.embedding, first, atol=1e-5)


@torch.inference_mode()
def test_paper_style_frames_are_of_unit_length_before_the_mean() -> None:
    model = Rice(PAPER_STYLE).eval()
    _, frames, frame_mask = views(clips=1)
    each, _ = model.encoder(frames[0])
    patches = torch.ones(1, 3, CONFIG.encoder.patches, dtype=torch.bool)
    clips = model.encode_clips(frames, frame_mask, patches)
    expected = F.normalize(F.normalize(each, dim=-1).mean(0), dim=-1)
    assert torch.allclose(clips.embedding[0], expected, atol=1e-5)


@torch.inference_mode()
def test_paper_style_logits_are_100_times_a_linear_layer() -> None:
    decoder = Rice(PAPER_STYLE).eval().decoder
    decoded = torch.randn(5, CONFIG.encoder.embedding)
    assert isinstance(decoder.direction, torch.nn.Linear)
    expected = 100 * decoder.direction(decoder.pooled(decoded)).squeeze(-1)
    assert torch.allclose(decoder.logit(decoded, decoded), expected)


def test_icls_scale_is_learned_from_4_or_stays_at_10() -> None:
    learned, fixed = Rice(CONFIG), Rice(PAPER_STYLE)
    assert learned.temperature.item() == 4 and learned.temperature.requires_grad
    assert fixed.temperature.item() == 10 and not fixed.temperature.requires_grad
    assert "temperature" in dict(learned.named_parameters())
    assert "temperature" not in dict(fixed.named_parameters())
    assert "temperature" in fixed.state_dict()


def test_attention_is_dropped_in_the_cross_block_in_training_alone() -> None:
    model = Rice(replace(CONFIG, encoder=replace(CONFIG.encoder, drop_path=0.0)))
    without = Rice(replace(model.config, attention_dropout=0.0))
    without.load_state_dict(model.state_dict())
    states, clip = torch.randn(2, 32), torch.randn(1, 51, 32)

    def match(rice: Rice) -> torch.Tensor:
        torch.manual_seed(0)
        return rice.decoder.match(states, *rice.decoder.keys_values(clip))

    model.train()
    without.train()
    assert model.decoder.cross_block.attention_dropout == 0.1
    assert not torch.allclose(match(model), match(without))
    tokens = torch.randn(2, 17, 32)
    torch.manual_seed(0)
    dropped = model.decoder.self_block(tokens)
    assert torch.equal(dropped, without.decoder.self_block(tokens)), "the self block drops nothing"
    assert torch.allclose(match(model.eval()), match(without.eval()))


def test_layer_norms_have_the_released_codes_eps() -> None:
    """No tensor tells it: 1e-12 in the self block, 1e-5 everywhere else."""
    model = tiny_model()
    found = {name: m.eps for name, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    assert {name for name, eps in found.items() if eps == 1e-12} == {
        "decoder.self_block.norm_attention",
        "decoder.self_block.norm_feedforward",
    }
    assert set(found.values()) == {1e-12, 1e-5}


def test_activations_are_told_apart() -> None:
    exact = EncoderConfig(image_size=32, patch_size=8, width=32, layers=1, heads=2, embedding=16)
    exact = replace(exact, activation="gelu")
    x = torch.linspace(-3, 3, 7)
    found = [m for m in Rice(RiceConfig(exact)).modules() if isinstance(m, torch.nn.GELU)]
    assert len(found) == 3, "in the encoder's block and in both of the decoder's"
    assert torch.equal(found[0](x), F.gelu(x))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"matching_heads": 7}, "matching_heads"),
        ({"matching_heads": 0}, "matching_heads"),
        ({"tokens": "projected", "matching_heads": 3}, "512 is no multiple of matching_heads"),
        ({"frames": 0}, "frames"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"matching_head": "linear", "own_direction": True}, "own_direction"),
        ({"self_block_from": "text"}, "projected"),
    ],
)
def test_impossible_models_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RiceConfig(**wrong)


@pytest.mark.parametrize(
    "field",
    ["tokens", "frame_pooling", "icl_scale", "matching_head", "self_block_from", "reconstruction"],
)
def test_words_that_name_no_variant_are_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TypeAdapter(RiceConfig).validate_python({field: "nonsense"})
