"""How many kernels a call launches, by family: each takes the host longer than a small loss takes the device."""

import pytest
import torch

import losskit
import losskit.functional as LF
from losskit.kernels.gpu import frame


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


def index(high, *shape):
    return torch.randint(0, high, shape)


LENGTHS = (5, 5), (2, 2)
# The launches in forward and in backward, for an upstream gradient of 1; torch multiplies small gradients.
CALLS = {
    "elements": (lambda: LF.mse_loss(leaf(4, 8), torch.randn(4, 8)), "pointwise"),
    "many elements": (lambda: LF.mse_loss(leaf(80, 80), torch.randn(80, 80)), "pointwise finish"),
    "unreduced": (lambda: LF.mse_loss(leaf(4, 8), torch.randn(4, 8), reduction="none").sum(), "pointwise | pointwise"),
    "class indices": (lambda: LF.cross_entropy(leaf(4, 8), index(8, 4)), "class_scores"),
    "weighed class indices": (
        lambda: LF.cross_entropy(leaf(4, 8), index(8, 4), torch.rand(8), mask=torch.rand(4) > 0.2), "class_scores",
    ),
    "rows of several programs": (lambda: LF.cross_entropy(leaf(40, 80), index(80, 40)), "class_scores finish"),
    "long rows": (lambda: LF.cross_entropy(leaf(4, 40000), index(9, 4)), "count class_scores finish"),
    "many rows": (lambda: LF.cross_entropy(leaf(300, 8), index(8, 300)), "count class_scores finish"),
    "shares of classes": (lambda: LF.cross_entropy(leaf(4, 8), torch.rand(4, 8)), "class_scores"),
    "log-probabilities": (lambda: LF.nll_loss(leaf(4, 8).log_softmax(1), index(8, 4)), "count picked finish"),
    "margins": (lambda: LF.multi_margin_loss(leaf(4, 8), index(8, 4)), "margins finish"),
    "embeddings": (lambda: LF.triplet_margin_loss(leaf(4, 8), leaf(4, 8), leaf(4, 8)), "embeddings finish"),
    "two rows": (lambda: LF.knowledge_distillation_loss(leaf(4, 8), torch.randn(4, 8)), "two_rows finish"),
    "regions": (lambda: LF.dice_loss(leaf(2, 3, 4, 4), torch.rand(2, 3, 4, 4)), "sums regions finish gradient"),
    "lists": (lambda: LF.rank_net_loss(leaf(2, 6), index(5, 2, 6)), "pairs lists finish gradient"),
    "ordered rows": (
        lambda: LF.list_mle_loss(leaf(2, 6), index(5, 2, 6)), "keys sort after before finish gradient",
    ),
    "ordered classes": (lambda: LF.squared_emd_loss(leaf(2, 6), index(6, 2)), "classes finish"),
    "ordered errors": (
        lambda: LF.lovasz_hinge_loss(leaf(2, 4, 4), index(2, 2, 4, 4)), "keys sort codes steps units finish signs",
    ),
    "frames": (
        lambda: LF.ctc_loss(leaf(5, 2, 4).log_softmax(-1), 1 + index(3, 2, 2), *map(torch.tensor, LENGTHS)),
        "read frames meet part gradient finish",
    ),
    "transducers": (
        lambda: LF.rnnt_loss(leaf(2, 5, 3, 4), 1 + index(3, 2, 2), *map(torch.tensor, LENGTHS), 0),
        "nodes lattice finish gradient",
    ),
    "chains": (
        lambda: LF.linear_chain_crf_loss(
            leaf(2, 5, 3), index(3, 2, 5), leaf(3, 3), leaf(3), leaf(3), torch.tensor(LENGTHS[0])
        ),
        "matrix steps forward finish backward pairs add add add",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_launches(name, monkeypatch):
    call, expected = CALLS[name]
    seen = []
    launch, sort_into = frame.Frame.launch, frame.sort_into

    def launched(of_call, kernel, grid, *args, **constants):
        seen.append(kernel.__name__.removesuffix("_kernel"))
        launch(of_call, kernel, grid, *args, **constants)

    def sorted_into(*tensors):
        seen.append("sort")
        sort_into(*tensors)

    monkeypatch.setattr(frame.Frame, "launch", launched)
    monkeypatch.setattr(frame, "sort_into", sorted_into)
    loss = call()
    forward = list(seen)
    loss.backward()
    assert " | ".join(" ".join(names) for names in (forward, seen[len(forward) :]) if names) == expected


def test_what_is_said_of_several_kernels():
    scores, relevance = leaf(2, 6), index(5, 2, 6)
    lengths = map(torch.tensor, LENGTHS)
    for passes, loss, *operands in (
        ("one pass", losskit.MSELoss(), leaf(3), torch.zeros(3)),
        ("two passes", losskit.DiceLoss(), leaf(2, 3, 4, 4), torch.rand(2, 3, 4, 4)),
        ("several passes", losskit.RankNetLoss(), scores, relevance),
        ("a sort and several passes", losskit.ListMLELoss(), scores, relevance),
        ("one pass", losskit.SquaredEMDLoss(), scores, index(6, 2)),
        ("several passes", losskit.CTCLoss(), leaf(5, 2, 4).log_softmax(-1), 1 + index(3, 2, 2), *lengths),
    ):
        assert losskit.why(loss, *operands).reason.startswith(f"{passes} over float32")


@pytest.mark.parametrize("weighed", [False, True])
def test_denominators_that_every_program_finds(weighed):
    """Of rows that are ignored, masked, weighed; of none; in one program and in several."""
    for shape in ((5, 3), (200, 3), (40, 80), (2, 5, 30)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        y = torch.randint(0, shape[1], shape[:1] + shape[2:])
        y.view(-1)[::3] = -100
        weight = torch.rand(shape[1], dtype=torch.float64) if weighed else None
        for target in (y, torch.full_like(y, -100)):
            found = LF.cross_entropy(x, target, weight), torch.nn.functional.cross_entropy(x, target, weight)
            torch.testing.assert_close(*found, equal_nan=True)
            if target is y:
                torch.testing.assert_close(*(torch.autograd.grad(loss * 2.0, x)[0] for loss in found))
            else:
                assert not torch.autograd.grad(found[0], x)[0].any()
