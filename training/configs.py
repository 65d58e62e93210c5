"""What a training run is: typed, documented, and refusing nonsense by itself.

A `Recipe` is one complete run. It travels inside every checkpoint as JSON, so a checkpoint can be
evaluated, exported and resumed without knowing which file it came from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from training.losses import Contest
from training.models.detector import DetectorConfig
from training.models.encoder import STRICT
from training.models.rice import RiceConfig
from training.models.sgmn.model import SgmnConfig

Layout = Literal["photographs", "pictures", "lpr4m", "lpr750k", "movingfashion"]


@dataclass(frozen=True)
class Source:
    """One folder of pictures and the share of each batch that is drawn from it."""

    __pydantic_config__ = STRICT

    name: str
    """Named on the command line: `--data NAME=FOLDER`."""
    layout: Layout
    """`photographs`: classes.csv, iconic pictures, photographs by clip (training.data.photographs).
    `pictures`: images.csv; every picture is a product of its own and both of its views.
    `lpr4m`, `lpr750k`, `movingfashion`: as these data sets come."""
    products: int
    """Different products drawn for one batch."""
    clips_per_product: int = 1
    frames: int = 1
    """Frames of a training clip, at most."""

    def __post_init__(self) -> None:
        if min(self.products, self.clips_per_product, self.frames) < 1:
            raise ValueError(f"source {self.name}: products, clips and frames must be positive")


@dataclass(frozen=True)
class View:
    """How a picture is varied in training; ranges are drawn uniformly, once a picture."""

    __pydantic_config__ = STRICT

    scale: tuple[float, float] = (0.5, 1.0)
    """Side of the crop over the picture's side."""
    aspect: float = 0.2
    """Largest stretch of one axis against the other, as a share."""
    rotation: float = 15.0
    """Degrees either way."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    tint: float = 0.08
    """Largest gain or loss of one colour channel: white balance."""
    blur: float = 0.2
    """Probability of a blur, by averaging 3x3 pixels."""
    erase: float = 0.2
    """Probability that a rectangle of one colour covers a part: an occluding hand."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 2:
            raise ValueError(f"scale must be 0 < low <= high <= 2, not {self.scale}")
        for name in ("flip", "blur", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability")


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up and a cosine to zero."""

    __pydantic_config__ = STRICT

    steps: int
    warmup: int = 500
    encoder_rate: float = 1e-6
    """0 freezes the encoder, its batch statistics included. Of a detector, this is the rate of all
    that looks at single frames, and `matching_rate` that of the temporal layers."""
    text_rate: float = 0.0
    """Of the text tower but its projection; 0 freezes it, as the paper does."""
    matching_rate: float = 1e-4
    decoder_rate: float | None = None
    """Of the matching decoder, where it is not `matching_rate`; 0 freezes it."""
    weight_decay: float = 0.2
    eps: float = 1e-6
    clip_norm: float | None = 1.0
    """To which the norm of all gradients together is cut where it is larger; None never cuts."""
    ema: float = 0.0
    """Decay of the averaged weights that are evaluated and exported; 0 averages nothing."""
    evaluate_every: int = 250

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup {self.warmup} must lie within the {self.steps} steps")
        if not 0 <= self.ema < 1:
            raise ValueError("ema is a decay in [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, or None, not {self.clip_norm}")


Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Compute:
    """How a run is computed, not what it learns: it may be another when the run is resumed."""

    precision: Precision = "bf16"
    """Of autocast; with `fp16` the loss is scaled, as its range is short."""
    chunk: int | None = None
    """Pictures and frames that are encoded at once (training.gradient_cache); None: all."""
    checkpointing: bool = False
    """Whether the encoder's blocks keep their inputs alone and compute the rest again."""
    compiled: bool = False
    """Whether torch.compile translates the blocks (training.models.compiling). What is dropped at
    random is drawn otherwise then."""

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be positive, not {self.chunk}")


@dataclass(frozen=True)
class SgmnLosses:
    """Weights of the losses that SGMN has of its own; the others are the recipe's."""

    __pydantic_config__ = STRICT

    triplet: float = 1.0
    graph: float = 1.0
    """Of the triplets of nodes before the instance graph with those after it."""
    relation: float = 10.0
    """Of the divergence between how nodes relate before and after it."""
    guidance: float = 1.0
    """Of the contrast of words with patches that text-guided attention learns from. The paper has
    none and starts from CLIP's weights, whose words and patches are of one space already."""
    presence: float = 1.0
    """Of what the frame graph says of frames: whether they show the product, as annotated boxes
    tell. The paper has none; it is 0 where no box is annotated."""
    icl: float = 0.0
    """Of RICE's contrast beside the triplets. The paper has none and starts from CLIP's weights,
    which come of such a contrast."""

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if weight < 0:
                raise ValueError(f"{name} is not negative")


@dataclass(frozen=True)
class Recipe:
    __pydantic_config__ = STRICT

    name: str
    model: RiceConfig | SgmnConfig
    sources: tuple[Source, ...]
    validate_on: str
    """The source whose `val` split chooses the checkpoint."""
    schedule: Schedule
    picture_view: View = field(default_factory=View)
    frame_view: View = field(default_factory=View)
    tail_cut: float = 0.5
    """Probability that a training clip keeps only its first frames (RICE, augmentation)."""
    hard_negatives: int = 3
    """Negatives that stand beside each positive in PMD's loss."""
    mining_text: float = 0.0
    """What the cosine of speech and title weighs beside the visual one in the choice of hard
    negatives; 0.5 in SGMN, 0 mines by sight alone."""
    contest: Contest = "clips"
    """Who contests with the positive in PMD: other clips for the picture, or that and other
    pictures for the clip."""
    matching_weight: float = 1.0
    reconstruction_weight: float = 1.0
    """Of PFR, whose variant is the model's `reconstruction`; 0.05 is paper-style."""
    text_weight: float = 1.0
    """Of the contrast of speech with titles, where the model reads text."""
    text_dropout: float = 0.2
    """Probability that a title, or a clip's speech, is missing in training."""
    wrong_speech: float = 0.1
    """Probability that a training clip has the speech of another product."""
    talk: int = 0
    """Pairs of a title and speech that a batch has beside its clips', without pictures, where the
    model reads text: so many of a made-up shop, and of each source's own titles. They have a
    contrast of their own (training.data.talk)."""
    pictured_talk: bool = False
    """Whether the made-up shop's pairs have pictures too, for a model's text-guided attention."""
    cycle: int | None = None
    """Different batches of pictures; then they come again, with other speech. A frozen encoder
    sees each once (training.models.locked_encoder). None: every batch is a new one."""
    sgmn: SgmnLosses | None = None
    """Of a model that is an SGMN, and of no other."""
    intended_boxes: bool = False
    """Whether only patches of the intended product take part (IPD): those of annotated boxes in
    training and validation, a detector's afterwards. Frames without a box take part whole. A model
    that is not trained for it looks closer at what a detector finds (training.models.looking)."""
    missed_boxes: float = 0.25
    """Probability that a training frame takes part whole all the same, as if a detector had found
    nothing: a model that always saw the right box is lost without one."""
    box_noise: float = 0.1
    """Standard deviation of the sides of training boxes, as shares of the box: a detector's."""
    seed: int = 0
    task: Literal["recognition"] = "recognition"

    def __post_init__(self) -> None:
        _check_sources(self.sources, self.validate_on)
        if self.hard_negatives < 1:
            raise ValueError("hard_negatives must be positive")
        if not 0 <= self.missed_boxes <= 1 or self.box_noise < 0:
            raise ValueError("missed_boxes is a probability, and box_noise not negative")
        if min(self.matching_weight, self.reconstruction_weight, self.text_weight) < 0:
            raise ValueError("matching, reconstruction and text_weight are not negative")
        if not (0 <= self.text_dropout <= 1 and 0 <= self.wrong_speech <= 1):
            raise ValueError("text_dropout and wrong_speech are probabilities")
        _check_cycle(self)
        if self.talk < 0:
            raise ValueError("talk is a number of pairs")
        if self.pictured_talk and not (self.talk and self._is_guided):
            raise ValueError("pictured_talk is of talk, and of a model with text_guidance")
        if self.model.text and self.model.text.family == "own" and not self.schedule.text_rate:
            raise ValueError("a text tower of our own is trained: text_rate is above 0")
        if self.reconstruction_weight and self.model.reconstruction is None:
            raise ValueError("reconstruction_weight needs a model with reconstruction")
        if self.mining_text < 0:
            raise ValueError("mining_text is not negative")
        if isinstance(self.model, SgmnConfig) != (self.sgmn is not None):
            raise ValueError("sgmn has the losses of an SGMN: such a model needs it, others not")

    def loss_weights(self) -> dict[str, float]:
        """By the names of the objective's losses."""
        weights = {
            "icl": 1.0,
            "pmd": self.matching_weight,
            "pfr": self.reconstruction_weight,
            "text": self.text_weight,
            "talk": self.text_weight,
        }
        return weights if self.sgmn is None else weights | asdict(self.sgmn)

    @property
    def _is_guided(self) -> bool:
        return isinstance(self.model, SgmnConfig) and self.model.text_guidance

    @property
    def of_found_frames(self) -> bool:
        """Whether it trains SGMN's frame graph alone, on the frames that a detector finds."""
        model = self.model
        return isinstance(model, SgmnConfig) and model.frame_graph and model.detected

    @property
    def image_size(self) -> int:
        return self.model.encoder.image_size

    @property
    def looks_closer(self) -> bool:
        """Whether its model looks closer at what a detector finds, instead of at patches alone."""
        return not self.intended_boxes

    def at_size(self, pixels: int) -> Recipe:
        """The same on pictures of another size; raises ValueError where patches do not fill it."""
        encoder = replace(self.model.encoder, image_size=pixels)
        return replace(self, model=replace(self.model, encoder=encoder))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DetectorRecipe:
    """A run that trains a detector of the intended product on annotated clips."""

    __pydantic_config__ = STRICT

    name: str
    model: DetectorConfig
    sources: tuple[Source, ...]
    validate_on: str
    """The source whose `val` split chooses the checkpoint, by intended accuracy."""
    schedule: Schedule
    frame_view: View = field(default_factory=View)
    tail_cut: float = 0.0
    """Probability that a training clip keeps only its first frames."""
    seed: int = 0
    task: Literal["detection"] = "detection"

    def __post_init__(self) -> None:
        _check_sources(self.sources, self.validate_on)
        if not (self.schedule.encoder_rate or self.model.temporal_layers):
            raise ValueError(
                "nothing is trained: encoder_rate is 0, and there is no temporal layer"
            )
        for source in self.sources:
            if source.layout != "lpr4m":
                raise ValueError(f"source {source.name}: layout {source.layout} has no boxes")
            if source.frames > self.model.frames:
                raise ValueError(f"source {source.name}: more frames than the model's")

    @property
    def image_size(self) -> int:
        return self.model.image_size

    @property
    def picture_view(self) -> View:
        """Of no pictures: a detector looks at frames alone."""
        return self.frame_view

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


AnyRecipe = Recipe | DetectorRecipe


def judged_layout(recipe: AnyRecipe) -> Layout:
    """Of the source that the recipe is judged on."""
    return next(s.layout for s in recipe.sources if s.name == recipe.validate_on)


def _check_sources(sources: tuple[Source, ...], validate_on: str) -> None:
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ValueError(f"source names repeat: {names}")
    by_name = {source.name: source for source in sources}
    if validate_on not in by_name:
        raise ValueError(f"validate_on {validate_on!r} is none of the sources {names}")
    if by_name[validate_on].layout == "pictures":
        raise ValueError(f"source {validate_on} has no val split")


def _check_cycle(recipe: Recipe) -> None:
    if recipe.cycle is None:
        return
    if recipe.cycle < 1 or recipe.schedule.encoder_rate:
        raise ValueError("cycle is a number of batches for a frozen encoder: encoder_rate is 0")
    if any(source.layout not in ("photographs", "pictures") for source in recipe.sources):
        raise ValueError("cycle is of photographs: clips come once a pass")


def recipe_from_dict(values: dict[str, Any]) -> AnyRecipe:
    """The inverse of `to_dict`; raises pydantic.ValidationError naming the wrong field."""
    kind = DetectorRecipe if values.get("task") == "detection" else Recipe
    return TypeAdapter[AnyRecipe](kind).validate_python(values)
