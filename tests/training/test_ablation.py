"""The ablation: its variants, what is not done twice, and what is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.test_cli import folder as folder  # noqa: PLC0414  a fixture
from tests.training.tiny import RECIPE
from tests.training.tiny_sgmn import SGMN_RECIPE, with_descriptions
from training import cli, engine
from training.checkpoint import load, of_model, save
from training.evaluation.ablation import (
    AblationError,
    Further,
    Measured,
    Variant,
    ablate,
    table,
    variants,
    write_report,
)
from training.evaluation.metrics import Accuracy
from training.models.build import build_model
from training.models.rice import Rice
from training.models.sgmn.model import as_rice
from training.recipes import RECIPES

runner = CliRunner()


def measured(variant: Variant, out: Path) -> Measured:
    """Stands for a run: PMD adds 10 points, PFR 5 more, and each seed is off by one."""
    out.mkdir(parents=True, exist_ok=variant.finds)
    recipe = variant.recipe
    pmd, pfr = recipe.matching_weight > 0, recipe.reconstruction_weight > 0
    r1 = 0.5 + 0.1 * pmd + 0.05 * pfr + 0.01 * recipe.seed
    further: dict[Further, float] = {"silent": r1 - 0.3, "wary": r1 - 0.1, "misled": r1 - 0.2}
    reads = recipe.model.text is not None
    accuracy = Accuracy(r1, r1 + 0.2, r1 + 0.3, r1 + 0.1)
    return Measured(200, accuracy, further if reads else {})


def test_the_variants_of_rice_differ_in_their_losses_alone() -> None:
    for recipe in (RECIPE, *(each for each in RECIPES.values() if each.sgmn is None)):
        icl, pmd, pfr, *reads = (row.recipe for row in variants(recipe).values())
        assert reads == ([] if recipe.model.text is None else [recipe])
        assert icl.model.text is pmd.model.text is pfr.model.text is None
        assert (icl.matching_weight, icl.reconstruction_weight) == (0, 0)
        assert pmd == replace(icl, matching_weight=recipe.matching_weight)
        assert pfr.model.reconstruction is not None
        assert pfr.reconstruction_weight > 0
        model = replace(pfr.model, reconstruction=None)
        assert pmd == replace(pfr, model=model, reconstruction_weight=0.0)


def test_a_detector_adds_a_row_to_rice_alone() -> None:
    rows = variants(RECIPE, finds=True)
    assert list(rows) == [*variants(RECIPE), "+ PFR, closer", "+ IPD"]
    assert rows["+ PFR, closer"] == replace(rows["+ PFR"], finds=True), "the same run"
    masked = replace(rows["+ PFR"].recipe, intended_boxes=True)
    assert rows["+ IPD"] == Variant(masked, "+ IPD", finds=True)
    with pytest.raises(AblationError, match="none of SGMN"):
        variants(SGMN_RECIPE, finds=True)


def test_the_variants_of_sgmn_lack_one_part_each() -> None:
    rice, reads, no_guidance, no_graph, no_mining, whole = (
        row.recipe for row in variants(SGMN_RECIPE).values()
    )
    assert whole == SGMN_RECIPE
    model = SGMN_RECIPE.model
    assert no_guidance == replace(whole, model=replace(model, text_guidance=False))
    graphless = replace(model, frame_graph=False, instance_graph=False)
    assert no_graph == replace(whole, model=graphless)
    assert no_mining == replace(whole, mining_text=0.0)
    assert [type(build_model(each.model)) for each in (rice, reads)] == [Rice, Rice]
    assert reads == replace(whole, model=reads.model, sgmn=None, mining_text=0.0)
    assert (reads.model.encoder, reads.model.text) == (model.encoder, model.text)
    assert rice == replace(reads, model=replace(reads.model, text=None))


def test_without_text_the_variants_that_need_it_are_left_out() -> None:
    recipe = RECIPES["sgmn_vitb32_movingfashion"]
    assert list(variants(recipe)) == ["RICE", "SGMN, no graph", "SGMN"]


def test_a_part_that_a_recipe_lacks_is_no_row() -> None:
    """All negatives contest a match in it, so there is nothing to mine."""
    rows = list(variants(RECIPES["sgmn_small_synth"]))
    assert rows == ["RICE", "RICE + text", "SGMN, no guidance", "SGMN, no graph", "SGMN"]


def test_the_table_has_means_and_deviations_over_the_seeds(tmp_path: Path) -> None:
    outcomes = ablate(RECIPE, 3, tmp_path, measured)
    assert table(outcomes).splitlines()[2:] == [
        "| ICL | 51.0 ± 1.0 | 71.0 ± 1.0 | 81.0 ± 1.0 |",
        "| + PMD | 61.0 ± 1.0 | 81.0 ± 1.0 | 91.0 ± 1.0 |",
        "| + PFR | 66.0 ± 1.0 | 86.0 ± 1.0 | 96.0 ± 1.0 |",
    ]


def test_of_what_reads_it_tells_of_silence_and_of_wrong_speech_as_well(tmp_path: Path) -> None:
    outcomes = ablate(SGMN_RECIPE, 3, tmp_path, measured)
    head, _, sees, *reads = table(outcomes).splitlines()
    assert head == ("| | R@1 | R@5 | R@10 | R@1, nothing said | R@1, wary | wary, wrong speech |")
    assert sees == "| RICE | 61.0 ± 1.0 | 81.0 ± 1.0 | 91.0 ± 1.0 |  |  |  |"
    assert len(reads) == 5
    assert reads[-1] == (
        "| SGMN | 61.0 ± 1.0 | 81.0 ± 1.0 | 91.0 ± 1.0 | 31.0 ± 1.0 | 51.0 ± 1.0 | 41.0 ± 1.0 |"
    )
    assert outcomes == ablate(SGMN_RECIPE, 3, tmp_path, measured), "kept, and read back"


def test_what_is_finished_is_not_repeated_and_what_is_of_another_recipe_refused(
    tmp_path: Path,
) -> None:
    done = []

    def counted(variant: Variant, out: Path) -> Measured:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append((out.name, variant.recipe.seed))
        return measured(variant, out)

    with pytest.raises(KeyboardInterrupt):
        ablate(RECIPE, 3, tmp_path, counted)
    assert done == [("icl-0", 0), ("pmd-0", 0), ("pfr-0", 0), ("icl-1", 1)]
    outcomes = ablate(RECIPE, 3, tmp_path, measured)  # would fail on a folder that is there
    assert outcomes == ablate(RECIPE, 3, tmp_path / "anew", measured)
    with pytest.raises(AblationError, match=r"icl-0.result\.json is of another recipe"):
        ablate(replace(RECIPE, tail_cut=0.0), 3, tmp_path, measured)


def test_results_of_other_weights_or_data_are_refused(tmp_path: Path) -> None:
    given = {"data": {"made": "there"}, "start": "a", "detector": "b"}
    again = partial(ablate, RECIPE, 3, tmp_path, measured)
    assert again(given=given) == again(given=given | {"detector": "c"}), "no row of these finds"
    for name, other in (("start", None), ("data", {"made": "elsewhere"})):
        with pytest.raises(AblationError, match=rf"another --{name}; choose"):
            again(given=given | {name: other})
    again(finds=True, given=given)
    with pytest.raises(AblationError, match=r"closer-0.result\.json .*another --detector;"):
        again(finds=True, given=given | {"detector": "c"})
    result = tmp_path / "icl-0" / "result.json"
    kept = json.loads(result.read_text())
    del kept["given"]
    result.write_text(json.dumps(kept))
    with pytest.raises(AblationError, match="does not tell what its run was given"):
        again(given=given)


def test_a_killed_run_does_not_go_on_with_other_weights(tmp_path: Path) -> None:
    def killed(variant: Variant, out: Path) -> Measured:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(RECIPE, 3, tmp_path, killed, given={"start": "a"})
    with pytest.raises(AblationError, match="another --start"):
        ablate(RECIPE, 3, tmp_path, killed, given={"start": "b"})


def test_the_report_replaces_its_own_section_alone(tmp_path: Path) -> None:
    outcomes = ablate(RECIPE, 3, tmp_path / "runs", measured)
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## Ablation: tiny\n\nold\n\n## Other\n\nstays\n")
    for _ in range(2):
        assert write_report(RECIPE, "clips against shops", outcomes, tmp_path) == path
    text = path.read_text()
    assert "old" not in text
    assert "## Other\n\nstays\n" in text
    assert text.count("## Ablation: tiny") == 1
    assert table(outcomes) in text
    assert "6 steps, 3 seeds" in text
    assert (tmp_path / "ablation_tiny.svg").read_text().startswith("<?xml")


def test_the_command_trains_and_resumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)
    out, report = tmp_path / "runs", tmp_path / "docs"
    command = ["ablate", "tiny", "--data", f"made={folder}", "--out", str(out), "--steps", "2",
               "--report", str(report)]  # fmt: skip
    result = runner.invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    runs = sorted(path.parent.name for path in out.glob("*/result.json"))
    assert runs == [f"{variant}-{seed}" for variant in ("icl", "pfr", "pmd") for seed in range(3)]
    first = (report / "RESULTS.md").read_text()
    kept = json.loads((out / "pmd-1" / "result.json").read_text())
    assert kept["recipe"]["schedule"]["steps"] == 2
    assert kept["clips"] == 10
    monkeypatch.setattr(engine, "fit", None)  # a second time nothing is trained
    again = runner.invoke(cli.app, command)
    assert again.exit_code == 0, again.output
    assert (report / "RESULTS.md").read_text() == first
    refused = runner.invoke(cli.app, [*command, "--seeds", "2"])
    assert refused.exit_code == 2
    start = str(out / "pmd-1" / "best.safetensors")
    refused = runner.invoke(cli.app, [*command, "--start", start])
    assert refused.exit_code == 1 and "of a run with another --start" in refused.output


def test_every_variant_begins_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but further parts is trained, so of what RICE began with all is left."""
    sees = replace(SGMN_RECIPE, model=replace(as_rice(SGMN_RECIPE.model), text=None), sgmn=None)
    schedule = replace(SGMN_RECIPE.schedule, encoder_rate=0.0, decoder_rate=0.0)
    monkeypatch.setitem(RECIPES, "tiny_sgmn", replace(SGMN_RECIPE, schedule=schedule, cycle=1))
    start = tmp_path / "start.safetensors"
    begun = build_model(sees.model)
    save(start, of_model(replace(sees, name="tiny_sees"), begun))
    out = tmp_path / "runs"
    command = ["ablate", "tiny_sgmn", "--data", f"made={with_descriptions(folder)}",
               "--out", str(out), "--steps", "2", "--start", str(start)]  # fmt: skip
    result = runner.invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    for variant in ("rice-0", "rice-text-1", "sgmn-2"):
        kept = load(out / variant / "best.safetensors").group("model")
        for name, value in begun.encoder.state_dict(prefix="encoder.").items():
            assert torch.equal(kept[name], value), (variant, name)
    report = (out / "RESULTS.md").read_text()
    assert "2 steps after those of `tiny_sees`" in report and "--start CHECKPOINT`" in report


def test_the_command_tells_of_sgmn_and_its_parts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny_sgmn", SGMN_RECIPE)
    with_descriptions(folder)
    out = tmp_path / "runs"
    command = ["ablate", "tiny_sgmn", "--data", f"made={folder}", "--out", str(out),
               "--steps", "2", "--unseen", str(folder)]  # fmt: skip
    result = runner.invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    report = (out / "RESULTS.md").read_text()
    assert "chosen on val and on other data" in report and " --unseen OTHER`" in report
    assert "where what is said is right; wary ones" in report
    rows = [
        line.split("|")[1].strip()
        for line in report.splitlines()
        if line[0:1] == "|" and "±" in line
    ]
    assert rows == list(variants(SGMN_RECIPE))
    runs = sorted(path.parent.name for path in out.glob("*/result.json"))
    refused = runner.invoke(cli.app, command[:-2])
    assert refused.exit_code == 1 and "of a run with another --unseen" in refused.output
    assert runs == sorted(
        f"{name}-{seed}"
        for name in ("rice", "rice-text", "sgmn", "sgmn-no-graph", "sgmn-no-guidance",
                     "sgmn-no-mining")
        for seed in range(3)
    )  # fmt: skip


def test_only_rows_with_guidance_have_pictured_talk() -> None:
    rows = variants(RECIPES["guided_small_synth"])
    pictured = {name for name, row in rows.items() if row.recipe.pictured_talk}
    assert pictured == {"SGMN"}
    assert {"RICE + text", "SGMN, no guidance"} < rows.keys()
