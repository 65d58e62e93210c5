"""torch.compile changes how fast a run is, not what it learns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.test_engine import losses_of
from tests.training.test_gradient_cache import DROPS, EXACT, assert_same, gradients
from training.configs import Compute

COMPILED = Compute("fp32", compiled=True)

needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, such as g++"
)


@needs_a_compiler
@pytest.mark.parametrize(
    "compute",
    [COMPILED, Compute("fp32", chunk=3, checkpointing=True, compiled=True)],
    ids=["plain", "chunked"],
)
def test_compiled_blocks_give_the_same_gradients(compute: Compute, tmp_path: Path) -> None:
    expected = gradients(EXACT, Compute("fp32"), tmp_path)
    torch._dynamo.utils.counters.clear()
    assert_same(gradients(EXACT, compute, tmp_path), expected)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "something was compiled"


@needs_a_compiler
def test_a_compiled_run_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """What is dropped depends on the seed and the step there too."""
    whole = losses_of(DROPS, tmp_path / "whole", compute=COMPILED)
    killed = losses_of(DROPS, tmp_path / "killed", stop_after=4, compute=COMPILED)
    assert killed + losses_of(DROPS, tmp_path / "killed", compute=COMPILED)[1:] == whole


def test_a_machine_that_cannot_compile_is_told_in_one_line(tmp_path: Path) -> None:
    code = (
        "import torch; from training.models.compiling import *\n"
        "try: compile_blocks(torch.nn.Identity(), torch.device('cpu'))\n"
        "except CompilerError as error: print(error)"
    )
    without = {"CXX": "/no/such", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    told = subprocess.run(  # the compiler is looked for once a process
        [sys.executable, "-c", code],
        env=os.environ | without, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.startswith("torch.compile does not work here: ")
    assert "C++ compiler" in told.stdout and told.stdout.count("\n") == 1
