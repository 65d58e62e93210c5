"""`python -m tests.fuzz.run TARGET FOLDER [libFuzzer's options]`: one target under atheris.

In a process of its own, for libFuzzer ends its process, and only what is imported here is watched
as it runs. Into FOLDER go the inputs it tries, and the one that it fails at.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["service", "python_multipart"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    warnings.simplefilter("ignore")  # Pillow's and codecs', about what is fuzzed
    target, folder, options = TARGETS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:]
    corpus = folder / "corpus"
    corpus.mkdir()
    for place, seed in enumerate(target.seeds):
        (corpus / str(place)).write_bytes(seed)
    if target.words:
        words = ["".join(f"\\x{byte:02x}" for byte in word[:64]) for word in target.words]
        (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
        options.append(f"-dict={folder / 'words'}")
    options += [f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
