"""The form of `manifest.json`: what a bundle says of itself, and what names it.

Knows nothing of whether that is true; `service.inference.bundle` finds out.
`tests/contract/manifest.schema.json` states the same form for other programs, and a test holds the
two equal.
"""

from __future__ import annotations

import hashlib
import json
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
FRAME_SCORES = "frame_scores"  # input of a clip encoder that weighs frames by a detector's scores


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
    """`frame_size` is the side of the frames that a detector looks at, where it is another than
    `image_size`, that of all that is encoded."""

    image_size: PositiveInt
    frame_size: PositiveInt | None = None
    frames: PositiveInt
    patches: PositiveInt
    embedding: PositiveInt
    match_state: PositiveInt


class Preprocessing(Document):
    """How pictures come to the model's size, and frames to theirs; normalisation is inside the
    graphs."""

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

    @property
    def weighs_frames(self) -> bool:
        """Whether it takes a detector's scores of them."""
        return any(tensor.name == FRAME_SCORES for tensor in self.inputs)


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


class TextFusion(Document):
    """What the evidence of speech weighs, and how it is made of cosines (service.evidence)."""

    weight: Annotated[float, Field(ge=0)]
    scale: Annotated[float, Field(gt=0)]
    doubt: Annotated[float, Field(gt=0, lt=1)]


class Fusion(Document):
    """Weights of the parts of a picture's score; `text` where the model reads."""

    coarse: Annotated[float, Field(ge=0)]
    match: Annotated[float, Field(ge=0)]
    text: TextFusion | None = None


class Calibration(Document):
    """What turns the scores of candidates into a confidence and a decision."""

    temperature: Annotated[float, Field(gt=0)]
    none_logit: float
    threshold: Annotated[float, Field(ge=0, le=1)]


class Manifest(Document):
    schema_version: Literal[1]
    bundle_id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*-[0-9a-f]{12}$")]
    model: ModelInfo
    precision: Literal["fp32", "fp16-weights", "fp16", "int8"]
    dims: Dims
    preprocessing: Preprocessing
    files: dict[FileName, FileInfo]
    graphs: Graphs
    fusion: Fusion
    calibration: Calibration
    text: Text | None = None
    metrics: dict[str, JsonValue]
    golden: FileName


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
