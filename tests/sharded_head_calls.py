"""What the ranks of test_dtensor.py run of heads: classes and rows that ranks share, as DTensors and in plain groups."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from unittest import mock

import torch
from sharded_operands import backward, message, spread, whole
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import loss_parallel

import losskit
import losskit.functional as LF
from losskit.layers import heads
from losskit.layers.head_calls import Head


def check_heads(mesh: DeviceMesh) -> None:
    """Features times weights of which each rank has some classes, or features of which each has some rows: in chunks,
    which are the whole."""
    torch.manual_seed(1)
    x, weight, bias, target = torch.randn(5, 3, 6), torch.randn(11, 6), torch.randn(11), torch.randint(0, 11, (5, 3))
    target[1, 1] = -100
    weights, mask = torch.rand(11), torch.rand(3) > 0.3
    no, one, classes = Replicate(), Shard(0), Shard(0)
    if mesh.ndim == 1:
        places = [([no], [classes]), ([one], [no]), ([Shard(1)], [no]), ([Shard(1)], [classes]), ([Shard(2)], [no])]
    else:
        places = [([one, no], [no, classes]), ([Shard(1), one], [no, no]), ([no, no], [classes, classes])]
    criteria = [
        losskit.CrossEntropyLoss(weights, label_smoothing=0.1),
        losskit.ArcFaceLoss(),
        losskit.SoftmaxFocalLoss(),
    ]
    for criterion, reduction in itertools.product(criteria, ("mean", "sum", "none")):
        criterion.reduction = reduction
        scale = 0.05 if isinstance(criterion, losskit.ArcFaceLoss) else 1.0
        for of_input, of_weight in places:
            leaves = [scale * x, weight, scale * bias]
            leaves = [leaf.clone().requires_grad_() for leaf in leaves]
            head = losskit.linear(criterion, z_loss=0.01)
            right = head(leaves[0], leaves[1], target, linear_bias=leaves[2], mask=mask)
            backward(right)
            how = of_input, of_weight, of_weight
            parts = [spread(leaf.detach(), mesh, p).requires_grad_() for leaf, p in zip(leaves, how, strict=True)]
            with chunks_of(2):
                loss = head(
                    parts[0], parts[1], spread(target, mesh, of_input[:1] * mesh.ndim), linear_bias=parts[2], mask=mask
                )
                backward(loss)
            what = f"{criterion} {of_input} {of_weight}"
            torch.testing.assert_close(whole(loss), right, msg=lambda m, what=what: f"{what}: {m}")
            for part, leaf in zip(parts, leaves, strict=True):
                assert part.grad.placements == part.placements, what
                torch.testing.assert_close(
                    whole(part.grad), leaf.grad, rtol=1e-5, atol=1e-6, msg=lambda m, w=what: f"{w}: {m}"
                )
    wrong = target.clone()
    wrong[4, 2] = 30
    for of_input, of_weight in places:
        parts = spread(x, mesh, of_input), spread(weight, mesh, of_weight), spread(wrong, mesh, [no] * mesh.ndim)
        told = message(lambda parts=parts: LF.linear_cross_entropy(*parts))
        assert "must be a class in [0, 11), got 30 at row (4, 2)" in told, told
    told = message(lambda: LF.linear_cross_entropy(x, parts[1], target))
    assert "linear_weight is a DTensor but input is a plain tensor" in told, told
    with loss_parallel():
        loss = LF.linear_cross_entropy(spread(x, mesh, places[0][0]), spread(weight, mesh, places[0][1]), target)
    torch.testing.assert_close(whole(loss), LF.linear_cross_entropy(x, weight, target))


@contextlib.contextmanager
def chunks_of(rows: int) -> Iterator[None]:
    """Chunks of so many rows of eleven classes, whoever has them; and no rank may make all scores."""
    scores = Head.scores

    def of_no_rows(head: Head) -> Tensor:
        assert not len(head.input), "all scores were made"
        return scores(head)

    with mock.patch.object(heads, "_CHUNK", rows * 11 * 4), mock.patch.object(Head, "scores", of_no_rows):
        yield


def check_groups(mesh: DeviceMesh) -> None:
    """The same without DTensors: each rank of a group calls with the weights of its classes, and all rows or its own."""
    if mesh.ndim > 1:
        return
    rank, size, group = mesh.get_local_rank(), mesh.size(), mesh.get_group()
    torch.manual_seed(1)
    x, weight, target = torch.randn(7, 3, 6), torch.randn(11, 6), torch.randint(0, 11, (7, 3))
    target[1, 1] = -100
    weights, per_row = torch.rand(11), torch.rand(7, 3)
    sizes = [11 // size + (r < 11 % size) for r in range(size)]
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    counts = [7 // size + (r < 7 % size) for r in range(size)]
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    criteria = [
        losskit.CrossEntropyLoss(weights, label_smoothing=0.1),
        losskit.ArcFaceLoss(),
        losskit.SoftmaxFocalLoss(),
    ]
    for criterion, reduction, sequences in itertools.product(criteria, ("mean", "sum", "none"), (False, True)):
        criterion.reduction = reduction
        rows = mine if sequences else slice(None)
        leaves = [(0.05 * x).requires_grad_(), weight.clone().requires_grad_()]
        right = losskit.linear(criterion, z_loss=0.01)(*leaves, target, sample_weight=per_row)
        backward(right)
        parts = [leaves[0].detach()[rows].clone().requires_grad_(), weight[own].clone().requires_grad_()]
        head = losskit.linear(criterion, z_loss=0.01, group=group, sequence_parallel=sequences)
        with chunks_of(2):
            loss = head(*parts, target[rows], sample_weight=per_row[rows])
            c = torch.linspace(1.0, 2.0, 21).reshape(7, 3)[rows] if reduction == "none" else torch.ones(())
            loss.backward(c)
        what = f"{criterion} {sequences}"
        torch.testing.assert_close(
            loss, right[rows] if reduction == "none" else right, msg=lambda m, w=what: f"{w}: {m}"
        )
        for part, leaf in ((parts[0].grad, leaves[0].grad[rows]), (parts[1].grad, leaves[1].grad[own])):
            torch.testing.assert_close(part, leaf, rtol=1e-5, atol=1e-6, msg=lambda m, w=what: f"{w}: {m}")
    q = torch.rand(7, 3, 11)
    soft = LF.linear_cross_entropy(x, weight[own], q[..., own], group=group)
    torch.testing.assert_close(soft, LF.linear_cross_entropy(x, weight, q))


def check_groups_that_disagree(mesh: DeviceMesh) -> None:
    """What does not belong together is refused on all ranks, which would wait for each other otherwise."""
    if mesh.ndim > 1:
        return
    last, group = mesh.get_local_rank() == mesh.size() - 1, mesh.get_group()
    x, weight, target = torch.randn(6, 4), torch.randn(5, 4, requires_grad=True), torch.zeros(6, dtype=torch.int64)
    wrong = [
        ("rows", {"input": x[:5], "target": target[:5]}), ("features", {"input": x[:, :3], "linear_weight": weight[:, :3]}),
        ("other settings", {"label_smoothing": 0.1}), ("other settings", {"linear_weight": weight.detach()}),
        ("other settings", {"reduction": "sum"}), ("other settings", {"sample_weight": torch.ones(6)}),
        ("must be a tensor", {"linear_weight": [1.0]}), ("must be a class", {"target": target + 99}),
        ("must be class indices of shape", {"target": target[:5]}), ("head", {"linear_weight": weight[:, :3]}),
    ]  # fmt: skip
    for what, changed in wrong:
        given = {"input": x, "linear_weight": weight, "target": target} | (changed if last else {})
        told = message(lambda given=given: LF.linear_cross_entropy(**given, group=group))
        assert what in told, told
    for what, changed in [
        ("target must have the shape (6,)", {"target": target[:5]}), ("sample_weight must have the shape (6,)", {"sample_weight": torch.ones(4)}),
        ("must be a class", {"target": target + 99}), ("features", wrong[1][1]),
    ]:  # fmt: skip
        given = {"input": x, "linear_weight": weight, "target": target, "sample_weight": torch.ones(6)}
        given |= changed if last else {}
        told = message(lambda given=given: LF.linear_cross_entropy(**given, group=group, sequence_parallel=True))
        assert what in told, told
    told = message(lambda: LF.linear_cross_entropy(x, weight, torch.rand(6, 5), group=group, sequence_parallel=True))
    assert "sequences" in told, told
    kd = losskit.KnowledgeDistillationLoss()
    told = message(lambda: losskit.linear(kd, group=group))
    assert "ranks cannot share the classes of a loss of two rows, got a group" in told, told
    own = spread(x, mesh, [Replicate()])
    told = message(lambda: losskit.linear(kd)(own, weight, torch.randn(6, 5)))
    assert "ranks cannot share rows and classes of a loss of two rows, got a DTensor" in told, told
    loss = LF.linear_cross_entropy(x, weight, target, group=group)  # and nobody is left behind
    assert loss.isfinite()
