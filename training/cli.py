"""`lpr-train`: the commands that make, score and export checkpoints."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import torch
import typer
from numpy.random import default_rng
from rich.console import Console
from rich.progress import Progress

from training import checkpoint, distributed, engine
from training.configs import AnyRecipe, Compute, Layout, Precision, Recipe, Source
from training.data import commands as data_commands
from training.data.clip_sets import ClipSet
from training.data.errors import DataError
from training.data.opening import Track, open_judging, open_training
from training.data.photographs import PhotographSet
from training.data.queries import QuerySet
from training.data.texts import corpus
from training.data.tokenizing import TextTokenizer, train_tokenizer
from training.eager import eager
from training.evaluation import ablation, detection, protocol
from training.evaluation.attention import (
    Example,
    attention_of_patches,
    draw_attention,
    draw_salience,
    examples,
    salience_of_patches,
)
from training.evaluation.calibration import UNFITTED, confidence_shares, fit_calibration
from training.evaluation.detection_picture import draw_examples
from training.evaluation.metrics import Accuracy, by_group, intervals
from training.evaluation.scorers import BundleError, BundleScorer, Scorer, TorchScorer
from training.export.bundle import export_bundle
from training.export.errors import ExportError
from training.export.precision import Precision as ExportPrecision
from training.export.wrappers import Detector
from training.models import commands as model_commands
from training.models.matching_decoder import LOGIT_SCALE
from training.models.rice import Rice, RiceConfig
from training.models.sgmn.model import Sgmn
from training.progress import progress_bars
from training.recipes import DETECTOR_RECIPES, RECIPES

app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
app.add_typer(model_commands.app)
app.command()(eager)
app.add_typer(data_commands.app, name="data", help="Look through data sets, and make one.")
console = Console(stderr=True)

DataOption = Annotated[
    list[str], typer.Option("--data", metavar="NAME=FOLDER", help="A source's pictures.")
]
PROTOCOLS = {
    "photographs": "photographs of each clip, moved as if filmed, against all products",
    "lpr4m": "each clip against the pictures of its own livestream's shop",
    "lpr750k": "each clip against the pictures of its own livestream's shop",
    "movingfashion": "each video against all products",
}
RecipeKind = TypeVar("RecipeKind", Recipe, AnyRecipe)
RANGED_PICTURES = 64
SOURCE_MARGIN = 8 / 7  # pictures are kept this much larger than the model sees them


@app.command()
def fit(  # noqa: PLR0917 - typer reads the options off the signature
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help=f"{', '.join((*RECIPES, *DETECTOR_RECIPES))}.")
    ],
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights the run begins with.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="CLIP's weights that encoder and decoder begin with: a file or a folder."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Folder of the text tower that reads titles and speech."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the computation.")] = "bf16",
    chunk: Annotated[
        int | None,
        typer.Option(help="Pictures encoded at once, where memory does not hold a whole batch."),
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option(help="Saves memory: computes within the encoder's blocks twice.")
    ] = False,
) -> None:
    """Train a recipe; killed and started again, it goes on where it was.

    On several GPUs: torchrun --no-python --nproc-per-node 8 lpr-train fit ... --device cuda
    """
    recipe = _any_recipe(recipe_name, steps)
    if start is not None and (encoder is not None or text is not None):
        raise _fail("--start brings all weights: give one of --start and --encoder or --text")
    begin = None if start is None else _load_any(start)
    compute = _compute(precision, chunk, checkpointing)
    folders = _folders_of(recipe, data)
    if encoder is not None or text is not None:
        if not isinstance(recipe, Recipe):
            raise _fail(f"{recipe.name} has no encoder of CLIP's and reads no text")
        begin = model_commands.begun(recipe, encoder, text)
        recipe = begin.recipe
    _check_tower(recipe, begin)
    with distributed.joined(torch.device(device)) as place:
        console.quiet = not distributed.share().leads
        with progress_bars(console) as bars:
            best = _fitted(
                recipe, _open(recipe, folders, bars), out, bars,
                device=place, begin=begin, compute=compute,
            )  # fmt: skip
    console.print(f"best checkpoint: {best}")


def _compute(precision: Precision, chunk: int | None, checkpointing: bool) -> Compute:
    try:
        return Compute(precision, chunk, checkpointing)
    except ValueError as error:
        raise _fail(str(error)) from error


def _check_tower(recipe: AnyRecipe, begin: checkpoint.AnyCheckpoint | None) -> None:
    """A pre-trained text tower comes with its weights and its tokenizer."""
    text = recipe.model.text if isinstance(recipe, Recipe) else None
    told = isinstance(begin, checkpoint.Checkpoint) and begin.tokenizer is not None
    if text is not None and text.family != "own" and not told:
        raise _fail(f"{recipe.name} reads with a {text.family} text tower: --text FOLDER")


class _Opened(NamedTuple):
    """What a recipe is trained on and chosen by."""

    sets: dict[str, PhotographSet | ClipSet]
    val: PhotographSet | QuerySet


def _open(recipe: AnyRecipe, folders: dict[str, Path], bars: Progress) -> _Opened:
    with distributed.first_alone():
        return _Opened(
            {s.name: _training(recipe, s, folders[s.name], bars) for s in recipe.sources},
            _judging(recipe, folders[recipe.validate_on], "val", bars),
        )


def _fitted(
    recipe: AnyRecipe,
    opened: _Opened,
    out: Path,
    bars: Progress,
    *,
    device: torch.device,
    compute: Compute,
    begin: checkpoint.AnyCheckpoint | None = None,
) -> Path:
    """Trains, told by a bar; returns the best checkpoint."""
    task = bars.add_task(recipe.name, total=recipe.schedule.steps)

    def watch(progress: engine.Progress) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        bars.update(
            task,
            completed=progress.step,
            description=f"{recipe.name}  {losses}",
            clips=progress.clips,
        )
        if progress.validation:
            console.print(f"step {progress.step}  {losses}  {progress.validation}", soft_wrap=True)

    try:
        return engine.fit(
            recipe, opened.sets, opened.val, out,
            device=device, start=begin, compute=compute, watch=watch,
            tokenizer=_tokenizer(recipe, opened.sets, out, begin),
        )  # fmt: skip
    except (checkpoint.CheckpointError, DataError, engine.RunError) as error:
        raise _fail(str(error)) from error


def _tokenizer(
    recipe: AnyRecipe,
    sets: dict[str, PhotographSet | ClipSet],
    out: Path,
    begin: checkpoint.AnyCheckpoint | None,
) -> TextTokenizer | None:
    """Of a model that reads text: the starting weights', or one that is trained on the sources'
    texts and kept in the run's folder."""
    text = recipe.model.text if isinstance(recipe, Recipe) else None
    if text is None:
        return None
    if isinstance(begin, checkpoint.Checkpoint) and begin.tokenizer is not None:
        return TextTokenizer(begin.tokenizer, text.max_tokens)
    kept = out / "tokenizer.json"
    with distributed.first_alone():
        if not kept.exists():
            trained = train_tokenizer(corpus(sets, default_rng(recipe.seed)), text.vocabulary)
            out.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial")
            partial.write_text(trained, encoding="utf-8")
            partial.replace(kept)
    return TextTokenizer(kept.read_text(encoding="utf-8"), text.max_tokens)


@app.command()
def ablate(  # noqa: PLR0917 - typer reads the options off the signature
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"{', '.join(RECIPES)}.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder of the runs; what is finished is kept.")],
    seeds: Annotated[int, typer.Option(min=3, help="Runs of each variant.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder of RESULTS.md and its plot, such as docs.")
    ] = None,
    encoder: Annotated[Path | None, typer.Option(help="As of fit.")] = None,
    text: Annotated[Path | None, typer.Option(help="As of fit; of variants that read.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="Of the computation.")] = "bf16",
) -> None:
    """Train a recipe's model with and without its parts; report the test's accuracy over the seeds.

    Of RICE: ICL, with PMD, with PFR as well. Of SGMN: RICE, RICE with text, SGMN without each of
    its three parts, SGMN.

    Killed and started again, it goes on where it was.
    """
    recipe = _recipe(recipe_name, steps)
    folders = _folders_of(recipe, data)
    with progress_bars(console) as bars:
        opened = _open(recipe, folders, bars)
        test = _judging(recipe, folders[recipe.validate_on], "test", bars)

        def measure(variant: Recipe, folder: Path) -> tuple[int, Accuracy]:
            reading = text if variant.model.text is not None else None
            begin = None
            if encoder is not None or reading is not None:
                begin = model_commands.begun(variant, encoder, reading)
                variant = begin.recipe
            _check_tower(variant, begin)
            best = _fitted(
                variant, opened, folder, bars,
                device=torch.device(device), compute=Compute(precision), begin=begin,
            )  # fmt: skip
            scorer = _scorer(_load(best), device)
            fusion = protocol.best_fusion(_score(scorer, opened.val, protocol.VAL_TAKES, bars))
            scores = _score(scorer, test, 1, bars)
            judged = protocol.summary(scores, fusion)
            return len(scores.truth), judged["fused" if variant.matching_weight else "coarse"]

        try:
            outcomes = ablation.ablate(recipe, seeds, out, measure)
        except ablation.AblationError as error:
            raise _fail(str(error)) from error
    console.print(ablation.table(outcomes))
    told = PROTOCOLS[_layout(recipe)]
    console.print(f"{ablation.write_report(recipe, told, outcomes, report or out)}")


@app.command()
def evaluate(  # noqa: PLR0917 - typer reads the options off the signature
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT|BUNDLE")],
    data: DataOption,
    split: Annotated[str, typer.Option(help="val or test.")] = "val",
    takes: Annotated[int, typer.Option(help="Times each clip is filmed.")] = 1,
    detector: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of a detector: only patches of what it finds take part."),
    ] = None,
    speech: Annotated[
        protocol.Hearing,
        typer.Option(help="What is heard: right, wrong (another clip's), missing."),
    ] = "right",
) -> None:
    """Score a checkpoint, or a bundle as it is served: R@1, 5 and 10 with 95 % intervals.

    A checkpoint's fusion weight is chosen on val; a bundle has its own.
    """
    boxes = None if detector is None else _detected_boxes(detector)
    if path.is_dir():
        bundle = _bundle(path)
        fusion = protocol.Fusion(bundle.match_weight, bundle.text_weight)
        scores = _scored(_recipe(bundle.recipe), bundle, data, split, takes, boxes, hearing=speech)
    else:
        kept = _load(path)
        scorer = _scorer(kept, "cpu")
        fusion, _, scores = _assess(kept, scorer, data, split, takes, boxes, hearing=speech)
    _tell(scores, fusion)


def _detected_boxes(path: Path) -> protocol.Boxes:
    kept = _load_detector(path)
    detector, threshold = kept.detector(), kept.state["threshold"]
    return lambda frames: detection.intended_boxes(detector, frames, threshold)


@app.command()
def detect(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of a detector.")],
    data: DataOption,
    split: Annotated[str, typer.Option(help="val or test.")] = "val",
    picture: Annotated[
        Path | None, typer.Option(help="Where hits and misses are drawn, a PNG.")
    ] = None,
) -> None:
    """Score a detector of the intended product: COCO's AP and AP50, and intended accuracy."""
    kept = _load_detector(path)
    with progress_bars(console) as bars:
        judged = _judging(kept.recipe, _judged_folder(kept.recipe, data), split, bars)
        if not isinstance(judged, QuerySet):
            raise _fail("photographs have no boxes: a detector is scored on clips")
        task = bars.add_task("clips", total=len(judged.queries))
        try:
            found = detection.detect(kept.detector(), judged, done=lambda: bars.advance(task))
        except DataError as error:
            raise _fail(str(error)) from error
    told = {name: round(value, 4) for name, value in detection.figures(found).items()}
    groups = detection.by_group(found, judged)
    console.print("  ".join(f"{name} {100 * value:.1f}" for name, value in told.items()))
    for kind, by_name in groups.items():
        for name, (clips, value) in by_name.items():
            console.print(f"{kind} {name} ({clips} clips)  intended {100 * value:.1f}")
    if picture is not None:
        draw_examples(found, judged, kept.state["threshold"]).save(picture)
    typer.echo(json.dumps({"clips": len(found), **told, "groups": groups}))


def _bundle(path: Path) -> BundleScorer:
    try:
        return BundleScorer(path)
    except BundleError as error:
        raise _fail(str(error)) from error


def _tell(scores: protocol.Scores, fusion: protocol.Fusion) -> None:
    """Prints the accuracy of all clips and of groups of them, and as JSON on stdout."""
    clips, results = len(scores.truth), protocol.summary(scores, fusion)
    report: dict[str, Any] = {"clips": clips, "match_weight": fusion.match}
    if scores.text is not None:
        report["text_weight"] = fusion.text
    for name, result in results.items():
        sure = intervals(result, clips)
        low, high = sure["r1"]
        console.print(f"{name:7}{result}  R@1 between {100 * low:.1f} and {100 * high:.1f}")
        report[name] = asdict(result) | {"intervals": sure}
    report["groups"] = {}
    for kind, groups in scores.groups.items():
        found = by_group(scores.fused(*fusion), scores.truth, groups)
        report["groups"][kind] = {
            group: {"clips": count, **asdict(result), "intervals": intervals(result, count)}
            for group, (count, result) in found.items()
        }
        for group, (count, result) in found.items():
            console.print(f"{kind} {group} ({count} clips)  {result}", soft_wrap=True)
    typer.echo(json.dumps(report))


@app.command()
def attend(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    split: Annotated[str, typer.Option(help="val or test.")] = "val",
    clips: Annotated[int, typer.Option(min=1, help="How many, spread over the split.")] = 8,
) -> None:
    """Draw where the matching decoder looks in a clip for the patches of its product.

    Of an SGMN also which patches speech makes salient: a clip's own, another's, and none.
    """
    kept = _load(path)
    model, recipe = kept.model(), kept.recipe
    out.mkdir(parents=True, exist_ok=True)
    with progress_bars(console) as bars:
        judged = _judging(recipe, _judged_folder(recipe, data), split, bars)
    frames, size = model.config.frames, model.config.encoder.image_size
    try:
        chosen = list(examples(judged, clips, frames, size))
    except DataError as error:
        raise _fail(str(error)) from error
    for number, (picture, shown, _) in enumerate(chosen):
        attention = attention_of_patches(model, picture, shown)
        draw_attention(attention, picture, shown).save(out / f"attention-{number:02d}.png")
    tokenizer = _tokenizer_of(kept)
    if isinstance(model, Sgmn) and model.text_guidance is not None and tokenizer is not None:
        _draw_saliences(model, tokenizer, chosen, out)
    console.print(f"{out}", soft_wrap=True)


def _draw_saliences(
    model: Sgmn, tokenizer: TextTokenizer, chosen: list[Example], out: Path
) -> None:
    """Another's speech is that of the next of the examples."""
    for number, (picture, shown, speech) in enumerate(chosen):
        said = (speech, chosen[(number + 1) % len(chosen)].speech, "")
        saliences = [salience_of_patches(model, shown, tokenizer([text])) for text in said]
        name = f"salience-{number:02d}.png"
        draw_salience(picture, shown, saliences).save(out / name)
        console.print(f"{name}: {said[0]!r}, {said[1]!r}, none", soft_wrap=True)


@app.command()
def export(  # noqa: PLR0917 - typer reads the options off the signature
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Option(help="The bundle's folder; replaced when it is there.")],
    name: Annotated[str, typer.Option(help="The bundle's name, before its hash.")],
    data: DataOption = [],  # noqa: B006  typer copies it
    precision: Annotated[
        ExportPrecision, typer.Option(help="Of the graphs: int8 is for CPUs, fp16 for GPUs.")
    ] = "fp32",
    detector: Annotated[
        Path | None, typer.Option(help="Checkpoint of a detector that goes with the bundle.")
    ] = None,
) -> None:
    """Export a checkpoint to a model bundle: fused and calibrated on val, measured on test.

    Without data nothing is measured, and the bundle's service ranks products but never decides.
    A lower precision is measured as it is served.
    """
    kept = _load(path)
    model = kept.model()
    write = partial(
        export_bundle, model, name=name, recipe=kept.recipe.name, tokenizer=_tokenizer_of(kept),
        precision=precision, detector=None if detector is None else _detector_of(detector),
        pictures=_pictures_of(kept.recipe, data) if data and precision == "int8" else None,
    )  # fmt: skip
    boxes = None if detector is None else _detected_boxes(detector)
    judged = _unmeasured(model)
    try:
        if data and precision == "fp32":
            judged = _measured(kept, _scorer(kept, "cpu"), data, boxes)
        elif data:
            with tempfile.TemporaryDirectory() as folder:
                judged = _measured(kept, _bundle(write(Path(folder) / "trial", **judged)), data)
        bundle = write(out, **judged)
    except ExportError as error:
        raise _fail(str(error)) from error
    console.print(f"{judged['metrics']}\n{bundle}", soft_wrap=True)


def _pictures_of(recipe: Recipe, data: list[str]) -> np.ndarray:
    """Of val, for the ranges of int8."""
    with progress_bars(console) as bars:
        judged = _judging(recipe, _judged_folder(recipe, data), "val", bars)
    try:
        return protocol.examples(judged, RANGED_PICTURES, recipe.model.encoder.image_size).numpy()
    except DataError as error:
        raise _fail(str(error)) from error


def _detector_of(path: Path) -> Detector:
    kept = _load_detector(path)
    return Detector(kept.detector(), kept.state["threshold"])


def _measured(
    kept: checkpoint.Checkpoint,
    scorer: Scorer,
    data: list[str],
    boxes: protocol.Boxes | None = None,
) -> dict[str, Any]:
    """Fusion, calibration and metrics of a bundle."""
    fusion, val, test = _assess(kept, scorer, data, "test", takes=1, boxes=boxes)
    results = protocol.summary(test, fusion)
    layout = _layout(kept.recipe)
    calibration = fit_calibration(val.fused(*fusion), val.truth)
    return {
        "fusion": _fusion(fusion, kept.recipe.model),
        "calibration": asdict(calibration),
        "metrics": {
            "protocol": f"{kept.recipe.validate_on}, test: {PROTOCOLS[layout]}",
            "clips": len(test.truth),
            "products": test.largest_shop(),
            **{key: round(value, 4) for key, value in asdict(results["fused"]).items()},
            "coarse_r1": round(results["coarse"].r1, 4),
            "confidence": confidence_shares(val.fused(*fusion), calibration),
        },
    }


def _unmeasured(model: Rice) -> dict[str, Any]:
    """The same where there is no data: RICE's cosines weigh as much as each other, SGMN's are
    fused as in its paper, which ranks without the decoder."""
    fusion = protocol.Fusion(1 / LOGIT_SCALE[model.decoder.head], 1.0)
    if isinstance(model, Sgmn):
        fusion = protocol.Fusion(match=0.0, text=0.5)
    return {
        "fusion": _fusion(fusion, model.config),
        "calibration": asdict(UNFITTED),
        "metrics": {"protocol": "none: exported without data"},
    }


def _fusion(fusion: protocol.Fusion, model: RiceConfig) -> dict[str, float]:
    """As a manifest has it: with a weight of text where the model reads."""
    weights = {"coarse": 1.0, "match": fusion.match}
    return weights if model.text is None else weights | {"text": fusion.text}


def _assess(  # noqa: PLR0917
    kept: checkpoint.Checkpoint,
    scorer: Scorer,
    data: list[str],
    split: str,
    takes: int,
    boxes: protocol.Boxes | None = None,
    *,
    hearing: protocol.Hearing = "right",
) -> tuple[protocol.Fusion, protocol.Scores, protocol.Scores]:
    """The weights chosen on val, and the scores of val and of `split`."""
    val = _scored(kept.recipe, scorer, data, "val", protocol.VAL_TAKES, boxes)
    scores = _scored(kept.recipe, scorer, data, split, takes, boxes, hearing=hearing)
    return protocol.best_fusion(val), val, scores


def _scorer(kept: checkpoint.Checkpoint, device: str) -> Scorer:
    """The checkpoint's model, reading with its own tokenizer."""
    return TorchScorer(kept.model().to(device), _tokenizer_of(kept))


def _tokenizer_of(kept: checkpoint.Checkpoint) -> TextTokenizer | None:
    text = kept.recipe.model.text
    if text is None or kept.tokenizer is None:
        return None
    return TextTokenizer(kept.tokenizer, text.max_tokens)


def _scored(  # noqa: PLR0917
    recipe: Recipe,
    model: Scorer,
    data: list[str],
    split: str,
    takes: int,
    boxes: protocol.Boxes | None = None,
    *,
    hearing: protocol.Hearing = "right",
) -> protocol.Scores:
    with progress_bars(console) as bars:
        judged = _judging(recipe, _judged_folder(recipe, data), split, bars)
        return _score(model, judged, takes, bars, boxes, hearing=hearing)


def _judged_folder(recipe: AnyRecipe, data: list[str]) -> Path:
    """Of the source that the recipe is judged on."""
    folder = _folders(data).get(recipe.validate_on)
    if folder is None:
        raise _fail(f"no --data for {recipe.validate_on}: --data {recipe.validate_on}=FOLDER")
    return folder


def _score(
    model: Scorer,
    data: PhotographSet | QuerySet,
    takes: int,
    bars: Progress,
    boxes: protocol.Boxes | None = None,
    *,
    hearing: protocol.Hearing = "right",
) -> protocol.Scores:
    clips = len(data.queries) if isinstance(data, QuerySet) else takes * len(data.clips())
    task = bars.add_task("clips", total=clips)
    try:
        return protocol.score(
            model,
            data,
            takes=takes,
            boxes=boxes,
            hearing=hearing,
            done=lambda: bars.advance(task),
        )
    except DataError as error:
        raise _fail(str(error)) from error


def _recipe(name: str, steps: int | None = None) -> Recipe:
    """Of RICE."""
    if name not in RECIPES:
        raise _fail(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return _shortened(RECIPES[name], steps)


def _any_recipe(name: str, steps: int | None = None) -> AnyRecipe:
    every: dict[str, AnyRecipe] = {**RECIPES, **DETECTOR_RECIPES}
    if name not in every:
        raise _fail(f"no recipe {name!r}; there are: {', '.join(every)}")
    return _shortened(every[name], steps)


def _shortened(recipe: RecipeKind, steps: int | None) -> RecipeKind:
    try:
        schedule = replace(recipe.schedule, steps=steps or recipe.schedule.steps)
    except ValueError as error:
        raise _fail(str(error)) from error
    return replace(recipe, schedule=schedule)


def _load(path: Path) -> checkpoint.Checkpoint:
    """Of RICE."""
    try:
        return checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        raise _fail(str(error)) from error


def _load_any(path: Path) -> checkpoint.AnyCheckpoint:
    try:
        return checkpoint.load_any(path)
    except checkpoint.CheckpointError as error:
        raise _fail(str(error)) from error


def _load_detector(path: Path) -> checkpoint.DetectorCheckpoint:
    try:
        return checkpoint.load_detector(path)
    except checkpoint.CheckpointError as error:
        raise _fail(str(error)) from error


def _folders(data: list[str]) -> dict[str, Path]:
    named = {}
    for item in data:
        name, equals, folder = item.partition("=")
        if not equals:
            raise _fail(f"--data takes NAME=FOLDER, not {item!r}")
        named[name] = Path(folder)
    return named


def _folders_of(recipe: AnyRecipe, data: list[str]) -> dict[str, Path]:
    """The folders, one for each of the recipe's sources."""
    folders = _folders(data)
    if missing := [source.name for source in recipe.sources if source.name not in folders]:
        raise _fail(f"no --data for {', '.join(missing)}: --data {missing[0]}=FOLDER")
    return folders


def _training(
    recipe: AnyRecipe, source: Source, folder: Path, bars: Progress
) -> PhotographSet | ClipSet:
    try:
        return open_training(source, folder, _size(recipe), _track(folder, bars))
    except DataError as error:
        raise _fail(str(error)) from error


def _judging(
    recipe: AnyRecipe, folder: Path, split: str, bars: Progress
) -> PhotographSet | QuerySet:
    try:
        return open_judging(_layout(recipe), folder, split, _size(recipe), _track(folder, bars))
    except DataError as error:
        raise _fail(str(error)) from error


def _layout(recipe: AnyRecipe) -> Layout:
    """Of the source that the recipe is judged on."""
    return next(s.layout for s in recipe.sources if s.name == recipe.validate_on)


def _size(recipe: AnyRecipe) -> int:
    return round(recipe.image_size * SOURCE_MARGIN)


def _track(folder: Path, bars: Progress) -> Track:
    return lambda paths: bars.track(paths, description=f"reading {folder.name}")


def _fail(message: str) -> typer.Exit:
    console.print(f"[red]{message}", soft_wrap=True)
    return typer.Exit(1)
