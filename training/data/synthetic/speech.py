"""What the salesperson says in a clip, as speech recognition hears it.

The product is named somewhere among other talk, other products are mentioned too, and words are
misheard, dropped and repeated. Text has no punctuation.
"""

from __future__ import annotations

from numpy.random import Generator

from training.data.synthetic.catalogue import PRINT_WORDS, Product
from training.data.synthetic.chance import pick

TALK = (
    "hello everyone welcome to the live",
    "thank you for the follow",
    "do not forget to tap the heart",
    "we ship today if you order before six",
    "there are only a few left",
    "yes i can see your questions",
    "somebody asked about the size",
    "wait let me turn it around for you",
    "the price goes up after the live",
    "my sister has the same one at home",
    "i will show it again in a minute",
    "so good so good",
    "the link is down there on the left",
    "three two one go",
    "who wants one type one",
    "you can send it back within seven days",
    "last time it was gone in two minutes",
    "look at my hands no filter no filter",
    "let me drink some water",
    "good evening to all the new friends",
)
NAMING = (
    "look at this {it}",
    "this {it} is my favourite",
    "now we have the {it}",
    "so the {it} here",
    "it is the {it} from {brand}",
    "today the {it} is half price",
    "feel how soft oh you cannot well this {it}",
    "number four is the {it}",
    "in {colour} the {it}",
    "{brand} again yes {brand} the {it}",
)
ELSEWHERE = (
    "later we also have the {it}", "not the {it} that comes next", "it goes well with the {it}",
    "yesterday we sold the {it}", "somebody asks for the {it} one moment",
)  # fmt: skip
FILLERS = ("uh", "okay", "right", "you know", "and", "so", "guys")
NAMED = 0.45  # of the words of a title, besides the noun
SILENT = 0.04  # clips with music only
MISHEARD = 0.12  # of words
SOUNDS_LIKE = {"b": "p", "p": "b", "d": "t", "t": "d", "s": "z", "c": "g"}
_VOWELS = "aeiou"


def speak(product: Product, others: list[Product], rng: Generator) -> str:
    """Mostly one to three namings of the product; now and then none."""
    if rng.random() < SILENT:
        return ""
    lines = [pick(TALK, rng) for _ in range(int(rng.integers(2, 8)))]
    times = int(rng.choice(4, p=(0.12, 0.4, 0.33, 0.15)))
    lines += [_said(pick(NAMING, rng), product, rng) for _ in range(times)]
    mentioned = others[: int(rng.integers(0, 3))]
    lines += [_said(pick(ELSEWHERE, rng), other, rng) for other in mentioned]
    words = " ".join(lines[i] for i in rng.permutation(len(lines))).lower().split()
    return " ".join(heard for word in words if (heard := misheard(word, rng)))


def _said(template: str, product: Product, rng: Generator) -> str:
    """As people name things: hardly ever all of the title."""
    colour = product.colours[0]
    motif = product.motif if product.motif_shown else ""
    parts = [colour, PRINT_WORDS[product.print], motif, product.noun, product.size]
    kept = [part for part in parts if part and (part == product.noun or rng.random() < NAMED)]
    return template.format(it=" ".join(kept), brand=product.brand, colour=colour)


def misheard(word: str, rng: Generator) -> str:
    """The word, or what a recogniser makes of it."""
    if rng.random() > MISHEARD:
        return word
    kind = int(rng.integers(4))
    if kind == 0 or len(word) < 4:
        return "" if rng.random() < 0.5 else f"{word} {pick(FILLERS, rng)}"
    if kind == 1:  # another vowel
        place = [i for i, letter in enumerate(word) if letter in _VOWELS]
        if place:
            at = pick(place, rng)
            return word[:at] + _VOWELS[int(rng.integers(5))] + word[at + 1 :]
    if kind == 2:  # two words of one
        return f"{word[: len(word) // 2]} {word[len(word) // 2 :]}"
    return SOUNDS_LIKE.get(word[0], word[0]) + word[1:]
