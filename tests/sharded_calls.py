"""What the ranks of test_dtensor.py run: every loss on DTensors, compared with the same call on the whole tensors."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sharded_head_calls import check_groups, check_groups_that_disagree, check_heads
from sharded_losses import CLASSES, LOSSES, ROWS, Call, OwnScoresLoss, T
from sharded_operands import OF_ONE_DIMENSION, OF_TWO, VARIANTS, backward, message, spread, whole
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module

import losskit
import losskit.functional as LF
from losskit.errors import MESSAGES

# ---------------------------------------------------------------------------------------------------------
# Right values and gradients


def compare(what: str, call: Call, given: dict[str, Any], spread_out: dict[str, Any], every: bool) -> None:
    """The loss and the gradients of a call on spread tensors are those on whole tensors."""

    def run(tensors: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        leaves = {
            name: x.detach().requires_grad_(x.is_floating_point() and (every or i == 0))
            for i, (name, x) in enumerate(tensors.items())
        }
        loss = call(**leaves)
        backward(loss)
        return loss, {name: x.grad for name, x in leaves.items()}

    right, right_gradients = run(given)
    loss, gradients = run(spread_out)
    assert isinstance(loss, DTensor), f"{what}: {type(loss)}"
    if right.ndim == 0:
        assert all(p == Replicate() for p in loss.placements), f"{what}: {loss.placements}"
    torch.testing.assert_close(whole(loss), right, rtol=3e-6, atol=1e-6, msg=lambda m: f"{what}: loss: {m}")
    for name, expected in right_gradients.items():
        if expected is not None:
            torch.testing.assert_close(
                whole(gradients[name]), expected, rtol=1e-5, atol=1e-7, msg=lambda m, name=name: f"{what}: {name}: {m}"
            )


def check_loss(mesh: DeviceMesh, name: str) -> None:
    """A loss on all placements, with as many variants of the call as fit into the time."""
    function, operands, options, tensors, extras = LOSSES[name]
    first = list(LOSSES).index(name)
    for place, placements in enumerate(OF_ONE_DIMENSION if mesh.ndim == 1 else OF_TWO):
        for variant in range(0, 9, 4 if mesh.size() == 2 else 5):
            reduction, more, plain, every = VARIANTS[(first + place + variant) % 9]
            given = {f"operand{i}": T[key] for i, key in enumerate(operands)}
            given |= {key: T[value] for key, value in tensors.items()}
            if more == "extras":
                given |= {key: T[value] for key, value in extras.items()}
            keywords = {**options, "reduction": reduction}
            if more == "normalizer":
                keywords["normalizer"] = spread(torch.tensor(3.5), mesh, [Replicate()] * mesh.ndim)

            def call(keywords: dict[str, Any] = keywords, **leaves: Tensor) -> Tensor:
                of_whole = not any(isinstance(x, DTensor) for x in leaves.values())
                known = {key: whole(x) if of_whole else x for key, x in keywords.items()}
                taken = [leaves.pop(f"operand{i}") for i in range(len(operands))]
                return function(*taken, **leaves, **known)

            if plain and name == "triplet_margin_with_distance":
                continue  # the user's own distance meets a DTensor and a plain tensor, which torch refuses
            rowless = [p if not isinstance(p, Partial) else Replicate() for p in placements]
            spread_out = {
                key: x if plain and i else spread(x, mesh, placements if i == 0 else rowless)
                for i, (key, x) in enumerate(given.items())
            }
            what = f"{name} {placements} {reduction} {more} plain={plain} every={every}"
            compare(what, call, given, spread_out, every)


# ---------------------------------------------------------------------------------------------------------
# The rest


def check_bad_values(mesh: DeviceMesh) -> None:
    """What one rank finds is raised on all of them, with the index in the whole tensor, and no rank hangs."""
    last = ROWS - 1
    labels, soft, log_p, q, texts = (T[key].clone() for key in ("labels", "soft", "log_p", "q", "texts"))
    labels[last], soft[last, 4], log_p[last, int(labels[1])], q[last, 4], texts[last, 0] = 9, 1.5, 0.5, 1.5, 77
    right = T["labels"].clone()
    right[last] = labels[1]
    for rows, columns in (([Shard(0)], [Shard(1)]), ([Shard(1)], [Shard(0)]), ([Replicate()], [Shard(0)])):
        over = rows if mesh.ndim == 1 else [*rows, *columns]
        told = [
            (lambda: LF.cross_entropy(spread(T["scores"], mesh, over), labels),
             f"cross_entropy: target must be a class in [0, 5), got 9 at row ({last},)."),
            (lambda: LF.cross_entropy(spread(T["scores"], mesh, over), spread(soft, mesh, over), reduction="none"),
             f"cross_entropy: target must be in [0, 1], got 1.5 at index ({last}, 4)."),
            (lambda: LF.nll_loss(spread(log_p, mesh, over), right), "nll_loss: input must be a log-probability (at "
             f"most 0), got 0.5 at index ({last}, {int(labels[1])}). Pass log_softmax(scores, dim=1)."),
            (lambda: LF.binary_cross_entropy_with_logits(spread(T["x"], mesh, over), spread(q, mesh, over)),
             f"binary_cross_entropy_with_logits: target must be in [0, 1], got 1.5 at index ({last}, 4)."
             " Labels are 0 and 1; for more classes use cross_entropy."),
            (lambda: LF.multi_margin_loss(spread(T["x"], mesh, over), labels),
             f"multi_margin_loss: target must be a class in [0, 5), got 9 at row ({last},)."),
            (lambda: LF.ctc_loss(spread(T["frames"], mesh, over), texts, T["frame_counts"], T["lengths"]),
             f"ctc_loss: targets must be labels in [0, 5), got 77 at index ({last}, 0)."),
            (lambda: LF.cosine_embedding_loss(spread(T["x"], mesh, over), T["y"], T["row_signs"] * 2),
             f"cosine_embedding_loss: target must be -1 or 1, got {T['row_signs'][0] * 2:.7g} at index (0,). "
             "For labels 0 and 1 pass 2 * target - 1."),
        ]  # fmt: skip
        for call, sentence in told:
            got = message(call)
            assert got.split(": ", 1)[1] == sentence, f"{over}: {got}"


def check_other_modes(mesh: DeviceMesh) -> None:
    """Under "nan" and "off" a label that is no class makes its row NaN, on all ranks."""
    labels = T["labels"].clone()
    labels[6] = 9
    for mode in ("nan", "off"):
        for placement in (Shard(0), Shard(1)):
            with losskit.checks(mode):
                scores = spread(T["scores"], mesh, [placement] * mesh.ndim).requires_grad_()
                loss = LF.cross_entropy(scores, labels, reduction="none")
                backward(loss)
            assert whole(loss).isnan().tolist() == [False] * 6 + [True]
            assert whole(scores.grad).isnan().any(1).tolist() == [False] * 6 + [True]


def check_messages(mesh: DeviceMesh) -> None:
    """What is told about DTensors themselves."""
    x = spread(T["x"], mesh, [Shard(0)] * mesh.ndim)
    half = init_device_mesh("cpu", (mesh.size(), 1))
    plain = "A plain tensor beside a DTensor is taken as whole, the same on every rank; for a rank's part use"
    told = {
        "mesh": (lambda: LF.mse_loss(x, spread(T["y"], half, [Shard(0), Replicate()])),
                 "mse_loss: target is a DTensor on another mesh than input. Use target.full_tensor(): a plain tensor is "
                 "taken as whole, the same on every rank."),
        "part": (lambda: LF.mse_loss(x, T["y"][:4]), "mse_loss: input (7, 5) and target (4, 5) must have the same "
                 f"shape. {plain} DTensor.from_local."),
        "not_plain": (lambda: losskit.AdaptiveLogSoftmaxWithLoss(5, 9, [4])(x, T["labels"]),
                      "adaptive_log_softmax_with_loss: input must be a plain tensor, got a DTensor. Use "
                      "input.full_tensor(), or input.to_local() and normalizer=."),
        "shapes": (lambda: LF.mse_loss(x, spread(T["y"][:4], mesh, [Shard(0)] * mesh.ndim)),
                   "mse_loss: input (7, 5) and target (4, 5) must have the same shape."),
    }  # fmt: skip
    for kind, (call, sentence) in told.items():
        got = message(call)
        assert got.split(": ", 1) == [f"{MESSAGES[kind][0].__name__} {kind}", sentence], got


def check_failure_elsewhere(mesh: DeviceMesh) -> None:
    """Whatever stops one rank is told to the others."""
    plan, fused = losskit.MSELoss()._planned(), losskit.MSELoss()._planned().fused

    def failing(*arguments: Any) -> Tensor:
        if dist.get_rank() == 1:
            raise MemoryError("no memory")
        return fused(*arguments)

    plan.fused = failing
    got = message(lambda: LF.mse_loss(spread(T["x"], mesh, [Shard(0)] * mesh.ndim), T["y"]))
    del plan.fused
    here = "MemoryError None: no memory"
    elsewhere = "RankError elsewhere: mse_loss: rank 1 stopped with MemoryError: no memory"
    assert got == (here if dist.get_rank() == 1 else elsewhere), got


def check_tensor_parallel(mesh: DeviceMesh) -> None:
    """A model whose last layer has its classes on different ranks, inside of loss_parallel and outside."""
    if mesh.ndim > 1:
        return
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(CLASSES, 8))
    (right,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(T["x"]), T["labels"]), model[0].weight)
    parallelize_module(model, mesh, {"0": ColwiseParallel(use_local_output=False)})
    for context in (contextlib.nullcontext, loss_parallel):
        model.zero_grad()
        with context():
            losskit.CrossEntropyLoss()(model(T["x"]), T["labels"]).backward()
        torch.testing.assert_close(model[0].weight.grad.full_tensor(), right)


def check_memory(mesh: DeviceMesh) -> None:
    """Classes are never gathered: what goes from rank to rank is a number a row, or less."""
    if mesh.ndim > 1:
        return
    sizes, all_reduce = [], dist.all_reduce
    scores = spread(torch.randn(4, 1000), mesh, [Shard(1)]).requires_grad_()
    soft = spread(torch.rand(4, 1000), mesh, [Shard(1)])
    dist.all_reduce = lambda x, *arguments: (sizes.append(x.numel()), all_reduce(x, *arguments))[1]
    with CommDebugMode() as counted:
        for target in (torch.arange(4), soft):
            LF.cross_entropy(scores, target, label_smoothing=0.1, weight=torch.rand(1000)).backward()
            OwnScoresLoss.functional(scores, target).backward()
    dist.all_reduce = all_reduce
    assert max(sizes) == 4
    assert [str(op) for op in counted.get_comm_counts()] == ["c10d.allreduce_"]
    assert scores.grad.placements == (Shard(1),)


def check_edges(mesh: DeviceMesh) -> None:
    """Infinite and missing scores, nothing to take a mean of, halves: what whole tensors give."""
    scores = T["scores"].clone()
    scores[0, 1], scores[1, 4], scores[2, 0], scores[5, 3] = float("nan"), float("inf"), float("inf"), -float("inf")
    for placement in (Shard(0), Shard(1)):
        over = [placement] * mesh.ndim
        loss = LF.cross_entropy(spread(scores, mesh, over), T["labels"], reduction="none")
        right = LF.cross_entropy(scores, T["labels"], reduction="none")
        torch.testing.assert_close(whole(loss), right, equal_nan=True)
        for rule, nothing in (("nan", float("nan")), ("zero", 0.0)):
            x = spread(scores, mesh, over).requires_grad_()
            with losskit.empty(rule):
                loss = LF.cross_entropy(x, T["labels"], mask=torch.zeros(ROWS, dtype=torch.bool))
            loss.backward()
            torch.testing.assert_close(whole(loss), torch.tensor(nothing), equal_nan=True)
            assert not whole(x.grad).any()
        for dtype in (torch.bfloat16, torch.float16):
            for call, other in ((LF.cross_entropy, "labels"), (LF.mse_loss, "y")):
                x = T["x"].to(dtype)
                got = call(spread(x, mesh, over), T[other])
                assert got.dtype == call(x, T[other]).dtype
                torch.testing.assert_close(whole(got), call(x, T[other]), rtol=0, atol=0)


def check_second_derivatives(mesh: DeviceMesh) -> None:
    """The gradient of a function of the gradient."""

    def twice(x: Tensor, call: Call, other: Tensor, reduction: str) -> Tensor:
        x = x.detach().requires_grad_()
        loss = call(x, other, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss if loss.ndim == 0 else (loss * loss).sum(), x, create_graph=True)
        (gradient * gradient).sum().backward()
        return whole(x.grad)

    for placement in (Shard(0), Shard(1), Replicate()):
        for reduction in ("mean", "none"):
            for call, other in (
                (LF.cross_entropy, "labels"), (LF.huber_loss, "y"), (OwnScoresLoss.functional, "ignored")
            ):  # fmt: skip
                over = spread(T["scores"], mesh, [placement] * mesh.ndim)
                got, right = (twice(x, call, T[other], reduction) for x in (over, T["scores"]))
                torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-6, msg=lambda m: f"{placement}: {m}")


def check_why(mesh: DeviceMesh) -> None:
    """`why` says what each rank runs."""
    on = {p: spread(T["scores"], mesh, [p] * mesh.ndim) for p in (Shard(0), Shard(1), Replicate())}
    fused = (
        "fused CPU kernel: one pass over float32 and int64 operands, the gradient written in forward, autograd in C++; "
    )
    told = {
        Shard(0): fused + "each rank computes its part of the rows of a DTensor",
        Shard(1): "eager formula: each rank has a part of the classes; maxima, sums and the score of the right class, "
        "one number a row, are reduced over the ranks",
        Replicate(): fused + "every rank computes all rows",
    }
    for placement, x in on.items():
        assert str(losskit.why(losskit.CrossEntropyLoss(), x, T["labels"])) == told[placement]


def check_compiled(mesh: DeviceMesh) -> None:
    """torch.compile gives what the call gives, in one graph; a label that one rank finds bad makes its row NaN."""
    if mesh.size() > 2:  # tracing takes longer than all other checks
        return
    bad = T["labels"].clone()
    bad[6] = 9
    for placement in (Shard(0), Shard(1)):
        compiled = torch.compile(LF.cross_entropy, backend="eager", fullgraph=True)
        x = spread(T["scores"], mesh, [placement] * mesh.ndim).requires_grad_()
        compiled(x, T["labels"]).backward()
        y = T["scores"].clone().requires_grad_()
        LF.cross_entropy(y, T["labels"]).backward()
        torch.testing.assert_close(whole(x.grad), y.grad)
        assert whole(compiled(x, bad)).isnan()


def check_plain_first(mesh: DeviceMesh) -> None:
    """The first operand may be the plain one: its gradient is whole on every rank."""
    for call, target in ((LF.mse_loss, "y"), (LF.cross_entropy, "labels"), (LF.cross_entropy, "soft")):
        for placement in (Shard(0), Shard(1), Replicate()):
            x, y = (T["scores"].clone().requires_grad_() for _ in range(2))
            call(x, spread(T[target], mesh, [placement] * mesh.ndim)).backward()
            call(y, T[target]).backward()
            torch.testing.assert_close(x.grad, y.grad)


def check_partial(mesh: DeviceMesh) -> None:
    """Partial scores beside sharded targets are summed and taken by rows."""
    for call, target in ((LF.mse_loss, "y"), (LF.cross_entropy, "labels")):
        x = spread(T["scores"], mesh, [Partial()] * mesh.ndim).detach().requires_grad_()
        loss = call(x, spread(T[target], mesh, [Shard(0)] * mesh.ndim))
        y = T["scores"].clone().requires_grad_()
        right = call(y, T[target])
        loss.backward()
        right.backward()
        torch.testing.assert_close(whole(loss), right)
        torch.testing.assert_close(whole(x.grad), y.grad)


def check_broadcasting(mesh: DeviceMesh) -> None:
    """Without checks, shapes broadcast as those of the whole tensors do."""
    column, row = T["column"], T["per_class"]
    for first, second in ((column, row), (row, T["x"]), (T["x"], column)):
        for over in ((Shard(0), Replicate()), (Replicate(), Shard(0)), (Shard(0), Shard(0))):
            a, b = (x.clone().requires_grad_() for x in (first, second))
            spread_out = [spread(x, mesh, [p] * mesh.ndim).requires_grad_() for x, p in zip((first, second), over)]
            with losskit.checks("off"):
                right, got = LF.mse_loss(a, b), LF.mse_loss(*spread_out)
            right.backward()
            got.backward()
            torch.testing.assert_close(whole(got), right)
            for x, y in zip(spread_out, (a, b)):
                torch.testing.assert_close(whole(x.grad), y.grad)


CHECKS: dict[str, Callable[[DeviceMesh], None]] = {
    **{name: partial(check_loss, name=name) for name in LOSSES},
    **{
        check.__name__: check
        for check in (
            check_bad_values, check_other_modes, check_messages, check_failure_elsewhere, check_tensor_parallel,
            check_heads, check_groups, check_groups_that_disagree, check_memory, check_edges, check_second_derivatives, check_why, check_compiled,
            check_plain_first, check_partial, check_broadcasting,
        )
    },
}  # fmt: skip


def work(rank: int, meshes: Sequence[tuple[int, ...]], store: str, out: str) -> None:
    """Run all checks as one rank, and write down what was wrong."""
    size = math.prod(meshes[0])
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # torch's remarks on which collectives gloo has
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    patience = datetime.timedelta(seconds=120)
    files = dist.FileStore(store, size)
    dist.init_process_group("gloo", store=files, rank=rank, world_size=size, timeout=patience)
    wrong: dict[str, str] = {}
    for shape in meshes:
        mesh = init_device_mesh("cpu", shape)
        for name, check in CHECKS.items():
            Path(out, f"{rank}.at").write_text(f"{name} on {shape}")
            try:
                check(mesh)
            except Exception:
                wrong[f"{name} on {shape}, rank {rank}"] = traceback.format_exc(limit=-4)
    Path(out, f"{rank}.json").write_text(json.dumps(wrong))
    dist.destroy_process_group()
