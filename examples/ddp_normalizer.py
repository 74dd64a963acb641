"""Two processes with batches of different sizes make the step of the whole batch: one `normalizer` for all of them.

Run: python examples/ddp_normalizer.py
"""

import tempfile

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import losskit

torch.manual_seed(0)
INPUTS, TARGETS = torch.randn(12, 4), torch.randint(0, 3, (12,))
TARGETS[:3] = -100  # padding: does not count
SHARES = [slice(0, 5), slice(5, 12)]  # 2 rows that count on one rank, 7 on the other
criterion = losskit.CrossEntropyLoss(ignore_index=-100)


def gradient(model, inputs, targets, normalizer=None):
    model.zero_grad()
    criterion(model(inputs), targets, normalizer=normalizer).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def work(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = torch.nn.Linear(4, 3)
    parallel = DistributedDataParallel(model)  # gives every rank the weights of rank 0, and averages the gradients
    inputs, targets = INPUTS[SHARES[rank]], TARGETS[SHARES[rank]]
    count = (targets != -100).sum()
    dist.all_reduce(count)  # of all ranks together
    right = gradient(parallel, inputs, targets, normalizer=count / dist.get_world_size())
    naive = gradient(parallel, inputs, targets)
    whole = gradient(model, INPUTS, TARGETS)  # in one process
    if rank == 0:
        print("one normalizer equals the whole batch:", torch.allclose(right, whole))
        print("a mean per rank equals the whole batch:", torch.allclose(naive, whole))
    dist.barrier()  # a rank that leaves first would end the connection of the other
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, args=(f"{folder}/store",), nprocs=2)
