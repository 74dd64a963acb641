"""Sums of losses: modules that call their parts, with weights of every kind."""

import copy
import pickle

import pytest
import torch
from torch import nn

import losskit
import losskit.functional as LF

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 3, 1, 2, 2, 0])


def test_it_is_the_sum():
    criterion = 2.0 * losskit.SoftmaxFocalLoss() + losskit.CrossEntropyLoss() * 0.5 + losskit.ZLoss()
    x = X.clone().requires_grad_()
    mask = Y != 3
    parts = [LF.softmax_focal_loss(x, Y, mask=mask), LF.cross_entropy(x, Y, mask=mask), LF.z_loss(x, mask=mask)]
    expected = 2.0 * parts[0] + 0.5 * parts[1] + parts[2]
    loss = criterion(x, Y, mask=mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(of, x)[0] for of in (loss, expected)))
    found = criterion.parts
    assert list(found) == ["softmax_focal_loss", "cross_entropy", "z_loss"]
    assert all(a == b and not a.requires_grad for a, b in zip(found.values(), parts, strict=True))


def test_operands_are_those_of_all_parts():
    criterion = losskit.MSELoss() + losskit.GaussianNLLLoss() + nn.L1Loss()
    x, t, var = X[:, 0], X[:, 1], X[:, 2].exp()
    expected = LF.mse_loss(x, t) + LF.gaussian_nll_loss(x, t, var) + (x - t).abs().mean()
    torch.testing.assert_close(criterion(x, t, var), expected)
    head = losskit.linear(losskit.CrossEntropyLoss()) + 0.1 * losskit.linear(losskit.SoftmaxFocalLoss())
    weight = torch.randn(5, 4)
    features = LF.cross_entropy(X @ weight.T, Y) + 0.1 * LF.softmax_focal_loss(X @ weight.T, Y)
    torch.testing.assert_close(head(X, weight, Y), features)


def test_parts_that_mean_different_things_by_one_name():
    losses = [losskit.KnowledgeDistillationLoss(temperature=2.0), losskit.CrossEntropyLoss()]
    criterion = losskit.WeightedSum(losses, [0.7, 0.3], operands=[{"target": "teacher"}, {}])
    teacher = torch.randn(6, 4)
    expected = 0.7 * LF.knowledge_distillation_loss(X, teacher, temperature=2.0) + 0.3 * LF.cross_entropy(X, Y)
    torch.testing.assert_close(criterion(X, teacher, Y), expected)
    again = losskit.create(criterion.config())
    torch.testing.assert_close(again(X, teacher, Y), expected)
    more = criterion + losskit.ZLoss()
    assert len(more.losses) == 3
    torch.testing.assert_close(more(X, teacher, Y), expected + LF.z_loss(X))
    with pytest.raises(
        ValueError, match="operands must be names of operands of MSELoss, which are input, target, got labels"
    ):
        losskit.WeightedSum([losskit.MSELoss()], operands=[{"labels": "y"}])
    with pytest.raises(ValueError, match="operands must be one for each of 1 losses, got 2"):
        losskit.WeightedSum([losskit.MSELoss()], operands=[{}, {}])


def test_reductions_and_names():
    criterion = losskit.L1Loss(reduction="none") + losskit.L1Loss(reduction="none")
    assert criterion(X, 2 * X).shape == X.shape
    assert list(criterion.parts) == ["l1_loss", "l1_loss_2"]
    assert len((sum([losskit.MSELoss(), losskit.L1Loss(), losskit.HuberLoss()])).losses) == 3
    assert (3 * (losskit.MSELoss() + 2 * losskit.L1Loss())).weights == [3.0, 6.0]


def test_a_weight_that_is_learned():
    weight = nn.Parameter(torch.tensor(3.0))
    criterion = losskit.MSELoss() + weight * losskit.L1Loss()
    assert [name for name, _ in criterion.named_parameters()] == ["weight_1"]
    criterion(X, 2 * X).backward()
    torch.testing.assert_close(weight.grad, LF.l1_loss(X, 2 * X))
    assert "weight_0" in (torch.tensor(2.0) * losskit.MSELoss()).state_dict()


def test_a_weight_that_follows_the_steps():
    criterion = losskit.MSELoss() + 2 * ((lambda step: 0.1 * step) * losskit.L1Loss())
    mse, l1 = LF.mse_loss(X, 2 * X), LF.l1_loss(X, 2 * X)
    for step in range(3):
        torch.testing.assert_close(criterion(X, 2 * X), mse + 0.2 * step * l1)
        criterion.step()
    again = copy.deepcopy(criterion)
    again.load_state_dict(criterion.state_dict())
    assert again.steps == 3
    assert not (losskit.MSELoss() + losskit.L1Loss()).state_dict()
    with pytest.raises(TypeError, match="a function of the step"):
        criterion.config()


def test_uncertainty():
    """Kendall's weights: of a constant loss the log-variance goes to where the weight is one over the loss."""
    criterion = losskit.WeightedSum([losskit.MSELoss(), losskit.L1Loss()], uncertainty=True)
    value = criterion(X, 2 * X)
    s = criterion.log_variances
    torch.testing.assert_close(value, 0.5 * (LF.mse_loss(X, 2 * X) + LF.l1_loss(X, 2 * X)))
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(X, 2 * X).backward()
        optimizer.step()
    torch.testing.assert_close(s.exp(), torch.stack([LF.mse_loss(X, 2 * X), LF.l1_loss(X, 2 * X)]))
    classes = losskit.WeightedSum([losskit.CrossEntropyLoss()], uncertainty=True)
    classes.log_variances.data.fill_(1.0)
    torch.testing.assert_close(classes(X, Y), LF.cross_entropy(X, Y) / torch.e + 0.5)


def test_config_pickle_and_compile():
    criterion = 2.0 * losskit.SoftmaxFocalLoss(gamma=1.0) + losskit.CrossEntropyLoss(label_smoothing=0.1)
    value = criterion(X, Y)
    for again in (losskit.create(criterion.config()), pickle.loads(pickle.dumps(criterion)), copy.deepcopy(criterion)):
        assert again(X, Y) == value
    assert losskit.get("weighted_sum") is losskit.WeightedSum
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, Y), value)
    head = losskit.linear(losskit.CrossEntropyLoss(), z_loss=0.1)
    assert losskit.create((head + head).config()).losses[1].z_loss == 0.1


def test_mistakes():
    for mistake in (lambda: "a" * losskit.MSELoss(), lambda: losskit.MSELoss() + 3.0):
        with pytest.raises(TypeError):
            mistake()
