"""transformers' Trainer with losskit's cross entropy: micro-batches divide by the labels of the whole step.

Run: python examples/hf_trainer.py, after pip install transformers accelerate
"""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import losskit.functional as LF

torch.manual_seed(0)
TOKENS = torch.randint(3, 90, (32, 12))
PROMPT = torch.arange(12) < torch.randint(0, 9, (32, 1))  # of different lengths; is not learned
LABELS = TOKENS.masked_fill(PROMPT, -100)
DATA = [{"input_ids": tokens, "labels": labels} for tokens, labels in zip(TOKENS, LABELS, strict=True)]


def compute_loss(outputs, labels, num_items_in_batch=None):
    """The next token's cross entropy; the Trainer has counted the labels of all micro-batches of this step."""
    scores = outputs.logits[:, :-1].flatten(0, 1)
    return LF.cross_entropy(scores, labels[:, 1:].flatten(), normalizer=num_items_in_batch)


def losses(batch, micro_batches):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=99, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, "optim": "sgd", "save_strategy": "no"}
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": micro_batches}
        arguments = TrainingArguments(folder, **settings, **sizes, report_to=[], use_cpu=True, disable_tqdm=True)
        trainer = Trainer(model, arguments, train_dataset=DATA, compute_loss_func=compute_loss)
        trainer.train()
    return torch.tensor([float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry])


whole, parts = losses(8, 1), losses(2, 4)
print("losses of four steps:", whole)
print("equal with four micro-batches a step:", torch.allclose(whole, parts, atol=1e-3))
