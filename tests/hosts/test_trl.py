"""trl: the log-probabilities of tokens, from which its trainers make their losses."""

from __future__ import annotations

import pytest
import torch
from agreement import asked

import losskit

pytest.importorskip("trl")

from trl.trainer import utils

DRAW = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_log_probabilities_of_tokens(dtype, tolerance):
    scores = (4 * torch.randn(2, 7, 50, generator=DRAW)).to(dtype).requires_grad_()
    tokens = torch.randint(0, 50, (2, 7), generator=DRAW)
    upstream = torch.randn(2, 7, generator=DRAW).to(dtype)

    def found():
        logs = utils.selective_log_softmax(scores, tokens)
        return logs.detach(), *torch.autograd.grad(logs, scores, upstream)

    with losskit.accelerate() as report:
        ours = found()
    assert asked(report) == {"selective_log_softmax": 1}
    for own, its in zip(ours, found()):
        assert own.dtype == its.dtype
        torch.testing.assert_close(own.double(), its.double(), rtol=tolerance, atol=8 * tolerance)
