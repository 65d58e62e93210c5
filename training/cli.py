"""`lpr-train`: the commands that make, score and export checkpoints, each beside its room."""

from __future__ import annotations

import typer

from training.bench import bench
from training.data import commands as data
from training.eager import eager
from training.evaluation import commands as evaluation
from training.export import commands as export
from training.fit_command import fit
from training.memory import memory
from training.models import commands as models
from training.terminal import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",  # brackets in help texts are no markup
)
app.command()(fit)
app.command()(bench)
app.add_typer(evaluation.app)
app.add_typer(export.app)
app.add_typer(models.app)
app.command()(memory)
app.command()(eager)
app.add_typer(data.app, name="data", help="Look through data sets, and make one.")
