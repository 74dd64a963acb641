"""What a call needs beside its operands: memory to refuse a bad value, memory that there is not, memory that is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import losskit
import losskit.functional as LF

PEAK = """
import resource, sys, torch, losskit, losskit.functional as LF
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
n = 1 << 25
{make}
before = peak()
try:
    {call}
except ValueError as problem:
    assert "got" in str(problem), problem
    sys.exit(int((peak() - before) / (1 << 20)))
raise SystemExit("nothing was refused")
"""

REFUSALS = {
    "elements": ("x = torch.full((n,), 0.5, dtype=torch.bfloat16); x[-1] = 2",
                 "LF.binary_cross_entropy(x, x, reduction='sum')"),
    "transposed": ("x = torch.full((2, n // 2), 0.5, dtype=torch.bfloat16).t(); x[-1, 1] = 2",
                   "LF.binary_cross_entropy(x, x, reduction='sum')"),
    "masked": ("x = torch.full((n,), 0.5, dtype=torch.bfloat16); x[-1] = 2; m = torch.ones(1, dtype=torch.bool)",
               "LF.binary_cross_entropy(x, x, reduction='sum', mask=m)"),
    "classes": ("x = torch.zeros(n // 4, 4, dtype=torch.bfloat16); y = torch.zeros(n // 4, dtype=torch.int8); y[-1] = 9",
                "LF.cross_entropy(x, y, reduction='sum')"),
    "probabilities": ("x = torch.zeros(n // 4, 4, dtype=torch.bfloat16); y = torch.zeros_like(x); y[-1, 3] = 2",
                      "LF.cross_entropy(x, y, reduction='sum')"),
    "log-probabilities": ("x = torch.full((n // 4, 4), -1., dtype=torch.bfloat16); x[-1] = 1;"
                          " y = torch.zeros(n // 4, dtype=torch.int8)", "LF.nll_loss(x, y, reduction='sum')"),
    "lists": ("x = torch.zeros(n // 4, 4, dtype=torch.bfloat16); y = torch.full((n // 4, 4), -1, dtype=torch.int8);"
              " y[:, 0] = 3; y[-1, 1] = 7", "LF.multilabel_margin_loss(x, y, reduction='sum')"),
    "signs": ("x = torch.ones(n // 4, 1, dtype=torch.bfloat16); y = torch.ones(n // 4, dtype=torch.bfloat16); y[-1] = 0",
              "LF.cosine_embedding_loss(x, x, y, reduction='sum')"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusing_costs_no_more_than_computing(case):
    """Among 2^25 numbers (64 MB of bfloat16) one bad value is found with a few megabytes, not with masks of their size."""
    make, call = REFUSALS[case]
    code = PEAK.format(make=make, call=call)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not ran.stderr, ran.stderr
    assert ran.returncode < 40, f"{ran.returncode} MB"


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


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit of the address space")
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
