"""The models against their own definitions: the shortcut, the masks, the two views."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.training.tiny import CONFIG, tiny_model
from training.models.encoder import EncoderConfig, ImageEncoder
from training.models.rice import Rice, RiceConfig


def views(pictures: int = 3, clips: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frame_mask = torch.tensor([[True, True, True], [True, False, False]])[:clips]
    return (
        torch.randn(pictures, 3, 32, 32, generator=generator),
        torch.randn(clips, 3, 3, 32, 32, generator=generator),
        frame_mask,
    )


@pytest.mark.parametrize("own_direction", [False, True])
@torch.inference_mode()
def test_the_shortcut_equals_the_whole_decoder_for_padded_and_masked_clips(
    own_direction: bool,
) -> None:
    model = Rice(replace(CONFIG, own_direction=own_direction)).eval()
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
        assert torch.allclose(short[clip], whole.logits, atol=1e-5)


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
    assert torch.allclose(pictures.embedding, model.encode_pictures(pixels).embedding, atol=1e-6)
    assert torch.allclose(clips.embedding, apart.embedding, atol=1e-6)
    assert torch.equal(clips.token_mask, apart.token_mask)
    kept = clips.token_mask
    assert torch.allclose(clips.tokens[kept], apart.tokens[kept], atol=1e-6)


@torch.inference_mode()
def test_a_clip_embeds_as_the_mean_of_its_frames_before_l2() -> None:
    model = tiny_model()
    _, frames, frame_mask = views(clips=1)
    each, _ = model.encoder(frames[0])
    clips = model.encode_clips(
        frames, frame_mask, torch.ones(1, 3, CONFIG.encoder.patches, dtype=torch.bool)
    )
    assert torch.allclose(clips.embedding[0], F.normalize(each.mean(0), dim=-1), atol=1e-6)


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


def test_impossible_matching_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="matching_heads"):
        RiceConfig(matching_heads=7)
