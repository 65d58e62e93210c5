"""The model's face towards the service, on the tiny bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from service.errors import InferenceError
from service.inference import model as module
from service.inference.bundle import Bundle
from service.inference.features import ClipFeatures
from service.inference.manifest import Graph
from service.inference.model import PICTURES_A_RUN, STATES_A_RUN, Model
from service.inference.session import Session
from service.settings import InferenceSettings

dice = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return Model.open(Bundle.load(tiny_bundle), InferenceSettings(threads=2))


def pictures(model: Model, count: int) -> npt.NDArray[np.uint8]:
    size = model.manifest.dims.image_size
    return dice.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_it_says_where_it_runs(model: Model) -> None:
    assert model.providers == ["CPUExecutionProvider"]


def test_any_number_of_pictures_is_encoded_as_each_alone(model: Model) -> None:
    some = pictures(model, 2 * PICTURES_A_RUN + 3)
    together = model.encode_pictures(some)
    for index in (0, PICTURES_A_RUN - 1, PICTURES_A_RUN, len(some) - 1):
        alone = model.encode_pictures(some[index : index + 1])
        np.testing.assert_allclose(alone.embedding[0], together.embedding[index], atol=1e-5)
        np.testing.assert_allclose(alone.match_state[0], together.match_state[index], atol=1e-4)


def test_no_pictures_and_no_states_are_no_error(model: Model) -> None:
    dims = model.manifest.dims
    nothing = model.encode_pictures(pictures(model, 0))
    assert nothing.embedding.shape == (0, dims.embedding)
    assert nothing.match_state.shape == (0, dims.match_state)
    clip = model.encode_clip(pictures(model, 2))
    assert model.match(nothing.match_state, clip).shape == (0,)


def test_pixels_need_not_lie_in_order(model: Model) -> None:
    some = pictures(model, 2)
    flipped = model.encode_pictures(some[:, :, ::-1])
    copied = model.encode_pictures(np.ascontiguousarray(some[:, :, ::-1]))
    np.testing.assert_array_equal(flipped.embedding, copied.embedding)
    assert not np.allclose(flipped.embedding, model.encode_pictures(some).embedding, atol=1e-3)


@pytest.mark.parametrize("count", [1, 4, 10])
def test_a_clip_has_tokens_for_its_frames_alone(model: Model, count: int) -> None:
    dims = model.manifest.dims
    clip = model.encode_clip(pictures(model, count))
    tokens = count * (1 + dims.patches)
    assert clip.embedding.shape == (dims.embedding,)
    assert clip.keys.shape == clip.values.shape == (tokens, dims.match_state)
    assert clip.token_mask.shape == (tokens,) and clip.token_mask.all()


def test_many_candidates_are_matched_as_each_alone(model: Model) -> None:
    clip = model.encode_clip(pictures(model, 3))
    states = dice.normal(size=(STATES_A_RUN + 5, model.manifest.dims.match_state))
    states = states.astype(np.float32)
    logits = model.match(states, clip)
    for index in (0, STATES_A_RUN - 1, STATES_A_RUN, len(states) - 1):
        alone = model.match(states[index : index + 1], clip)
        np.testing.assert_allclose(alone[0], logits[index], atol=1e-4)


def test_an_explanation_looks_at_the_clip(model: Model) -> None:
    clip = model.encode_clip(pictures(model, 2))
    attention = model.explain(pictures(model, 1)[0], clip)
    assert attention.shape == (1 + model.manifest.dims.patches, len(clip.keys))
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-5)


def test_threads_get_their_own_answers(model: Model) -> None:
    clips = [pictures(model, count) for count in (1, 3, 5, 10)] * 4
    expected = [model.encode_clip(clip).embedding for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        found = [clip.embedding for clip in pool.map(model.encode_clip, clips)]
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_misshapen_arrays_are_refused_with_what_was_wanted(model: Model) -> None:
    size, width = model.manifest.dims.image_size, model.manifest.dims.match_state
    clip = model.encode_clip(pictures(model, 1))
    with pytest.raises(ValueError, match=rf"pictures must be uint8 \[None, {size}, {size}, 3\]"):
        model.encode_pictures(pictures(model, 1)[0])
    with pytest.raises(ValueError, match="got float32"):
        model.encode_pictures(pictures(model, 1).astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames must be uint8"):
        model.encode_clip(pictures(model, 1)[:, 1:])
    with pytest.raises(ValueError, match="1 to 10 frames, not 11"):
        model.encode_clip(pictures(model, 11))
    with pytest.raises(ValueError, match="1 to 10 frames, not 0"):
        model.encode_clip(pictures(model, 0))
    with pytest.raises(ValueError, match="states must be float32"):
        model.match(np.zeros((1, width + 1), np.float32), clip)
    with pytest.raises(ValueError, match="picture must be uint8"):
        model.explain(pictures(model, 1), clip)


def test_what_onnxruntime_refuses_is_an_inference_error(model: Model) -> None:
    clip = model.encode_clip(pictures(model, 1))
    mixed = ClipFeatures(clip.embedding, clip.keys[:-1], clip.values, clip.token_mask)
    states = np.zeros((1, model.manifest.dims.match_state), np.float32)
    with pytest.raises(InferenceError, match=r"matcher\.onnx could not be run") as caught:
        model.match(states, mixed)
    assert "ONNXRuntimeError" in str(caught.value.__cause__)
    assert "ONNXRuntimeError" not in caught.value.detail


def test_the_encoders_repack_their_weights_and_explanations_do_not(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy a session is worth it where nearly all time is spent, and only there."""
    shares: dict[str, bool] = {}

    class Noted(Session):
        def __init__(self, folder: Path, graph: Graph, *rest: object, shares_weights: bool) -> None:
            shares[graph.file] = shares_weights
            super().__init__(folder, graph, *rest, shares_weights=shares_weights)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "Session", Noted)
    Model(Bundle.load(tiny_bundle), InferenceSettings(threads=1))
    assert [file for file, shared in shares.items() if shared] == ["explainer.onnx"]
