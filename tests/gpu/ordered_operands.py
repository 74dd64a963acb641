"""Operands of losses of ordered rows: scores, of which some are alike, keys with ties, padding."""

import torch

from losskit import CoxPHLoss, ListMLELoss, LovaszHingeLoss, LovaszSoftmaxLoss, SquaredEMDLoss

from .conftest import ON_GPU

LOSSES = {
    "efron": CoxPHLoss,
    "list_mle": ListMLELoss,
    "breslow": lambda **given: CoxPHLoss(ties="breslow", **given),
    "squared_emd": SquaredEMDLoss,
    "soft_emd": SquaredEMDLoss,
    "hinge": LovaszHingeLoss,
    "hinge_of_all": lambda **given: LovaszHingeLoss(per_image=False, **given),
    "softmax": LovaszSoftmaxLoss,
    "softmax_of_images": lambda **given: LovaszSoftmaxLoss(per_image=True, **given),
    "softmax_all": lambda **given: LovaszSoftmaxLoss(classes="all", ignore_index=1, **given),
}


def given(name, rows=3, width=13, dtype=torch.float32, seed=0):
    """Operands of a call: scores, of which some are alike, keys with ties, and padding where there can be some."""
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(8.0).round().div(4.0).to(dtype)

    def whole(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    if name == "list_mle":
        return [normal(rows, width), whole(5, rows, width), whole(4, rows, width) > 0]
    if name in ("efron", "breslow"):
        return [normal(rows, width), whole(4, rows, width), whole(2, rows, width), whole(5, rows, width) > 0]
    if name == "squared_emd":
        return [normal(rows, width), whole(width, rows)]
    if name == "soft_emd":
        return [normal(rows, width), normal(rows, width).double().softmax(-1).to(dtype)]
    if "hinge" in name:
        return [normal(rows, 2, width), whole(2, rows, 2, width), whole(4, rows, 2, width) > 0]
    scores = normal(rows, 4, width).double() + 0.001 * torch.randn(rows, 4, width, generator=generator)
    return [scores.to(dtype), whole(3, rows, width)]
