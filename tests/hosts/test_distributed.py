"""Two processes (gloo): DistributedDataParallel and FSDP2 on shares of different sizes make the step of the whole batch."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from agreement import FLOAT32, assert_near, flat
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import losskit

draw = torch.Generator().manual_seed(0)
INPUT = torch.randn(12, 6, generator=draw)
LABELS = torch.randint(0, 5, (12,), generator=draw)
LABELS[[0, 1, 2, 8]] = -100
NUMBERS = torch.randn(12, 5, generator=draw)
KNOWN = torch.rand(12, 5, generator=draw) > 0.4
WEIGHT = torch.arange(1.0, 6)
SHARES = [slice(0, 5), slice(5, 12)]
MICRO = [[slice(0, 2), slice(2, 5)], [slice(5, 9), slice(9, 12)]]

# A loss of the outputs for some rows, and the denominator of its mean over those rows.
CASES: dict[str, tuple[Callable[..., Tensor], Callable[[slice], Tensor]]] = {
    "cross entropy": (
        lambda o, rows, **kw: losskit.CrossEntropyLoss(label_smoothing=0.1)(o, LABELS[rows], **kw),
        lambda rows: (LABELS[rows] != -100).sum(),
    ),
    "cross entropy, weighted": (
        lambda o, rows, **kw: losskit.CrossEntropyLoss(weight=WEIGHT)(o, LABELS[rows], **kw),
        lambda rows: WEIGHT[LABELS[rows][LABELS[rows] != -100]].sum(),
    ),
    "huber, masked": (
        lambda o, rows, **kw: losskit.HuberLoss(delta=0.5)(o, NUMBERS[rows], mask=KNOWN[rows], **kw),
        lambda rows: KNOWN[rows].sum(),
    ),
    "mse": (
        lambda o, rows, **kw: losskit.MSELoss()(o, NUMBERS[rows], **kw),
        lambda rows: torch.tensor(NUMBERS[rows].numel()),
    ),
    "bce, weights of samples": (
        lambda o, rows, **kw: losskit.BCEWithLogitsLoss()(
            o, KNOWN[rows].float(), sample_weight=NUMBERS[rows].abs(), **kw
        ),
        lambda rows: NUMBERS[rows].abs().sum(),
    ),
}


class Inside(nn.Module):
    """A network that ends in its loss, whose weight is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.loss = losskit.CrossEntropyLoss(weight=WEIGHT)

    def forward(self, x, y, normalizer):
        return self.loss(self.net(x), y, normalizer=normalizer)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def gradient(model: nn.Module) -> Tensor:
    return flat(p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in model.parameters())


def of_whole_batch(loss: Callable[..., Tensor]) -> Tensor:
    model = network()
    loss(model(INPUT), slice(None)).backward()
    return gradient(model)


def sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPED = {"DDP": DistributedDataParallel, "FSDP2": sharded}


def of_shares(rank: int, wrap: str, case: str) -> None:
    """The denominator is counted by all: half of it, because the gradients of two ranks are averaged."""
    loss, counted = CASES[case]
    rows = SHARES[rank]
    total = counted(rows).float()
    dist.all_reduce(total)
    model = WRAPPED[wrap](network())
    loss(model(INPUT[rows]), rows, normalizer=total / 2).backward()
    assert_near(gradient(model), of_whole_batch(loss), FLOAT32)


def accumulated(rank: int) -> None:
    loss, counted = CASES["cross entropy, weighted"]
    half = counted(slice(None)) / 2
    model = DistributedDataParallel(network())
    first, second = MICRO[rank]
    with model.no_sync():
        loss(model(INPUT[first]), first, normalizer=half).backward()
    loss(model(INPUT[second]), second, normalizer=half).backward()
    assert_near(gradient(model), of_whole_batch(loss), FLOAT32)


def inside(rank: int, wrap: str) -> None:
    loss, counted = CASES["cross entropy, weighted"]
    model = WRAPPED[wrap](Inside())
    rows = SHARES[rank]
    model(INPUT[rows], LABELS[rows], counted(slice(None)) / 2).backward()
    assert_near(gradient(model), of_whole_batch(loss), FLOAT32)


def trained(rank: int, wrap: str) -> None:
    """A few steps of equal shares, torch's loss and losskit's."""
    rows = slice(6 * rank, 6 * rank + 6)
    ends = []
    for loss in (losskit.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1)):
        model = WRAPPED[wrap](network())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss(model(INPUT[rows]), LABELS[rows]).backward()
            optimizer.step()
        ends.append(flat(p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()))
    assert_near(ends[0], ends[1], FLOAT32)


TASKS: dict[str, Callable[[int], None]] = {
    **{f"{wrap}: {case}": lambda rank, w=wrap, c=case: of_shares(rank, w, c) for wrap in WRAPPED for case in CASES},
    **{f"{wrap}: the loss inside": lambda rank, w=wrap: inside(rank, w) for wrap in WRAPPED},
    **{f"{wrap}: steps": lambda rank, w=wrap: trained(rank, w) for wrap in WRAPPED},
    "DDP: accumulated": accumulated,
}


def work(rank: int, meeting: str, failures) -> None:
    """All tasks in one process: starting it costs more than they do."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for name, task in TASKS.items():
        try:
            task(rank)
        except Exception:
            failures[name] = failures.get(name, "") + f"rank {rank}: {traceback.format_exc()}"
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        found = manager.dict()
        torch.multiprocessing.spawn(work, (str(tmp_path_factory.mktemp("gloo") / "meeting"), found), nprocs=2)
        yield dict(found)


@pytest.mark.parametrize("name", TASKS)
def test_two_processes(failures, name):
    assert name not in failures, failures[name]
