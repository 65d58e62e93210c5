"""`lpr-train evaluate`, `ablate`, `detect`, `attend`: what a model is worth, where it looks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from training import checkpoint
from training.configs import Compute, Recipe, judged_layout
from training.data.given import (
    DataOption,
    LimitOption,
    given_folders,
    judged_set,
    training_folders,
    training_sets,
)
from training.data.queries import QuerySet
from training.data.tokenizing import TextTokenizer
from training.data.wrong_lines import DEFAULT_LIMIT
from training.engine import check_detector
from training.evaluation import ablation, detection, protocol
from training.evaluation.attention import (
    Example,
    attention_of_patches,
    draw_attention,
    draw_salience,
    examples,
    salience_of_patches,
)
from training.evaluation.detection_picture import draw_examples
from training.evaluation.fusion import Fusion
from training.evaluation.fusion_search import best_fusion
from training.evaluation.hearings import HEARINGS, Hearing
from training.evaluation.judging import Judge, judges_on, scorer_of
from training.evaluation.metrics import Accuracy, accuracy, intervals, rows_of_groups
from training.evaluation.scorers import BundleScorer, Scorer
from training.evaluation.scores import Scores, by_part, summary
from training.fit_command import (
    CompileOption,
    PrecisionOption,
    RunData,
    beginning,
    check_frozen,
    fitted,
    shortened,
)
from training.models.sgmn.model import Sgmn
from training.recipes import RECIPES, recipe_named
from training.terminal import (
    CommandError,
    DeviceOption,
    EncoderOption,
    SplitOption,
    StartOption,
    StepsOption,
    TextOption,
    UnseenOption,
    UnseenTestOption,
    check_picture,
    console,
    make_folder,
    progress_bars,
)

app = typer.Typer()


@app.command()
def ablate(  # noqa: PLR0917 - typer reads the options off the signature
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"{', '.join(RECIPES)}.")],
    data: DataOption,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the runs; what is finished is kept.")
    ],
    seeds: Annotated[int, typer.Option(min=3, help="Runs of each variant.")] = 3,
    steps: StepsOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder of RESULTS.md and its plot, such as docs.")
    ] = None,
    start: StartOption = None,
    detector: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of a detector, which adds two rows to RICE's."),
    ] = None,
    unseen: UnseenOption = [],  # noqa: B006
    unseen_test: UnseenTestOption = [],  # noqa: B006
    encoder: EncoderOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "bf16",
    compiled: CompileOption = False,
    limit: LimitOption = DEFAULT_LIMIT,
) -> None:
    """Train a recipe's model with and without its parts; report the test's accuracy over the seeds.

    Of RICE: ICL, with PMD, with PFR as well; with a detector also that looking closer at what it
    finds, and trained on patches of annotated boxes alone. Of SGMN: RICE, RICE with text, SGMN
    without each of its three parts, SGMN.

    Killed and started again, it goes on where it was.
    """
    recipe = shortened(recipe_named(recipe_name), steps)
    check_detector(recipe, None)
    folders = training_folders(recipe, data)
    check_frozen(recipe, start, encoder)
    given = {
        "data": {name: str(folder) for name, folder in folders.items()},
        "start": ablation.digest(start),
        "detector": ablation.digest(detector),
        "encoder": None if encoder is None else str(encoder),
        "text": None if text is None else str(text),
        "unseen": [str(folder) for folder in unseen],
        "unseen-test": [str(folder) for folder in unseen_test],
    }
    make_folder(out)
    with progress_bars() as bars:
        finder = None if detector is None else checkpoint.load_detector(detector)
        judge = Judge.of(recipe, folders, bars)
        opened = RunData(training_sets(recipe, folders, bars, limit), judge.data("val"))

        def measure(variant: ablation.Variant, folder: Path) -> ablation.Measured:
            tower = text if variant.recipe.model.text else None
            begun, begin = beginning(variant.recipe, start, encoder, tower)
            best = fitted(
                begun, opened, folder, bars,
                device=torch.device(device), compute=Compute(precision, compiled=compiled),
                begin=begin,
            )  # fmt: skip
            kept = checkpoint.load(best)
            scorer = scorer_of(kept, device, finder if variant.finds else None)
            others = judges_on(scorer, bars, unseen, unseen_test)
            return measured(scorer, judge, others, coarse=variant.recipe.matching_weight == 0)

        outcomes = ablation.ablate(
            recipe, seeds, out, measure, finds=finder is not None, given=given
        )
    console.print(ablation.table(outcomes))
    told = protocol.TOLD[judged_layout(recipe)]
    begun_with = None if start is None else checkpoint.load(start).recipe.name
    options = ["--unseen"] * len(unseen) + ["--unseen-test"] * len(unseen_test)
    written = ablation.write_report(
        recipe, told, outcomes, report or out, start=begun_with, unseen=options
    )
    console.print(f"{written}")


def measured(
    scorer: Scorer, judge: Judge, others: Sequence[Judge], *, coarse: bool
) -> ablation.Measured:
    """On test, by weights that trust speech and by wary ones, both chosen on val and on that of
    `others`; or by the `coarse` score alone."""
    val = [judge.val_scores(scorer), *(other.val_scores(scorer, takes=1) for other in others)]
    tested = judge.scores(scorer, "test", hearings=HEARINGS if scorer.reads else ("right",))

    def found(said: Hearing, fusion: Fusion) -> Accuracy:
        return summary(tested[said], fusion)["coarse" if coarse else "fused"]

    trusting = best_fusion(*map(_without_wrong, val))
    further: dict[ablation.Further, float] = {}
    if scorer.reads:
        wary = best_fusion(*val)
        further = {
            "silent": found("missing", trusting).r1,
            "wary": found("right", wary).r1,
            "misled": found("wrong", wary).r1,
        }
    return ablation.Measured(tested["right"].clips, found("right", trusting), further)


def _without_wrong(of: Mapping[Hearing, Scores]) -> dict[Hearing, Scores]:
    return {hearing: scores for hearing, scores in of.items() if hearing != "wrong"}


@app.command()
def evaluate(  # noqa: PLR0917 - typer reads the options off the signature
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT|BUNDLE")],
    data: DataOption = [],  # noqa: B006  typer copies it
    on: Annotated[
        Path | None,
        typer.Option(help="Score on this data set, of any layout, instead of the recipe's own."),
    ] = None,
    split: SplitOption = "val",
    takes: Annotated[int, typer.Option(min=1, help="Times each clip is filmed.")] = 1,
    detector: Annotated[
        Path | None,
        typer.Option(help="Of a checkpoint: that of a detector, which tells where to look."),
    ] = None,
    speech: Annotated[
        Hearing,
        typer.Option(help="What is heard: right, wrong (other clips'), missing."),
    ] = "right",
    groups: Annotated[
        bool,
        typer.Option("--groups", help="Also tell of each category, scale and duration of clips."),
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Score a checkpoint, or a bundle as it is served: R@1, 5 and 10 with 95 % intervals.

    A checkpoint's fusion weight is chosen on val; a bundle has its own, and runs on the CPU. The
    JSON line on standard output has the groups of clips, too.
    """
    folders = given_folders(data)
    found = None if detector is None else checkpoint.load_detector(detector)

    with progress_bars() as bars:

        def judge_of(recipe: Recipe, scorer: Scorer) -> Judge:
            if on is not None:
                return Judge.on(on, scorer, bars)
            return Judge.of(recipe, folders, bars, scorer.frame_size)

        if path.is_dir():
            if found is not None:
                raise CommandError(f"{path} is a bundle, which brings its own detector")
            if device != "cpu":
                raise CommandError(f"{path} is a bundle, which is scored on the CPU")
            bundle = BundleScorer(path)
            judge = judge_of(recipe_named(bundle.recipe).at_size(bundle.size), bundle)
            fusion = bundle.fusion
            scored = judge.scores(bundle, split, takes=takes, hearings=[speech])
        else:
            kept = checkpoint.load(path)
            scorer = scorer_of(kept, device, found)
            judge = judge_of(kept.recipe, scorer)
            fusion = best_fusion(judge.val_scores(scorer))
            scored = judge.scores(scorer, split, takes=takes, hearings=[speech])
    _tell(scored[speech], fusion, groups=groups)


def _tell(scores: Scores, fusion: Fusion, *, groups: bool) -> None:
    """Prints the accuracy of all clips, with `groups` of groups of them too; all as JSON on
    stdout."""
    report: dict[str, Any] = {
        "clips": scores.clips,
        "unanswerable": scores.unanswerable._asdict(),
        "match_weight": fusion.match,
    }
    if scores.text is not None:
        report |= {
            "text_weight": fusion.text,
            "text_scale": fusion.scale,
            "text_doubt": fusion.doubt,
        }
    every = torch.arange(len(scores.truth))
    parts = by_part(scores, fusion)
    for name, part in parts.items():
        report[name] = _figures(part, scores, every)
        low, high = report[name]["intervals"]["r1"]
        result = accuracy(part, scores.truth)
        console.print(f"{name:7}{result}  R@1 between {100 * low:.1f} and {100 * high:.1f}")
    report["groups"] = {}
    for kind, of_clips in scores.groups.items():
        found = rows_of_groups(of_clips)
        report["groups"][kind] = {
            group: {"clips": _clips(scores, rows), **_figures(parts["fused"], scores, rows)}
            for group, rows in found.items()
        }
        if groups:
            _tell_groups(kind, found, parts["fused"], scores)
    typer.echo(json.dumps(report))


def _figures(ranked: Tensor, scores: Scores, rows: Tensor) -> dict[str, Any]:
    """Of some rows of what is ranked, [N,P]."""
    found, truth = ranked[rows], scores.truth[rows]
    told = asdict(accuracy(found, truth))
    return {**told, "intervals": intervals(found, truth, scores.clip[rows])}


def _clips(scores: Scores, rows: Tensor) -> int:
    return len(scores.clip[rows].unique())


def _tell_groups(kind: str, found: Mapping[str, Tensor], ranked: Tensor, scores: Scores) -> None:
    for group, rows in found.items():
        result, clips = accuracy(ranked[rows], scores.truth[rows]), _clips(scores, rows)
        console.print(f"{kind} {group} ({clips} clips)  {result}", soft_wrap=True)


@app.command()
def detect(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of a detector.")],
    data: DataOption,
    split: SplitOption = "val",
    picture: Annotated[
        Path | None, typer.Option(help="Where hits and misses are drawn, a PNG.")
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score a detector of the intended product: COCO's AP and AP50, and intended accuracy."""
    check_picture(picture)
    kept, folders = checkpoint.load_detector(path), given_folders(data)
    threshold = None if picture is None else kept.threshold
    with progress_bars() as bars:
        judged = judged_set(kept.recipe, folders, split, bars)
        if not isinstance(judged, QuerySet):
            raise CommandError("photographs have no boxes: a detector is scored on clips")
        task = bars.add_task("clips", total=len(judged.queries))
        model = kept.detector().to(device)
        found = detection.detect(model, judged, done=lambda: bars.advance(task))
    told = {name: round(value, 4) for name, value in detection.figures(found).items()}
    groups = detection.by_group(found, judged)
    console.print("  ".join(f"{name} {100 * value:.1f}" for name, value in told.items()))
    for kind, by_name in groups.items():
        for name, (clips, value) in by_name.items():
            console.print(f"{kind} {name} ({clips} clips)  intended {100 * value:.1f}")
    if picture is not None and threshold is not None:
        draw_examples(found, judged, threshold).save(picture)
    typer.echo(json.dumps({"clips": len(found), **told, "groups": groups}))


@app.command()
def attend(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    data: DataOption,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the pictures.")],
    split: SplitOption = "val",
    clips: Annotated[int, typer.Option(min=1, help="How many, spread over the split.")] = 8,
) -> None:
    """Draw where the matching decoder looks in a clip for the patches of its product.

    Of an SGMN also which patches speech makes salient: a clip's own, another's, and none.
    """
    kept, folders = checkpoint.load(path), given_folders(data)
    model, tokenizer = kept.model(), kept.text_tokenizer()
    make_folder(out)
    with progress_bars() as bars:
        judged = judged_set(kept.recipe, folders, split, bars)
    chosen = list(examples(judged, clips, model.config.frames, kept.recipe.image_size))
    for number, (picture, shown, _) in enumerate(chosen):
        attention = attention_of_patches(model, picture, shown)
        draw_attention(attention, picture, shown).save(out / f"attention-{number:02d}.png")
    if isinstance(model, Sgmn) and model.text_guidance is not None and tokenizer is not None:
        _draw_saliences(model, tokenizer, chosen, out)
    console.print(f"{out}", soft_wrap=True)


def _draw_saliences(
    model: Sgmn, tokenizer: TextTokenizer, chosen: Sequence[Example], out: Path
) -> None:
    """Another's speech is that of the next of the examples."""
    for number, (picture, shown, speech) in enumerate(chosen):
        said = (speech, chosen[(number + 1) % len(chosen)].speech, "")
        saliences = [salience_of_patches(model, shown, tokenizer([text])) for text in said]
        name = f"salience-{number:02d}.png"
        draw_salience(picture, shown, saliences).save(out / name)
        console.print(f"{name}: {said[0]!r}, {said[1]!r}, none", soft_wrap=True)
