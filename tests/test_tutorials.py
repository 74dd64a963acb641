"""The cells of tutorials about torch's losses run unchanged with losskit in place of torch.nn, and give the same.

Tutorials make their numbers up: `randn` for whatever is continuous, `random_` for labels. Each cell is a function of the
library; it is run with torch.nn and with losskit from the same seed, and its values and gradients are compared.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losskit

REGRESSION = (10, 3, 5, 7)
COLUMN = (10, 1)


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def of_two(name, make_input, make_target, **arguments):
    def cell(library, reduction):
        x = make_input()
        loss = getattr(library, name)(reduction=reduction, **arguments)
        return [loss(x, make_target(x))]

    return cell


def likeness(shape):
    return lambda: leaf(*shape), lambda x: torch.randn(*shape)


def gaussian(var_shape, target_shape=REGRESSION, **arguments):
    def cell(library, reduction):
        x, target, var = leaf(*REGRESSION), torch.randn(*target_shape), torch.rand(*var_shape, requires_grad=True)
        return [library.GaussianNLLLoss(reduction=reduction, **arguments)(x, target, var)]

    return cell


def gaussian_of_the_manual(library, reduction):
    x, target = leaf(5, 2), torch.randn(5, 2)
    loss = library.GaussianNLLLoss(reduction=reduction)
    return [
        loss(x, target, torch.ones(5, 2, requires_grad=True)),
        loss(x, target, torch.ones(5, 1, requires_grad=True)),
    ]


def divergence(log_target):
    def cell(library, reduction):
        x = F.log_softmax(leaf(3, 5), dim=1)
        target = F.log_softmax(torch.rand(3, 5), dim=1) if log_target else F.softmax(torch.rand(3, 5), dim=1)
        return [library.KLDivLoss(reduction=reduction, log_target=log_target)(x, target)]

    return cell


def batchmean(library, reduction):
    x, target = F.log_softmax(leaf(3, 5), dim=1), F.softmax(torch.rand(3, 5), dim=1)
    return [library.KLDivLoss(reduction="batchmean")(x, target)]


def cross_entropy(library, reduction):
    loss = library.CrossEntropyLoss(reduction=reduction)
    x = leaf(3, 5)
    indices = loss(x, torch.empty(3, dtype=torch.long).random_(5))
    return [
        indices,
        loss(leaf(3, 5), torch.randn(3, 5).softmax(dim=1)),
        loss(leaf(2, 4, 8, 8), torch.randint(4, (2, 8, 8))),
    ]


def negative_log_likelihood(library, reduction):
    loss, log_softmax = library.NLLLoss(reduction=reduction), nn.LogSoftmax(dim=1)
    rows = loss(log_softmax(leaf(3, 5)), torch.tensor([1, 0, 4]))
    convolved = nn.Conv2d(16, 4, (3, 3))(torch.randn(5, 16, 10, 10))
    return [rows, loss(log_softmax(convolved), torch.empty(5, 8, 8, dtype=torch.long).random_(0, 4))]


def binary_of_probabilities(library, reduction):
    loss = library.BCELoss(reduction=reduction)
    x = leaf(3, 2)
    return [loss(nn.Sigmoid()(x), torch.rand(3, 2)), loss(torch.sigmoid(leaf(10)), torch.empty(10).random_(2))]


def binary_of_scores(library, reduction):
    loss = library.BCEWithLogitsLoss(reduction=reduction)
    weighed = library.BCEWithLogitsLoss(pos_weight=torch.ones([64]), reduction=reduction)
    output = torch.full([10, 64], 1.5, requires_grad=True)
    return [loss(leaf(3), torch.empty(3).random_(2)), weighed(output, torch.ones([10, 64]))]


def many_labels(library, reduction):
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]], requires_grad=True)
    loss = library.MultiLabelMarginLoss(reduction=reduction)
    of_manual = loss(x, torch.tensor([[3, 0, -1, 1]]))
    return [of_manual, loss(leaf(3, 5), torch.tensor([[1, 2, -1, -1, -1], [0, -1, -1, -1, -1], [4, 3, 2, -1, -1]]))]


def one_label(library, reduction):
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8]], requires_grad=True)
    loss = library.MultiMarginLoss(reduction=reduction)
    return [loss(x, torch.tensor([3])), loss(leaf(10, 4), torch.randint(4, (10,)))]


def ranking(library, reduction):
    return [library.MarginRankingLoss(reduction=reduction)(leaf(3), leaf(3), torch.randn(3).sign())]


def cosine(library, reduction):
    loss, one, other = library.CosineEmbeddingLoss(reduction=reduction), leaf(3, 5), leaf(3, 5)
    return [loss(one, other, torch.ones(3)), loss(one, other, torch.tensor([1, -1, 1]))]


def triplets(library, reduction):
    loss = library.TripletMarginLoss(margin=1.0, p=2, eps=1e-7, reduction=reduction)
    return [loss(leaf(100, 128), leaf(100, 128), leaf(100, 128))]


def l_infinity(x1, x2):
    return torch.max(torch.abs(x1 - x2), dim=1).values


def triplets_of_distances(library, reduction):
    embedding = nn.Embedding(1000, 128)
    anchor, positive, negative = (embedding(torch.randint(0, 1000, (1,))) for _ in range(3))
    made = library.TripletMarginWithDistanceLoss
    return [
        made(distance_function=nn.PairwiseDistance(), reduction=reduction)(anchor, positive, negative),
        made(distance_function=l_infinity, margin=1.5, reduction=reduction)(anchor, positive, negative),
        made(distance_function=lambda x, y: 1.0 - F.cosine_similarity(x, y), reduction=reduction)(anchor, positive, negative),
    ]  # fmt: skip


def padded_sequences(library, reduction):
    scores = leaf(50, 16, 20)
    x = scores.log_softmax(2).detach().requires_grad_()
    target = torch.randint(low=1, high=20, size=(16, 30), dtype=torch.long)
    input_lengths = torch.full(size=(16,), fill_value=50, dtype=torch.long)
    target_lengths = torch.randint(low=10, high=30, size=(16,), dtype=torch.long)
    return [library.CTCLoss(reduction=reduction)(x, target, input_lengths, target_lengths)]


def joined_sequences(library, reduction):
    x = torch.randn(50, 16, 20).log_softmax(2).detach().requires_grad_()
    input_lengths = torch.full(size=(16,), fill_value=50, dtype=torch.long)
    target_lengths = torch.randint(low=1, high=50, size=(16,), dtype=torch.long)
    target = torch.randint(low=1, high=20, size=(int(sum(target_lengths)),), dtype=torch.long)
    return [library.CTCLoss(reduction=reduction)(x, target, input_lengths, target_lengths)]


def one_sequence(library, reduction):
    x = torch.randn(50, 20).log_softmax(1).detach().requires_grad_()
    input_lengths = torch.tensor(50, dtype=torch.long)
    target_lengths = torch.randint(low=1, high=50, size=(), dtype=torch.long)
    target = torch.randint(low=1, high=20, size=(int(target_lengths),), dtype=torch.long)
    return [library.CTCLoss(reduction=reduction)(x, target, input_lengths, target_lengths)]


CELLS = {
    **{
        f"{name}-{shape}": of_two(name, *likeness(shape), **arguments)
        for name, arguments in (("L1Loss", {}), ("MSELoss", {}), ("HuberLoss", {"delta": 0.5}), ("SmoothL1Loss", {"beta": 0.5}))
        for shape in (REGRESSION, COLUMN)
    },
    "GaussianNLLLoss": gaussian(REGRESSION, eps=1e-3, full=True),
    "GaussianNLLLoss-one variance for each row": gaussian((10, 3, 5, 1)),
    "GaussianNLLLoss-one target for each row": gaussian(REGRESSION, (10, 3, 5, 1)),
    "GaussianNLLLoss-manual": gaussian_of_the_manual,
    "PoissonNLLLoss": of_two("PoissonNLLLoss", lambda: leaf(*COLUMN), lambda x: torch.randn(*COLUMN)),
    "PoissonNLLLoss-abs": of_two("PoissonNLLLoss", lambda: leaf(*REGRESSION).abs(), lambda x: torch.randn(*REGRESSION)),
    "PoissonNLLLoss-counts": of_two("PoissonNLLLoss", lambda: leaf(5, 2), lambda x: torch.poisson(torch.rand(5, 2) * 5)),
    "PoissonNLLLoss-rates": of_two(
        "PoissonNLLLoss", lambda: leaf(*REGRESSION).abs(), lambda x: torch.randn(*REGRESSION), log_input=False, eps=1e-6
    ),
    "PoissonNLLLoss-full": of_two(
        "PoissonNLLLoss", lambda: leaf(*COLUMN), lambda x: torch.randint(0, 9, COLUMN).float(), full=True
    ),
    "KLDivLoss": divergence(log_target=False),
    "KLDivLoss-log_target": divergence(log_target=True),
    "KLDivLoss-batchmean": batchmean,
    "CrossEntropyLoss": cross_entropy,
    "NLLLoss": negative_log_likelihood,
    "BCELoss": binary_of_probabilities,
    "BCEWithLogitsLoss": binary_of_scores,
    "SoftMarginLoss": of_two("SoftMarginLoss", lambda: leaf(10, 4), lambda x: torch.randn(10, 4).sign()),
    "MultiLabelSoftMarginLoss": of_two(
        "MultiLabelSoftMarginLoss", lambda: leaf(10, 4), lambda x: torch.empty(10, 4).random_(2)
    ),
    "MultiLabelMarginLoss": many_labels,
    "MultiMarginLoss": one_label,
    "MarginRankingLoss": ranking,
    "HingeEmbeddingLoss": of_two("HingeEmbeddingLoss", lambda: leaf(*REGRESSION), lambda x: torch.randn(*REGRESSION).sign()),
    "CosineEmbeddingLoss": cosine,
    "TripletMarginLoss": triplets,
    "TripletMarginWithDistanceLoss": triplets_of_distances,
    "CTCLoss-padded": padded_sequences,
    "CTCLoss-one after another": joined_sequences,
    "CTCLoss-alone": one_sequence,
}  # fmt: skip


def leaves_of(outputs):
    """The tensors that a graph begins at, in its own order."""
    found, waiting = {}, [x.grad_fn for x in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        waiting += [parent for parent, _ in node.next_functions]
    return [node.variable for node in found.values() if hasattr(node, "variable")]


def run(cell, library, reduction):
    """The values of a cell, and the gradients of all that it made, by their shape and size."""
    torch.manual_seed(0)
    outputs = cell(library, reduction)
    leaves = leaves_of(outputs)
    sum(x.sum() for x in outputs).backward()
    gradients = sorted((x.grad for x in leaves), key=lambda g: (tuple(g.shape), g.norm().item()))
    return [x.detach() for x in outputs], gradients


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore::losskit.SpaceWarning")
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_runs_unchanged(name, reduction):
    values, gradients = run(CELLS[name], losskit, reduction)
    expected_values, expected_gradients = run(CELLS[name], nn, reduction)
    torch.testing.assert_close(values, expected_values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=5e-5)


def test_every_loss_of_the_tutorials_is_there():
    shown = {name.split("-")[0] for name in CELLS}
    assert len(shown) == 21
    built_in = {cls.__name__ for cls in losskit.losses().values() if cls.__module__.startswith("losskit.")}
    assert shown == {name for name in built_in if hasattr(nn, name)}


# ---------------------------------------------------------------------------------------------------------
# Losses written by hand, beside the library's


class MeanSquaredError(nn.Module):
    def forward(self, outputs, targets):
        return ((outputs - targets) ** 2).mean()


def stable_binary_cross_entropy(x, y):
    return (x.clamp(min=0) - x * y + torch.log1p(torch.exp(-x.abs()))).mean()


def test_losses_by_hand():
    torch.manual_seed(1)
    outputs, targets = torch.randn(10, 3), torch.randn(10, 3)
    torch.testing.assert_close(MeanSquaredError()(outputs, targets), losskit.MSELoss()(outputs, targets))
    labels = torch.empty(10, 3).random_(2)
    torch.testing.assert_close(
        stable_binary_cross_entropy(outputs, labels), losskit.BCEWithLogitsLoss()(outputs, labels)
    )
    indices = torch.randint(3, (10,))
    picked = -F.log_softmax(outputs, dim=1)[torch.arange(10), indices]
    torch.testing.assert_close(picked.mean(), losskit.CrossEntropyLoss()(outputs, indices))
    soft = -(F.softmax(targets, dim=1) * F.log_softmax(outputs, dim=1)).sum(dim=1)
    torch.testing.assert_close(soft.mean(), losskit.CrossEntropyLoss()(outputs, F.softmax(targets, dim=1)))
    one = -(F.softmax(targets[0], dim=0) * F.log_softmax(outputs[0], dim=0)).sum()
    torch.testing.assert_close(one, losskit.CrossEntropyLoss()(outputs[0], F.softmax(targets[0], dim=0)))


def test_binary_cross_entropy_beside_the_squared_error():
    outputs, targets = torch.sigmoid(torch.tensor([0.0, 1.09864, 10.0])), torch.zeros(3)
    for name in ("BCELoss", "MSELoss"):
        for reduction in ("none", "mean"):
            ours, theirs = (getattr(library, name)(reduction=reduction)(outputs, targets) for library in (losskit, nn))
            torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        losskit.BCELoss(reduction="none")(outputs, targets), torch.tensor([0.6931, 1.3863, 10.0]), rtol=1e-3, atol=1e-3
    )


def test_a_negative_count_is_warned_of():
    x, target = torch.abs(torch.randn(10, 1)), torch.full((10, 1), -0.5)
    with pytest.warns(losskit.SpaceWarning, match="target should be non-negative") as told:
        loss = losskit.PoissonNLLLoss()(x, target)
    assert len(told) == 1
    torch.testing.assert_close(loss, nn.PoissonNLLLoss()(x, target))
