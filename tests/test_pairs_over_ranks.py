"""Losses of pairs over two ranks: each has some rows, and the columns of both; one process has everything."""

import traceback

import pytest
import torch
import torch.distributed as dist

import losskit
import losskit.functional as LF

A, B = torch.randn(2, 11, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(11) % 4
SPLIT = 7  # of the rows, those of the first rank


def parts(x, rank):
    return x[:SPLIT] if rank == 0 else x[SPLIT:]


def gathered(x):
    """What other ranks have."""
    return losskit.gather_rows(x)[len(x) :]


def info_nce(a, b, y):
    return LF.info_nce_loss(a, losskit.gather_rows(b), normalizer=11.0)


def siglip(a, b, y):
    return LF.siglip_loss(a, losskit.gather_rows(b), normalizer=11.0)


def clip(a, b, y):
    """Each direction by itself."""
    one, other = losskit.gather_rows(a), losskit.gather_rows(b)
    scale = 1 / 14.285714285714286
    given = {"temperature": scale, "normalizer": 11.0}
    return 0.5 * (LF.info_nce_loss(a, other, **given) + LF.info_nce_loss(b, one, **given))


def clip_of_all(a, b, y):
    """The whole loss on both ranks, of which each counts its half."""
    return LF.clip_loss(losskit.gather_rows(a), losskit.gather_rows(b)) / 2


def nt_xent(a, b, y):
    more = torch.cat([gathered(a), gathered(b)])
    return LF.nt_xent_loss(a, b, more, normalizer=22.0)


def sup_con(a, b, y):
    return LF.sup_con_loss(a, y, gathered(a), gathered(y), normalizer=11.0)


def circle(a, b, y):
    return LF.circle_loss(a, y, gathered(a), gathered(y), normalizer=11.0)


def batch_hard(a, b, y):
    return LF.batch_hard_triplet_loss(a, y, gathered(a), gathered(y), normalizer=11.0)


TASKS = {f.__name__: f for f in (info_nce, siglip, clip, clip_of_all, nt_xent, sup_con, circle, batch_hard)}
# In one process there are no further columns.
WHOLE = {
    "info_nce": lambda a, b: LF.info_nce_loss(a, b), "siglip": lambda a, b: LF.siglip_loss(a, b),
    "clip": lambda a, b: LF.clip_loss(a, b), "clip_of_all": lambda a, b: LF.clip_loss(a, b),
    "nt_xent": lambda a, b: LF.nt_xent_loss(a, b), "sup_con": lambda a, b: LF.sup_con_loss(a, Y),
    "circle": lambda a, b: LF.circle_loss(a, Y), "batch_hard": lambda a, b: LF.batch_hard_triplet_loss(a, Y),
}  # fmt: skip


def run(rank, name):
    """The ranks' losses add up to that of all rows, and each rank has the gradient by its own."""
    whole = [A.clone().requires_grad_(), B.clone().requires_grad_()]
    right = WHOLE[name](*whole)
    expected = torch.autograd.grad(right, whole, allow_unused=True, materialize_grads=True)
    own = [parts(x, rank).clone().requires_grad_() for x in (A, B)]
    loss = TASKS[name](*own, parts(Y, rank))
    got = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
    total = loss.detach().clone()
    dist.all_reduce(total)
    torch.testing.assert_close(total, right.detach())
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, parts(y, rank))


def work(rank, meeting, failures):
    """All tasks in one process: starting it costs more than they do."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for name in TASKS:
        try:
            run(rank, name)
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
def test_two_ranks(failures, name):
    assert name not in failures, failures[name]


def test_one_process():
    x = torch.randn(3, 2)
    assert losskit.gather_rows(x) is x
