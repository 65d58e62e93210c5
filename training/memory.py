"""`lpr-train memory`: what a training step keeps on a GPU, counted from the sizes alone.

Counted for bf16 autocast with fused attention, as `fit --device cuda` trains a RICE: float32
weights and residual stream, bf16 copies of what matrix products take. D is the width, a token's
bytes are those that backward needs. All parts are added up, although the decoder's are gone when
the encoder's blocks are computed again: a total is an upper bound of what it counts. Not counted
are text towers, SGMN's own parts, workspaces of kernels, and what the allocator cannot use.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated

import torch
import typer

from training.configs import Recipe
from training.models.build import build_model
from training.models.encoder import Activation, EncoderConfig
from training.models.rice import RiceConfig
from training.recipes import RECIPES, recipe_named
from training.tasks import rice_rate
from training.terminal import CommandError

GB = 10**9


@dataclass(frozen=True)
class Part:
    """A product of whole numbers, the last of them bytes."""

    name: str
    factors: dict[str, int]

    @property
    def bytes(self) -> int:
        return math.prod(self.factors.values())

    def __str__(self) -> str:
        product = " x ".join(f"{value:,} {unit}" for unit, value in self.factors.items())
        return f"{self.bytes / GB:8.2f} GB  {self.name}: {product}"


def memory(
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"{', '.join(RECIPES)}.")],
    batch: Annotated[int, typer.Option(min=1, help="Clips on the GPU, each of a product.")] = 256,
    chunk: Annotated[int, typer.Option(min=1, help="Pictures encoded at once, as of fit.")] = 256,
    gpu: Annotated[float, typer.Option(min=1, help="GB that the GPU has.")] = 80.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Count what a training step keeps on a GPU: at once, checkpointed, in chunks, and both."""
    recipe = recipe_named(recipe_name)
    ways = {
        "at once": step_parts(recipe, batch),
        "--checkpointing": step_parts(recipe, batch, checkpointing=True),
        f"--chunk {chunk}": step_parts(recipe, batch, chunk=chunk),
        f"--chunk {chunk} --checkpointing": step_parts(
            recipe, batch, chunk=chunk, checkpointing=True
        ),
    }
    totals = {way: sum(part.bytes for part in parts) / GB for way, parts in ways.items()}
    if as_json:
        typer.echo(json.dumps({"recipe": recipe_name, "batch": batch, "gpu": gpu, "gb": totals}))
        return
    frames = recipe.model.frames
    typer.echo(f"{recipe_name}: {batch} clips of {frames} frames, and as many pictures")
    for way, parts in ways.items():
        left = gpu - totals[way]
        told = f"{left:.2f} left for what is not counted" if left > 0 else "does not fit"
        typer.echo("\n".join(["", f"{way}:", *map(str, parts)]))
        typer.echo(f"{totals[way]:8.2f} GB in all, of {gpu:g}: {told}")


def step_parts(
    recipe: Recipe, clips: int, *, chunk: int | None = None, checkpointing: bool = False
) -> list[Part]:
    """Of a step on so many clips of `frames` frames, and a picture for each.

    Raises CommandError for a conv stem, which is not counted here.
    """
    model = recipe.model
    if model.encoder.stem != "patch":
        raise CommandError(f"{recipe.name}: a conv stem's memory is not counted here")
    pictures = clips * (1 + model.frames)
    pixels = {"pictures": pictures, **_pixel_bytes(model.encoder, 8)}
    parts = [*state_parts(recipe), Part("pixels, drawn and joined", pixels)]
    if chunk is None or chunk >= pictures:
        parts += encoder_parts(model.encoder, pictures, checkpointing=checkpointing)
    else:
        kept = {"tokens": _tokens(model.encoder, pictures), "bytes (8D)": 8 * model.encoder.width}
        parts.append(Part("all chunks' tokens and their gradient", kept))
        parts += encoder_parts(model.encoder, chunk, checkpointing=checkpointing)
    return parts + decoder_parts(model, clips)


def state_parts(recipe: Recipe) -> list[Part]:
    """Weights and what the optimizer and the engine keep of each."""
    with torch.device("meta"):
        named = dict(build_model(recipe.model).named_parameters())
    count = sum(parameter.numel() for parameter in named.values())
    trained = sum(p.numel() for name, p in named.items() if rice_rate(name, recipe.schedule) > 0)
    return [
        Part("weights", {"parameters": count, "bytes": 4}),
        Part("weights in bf16, kept by autocast", {"parameters": count, "bytes": 2}),
        Part("averaged weights", {"parameters": count, "bytes": 4}),
        Part("gradients", {"trained": trained, "bytes": 4}),
        Part("AdamW's two moments", {"trained": trained, "bytes": 8}),
    ]


def encoder_parts(
    config: EncoderConfig, pictures: int, *, checkpointing: bool = False
) -> list[Part]:
    """What the encoder keeps of pictures that it encodes at once."""
    tokens, width = _tokens(config, pictures), config.width
    block = block_bytes(width, config.heads, config.activation)
    blocks = {"layers": config.layers, "tokens": tokens}
    parts = [
        Part("the stem's input", {"pictures": pictures, **_pixel_bytes(config, 2)}),
        Part("tokens before and after the blocks", {"tokens": tokens, "bytes (8D)": 8 * width}),
    ]
    if not checkpointing:
        return [*parts, Part("blocks", {**blocks, "bytes": block})]
    return [
        *parts,
        Part("the blocks' inputs", {**blocks, "bytes (4D)": 4 * width}),
        Part("one block, computed again", {"tokens": tokens, "bytes": block}),
    ]


def decoder_parts(config: RiceConfig, clips: int) -> list[Part]:
    """What PMD keeps of N clips with N pictures, all pairs; and PFR, where there is one."""
    width, heads = config.token_width, config.matching_heads
    tokens = _tokens(config.encoder, clips)
    clip_tokens = config.frames * tokens
    rebuilds = config.reconstruction is not None
    block = block_bytes(width, heads, config.encoder.activation)
    pair = block + 2 * width  # no keys and values of its own, but the pooler
    parts = [
        Part("clips' tokens, padded", {"tokens": clip_tokens, "bytes (4D)": 4 * width}),
        Part("keys and values", {"tokens": clip_tokens, "bytes (8D)": 8 * width}),
        Part("self block", {"tokens": tokens, "bytes": block if rebuilds else 12 * width}),
        Part("pairs in the cross block", {"clips": clips, "pictures": clips, "bytes": pair}),
    ]
    if rebuilds:
        seen = 1 + config.encoder.patches
        shape = {"clips": clips, "heads": heads, "rows": seen, "columns": config.frames * seen}
        parts.append(Part("PFR's attention maps", {**shape, "bytes": 12}))
        parts.append(Part("PFR's keys", {"tokens": clip_tokens, "bytes (8D)": 8 * width}))
    return parts


def block_bytes(width: int, heads: int, activation: Activation) -> int:
    """Of one token in one `Block`.

    In D: the two norms' inputs 4 + 4, inputs and outputs of query, key and value 6 + 6, what
    attention gives 2, and of the feed-forward its input 2 and its four times wider inside: what
    goes into the activation 8 and comes out of it 8, for QuickGELU its sigmoid 8 too. Then each
    norm's mean and deviation, and each head's logarithm of attention's sum, 4 bytes each.
    """
    inside = 24 if activation == "quick_gelu" else 16
    return (4 + 4 + 6 + 6 + 2 + 2 + inside) * width + 4 * 4 + 4 * heads


def _tokens(config: EncoderConfig, pictures: int) -> int:
    return pictures * (1 + config.patches)


def _pixel_bytes(config: EncoderConfig, each: int) -> dict[str, int]:
    return {"numbers": 3 * config.image_size**2, "bytes": each}
