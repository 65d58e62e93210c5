"""How a demo's answers are told: table, summary, JSON file, the cards of the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.demo.figures import Figures, Row, figures
from service.demo.layout import ShopItem, Take
from service.demo.picture import FRAME_PIXELS, FRAMES, MOST_CARDS, Card, Headline, draw_picture
from service.media.clips import ClipDecoder
from service.recognition import evenly

LONGEST_TABLE = 60


@dataclass(frozen=True)
class Outcome:
    """All of a demo that is worth telling. Rows, takes and clips belong together by position."""

    bundle: str
    shop: Sequence[ShopItem]
    distractors: int
    takes: Sequence[Take]
    clips: Sequence[Path]
    rows: Sequence[Row]

    @property
    def figures(self) -> Figures:
        return figures(self.rows)

    @property
    def products(self) -> int:
        return len(self.shop) + self.distractors

    def title(self, product_id: str | None) -> str:
        """A product's name for people."""
        if product_id is None:
            return "nothing"
        return next((item.title for item in self.shop if item.name == product_id), product_id)


def percent(share: float) -> str:
    """A share as a person reads it."""
    return f"{100 * share:.1f} %"


def table(outcome: Outcome) -> Table:
    """One line a clip; of very many clips, only the wrong ones."""
    rows, notes = list(outcome.rows), []
    if len(rows) > LONGEST_TABLE:
        notes.append(f"Of {len(rows)} clips the wrong ones are listed.")
        rows = [row for row in rows if not row.right]
    if any(row.decision is None for row in rows):
        notes.append("Confidence in yellow: not sure enough, so the service decided nothing.")
    shown = Table(box=box.SIMPLE, caption=" ".join(notes) or None, caption_justify="left")
    for heading in ("clip", "truth", "answer"):
        shown.add_column(heading, overflow="fold")
    shown.add_column("confidence", justify="right")
    shown.add_column("ms", justify="right")
    for row in rows:
        mark, style = ("✓", "green") if row.right else ("✗", "red")
        shown.add_row(
            row.clip_id,
            outcome.title(row.truth),
            Text(f"{mark} {outcome.title(row.answer)}", style=style),
            Text(f"{row.confidence:.0%}", style="yellow" if row.decision is None else ""),
            f"{row.wall_ms:.0f}",
        )
    return shown


def tell(console: Console, outcome: Outcome) -> None:
    """Prints the table and the figures."""
    console.print(table(outcome))
    console.print(summary(outcome))


def summary(outcome: Outcome) -> Table:
    """The figures, named."""
    told = outcome.figures
    gain = 100 * (told.r1 - told.coarse_r1)
    precision = "-" if told.decision_precision is None else percent(told.decision_precision)
    stages = ", ".join(
        f"{stage} {ms:.0f}" for stage, ms in told.median_ms.items() if stage != "total"
    )
    lines = [
        ("shop", f"{outcome.products:,} products"),
        ("clips", f"{told.clips}"),
        ("R@1 · R@5 · R@10", " · ".join(percent(r) for r in (told.r1, told.r5, told.r10))),
        ("R@1, coarse score alone", f"{percent(told.coarse_r1)}; reranking {gain:+.1f} points"),
        ("right among decided", f"{precision}; undecided {percent(told.undecided)}"),
        ("median ms a clip", f"{told.median_wall_ms:.0f}, of which {stages}"),
        ("outside decode, detect, encode", percent(told.outside)),
    ]
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="dim")
    shown.add_column()
    for name, value in lines:
        shown.add_row(name, value)
    return shown


def write_json(outcome: Outcome, out: Path) -> None:
    """The figures, and every clip's answer without the candidates beyond the tenth."""
    report: dict[str, Any] = {
        "bundle": outcome.bundle,
        "products": len(outcome.shop),
        "distractors": outcome.distractors,
        "figures": asdict(outcome.figures),
        "clips": [_json_row(row) for row in outcome.rows],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _json_row(row: Row) -> dict[str, Any]:
    return asdict(row) | {
        "right": row.right,
        "ranking": row.ranking[:10],
        "coarse_ranking": row.coarse_ranking[:10],
    }


def draw(
    outcome: Outcome, out: Path, decoder: ClipDecoder, distractors: Sequence[Path] = ()
) -> Path:
    """The picture of the demo's first clips, in order.

    `decoder` has the settings of the service's, so it gives the very frames that were looked at.
    Raises ClipError.
    """
    told = outcome.figures
    right = sum(row.right for row in outcome.rows)
    headline = Headline(
        title=f"{right} of {told.clips} clips recognised",
        line=f"{outcome.products:,} products in the shop   ·   R@1 {percent(told.r1)}   ·   "
        f"R@5 {percent(told.r5)}   ·   {told.median_wall_ms:.0f} ms a clip",
        foot=_foot(outcome),
    )
    pictures = {item.name: item.picture for item in outcome.shop} | {
        f"distractor-{number:05d}": path for number, path in enumerate(distractors)
    }
    together = zip(outcome.rows, outcome.takes, outcome.clips, strict=True)
    cards = [_card(outcome, pictures, decoder, *of_clip) for of_clip in list(together)[:MOST_CARDS]]
    return draw_picture(out, headline, cards)


def _foot(outcome: Outcome) -> str:
    shown = min(MOST_CARDS, len(outcome.rows))
    which = "All clips" if shown == len(outcome.rows) else f"The first {shown} clips, in order"
    told = "three frames of each, the product put first, its calibrated confidence"
    return f"{which}: {told}.   {outcome.bundle}"


def _card(  # noqa: PLR0917
    outcome: Outcome,
    pictures: dict[str, Path],
    decoder: ClipDecoder,
    row: Row,
    take: Take,
    clip: Path,
) -> Card:
    seen = decoder.decode(clip.read_bytes(), size=FRAME_PIXELS, frames=row.frames).pixels
    shown = evenly(len(seen), FRAMES)
    return Card(
        frames=tuple(Image.fromarray(seen[place]) for place in shown),
        boxes=tuple(row.boxes[place] if row.boxes else None for place in shown),
        answer=None if row.answer is None else outcome.title(row.answer),
        answer_picture=None if row.answer is None else pictures.get(row.answer),
        truth=take.item.title,
        truth_picture=take.item.picture,
        right=row.right,
        decided=row.decision is not None,
        confidence=row.confidence,
    )
