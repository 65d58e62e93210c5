"""Ablations: what each part of a model adds, over several seeds.

One run after the other, each in a folder of its own with its `result.json`: what is finished is
not repeated. How a run is trained and scored is not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from training.configs import Recipe
from training.errors import TrainingError
from training.evaluation.metrics import Accuracy
from training.files import replacing
from training.models.sgmn.model import SgmnConfig, as_rice

CLOSER, IPD = "+ PFR, closer", "+ IPD"
RECONSTRUCTION_WEIGHT = 0.05
"""Of PFR, where a recipe has none: paper-style. At 1, as released, it took points off R@1
(docs/LOG.md)."""
REPORT, PLOT, GIVEN = "RESULTS.md", "ablation_{}.svg", "given.json"
MEASURES = {"R@1": "r1", "R@5": "r5", "R@10": "r10"}
Further = Literal["silent", "wary", "misled"]
FURTHER: dict[str, Further] = {
    "R@1, nothing said": "silent",
    "R@1, wary": "wary",
    "wary, wrong speech": "misled",
}


class AblationError(TrainingError):
    """A result that is there is of another run; the message says which."""


class Measured(NamedTuple):
    """What a run is worth on the test's clips."""

    clips: int
    accuracy: Accuracy
    """Where what is said is right, by weights of the score that trust it."""
    further: dict[Further, float]
    """R@1 of a model that reads: where nothing is said; and by weights that bear wrong speech,
    where what is said is right and where it is wrong."""


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    variant: str
    seed: int
    measured: Measured


@dataclass(frozen=True)
class Variant:
    recipe: Recipe
    run: str
    """The row whose runs these are: its own, or another's, scored otherwise."""
    finds: bool = False
    """Whether a detector tells where to look."""


Measure = Callable[[Variant, Path], Measured]
"""Trains a variant in a folder, if that is not done, and scores it."""

Given = Mapping[str, Any]
"""What results depend on besides the recipe, as JSON; `detector` only in rows where it finds."""

NOTHING: Given = MappingProxyType({})


def variants(recipe: Recipe, *, finds: bool = False) -> dict[str, Variant]:
    """The recipe's model with and without its parts; everything else is the recipe's. Where a
    detector `finds` the intended product, RICE has rows of that too. Raises AblationError."""
    if isinstance(recipe.model, SgmnConfig):
        if finds:
            raise AblationError("a detector adds rows to an ablation of RICE, and to none of SGMN")
        return _each_its_own(_of_sgmn(recipe, recipe.model))
    rows = _each_its_own(_of_rice(recipe))
    if finds:
        full = rows["+ PFR"]
        rows[CLOSER] = replace(full, finds=True)
        rows[IPD] = Variant(replace(full.recipe, intended_boxes=True), IPD, finds=True)
    return rows


def _each_its_own(recipes: dict[str, Recipe]) -> dict[str, Variant]:
    return {name: Variant(recipe, name) for name, recipe in recipes.items()}


def _of_rice(recipe: Recipe) -> dict[str, Recipe]:
    """ICL alone, with PMD, and with PFR as well; all by sight. Of a recipe that reads
    also itself: what text adds, it adds to the row of the recipe's losses."""
    by_sight = replace(recipe.model, text=None)
    without = replace(by_sight, reconstruction=None)
    full = replace(by_sight, reconstruction=recipe.model.reconstruction or "softmax")
    rows = {
        "ICL": replace(recipe, model=without, matching_weight=0.0, reconstruction_weight=0.0),
        "+ PMD": replace(recipe, model=without, reconstruction_weight=0.0),
        "+ PFR": replace(
            recipe,
            model=full,
            reconstruction_weight=recipe.reconstruction_weight or RECONSTRUCTION_WEIGHT,
        ),
    }
    return rows if recipe.model.text is None else rows | {"with text": recipe}


def _of_sgmn(recipe: Recipe, model: SgmnConfig) -> dict[str, Recipe]:
    """RICE of the same sizes, without and with text; SGMN without each of its parts, and whole.

    Without mining, negatives are the hardest by sight alone. What needs text is left out where
    the recipe has none, and so is the row without a part that it does not have.
    """
    reads = as_rice(model)
    rice = replace(recipe, model=reads, sgmn=None, mining_text=0.0, pictured_talk=False)
    graphless = replace(model, frame_graph=False, instance_graph=False)
    rows = {
        "RICE": replace(rice, model=replace(reads, text=None)),
        "RICE + text": rice,
        "SGMN, no guidance": replace(
            recipe, model=replace(model, text_guidance=False), pictured_talk=False
        ),
        "SGMN, no graph": replace(recipe, model=graphless),
        "SGMN, no mining": replace(recipe, mining_text=0.0),
        "SGMN": recipe,
    }
    if model.text is None:
        return {name: rows[name] for name in ("RICE", "SGMN, no graph", "SGMN")}
    return {name: row for name, row in rows.items() if name == "SGMN" or row != recipe}


def digest(path: Path | None) -> str | None:
    """Of a file's content. Raises AblationError."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AblationError(f"{path}: {error.strerror}") from error


def ablate(
    recipe: Recipe,
    seeds: int,
    out: Path,
    measure: Measure,
    *,
    finds: bool = False,
    given: Given = NOTHING,
) -> list[Outcome]:
    """Every variant with every seed, seed by seed. Raises AblationError."""
    _keep_given(out, {key: value for key, value in given.items() if key != "detector"})
    return [
        _outcome(name, _seeded(variant, recipe.seed + seed), out, measure, given)
        for seed in range(seeds)
        for name, variant in variants(recipe, finds=finds).items()
    ]


def _seeded(variant: Variant, seed: int) -> Variant:
    return replace(variant, recipe=replace(variant.recipe, seed=seed))


def _outcome(name: str, variant: Variant, out: Path, measure: Measure, given: Given) -> Outcome:
    recipe = variant.recipe
    own = {key: value for key, value in given.items() if variant.finds or key != "detector"}
    result = out / _folder(name, recipe.seed) / "result.json"
    if result.exists():
        kept = json.loads(result.read_text())
        if kept["recipe"] != json.loads(json.dumps(recipe.to_dict())):
            raise AblationError(f"{result} is of another recipe; choose another folder")
        _check_given(result, kept.get("given"), own)
        accuracy = Accuracy(**kept["accuracy"])
        return Outcome(name, recipe.seed, Measured(kept["clips"], accuracy, kept["further"]))
    measured = measure(variant, out / _folder(variant.run, recipe.seed))
    told = {
        "recipe": recipe.to_dict(),
        "given": own,
        **measured._asdict(),
        "accuracy": asdict(measured.accuracy),
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    with replacing(result) as partial:
        partial.write_text(json.dumps(told, indent=1))
    return Outcome(name, recipe.seed, measured)


def _keep_given(out: Path, given: Given) -> None:
    """Of all runs, so that none that was killed goes on with what another was given."""
    path = out / GIVEN
    if path.exists():
        _check_given(path, json.loads(path.read_text()), given)
        return
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(given, indent=1))


def _check_given(result: Path, kept: Given | None, given: Given) -> None:
    if kept is None:
        raise AblationError(f"{result} does not tell what its run was given; choose another folder")
    if differing := [name for name, value in given.items() if kept.get(name) != value]:
        raise AblationError(
            f"{result} is of a run with another --{', --'.join(differing)}; choose another folder"
        )


def _folder(name: str, seed: int) -> str:
    return "-".join([*re.findall("[a-z]+", name.lower()), str(seed)])


def values(outcomes: list[Outcome], variant: str, measure: str) -> list[float]:
    """Percent, of each seed."""
    own = [o.measured for o in outcomes if o.variant == variant]
    return [100 * getattr(measured.accuracy, measure) for measured in own]


def _further(outcomes: list[Outcome], variant: str, measure: Further) -> list[float]:
    """The same; none of a variant that does not read."""
    own = [o.measured.further for o in outcomes if o.variant == variant]
    return [100 * further[measure] for further in own if further]


def table(outcomes: list[Outcome]) -> str:
    """Markdown: mean and standard deviation over the seeds, in percent; where some variant reads,
    also where nothing is said, and by wary weights."""
    reads = any(outcome.measured.further for outcome in outcomes)
    heads = [*MEASURES, *(FURTHER if reads else [])]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        cells = [values(outcomes, variant, measure) for measure in MEASURES.values()]
        if reads:
            cells += [_further(outcomes, variant, measure) for measure in FURTHER.values()]
        lines.append(f"| {variant} | {' | '.join(map(_spread, cells))} |")
    return "\n".join(lines)


def _spread(cell: list[float]) -> str:
    return f"{mean(cell):.1f} ± {stdev(cell):.1f}" if cell else ""


def draw(outcomes: list[Outcome], path: Path) -> None:
    """R@1 of every run as a dot; mean and standard deviation of each variant. Writes SVG."""
    names = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    figure = Figure(figsize=(max(5, 1.4 * len(names)), 3.2), layout="constrained")
    axes = figure.subplots()
    for place, variant in enumerate(names):
        of_seeds = values(outcomes, variant, "r1")
        axes.errorbar(place, mean(of_seeds), stdev(of_seeds), fmt="_", capsize=8, ms=24, c="k")
        axes.scatter([place] * len(of_seeds), of_seeds, alpha=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel("R@1 on test, %")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, format="svg", metadata={"Date": None})


def write_report(
    recipe: Recipe,
    protocol: str,
    outcomes: list[Outcome],
    folder: Path,
    *,
    start: str | None = None,
    unseen: Sequence[str] = (),
) -> Path:
    """Table and plot into `RESULTS.md`, in place of what it had of this recipe; all runs began
    with weights of the recipe `start`, or with random ones, and `unseen` are the options by which
    other data was given to choose weights of the score on."""
    folder.mkdir(parents=True, exist_ok=True)
    plot = PLOT.format(recipe.name)
    draw(outcomes, folder / plot)
    rows = {outcome.variant for outcome in outcomes}
    seeds = len({outcome.seed for outcome in outcomes})
    steps = recipe.schedule.steps
    begun = f" after those of `{start}`" if start else ""
    options = [" --start CHECKPOINT"] * bool(start) + [" --detector DETECTOR"] * (IPD in rows)
    option = "".join([*options, *(f" {name} OTHER" for name in unseen)])
    chosen_on = "val and on other data" if unseen else "val"
    reads = any(outcome.measured.further for outcome in outcomes)
    where_right = (
        " where what is said is right; wary ones so that wrong speech costs nearly nothing there"
        * reads
    )
    section = "\n".join(
        [
            f"## Ablation: {recipe.name}\n",
            f"{steps} steps{begun}, {seeds} seeds; mean ± standard deviation, in percent, of "
            f"{outcomes[0].measured.clips} clips of the test: {protocol}. Ranked by the fused "
            f"score, its weights chosen on {chosen_on}{where_right}; ICL alone, where it stands, "
            "by the embeddings' cosine.\n",
            f"{table(outcomes)}\n",
            f"![R@1 by variant]({plot})\n",
            f"Made by `lpr-train ablate {recipe.name} --steps {steps} --seeds {seeds}{option}`.\n",
        ]
    )
    path = folder / REPORT
    path.write_text(_with_section(path, section))
    return path


def _with_section(path: Path, section: str) -> str:
    """The file's text, with the section of the same heading replaced or a new one at the end."""
    text = path.read_text() if path.exists() else "# Results\n"
    heading = section.splitlines()[0]
    others = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    parts = [part.rstrip() for part in others if part.splitlines()[:1] != [heading]]
    return "\n\n".join([*filter(None, parts), section])
