"""The graphs of a bundle as this service calls them: the table of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from service.errors import BundleError
from service.inference.manifest import FRAME_SCORES, Dims, Tensor, Text

Tensors = tuple[Tensor, ...]

# A capital letter is a length that the bundle fixes: S the side of a picture, D that of a frame
# that a detector looks at, P a picture's patches, Q the same and its class token; E an embedding, M
# a match state, K a key or a value; W a word's token, T a text's embedding. A word is a length that
# varies.
_TITLE = ("title_embedding float32 [batch,T]", "has_title bool [batch]")
_SPEECH = (
    "speech_tokens float32 [clips,words,W]",
    "speech_mask bool [clips,words]",
    "speech_embedding float32 [clips,T]",
)
_SCORES = f"{FRAME_SCORES} float32 [clips,frames]"
_GRAPHS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image_encoder": (
        ("pictures uint8 [batch,S,S,3]", *_TITLE),
        ("embedding float32 [batch,E]", "match_state float32 [batch,M]"),
    ),
    "clip_encoder": (
        (
            "frames uint8 [clips,frames,S,S,3]",
            "frame_mask bool [clips,frames]",
            "patch_mask bool [clips,frames,P]",
            _SCORES,
            *_SPEECH,
        ),
        (
            "embedding float32 [clips,E]",
            "keys float32 [clips,tokens,K]",
            "values float32 [clips,tokens,K]",
            "token_mask bool [clips,tokens]",
        ),
    ),
    "matcher": (
        (
            "match_state float32 [candidates,M]",
            "keys float32 [tokens,K]",
            "values float32 [tokens,K]",
            "token_mask bool [tokens]",
        ),
        ("logit float32 [candidates]",),
    ),
    "explainer": (
        (
            "pictures uint8 [batch,S,S,3]",
            "keys float32 [tokens,K]",
            "token_mask bool [tokens]",
            *_TITLE,
        ),
        ("attention float32 [batch,Q,tokens]",),
    ),
    "detector": (
        ("frames uint8 [clips,frames,D,D,3]", "frame_mask bool [clips,frames]"),
        (
            "boxes float32 [clips,frames,4]",
            "scores float32 [clips,frames]",
            "found bool [clips,frames]",
            "patch_mask bool [clips,frames,P]",
            "views float32 [clips,frames,4]",
            "pixels uint8 [clips,frames,S,S,3]",
        ),
    ),
    "text_encoder": (
        ("token_ids int64 [batch,words]", "mask bool [batch,words]"),
        ("word_tokens float32 [batch,words,W]", "text_embedding float32 [batch,T]"),
    ),
}


def signatures(
    dims: Dims, text: Text | None, *, weighs: bool = False
) -> dict[str, tuple[Tensors, Tensors]]:
    """The inputs and outputs of each graph, by the graph's name.

    Only a clip encoder that `weighs` frames by a detector's scores takes these. Without text no
    graph takes titles or speech. With it match states end in their title's embedding, and keys are
    shorter by that. Raises BundleError where nothing is left of them.
    """
    lengths = {
        "S": dims.image_size,
        "D": dims.frame_size or dims.image_size,
        "P": dims.patches,
        "Q": 1 + dims.patches,
        "E": dims.embedding,
        "M": dims.match_state,
        "K": dims.match_state - (text.embedding if text else 0),
    }
    if lengths["K"] < 1:
        raise BundleError("match states are no longer than the title's embedding they end in")
    if text is None:
        left_out = {"text_encoder", *_TITLE, *_SPEECH}
    else:
        lengths |= {"W": text.width, "T": text.embedding}
        left_out = set()
    if not weighs:
        left_out.add(_SCORES)

    def tensors(lines: Iterable[str]) -> Tensors:
        return tuple(_tensor(line, lengths) for line in lines if line not in left_out)

    return {
        name: (tensors(inputs), tensors(outputs))
        for name, (inputs, outputs) in _GRAPHS.items()
        if name not in left_out
    }


def _tensor(line: str, lengths: Mapping[str, int]) -> Tensor:
    name, dtype, axes = line.split()
    shape = tuple(
        int(axis) if axis.isdecimal() else lengths.get(axis, axis)
        for axis in axes.strip("[]").split(",")
    )
    return Tensor.model_validate({"name": name, "dtype": dtype, "shape": shape})
