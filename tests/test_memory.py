"""What a call needs beside its operands: memory to refuse a bad value, memory that there is not, memory that is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiers import rest
from torch import Tensor

import losskit
import losskit.functional as LF

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory a process has")


def megabytes(field: str) -> float:
    """Of this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak_of(call: Any) -> float:
    """What a call that is refused needs at most."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest value begins anew
    before = megabytes("VmRSS")
    with pytest.raises(ValueError, match="got"):
        call()
    return megabytes("VmHWM") - before


N = 1 << 25


def halves(*shape: int, value: float = 0.5, bad: float | None = None) -> Tensor:
    x = torch.full(shape, value, dtype=torch.bfloat16)
    if bad is not None:
        x[-1] = bad
    return x


def bytes_of(*shape: int, value: int = 0, bad: int = 9) -> Tensor:
    x = torch.full(shape, value, dtype=torch.int8)
    x[-1] = bad
    return x


def lists() -> Tensor:
    x = bytes_of(N // 4, 4, value=-1, bad=-1)
    x[:, 0], x[-1, 1] = 3, 7
    return x


REFUSALS = {
    "elements": (LF.binary_cross_entropy, lambda: [halves(N, bad=2.0)] * 2, {}),
    "transposed": (LF.binary_cross_entropy, lambda: [halves(2, N // 2, bad=2.0).t()] * 2, {}),
    "masked": (LF.binary_cross_entropy, lambda: [halves(N, bad=2.0)] * 2, {"mask": torch.tensor(True)}),
    "classes": (LF.cross_entropy, lambda: [halves(N // 4, 4), bytes_of(N // 4)], {}),
    "probabilities": (LF.cross_entropy, lambda: [halves(N // 4, 4), halves(N // 4, 4, bad=2.0)], {}),
    "log-probabilities": (LF.nll_loss, lambda: [halves(N // 4, 4, value=-1.0, bad=1.0), bytes_of(N // 4, bad=0)], {}),
    "lists": (LF.multilabel_margin_loss, lambda: [halves(N // 4, 4), lists()], {}),
    "signs": (LF.cosine_embedding_loss, lambda: [halves(N // 4, 4), halves(N // 4, 4), halves(N // 4, value=1, bad=0)], {}),
}  # fmt: skip


@linux
@pytest.mark.parametrize("case", rest(REFUSALS, ["classes", "signs"], "memory: of every refusal"))
def test_refusing_costs_no_more_than_computing(case):
    """Among 2^25 numbers (64 MB of bfloat16) one bad value is found with a few megabytes, not with masks of their size."""
    loss, make, extra = REFUSALS[case]
    operands = make()
    assert peak_of(lambda: loss(*operands, reduction="sum", **extra)) < 24


LACKING = """
import resource, torch, losskit, losskit.functional as LF
torch.set_num_threads(2)
x = torch.zeros({shape}, dtype=torch.{dtype}, requires_grad=True)
y = torch.zeros(x.shape[0], dtype=torch.int64)
LF.cross_entropy(torch.zeros(300, 300, requires_grad=True), torch.zeros(300, dtype=torch.int64))  # threads have stacks
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), used + (8 << 20)))
try:
    LF.cross_entropy(x, y)
except RuntimeError as problem:
    print(problem)
"""


@linux
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1 << 12, 1 << 12), "float32", "losskit tried to allocate 67108864 bytes"),  # the gradient
        ((2, 1 << 22), "bfloat16", "losskit tried to allocate"),  # the gradient, or the scratch of a row
    ],
)
def test_memory_that_there_is_not_is_told_as_torch_tells_it(shape, dtype, message):
    """Tools that try again with a smaller batch look for these words of torch's allocator."""
    code = LACKING.format(shape=shape, dtype=dtype)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("DefaultCPUAllocator: can't allocate memory"), ran.stdout
    assert message in ran.stdout, ran.stdout


def _freed(x: torch.Tensor, size: int) -> torch.Tensor:
    x = x.clone()
    x.untyped_storage().resize_(size)
    return x


@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_freed_storage_is_never_read(size, requires_grad):
    """Every operand, weight and mask whose storage was freed (as FSDP does) or cut: one sentence, whatever torch reads."""
    x, labels, signs = torch.rand(4, 3), torch.tensor([0, 1, 2, 0]), torch.ones(4)
    kept = x.clone().requires_grad_(requires_grad)
    ones, mask = torch.ones(4), torch.ones(4, dtype=torch.bool)
    gone = {
        "input": lambda: LF.mse_loss(_freed(x, size), kept),
        "target": lambda: LF.cross_entropy(kept, _freed(labels, size)),
        "weight": lambda: LF.cross_entropy(kept, labels, weight=_freed(torch.ones(3), size)),
        "sample_weight": lambda: LF.cross_entropy(kept, labels, sample_weight=_freed(ones, size)),
        "mask": lambda: LF.cross_entropy(kept, labels, mask=_freed(mask, min(size, 2))),
        "pos_weight": lambda: LF.binary_cross_entropy_with_logits(kept, x, pos_weight=_freed(torch.ones(3), size)),
        "input2": lambda: LF.cosine_embedding_loss(kept, _freed(x, size), signs),
        "negative": lambda: LF.triplet_margin_loss(kept, x, _freed(x, size)),
    }
    for name, call in gone.items():
        with pytest.raises(
            RuntimeError, match=rf"{name} of shape \(.*\) has a storage of \d+ bytes, too few to hold it"
        ):
            call()
    for call in (
        lambda: LF.multi_margin_loss(kept, _freed(labels, size)),
        lambda: LF.ctc_loss(kept.log_softmax(1), _freed(torch.ones(2, dtype=torch.int64), size), 4, 2),
    ):
        with pytest.raises(RuntimeError, match="its memory was freed"):
            call()


def test_views_of_a_larger_storage_are_read():
    """Offsets and strides count from where the storage begins."""
    whole = torch.arange(24.0).reshape(4, 6)
    part = whole[1:, ::2]
    assert LF.mse_loss(part, torch.zeros(3, 3)).item() == (part**2).mean().item()
    assert losskit.MSELoss()(torch.empty(0), torch.empty(0)).isnan()
