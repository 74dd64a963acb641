"""transformers' Trainer: accumulated gradients, bfloat16, and a loss of one's own that divides by what the Trainer counted."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from agreement import BFLOAT16, FLOAT32, asked, assert_near, flat
from torch.nn.functional import pad

import losskit

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

LLAMA = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 37,
}


def sentences(count: int = 32) -> list[dict[str, torch.Tensor]]:
    """Prompts of different lengths are not learned, so that micro-batches have different numbers of labels."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 90, (count, 12), generator=draw)
    prompt = torch.randint(0, 9, (count, 1), generator=draw)
    labels = torch.where(torch.arange(12) < prompt, -100, ids)
    return [{"input_ids": i, "labels": label, "attention_mask": torch.ones_like(i)} for i, label in zip(ids, labels)]


def trained(folder, *, batch: int, accumulate: int, swap: bool = False, loss=None, **options):
    """The logged losses, how far the parameters went, and which of losskit's functions were called."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    start = flat(model.parameters())
    settings = {
        "max_steps": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "optim": "sgd", "logging_steps": 1, "seed": 1,
        "data_seed": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        **settings,
        **options,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=sentences(), compute_loss_func=loss)
    trainer.remove_callback(transformers.PrinterCallback)
    with losskit.accelerate() if swap else nullcontext() as report:
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return torch.tensor(losses), flat(model.parameters()) - start, asked(report) if swap else {}


def assert_same(ours, theirs, tolerance: float = FLOAT32) -> None:
    assert len(theirs[0]) == 4
    assert_near(ours[0], theirs[0], max(tolerance, 1e-4), "losses")  # the Trainer logs four decimals
    assert_near(ours[1], theirs[1], 10 * tolerance, "parameters")


@pytest.mark.parametrize(
    "options, tolerance",
    [({}, FLOAT32), ({"bf16": True}, BFLOAT16), ({"max_grad_norm": 0.1}, FLOAT32)],
    ids=["float32", "bf16", "clipped"],
)
@pytest.mark.parametrize("batch, accumulate", [(8, 1), (2, 4)])
def test_the_trainer_on_a_models_own_loss(tmp_path, batch, accumulate, options, tolerance):
    theirs = trained(tmp_path, batch=batch, accumulate=accumulate, **options)
    ours = trained(tmp_path, batch=batch, accumulate=accumulate, swap=True, **options)
    assert_same(ours, theirs, tolerance)
    assert ours[2]["cross_entropy"] == 4 * accumulate


def of_function(outputs, labels, num_items_in_batch=None):
    scores = outputs.logits[:, :-1].flatten(0, 1)
    return losskit.functional.cross_entropy(scores, labels[:, 1:].flatten(), normalizer=num_items_in_batch)


CRITERION = losskit.CrossEntropyLoss()


def of_module(outputs, labels, num_items_in_batch=None):
    """Scores with the classes in the second dimension, as torch's loss wants them."""
    return CRITERION(
        outputs.logits.transpose(1, 2), pad(labels[:, 1:], (0, 1), value=-100), normalizer=num_items_in_batch
    )


@pytest.mark.parametrize("batch, accumulate", [(8, 1), (2, 4)])
def test_label_smoothing(tmp_path, batch, accumulate):
    """The Trainer's own formula, which calls none of torch's functions."""
    theirs = trained(tmp_path, batch=batch, accumulate=accumulate, label_smoothing_factor=0.1)
    ours = trained(tmp_path, batch=batch, accumulate=accumulate, swap=True, label_smoothing_factor=0.1)
    assert_same(ours, theirs)
    assert ours[2]["LabelSmoother.__call__"] == 4 * accumulate


@pytest.mark.parametrize("loss", [of_function, of_module, losskit.compute_loss_func()])
def test_compute_loss_func_divides_by_the_items_of_the_whole_batch(tmp_path, loss):
    """`normalizer=num_items_in_batch`: four micro-batches make the same step as the batch at once."""
    theirs = trained(tmp_path, batch=8, accumulate=1)
    whole = trained(tmp_path, batch=8, accumulate=1, loss=loss)
    parts = trained(tmp_path, batch=2, accumulate=4, loss=loss)
    assert_same(whole, theirs)
    assert_same(parts, theirs)
