"""The model bundle: a folder of graphs, weights and golden examples, described by `manifest.json`.

Knows the manifest's form and proves a folder to be what its manifest says: every file there, none
besides, every hash right, every graph of the shape this service calls. Knows nothing of
onnxruntime. `tests/contract/manifest.schema.json` states the same form for other programs, and a
test holds the two equal; what a schema cannot express is checked in `Bundle.load`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    ValidationError,
    model_validator,
)

from service.errors import BundleError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1_000_000

# Names of files stay inside the folder: no segment begins with a dot.
FileName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"),
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
DType = Literal["bool", "float32", "int64", "uint8"]


class Document(BaseModel):
    """Read as written: no unknown fields, no conversions, no NaN, no changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _without_nulls(self) -> Self:
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is null: what is not there is left out")
        return self


class ModelInfo(Document):
    family: Name
    recipe: Name
    parameters: PositiveInt


class Dims(Document):
    image_size: PositiveInt
    frames: PositiveInt
    patches: PositiveInt
    embedding: PositiveInt
    match_state: PositiveInt


class Preprocessing(Document):
    """How pictures and frames come to the model's size; normalisation is inside the graphs."""

    resize: Literal["shorter-side"]
    size: PositiveInt
    filter: Literal["bicubic"]
    crop: Literal["centre"]


class FileInfo(Document):
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Tensor(Document):
    """One input or output of a graph; a name in `shape` is a length that varies."""

    name: Name
    dtype: DType
    shape: tuple[PositiveInt | Name, ...]


class Graph(Document):
    file: FileName
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphs(Document):
    image_encoder: Graph
    clip_encoder: Graph
    matcher: Graph
    explainer: Graph
    text_encoder: Graph | None = None
    detector: Graph | None = None


class Text(Document):
    """How titles and speech are read: of a text the first `max_characters` are tokenized, and of
    these the first `max_tokens` tokens are kept."""

    tokenizer: FileName
    max_characters: PositiveInt
    max_tokens: PositiveInt
    width: PositiveInt
    embedding: PositiveInt


class Fusion(Document):
    """Weights of the parts of a picture's score; `text` where the model reads."""

    coarse: Annotated[float, Field(ge=0)]
    match: Annotated[float, Field(ge=0)]
    text: Annotated[float, Field(ge=0)] | None = None


class Calibration(Document):
    """What turns the scores of candidates into a confidence and a decision."""

    temperature: Annotated[float, Field(gt=0)]
    none_logit: float
    threshold: Annotated[float, Field(ge=0, le=1)]


class Manifest(Document):
    schema_version: Literal[1]
    bundle_id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*-[0-9a-f]{12}$")]
    model: ModelInfo
    precision: Literal["fp32", "fp16", "int8"]
    dims: Dims
    preprocessing: Preprocessing
    files: dict[FileName, FileInfo]
    graphs: Graphs
    fusion: Fusion
    calibration: Calibration
    text: Text | None = None
    metrics: dict[str, JsonValue]
    golden: FileName


@dataclass(frozen=True)
class Bundle:
    """A folder that was verified against its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Reads and verifies the bundle at `path`. Raises BundleError with what is wrong."""
        manifest = read_manifest(path)
        _check_consistency(manifest)
        _check_files(path, manifest)
        return cls(path, manifest)


def fingerprint(manifest: Manifest) -> str:
    """The 12 hex digits that end a bundle's id: of its files, and of what is decided with them.

    sha256 over the sorted lines of `sha256sum FILES`, then preprocessing, fusion, calibration and,
    where there is one, text as compact, sorted JSON. So an answer's `bundle` says all that its
    scores depend on.
    """
    lines = sorted(f"{info.sha256}  {name}\n" for name, info in manifest.files.items())
    settings = manifest.model_dump(
        mode="json", include={"preprocessing", "fusion", "calibration", "text"}, exclude_none=True
    )
    decides = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256("".join([*lines, decides]).encode()).hexdigest()[:12]


def expected_graphs(
    dims: Dims, text: Text | None = None
) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """The inputs and outputs of each graph that this service calls, by the graph's name.

    With text, match states end in their title's embedding, and keys are shorter by that.
    """
    size, patches, embedding, state = (
        dims.image_size,
        dims.patches,
        dims.embedding,
        dims.match_state,
    )
    width = state if text is None else state - text.embedding
    if width < 1:
        raise BundleError("match states are no longer than the title's embedding they end in")
    pictures = _tensor("pictures", "uint8", "batch", size, size, 3)
    keys = _tensor("keys", "float32", "tokens", width)
    values = _tensor("values", "float32", "tokens", width)
    token_mask = _tensor("token_mask", "bool", "tokens")
    of_title, of_speech = _text_inputs(text)
    graphs = {
        "image_encoder": (
            (pictures, *of_title),
            (
                _tensor("embedding", "float32", "batch", embedding),
                _tensor("match_state", "float32", "batch", state),
            ),
        ),
        "clip_encoder": (
            (
                _tensor("frames", "uint8", "clips", "frames", size, size, 3),
                _tensor("frame_mask", "bool", "clips", "frames"),
                _tensor("patch_mask", "bool", "clips", "frames", patches),
                *of_speech,
            ),
            (
                _tensor("embedding", "float32", "clips", embedding),
                _tensor("keys", "float32", "clips", "tokens", width),
                _tensor("values", "float32", "clips", "tokens", width),
                _tensor("token_mask", "bool", "clips", "tokens"),
            ),
        ),
        "matcher": (
            (_tensor("match_state", "float32", "candidates", state), keys, values, token_mask),
            (_tensor("logit", "float32", "candidates"),),
        ),
        "explainer": (
            (pictures, keys, token_mask, *of_title),
            (_tensor("attention", "float32", "batch", 1 + patches, "tokens"),),
        ),
    }
    graphs["detector"] = (
        (
            _tensor("frames", "uint8", "clips", "frames", size, size, 3),
            _tensor("frame_mask", "bool", "clips", "frames"),
        ),
        (
            _tensor("boxes", "float32", "clips", "frames", 4),
            _tensor("scores", "float32", "clips", "frames"),
            _tensor("found", "bool", "clips", "frames"),
            _tensor("patch_mask", "bool", "clips", "frames", patches),
        ),
    )
    if text is not None:
        graphs["text_encoder"] = (
            (
                _tensor("token_ids", "int64", "batch", "words"),
                _tensor("mask", "bool", "batch", "words"),
            ),
            (
                _tensor("word_tokens", "float32", "batch", "words", text.width),
                _tensor("text_embedding", "float32", "batch", text.embedding),
            ),
        )
    return graphs


def _text_inputs(text: Text | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What graphs take of titles, and of speech."""
    if text is None:
        return (), ()
    return (
        (
            _tensor("title_embedding", "float32", "batch", text.embedding),
            _tensor("has_title", "bool", "batch"),
        ),
        (
            _tensor("speech_tokens", "float32", "clips", "words", text.width),
            _tensor("speech_mask", "bool", "clips", "words"),
            _tensor("speech_embedding", "float32", "clips", text.embedding),
        ),
    )


def _tensor(name: str, dtype: DType, *shape: int | str) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape)


def read_manifest(path: Path) -> Manifest:
    """What the bundle at `path` says of itself, not verified. Raises BundleError."""
    text = read_text(path, MANIFEST, MAX_MANIFEST_BYTES)
    _check_schema_version(text)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path / MANIFEST}: {describe(error)}") from error


def _check_schema_version(text: str) -> None:
    """Ahead of everything else: a newer manifest differs in more than its version."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"the bundle's schema version is {version!r}, this service reads {SCHEMA_VERSION}: "
            "export the bundle again, or install the release that made it"
        )


def _check_consistency(manifest: Manifest) -> None:
    if manifest.preprocessing.size != manifest.dims.image_size:
        raise BundleError(
            f"pictures are resized to {manifest.preprocessing.size}, "
            f"the model takes {manifest.dims.image_size}"
        )
    text = manifest.text
    parts = (manifest.graphs.text_encoder, manifest.fusion.text)
    if any((part is None) != (text is None) for part in parts):
        raise BundleError("text, its encoder and its weight in fusion come together or not at all")
    for name, (inputs, outputs) in expected_graphs(manifest.dims, text).items():
        graph: Graph | None = getattr(manifest.graphs, name)
        if graph is None:  # a part that this bundle does without
            continue
        if (graph.inputs, graph.outputs) != (inputs, outputs):
            raise BundleError(f"the graph {name} has other inputs or outputs than dims say")
        _check_listed(manifest, graph.file)
    _check_listed(manifest, manifest.golden)
    if text is not None:
        _check_listed(manifest, text.tokenizer)
    digest = fingerprint(manifest)
    if not manifest.bundle_id.endswith(f"-{digest}"):
        raise BundleError(
            f"the bundle's id {manifest.bundle_id} does not end in {digest}, its fingerprint"
        )


def _check_listed(manifest: Manifest, name: str) -> None:
    if name not in manifest.files:
        raise BundleError(f"{name} is used by the manifest and not among its files")


def _check_files(path: Path, manifest: Manifest) -> None:
    present = {
        file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()
    } - {MANIFEST}
    if missing := sorted(manifest.files.keys() - present):
        raise BundleError(f"the bundle at {path} lacks {', '.join(missing)}")
    if extra := sorted(present - manifest.files.keys()):
        raise BundleError(f"the bundle at {path} has files not in its manifest: {', '.join(extra)}")
    for name, info in manifest.files.items():
        if _size(path / name) != info.bytes or _hash(path / name) != info.sha256:
            raise BundleError(
                f"{path / name} is not the file that was exported: its content differs"
            )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error


def read_text(path: Path, name: str, limit: int) -> str:
    """The bundle's text file `name`, of at most `limit` bytes. Raises BundleError."""
    try:
        with (path / name).open("rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise BundleError(f"{path / name} is larger than {limit} bytes")
        return content.decode()
    except OSError as error:
        raise BundleError(f"no bundle at {path}: {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path / name} is not UTF-8") from error


def describe(error: ValidationError) -> str:
    """The first fault of a document, with the place where it is."""
    first, *rest = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{place}: {first['msg']}{more}"
