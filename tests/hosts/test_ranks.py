"""The recipes of docs/guides/distributed.md, run as they stand there: two processes make the step of the whole batch.

What each host does without a recipe is a mean of means. That must be wrong here, or the data prove nothing.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # its usual name
from agreement import FLOAT32, assert_near, flat
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import losskit
from losskit.functional import linear_cross_entropy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "distributed.md"
FLOAT64 = 1e-12  # of the greatest entry; seen were 5e-16
RANKS, MICRO = 2, 2  # micro-batches of a step, on each rank
CRITERION = losskit.CrossEntropyLoss(ignore_index=-100)

# One step: four micro-batches of eight rows. The ranks take them in halves, in turn (accelerate), or row by row
# (Lightning); each way one micro-batch has a single label, and one at least five.
draw = torch.Generator().manual_seed(0)
INPUT = torch.randn(32, 6, generator=draw, dtype=torch.float64)
LABELS = torch.randint(0, 5, (32,), generator=draw)
LABELS[:7] = LABELS[8::2] = -100
LABELS[[12, 30]] = torch.tensor([1, 3])
DATA = TensorDataset(INPUT, LABELS)

# Eight sentences, of which one to eleven words are learned.
WORDS = torch.randint(0, 30, (8, 12), generator=draw)
LEARNED = torch.where(torch.arange(12) < torch.tensor([11, 0, 10, 1, 11, 9, 0, 10])[:, None], -100, WORDS)
SENTENCES = [{"input_ids": words, "labels": labels} for words, labels in zip(WORDS, LEARNED)]
WEIGHT = torch.linspace(0.1, 3, 30)


def recipe(library: str, name: str, changes: dict[str, str] | None = None, **scope: Any) -> dict[str, Any]:
    """What the block of the guide that defines `name` leaves in its scope."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n### {library}\n")[1].split("\n## ")[0].split("\n### ")[0]
    blocks = re.findall(r"^```\{\.python \.no-run\}\n(.*?)^```", section, re.M | re.S)
    (code,) = (block for block in blocks if re.search(rf"^(def|class) {name}\b", block, re.M))
    for old, new in (changes or {}).items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    scope = {"losskit": losskit, "criterion": CRITERION, "torch": torch, "__name__": __name__, **scope}
    exec(compile(code, f"<{library}: {name}>", "exec"), scope)
    return scope


def body() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh())


def network() -> nn.Module:
    """A body and a last layer without a bias; `WithHead` has the same parameters in the same order."""
    torch.manual_seed(1)
    return nn.Sequential(body(), nn.Linear(8, 5, bias=False)).double()


def with_head() -> nn.Module:
    kind = recipe("FSDP2", "WithHead")["WithHead"]
    torch.manual_seed(1)
    return kind(body(), 8, 5).double()


# What the guide says to change for a head.
HEAD = {
    "count(criterion,": "count(model.head,",
    "criterion(model(input), target, normalizer=whole)": "model(input, target, whole)",
}


def descent(model: nn.Module) -> torch.optim.Optimizer:
    """A step of this moves the parameters by their gradient."""
    return torch.optim.SGD(model.parameters(), 1.0)


def moved(model: nn.Module, start: Tensor) -> Tensor:
    return flat(p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()) - start


def of_whole_batch() -> Tensor:
    """The step of one process."""
    model = network()
    start = flat(model.parameters())
    F.cross_entropy(model(INPUT), LABELS).backward()
    descent(model).step()
    return moved(model, start)


# ---------------------------------------------------------------------------------------------------------
# FSDP2


def fsdp2(run: Callable[..., None], model: nn.Module) -> Tensor:
    start = flat(model.parameters())
    for part in model.children():
        fully_shard(part)
    fully_shard(model)
    first = MICRO * dist.get_rank()
    run(model, descent(model), list(DataLoader(DATA, batch_size=8))[first : first + MICRO])
    return moved(model, start)


def fsdp2_plain(model, optimizer, batches) -> None:
    for x, y in batches:
        (CRITERION(model(x), y) / len(batches)).backward()
    optimizer.step()


def fsdp2_recipes() -> dict[str, Tensor]:
    return {
        "criterion": fsdp2(recipe("FSDP2", "step")["step"], network()),
        "head": fsdp2(recipe("FSDP2", "step", HEAD)["step"], with_head()),
        "plain": fsdp2(fsdp2_plain, network()),
    }


# ---------------------------------------------------------------------------------------------------------
# accelerate


def fresh_state() -> None:
    """accelerate keeps what it was told in objects that all its users in a process share."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def accelerated(run: Callable[..., None], model: nn.Module, micro: int = MICRO) -> Tensor:
    import accelerate

    fresh_state()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=micro)
    assert accelerator.num_processes == RANKS
    start = flat(model.parameters())
    run(accelerator, *accelerator.prepare(model, descent(model), DataLoader(DATA, batch_size=8)))
    return moved(model, start)


def accelerated_plain(accelerator, model, optimizer, data) -> None:
    for x, y in data:
        with accelerator.accumulate(model):
            accelerator.backward(CRITERION(model(x), y))
            optimizer.step()
            optimizer.zero_grad()


def accelerate_recipes() -> dict[str, Tensor]:
    epoch = recipe("accelerate", "epoch")["epoch"]
    of_head = recipe("accelerate", "epoch", {**HEAD, "count(criterion,": "count(model.module.head,"})
    return {
        "criterion": accelerated(epoch, network()),
        "head": accelerated(of_head["epoch"], with_head()),
        "criterion, fewer micro-batches": accelerated(epoch, network(), micro=MICRO + 1),
        "plain": accelerated(accelerated_plain, network()),
    }


# ---------------------------------------------------------------------------------------------------------
# transformers


def llama(kind: Any = None) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    return (kind or LlamaForCausalLM)(LlamaConfig(vocab_size=30, **sizes))


def of_whole_text(weight: Tensor | None = None) -> Tensor:
    model = llama()
    start = flat(model.parameters())
    scores = model(WORDS).logits[:, :-1].flatten(0, 1)
    F.cross_entropy(scores, LEARNED[:, 1:].flatten(), weight).backward()
    descent(model).step()
    return moved(model, start)


def trained(model: nn.Module, make: Callable[[Any], Any]) -> Tensor:
    import transformers

    fresh_state()
    start = flat(model.parameters())
    with TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=MICRO,
            learning_rate=1.0, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True,
            ddp_backend="gloo", ddp_find_unused_parameters=False, report_to=[], save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = make(arguments)
        assert trainer.accelerator.num_processes == RANKS
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return moved(model, start)


def transformers_recipes() -> dict[str, Tensor]:
    import transformers

    def by_function(criterion: nn.Module, trainer: Any = transformers.Trainer) -> Tensor:
        model = llama()
        given = {"criterion": criterion, "Trainer": trainer, "model": model, "data": SENTENCES}
        return trained(model, lambda arguments: recipe("transformers", "mean", arguments=arguments, **given)["trainer"])

    def by_model(model: nn.Module) -> Tensor:
        return trained(model, lambda arguments: transformers.Trainer(model, arguments, train_dataset=SENTENCES))

    weighted = losskit.CrossEntropyLoss(WEIGHT)
    counting = recipe("transformers", "Counting", Trainer=transformers.Trainer, criterion=weighted)["Counting"]
    names = {"LlamaForCausalLM": transformers.LlamaForCausalLM, "linear_cross_entropy": linear_cross_entropy}
    of_head = recipe("transformers", "HeadForCausalLM", **names)["HeadForCausalLM"]
    plain = llama()
    plain.accepts_loss_kwargs = False  # the Trainer then divides by the number of micro-batches
    return {
        "criterion": by_function(CRITERION),
        "head": by_model(llama(of_head)),
        "weights": by_function(weighted, counting),
        "plain": by_model(plain),
        "plain, weights": by_function(weighted),
    }


# ---------------------------------------------------------------------------------------------------------
# Lightning


def lightning_recipes() -> dict[str, Tensor]:
    import lightning as L  # its usual name

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    classifier = recipe("Lightning", "Classifier", L=L)["Classifier"]
    calls = {
        "count(criterion,": "count(self.net.head,",
        "criterion(self.net(batch[0]), batch[1], normalizer=1)": "self.net(batch[0], batch[1], 1)",
    }
    of_head = recipe("Lightning", "Classifier", calls, L=L)["Classifier"]

    class Plain(L.LightningModule):
        def training_step(self, batch, index):
            return CRITERION(self.net(batch[0]), batch[1])

    def fitted(kind: Any, net: nn.Module, micro: int = MICRO) -> Tensor:
        class Whole(kind):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.counts = net, []

            def configure_optimizers(self):
                return descent(self)

        start = flat(net.parameters())
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        with TemporaryDirectory() as folder:
            trainer = L.Trainer(
                max_epochs=1, accelerator="cpu", strategy="ddp", devices=RANKS, precision="64-true",
                accumulate_grad_batches=micro, default_root_dir=folder, **dict.fromkeys(quiet, False),
            )  # fmt: skip
            trainer.fit(Whole(), DataLoader(DATA, batch_size=8))
        assert (trainer.world_size, trainer.global_step) == (RANKS, 1)
        return moved(net, start)

    return {
        "criterion": fitted(classifier, network()),
        "head": fitted(of_head, with_head()),
        "criterion, fewer micro-batches": fitted(classifier, network(), micro=MICRO + 1),
        "plain": fitted(Plain, network()),
    }


# ---------------------------------------------------------------------------------------------------------
# Two processes for all of them: to start them and to import the hosts takes longer than the steps

RECIPES = {
    "torch": fsdp2_recipes,
    "accelerate": accelerate_recipes,
    "transformers": transformers_recipes,
    "lightning": lightning_recipes,
}


def present(host: str) -> bool:
    return importlib.util.find_spec(host) is not None


def work(rank: int, folder: str) -> None:
    import conftest  # noqa: F401  makes torchvision importable, and sets one thread

    warnings.simplefilter("ignore")
    # accelerate wants an address, though nobody calls it: the ranks meet in a file.
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in where.items()})
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, **meeting)
    found: dict[str, dict[str, Tensor] | str] = {}
    for host, recipes in RECIPES.items():
        if present(host):
            try:
                found[host] = recipes()
            except Exception:
                found[host] = traceback.format_exc()
                break  # the other rank may wait for this one in the middle of a step
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / str(rank)) for rank in range(RANKS)]


def both(found: list[dict[str, Any]], host: str, name: str) -> tuple[list[Tensor], Tensor]:
    """The movements of the two ranks, and the one of one process."""
    if not present(host):
        pytest.skip(f"{host} is not installed")
    for of_rank in found:
        for told in of_rank.values():
            assert not isinstance(told, str), told
    ranks, weight = [of_rank[host][name] for of_rank in found], WEIGHT if "weights" in name else None
    return ranks, of_whole_text(weight) if host == "transformers" else of_whole_batch()


@pytest.mark.parametrize(
    "host, name",
    [
        ("torch", "criterion"),
        ("torch", "head"),
        ("accelerate", "criterion"),
        ("accelerate", "criterion, fewer micro-batches"),
        ("accelerate", "head"),
        ("transformers", "criterion"),
        ("transformers", "head"),
        ("transformers", "weights"),
        ("lightning", "criterion"),
        ("lightning", "criterion, fewer micro-batches"),
        ("lightning", "head"),
    ],
)
def test_a_recipe_makes_the_step_of_the_whole_batch(found, host, name):
    ranks, whole = both(found, host, name)
    for movement in ranks:
        assert_near(movement, whole, FLOAT32 if host == "transformers" else FLOAT64, "parameters")


@pytest.mark.parametrize(
    "host, name",
    [*((host, "plain") for host in RECIPES), ("transformers", "plain, weights")],
)
def test_a_mean_of_means_is_another_step(found, host, name):
    """By more than a tenth, a thousand times what is forgiven above."""
    ranks, whole = both(found, host, name)
    for movement in ranks:
        assert (movement - whole).abs().max() > 0.1 * whole.abs().max()
