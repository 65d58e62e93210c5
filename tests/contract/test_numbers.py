"""A bundle exported by `training` gives torch's numbers when `service` runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="compares with torch: the training extra")

from service.inference.bundle import Bundle  # noqa: E402
from service.inference.features import ClipFeatures  # noqa: E402
from service.inference.model import Model  # noqa: E402
from service.inference.session import Session  # noqa: E402
from service.settings import InferenceSettings  # noqa: E402
from tests.contract.models import TINY, tiny_rice  # noqa: E402
from training.data.transforms import normalise  # noqa: E402

TOLERANCE = 1e-4
SIZE, PATCHES, FRAMES = TINY.encoder.image_size, TINY.encoder.patches, TINY.frames
SETTINGS = InferenceSettings(threads=1)

rice = tiny_rice()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    return Model.open(bundle, SETTINGS)


@pytest.fixture(scope="module")
def clip_session(bundle: Bundle) -> Session:
    """The service masks nothing of its own accord, so masks are given to the graph itself."""
    graph = bundle.manifest.graphs.clip_encoder
    return Session(bundle.path, graph, SETTINGS, shares_weights=True)


def draw(*shape: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, SIZE, SIZE, 3), dtype=np.uint8)


def masked_clip(seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Two clips: the first of 4 frames padded to 7, both with about a third of patches masked."""
    dice = np.random.default_rng(seed)
    frame_mask = np.ones((2, 7), np.bool_)
    frame_mask[0, 4:] = False
    patch_mask = dice.random((2, 7, PATCHES)) < 0.66
    return {"frames": draw(2, 7, seed=seed), "frame_mask": frame_mask, "patch_mask": patch_mask}


def torch_clips(clip: dict[str, npt.NDArray[np.generic]]):
    frames, frame_mask, patch_mask = (torch.from_numpy(value) for value in clip.values())
    with torch.no_grad():
        return rice.encode_clips(normalise(frames), frame_mask, patch_mask)


def full_decoder(pictures: npt.NDArray[np.uint8], clip_tokens, token_mask):
    """Every picture token through both blocks, as the paper states the decoder."""
    with torch.no_grad():
        tokens = rice.encode_pictures(normalise(torch.from_numpy(pictures))).tokens
        count = len(pictures)
        return rice.decoder(tokens, clip_tokens.expand(count, -1, -1), token_mask.expand(count, -1))


def assert_close(found: npt.NDArray[np.float32], expected) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 5, 16, 19])
def test_pictures(model: Model, count: int) -> None:
    pictures = draw(count, seed=count)
    features = model.encode_pictures(pictures)
    with torch.no_grad():
        encoded = rice.encode_pictures(normalise(torch.from_numpy(pictures)))
        state = rice.decoder.match_state(encoded.tokens)
    assert_close(features.embedding, encoded.embedding)
    assert_close(features.match_state, state)
    np.testing.assert_allclose(np.linalg.norm(features.embedding, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, FRAMES])
def test_clips(model: Model, count: int) -> None:
    frames = draw(count, seed=100 + count)
    found = model.encode_clip(frames)
    everything = np.ones((1, count), np.bool_)
    expected = torch_clips(
        {
            "frames": frames[None],
            "frame_mask": everything,
            "patch_mask": np.ones((1, count, PATCHES), np.bool_),
        }
    )
    with torch.no_grad():
        keys, values = rice.decoder.keys_values(expected.tokens)
    assert_close(found.embedding, expected.embedding[0])
    assert_close(found.keys, keys[0])
    assert_close(found.values, values[0])
    assert found.token_mask.tolist() == [True] * (count * (1 + PATCHES))


def test_padded_and_patch_masked_clips(clip_session: Session) -> None:
    clip = masked_clip(seed=7)
    embedding, keys, values, token_mask = clip_session.run(**clip)
    expected = torch_clips(clip)
    with torch.no_grad():
        expected_keys, expected_values = rice.decoder.keys_values(expected.tokens)
    assert_close(embedding, expected.embedding)
    assert_close(keys, expected_keys)
    assert_close(values, expected_values)
    np.testing.assert_array_equal(token_mask, expected.token_mask.numpy())
    assert not token_mask.all()


def test_the_shortcut_is_the_full_decoder(model: Model, clip_session: Session) -> None:
    """Match state, keys and values and one query a picture, against all tokens in both blocks."""
    clip, pictures = masked_clip(seed=11), draw(6, seed=12)
    states = model.encode_pictures(pictures).match_state
    embedding, keys, values, token_mask = clip_session.run(**clip)
    expected = torch_clips(clip)
    for index in range(2):
        features = ClipFeatures(embedding[index], keys[index], values[index], token_mask[index])
        decoded = full_decoder(pictures, expected.tokens[index], expected.token_mask[index])
        assert_close(model.match(states, features), decoded.logits)
        for picture, attention in zip(pictures, decoded.attention.mean(dim=1), strict=True):
            explained = model.explain(picture, features)
            assert_close(explained, attention)
            np.testing.assert_allclose(explained.sum(axis=-1), 1, atol=1e-5)
            assert np.all(explained[:, ~features.token_mask] == 0)
    assert decoded.logits.std() > 1e-2, "the pictures are told apart, so equality says something"


def test_the_shortcut_in_torch_alone() -> None:
    clip, pictures = masked_clip(seed=21), draw(5, seed=22)
    clips = torch_clips(clip)
    with torch.no_grad():
        tokens = rice.encode_pictures(normalise(torch.from_numpy(pictures))).tokens
        logits = rice.decoder.match(
            rice.decoder.match_state(tokens),
            *rice.decoder.keys_values(clips.tokens),
            clips.token_mask,
        )
    for index in range(2):
        decoded = full_decoder(pictures, clips.tokens[index], clips.token_mask[index])
        assert_close(logits[index].numpy(), decoded.logits)


def test_what_is_masked_does_not_matter(model: Model, clip_session: Session) -> None:
    clip = masked_clip(seed=31)
    clip["patch_mask"][:] = True
    spoiled = {name: value.copy() for name, value in clip.items()}
    spoiled["frames"][0, 4:] = 255 - spoiled["frames"][0, 4:]
    states = model.encode_pictures(draw(3, seed=32)).match_state

    def judge(inputs: dict[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.float32]]:
        embedding, keys, values, token_mask = (output[0] for output in clip_session.run(**inputs))
        features = ClipFeatures(embedding, keys, values, token_mask)
        return [embedding, model.match(states, features)]

    short = model.encode_clip(clip["frames"][0, :4])
    for padded, other, unpadded in zip(
        judge(clip), judge(spoiled), [short.embedding, model.match(states, short)], strict=True
    ):
        np.testing.assert_allclose(other, padded, rtol=0, atol=1e-5)
        np.testing.assert_allclose(unpadded, padded, rtol=0, atol=1e-5)
