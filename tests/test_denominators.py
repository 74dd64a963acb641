"""The denominators of means: of a batch, and of micro-batches and ranks together."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import losskit

LABELS = torch.tensor([[0, 1, 2], [-100, 3, -100]])
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])
KEEP = torch.tensor([[True, False, True], [True, True, True]])
COUNTED = [
    (losskit.CrossEntropyLoss(), LABELS, {}, 4.0),
    (losskit.CrossEntropyLoss(), LABELS, {"mask": KEEP}, 3.0),
    (losskit.CrossEntropyLoss(WEIGHT), LABELS, {}, 10.0),
    (losskit.CrossEntropyLoss(WEIGHT), LABELS, {"sample_weight": torch.tensor([[0.5], [1.0]])}, 7.0),
    (losskit.CrossEntropyLoss(), torch.rand(5, 4, 3), {}, 15.0),
    (losskit.CrossEntropyLoss(), torch.rand(4), {}, 1.0),
    (losskit.linear(losskit.SoftmaxFocalLoss(alpha=WEIGHT)), LABELS, {}, 4.0),
    (losskit.LinearCrossEntropyLoss(3, 4, weight=WEIGHT, ignore_index=2), LABELS.clamp(min=0), {}, 9.0),
    (losskit.MSELoss(), torch.rand(2, 3), {"mask": KEEP}, 5.0),
    (losskit.MSELoss(), torch.rand(()), {}, 1.0),
    (losskit.CompleteBoxIoULoss(), torch.rand(7, 4), {}, 7.0),
    (losskit.CORALLoss(), torch.tensor([0, 1, 2]), {}, 3.0),
]


@pytest.mark.parametrize(("criterion", "target", "extras", "expected"), COUNTED)
def test_what_a_batch_counts(criterion, target, extras, expected):
    assert losskit.count(criterion, target, **extras).item() == expected


def test_it_is_what_the_mean_divides_by():
    scores = torch.randn(2, 4, 3, dtype=torch.float64)
    weight = WEIGHT.double()
    for extras in ({}, {"mask": KEEP}, {"sample_weight": torch.rand(2, 3, dtype=torch.float64), "mask": KEEP}):
        mean = losskit.CrossEntropyLoss(weight)(scores, LABELS, **extras)
        total = losskit.CrossEntropyLoss(weight, reduction="sum")(scores, LABELS, **extras)
        denominator = losskit.count(losskit.CrossEntropyLoss(weight), LABELS, **extras)
        torch.testing.assert_close(total / denominator, mean)


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [
        (lambda: losskit.count(losskit.CTCLoss(), LABELS), TypeError, "depends on the target alone, got ctc_loss"),
        (lambda: losskit.count(losskit.CORNLoss(), LABELS), TypeError, "got corn_loss"),
        (lambda: losskit.count(nn.MSELoss(), LABELS), TypeError, "got MSELoss"),
        (lambda: losskit.count(losskit.MSELoss(), [1.0]), TypeError, "target must be a tensor"),
        (lambda: losskit.count(losskit.MSELoss(), WEIGHT, mask=KEEP), ValueError, "must broadcast"),
        (lambda: losskit.count(losskit.MSELoss(), WEIGHT, mask=WEIGHT), TypeError, "mask must be boolean"),
        (losskit.normalizer, TypeError, "at least one count"),
    ],
)
def test_refusals(mistake, kind, words):
    with pytest.raises(kind, match=words):
        mistake()


def batches():
    """Four micro-batches, two of each rank, with more and less padding."""
    torch.manual_seed(0)
    x, target = torch.randn(4, 6, 5), torch.randint(0, 4, (4, 6))
    target[0, 1:] = target[2, 3:] = -100
    return x, target


def ranks(rank, store, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    torch.manual_seed(1)
    model = DistributedDataParallel(nn.Linear(5, 4))
    criterion = losskit.CrossEntropyLoss(WEIGHT)
    x, target = (part[2 * rank : 2 * rank + 2] for part in batches())
    whole = losskit.normalizer(*(losskit.count(criterion, y) for y in target))
    with model.no_sync():
        criterion(model(x[0]), target[0], normalizer=whole).backward()
    criterion(model(x[1]), target[1], normalizer=whole).backward()
    torch.save(model.module.weight.grad, f"{out}/{rank}")
    dist.barrier()  # a rank that leaves first would end the connection of the other
    dist.destroy_process_group()


def test_micro_batches_of_ranks_are_the_whole_batch(tmp_path):
    mp.spawn(ranks, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    torch.manual_seed(1)
    model, (x, target) = nn.Linear(5, 4), batches()
    losskit.CrossEntropyLoss(WEIGHT)(model(x).flatten(0, 1), target.flatten()).backward()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / str(rank)), model.weight.grad)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32], ids=str)
def test_questions_asked_of_many_rows(dtype):
    """The mean of CORN divides by the questions that classes are asked, looked up or counted one by one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 5, (60,), generator=generator)
    weight, mask = torch.rand(60, generator=generator, dtype=torch.float64), torch.arange(60) % 3 > 0
    asked, target = classes.clamp(max=3) + 1, classes.to(dtype)
    rows = losskit.CORNLoss("none")(x, target)
    torch.testing.assert_close(losskit.CORNLoss()(x, target), rows.sum() / asked.sum())
    got = losskit.CORNLoss()(x, target, sample_weight=weight, mask=mask)
    torch.testing.assert_close(got, (rows * weight * mask).sum() / (asked * weight * mask).sum())
    if dtype != torch.uint8:
        target[0], target[1] = -7, 99  # outside: asked nothing, and everything
        with losskit.checks("off"):
            rows = losskit.CORNLoss("none")(x, target)
            asked[0], asked[1] = 0, 4
            torch.testing.assert_close(losskit.CORNLoss()(x, target), rows.sum() / asked.sum())
