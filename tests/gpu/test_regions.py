"""Regions on a GPU: no kernel takes them, and `why` says so."""

import torch

import losskit


def test_why(device):
    x, t = torch.randn(2, 3, 8, device=device), torch.zeros(2, 3, 8, device=device)
    found = losskit.why(losskit.DiceLoss(), x, t)
    assert found == ("eager formula", "losses of regions have no kernel for GPUs")
    assert losskit.DiceLoss()(x, t, None).isfinite()
