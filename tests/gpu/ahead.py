"""Compile every kernel of many calls for a Hopper GPU, without one: a program that prints what came out as JSON.

    python tests/gpu/ahead.py [capability [dtype ...]]

A launch is caught on its way: Triton binds and specialises its arguments as ever, compiles for the GPU that is asked
for down to machine code, and nothing runs. What is printed for each kernel: the call, its name, registers, bytes
spilt, the copies to shared memory that it does not wait for, and the widths of its loads and stores. It is a process
of its own, since elsewhere in the suite Triton interprets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, compile
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import losskit.functional as LF
from losskit.kernels import gpu
from losskit.kernels.gpu import frame

TARGET = GPUTarget("cuda", 90, 32)


class Driver:
    """What Triton asks a GPU's driver while it compiles."""

    def get_current_target(self):
        return TARGET

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


found: list[dict] = []
calling = ""


class Compiled:
    """A compiled kernel that is launched without binding, as Triton's `JITFunction.run` launches it: it takes all
    arguments, in the order of the kernel's, and addresses for tensors."""

    repeated = 0
    function, packed_metadata = 7, (4, 1, 0)  # of a kernel that is loaded

    def __init__(self, bound):
        self.bound = list(bound.values())

    def run(self, x, y, z, stream, function, metadata, launch_metadata, enter, leave, *args):
        Compiled.repeated += 1
        assert min(x, y, z) > 0
        assert (stream, function, metadata) == (0, self.function, self.packed_metadata)
        assert launch_metadata is enter is leave is None
        for got, first in zip(args, self.bound, strict=True):
            if isinstance(first, torch.Tensor):
                assert type(got) is int and (got & 15 == 0) == (first.data_ptr() & 15 == 0)
            else:
                assert got is first or got == first


class Forgetful(dict):
    """No kernel that multiplies gradients is known: it would be launched for gradients of any shape."""

    def __setitem__(self, key, value):
        pass


def compile_only(self, *args, grid, warmup, **kwargs):
    """In place of a kernel's launch."""
    kwargs |= {"debug": False, "instrumentation_mode": ""}
    if not hasattr(self, "compiled_ahead"):
        self.compiled_ahead = (set(), self.create_binder())
    known, (_, _, _, backend, binder) = self.compiled_ahead
    bound, specialization, options = binder(*args, **kwargs)
    formulas = [f.cache_key for f in bound.values() if isinstance(f, JITFunction)]
    key = str((specialization, options, formulas))
    if key in known:
        return Compiled(bound)
    known.add(key)
    options, signature, constexprs, attributes = self._pack_args(backend, kwargs, bound, specialization, options)
    kernel = compile(ASTSource(self, signature, constexprs, attributes), target=TARGET, options=options.__dict__)
    text = kernel.asm["ptx"]
    found.append(
        {"call": calling, "kernel": self.fn.__name__, "registers": registers(text)[0], "spilt": registers(text)[1],
         "float_atomics": len(re.findall(r"\b(?:atom|red)\.[\w.]*\.f(?:16|32|64)", text)),
         "asynchronous": text.count("cp.async.cg"),
         "widths": sorted(set(re.findall(r"(?:ld|st)\.global\.(?:\w+\.)*?((?:v\d\.)?b\d+)", text)))}
    )  # fmt: skip
    return Compiled(bound)


def registers(text: str) -> tuple[int, int]:
    """Registers and bytes spilt, from NVIDIA's assembler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(text)
        target = re.search(r"\.target (sm_\w+)", text).group(1)
        tools = [get_ptxas(TARGET.arch).path, get_ptxas(100).path]
        for tool in tools:  # the older one may not know the version of the text
            command = [tool, "-v", f"--gpu-name={target}", path, "-o", Path(folder) / "kernel.o"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                said = done.stderr + done.stdout
                spilt = re.search(r"(\d+) bytes spill stores", said)
                return int(re.search(r"Used (\d+) registers", said).group(1)), int(spilt.group(1)) if spilt else 0
        raise RuntimeError(done.stderr)


def calls():
    """Names of calls, and what they do: value and gradients of ordinary shapes and dtypes."""
    for name, dtype in {
        "f32": torch.float32,
        "bf16": torch.bfloat16,
        "f16": torch.float16,
        "f64": torch.float64,
    }.items():

        def scores(*shape, dtype=dtype):
            return torch.randn(shape, dtype=dtype, requires_grad=True)

        def uniform(*shape, dtype=dtype):
            return torch.rand(shape, dtype=dtype)

        yield f"mse {name}", lambda: LF.mse_loss(scores(64, 128), uniform(64, 128))
        yield f"gaussian_nll {name}", lambda: LF.gaussian_nll_loss(scores(64, 128), uniform(64, 128), scores(64, 1))
        yield (
            f"masked bce_with_logits {name}",
            lambda: LF.binary_cross_entropy_with_logits(
                scores(64, 128), uniform(64, 128), mask=torch.rand(64, 1) > 0.5, sample_weight=uniform(128)
            ),
        )
        yield f"poisson_nll {name}", lambda: LF.poisson_nll_loss(scores(64, 128), uniform(64, 128), full=True)
        yield f"huber none {name}", lambda: LF.huber_loss(scores(64, 128), uniform(64, 128), reduction="none").sum()

        def index(classes, *shape):
            return torch.randint(0, classes, shape)

        yield f"cross_entropy 10 {name}", lambda: LF.cross_entropy(scores(64, 10), index(10, 64))
        yield f"cross_entropy 32000 {name}", lambda: LF.cross_entropy(scores(2, 32000), index(32000, 2))
        yield f"cross_entropy 131072 {name}", lambda: LF.cross_entropy(scores(2, 131072), index(131072, 2))
        yield f"cross_entropy maps {name}", lambda: LF.cross_entropy(scores(2, 21, 16, 16), index(21, 2, 16, 16))
        yield (
            f"smoothed {name}",
            lambda: LF.cross_entropy(scores(64, 1000), index(1000, 64), weight=uniform(1000), label_smoothing=0.1),
        )
        yield f"shares {name}", lambda: LF.cross_entropy(scores(64, 1000), uniform(64, 1000).softmax(1))
        yield f"nll {name}", lambda: LF.nll_loss(scores(64, 1000), index(1000, 64))
        yield f"multi_margin {name}", lambda: LF.multi_margin_loss(scores(64, 1000), index(1000, 64))
        yield (
            f"multilabel_margin {name}",
            lambda: LF.multilabel_margin_loss(scores(64, 1000), torch.full((64, 1000), -1)),
        )
        yield f"cosine {name}", lambda: LF.cosine_embedding_loss(scores(64, 128), scores(64, 128), torch.ones(64))
        yield (
            f"triplet {name}",
            lambda: LF.triplet_margin_loss(scores(64, 768), scores(64, 768), scores(64, 768), swap=True),
        )
        labels = (torch.rand(2, 4, 64, 64) > 0.6).to(dtype)
        yield f"dice {name}", lambda: LF.dice_loss(scores(2, 4, 64, 64), labels)
        yield (
            f"dice softmax {name}",
            lambda: LF.dice_loss(scores(2, 21, 64, 64), index(21, 2, 64, 64), activation="softmax", squared=True),
        )
        yield (
            f"dice classes last {name}",
            lambda: LF.dice_loss(
                scores(2, 64, 64, 4).movedim(-1, 1), index(4, 2, 64, 64), activation="softmax", batch=True
            ),
        )
        yield f"generalized dice {name}", lambda: LF.generalized_dice_loss(scores(2, 4, 64, 64), labels)
        yield f"rank_net {name}", lambda: LF.rank_net_loss(scores(64, 100), index(5, 64, 100))
        yield f"rank ndcg2++ {name}", lambda: LF.lambda_loss(scores(64, 300), index(5, 64, 300), scheme="ndcg2++")
        yield (
            f"rank padded {name}",
            lambda: LF.lambda_loss(scores(64, 10), index(5, 64, 10), torch.rand(64, 10) > 0.1, k=3),
        )
        yield f"list_mle {name}", lambda: LF.list_mle_loss(scores(64, 50), index(5, 64, 50))
        yield (
            f"cox {name}",
            lambda: LF.cox_ph_loss(scores(8, 2000), uniform(8, 2000), index(2, 8, 2000), torch.rand(8, 2000) > 0.1),
        )
        yield f"squared_emd {name}", lambda: LF.squared_emd_loss(scores(64, 10), index(10, 64))
        yield f"lovasz_hinge {name}", lambda: LF.lovasz_hinge_loss(scores(2, 64, 64), index(2, 2, 64, 64))
        yield f"lovasz_softmax {name}", lambda: LF.lovasz_softmax_loss(scores(2, 21, 64, 64), index(21, 2, 64, 64))
        lengths = torch.full((4,), 20), torch.full((4,), 5)
        yield f"ctc {name}", lambda: LF.ctc_loss(scores(20, 4, 80), 1 + index(79, 4, 40), *lengths, from_scores=True)
        # Several frames a program. Triton 3.6 has failed to compile a masked load of each frame's facts.
        yield (
            f"short ctc {name}",
            lambda: LF.ctc_loss(scores(25, 4, 10).log_softmax(2), 1 + index(9, 4, 5), *lengths),
        )
        lattice = index(9, 4, 5), torch.full((4,), 12), lengths[1]
        yield f"rnnt {name}", lambda: LF.rnnt_loss(scores(4, 12, 6, 80), *lattice, fastemit_lambda=0.01)
        yield (
            f"rnnt of log-probabilities {name}",
            lambda: LF.rnnt_loss(scores(4, 12, 6, 1200).log_softmax(3), *lattice, clamp=1.0, fused_log_softmax=False),
        )
        yield f"soft_dtw {name}", lambda: LF.soft_dtw_loss(scores(4, 20, 3), scores(4, 30, 3))
        for tags in (9, 64, 100):  # the matrix in registers, as large as it may be, and in columns
            yield (
                f"crf {tags} {name}",
                lambda tags=tags: LF.linear_chain_crf_loss(
                    scores(4, 20, tags), index(tags, 4, 20), scores(tags, tags), scores(tags), scores(tags), lengths[0]
                ),
            )


def main():
    global calling, TARGET
    if len(sys.argv) > 1:
        TARGET = GPUTarget("cuda", int(sys.argv[1]), 32)
    driver.set_active(Driver())
    JITFunction.run = compile_only
    gpu.interpreted = True
    frame._scales = Forgetful()
    for calling, call in calls():  # what is caught is noted under its name
        if len(sys.argv) > 2 and calling.split()[-1] not in sys.argv[2:]:
            continue
        call().backward()
        before = Compiled.repeated
        call().backward()
        once = calling.startswith(("gaussian_nll", "masked", "generalized", "soft_dtw"))  # what the host works out anew
        assert (Compiled.repeated > before) != once, calling
    print(json.dumps(found))


if __name__ == "__main__":
    main()
