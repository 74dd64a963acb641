"""What a declaration can say besides a formula of its operands and numbers, in losses that nobody else has."""

import copy

import pytest
import torch
from torch import Tensor, nn

import losskit
from losskit import ClassScoresLoss, Operand, PointwiseLoss, nonnegative, param, positive
from losskit.domains import Interval, real
from losskit.errors import DeclarationError
from losskit.formula import absolute, exp, stop, where


class BentLossOfTest(PointwiseLoss):
    """An absolute error of a chosen shape, with an optional offset."""

    shape: str = param(default="line", choices=("line", "square"), doc="The shape.")
    steepness: float | Tensor = param(default=1.0, domain=positive, doc="The steepness.")
    least: float | Tensor | None = param(default=None, domain=nonnegative, doc="The least error.")

    operands = {
        "input": Operand("Predictions."),
        "target": Operand("True values.", differentiable=False),
        "offset": Operand("What is added to the target.", optional=True, broadcast=True),
    }

    @staticmethod
    def value(input, target, offset, shape, steepness, least):
        d = steepness * absolute(input - (target if offset is None else target + offset))
        d = d * d if shape == "square" else d
        return d if least is None else where(d < least, least, d)


class RangeLossOfTest(PointwiseLoss):
    """How far the middles of two ranges are apart."""

    operands = {
        name: Operand("Ranges.", components={"low": real, "high": Interval("a range", low=0.0, back=1)})
        for name in ("input", "target")
    }

    @staticmethod
    def value(input_low, input_high, target_low, target_high):
        return absolute(0.5 * (input_low + input_high) - 0.5 * (target_low + target_high))


class StepLossOfTest(PointwiseLoss):
    """Squares of what is up to a step, over how many those are."""

    rows = "sum"
    operands = {
        "input": Operand("Rows."),
        "step": Operand("The last step.", per_row=True, broadcast=True, differentiable=False, places=0),
    }

    @staticmethod
    def value(input, step, position):
        return where(position <= step, input * input, 0.0)

    @staticmethod
    def counts(input, step, position):
        return where(position <= step, 1.0, 0.0)


class HeadLossOfTest(ClassScoresLoss):
    """Cross entropy of scores whose own one is halved, times a number of the row, and weighed by class."""

    shares: Tensor = param(domain=positive, doc="A factor of each class.")

    scaled_by = "size"
    operands = {
        "input": Operand("Scores."),
        "target": Operand("Classes."),
        "size": Operand("A number of each row.", domain=positive),
    }

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def factor(shares):
        return shares

    @staticmethod
    def target_score(score):
        return 0.5 * score


x = torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
t = torch.tensor([[0.0, -1.0, 1.0], [1.0, 1.0, 1.0]])


class TestChoices:
    def test_each_word_is_a_formula(self):
        d = (x - t).abs()
        torch.testing.assert_close(BentLossOfTest()(x, t), d.mean())
        torch.testing.assert_close(BentLossOfTest(shape="square")(x, t), (d * d).mean())
        torch.testing.assert_close(BentLossOfTest.functional(x, t, shape="square"), (d * d).mean())

    def test_another_word_is_refused(self):
        with pytest.raises(TypeError, match=r"shape must be 'line', 'square', got 'sqare'. Did you mean 'square'\?"):
            BentLossOfTest(shape="sqare")
        with pytest.raises(TypeError, match=r"shape must be 'line', 'square', got 2."):
            BentLossOfTest.functional(x, t, shape=2)

    def test_it_is_kept_and_copied(self):
        criterion = BentLossOfTest(shape="square", steepness=2.0)
        assert "shape='square'" in repr(criterion)
        assert losskit.create(criterion.config()).shape == "square"
        criterion.shape = "line"
        torch.testing.assert_close(criterion(x, t), 2.0 * (x - t).abs().mean())


class TestTensorsForNumbers:
    def test_a_number_for_each_class(self):
        steep = torch.tensor([1.0, 2.0, 3.0])
        expected = (steep * (x - t).abs()).mean()
        torch.testing.assert_close(BentLossOfTest(steepness=steep)(x, t), expected)
        torch.testing.assert_close(BentLossOfTest.functional(x, t, steepness=steep), expected)

    def test_it_learns(self):
        criterion = BentLossOfTest(steepness=nn.Parameter(torch.tensor(2.0)))
        assert dict(criterion.named_parameters()).keys() == {"steepness"}
        criterion(x, t).backward()
        torch.testing.assert_close(criterion.steepness.grad, (x - t).abs().mean())

    def test_from_number_to_tensor_and_back(self):
        criterion = BentLossOfTest()
        for value in (2.0, torch.tensor(2.0), nn.Parameter(torch.tensor(2.0)), 2.0):
            criterion.steepness = value
            torch.testing.assert_close(criterion(x, t).detach(), 2.0 * (x - t).abs().mean())
            torch.testing.assert_close(copy.deepcopy(criterion)(x, t).detach(), 2.0 * (x - t).abs().mean())
        assert not criterion.state_dict()

    def test_a_schedule_compiles_once(self):
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph

        torch._dynamo.reset()
        call = torch.compile(lambda s: BentLossOfTest.functional(x, t, steepness=s), backend=backend)
        for number in range(1, 12):
            torch.testing.assert_close(call(torch.tensor(float(number))), number * (x - t).abs().mean())
        assert len(graphs) == 1

    def test_bad_numbers_are_refused(self):
        with pytest.raises(ValueError, match=r"steepness must be positive, got -1 at index \(1,\)"):
            BentLossOfTest.functional(x, t, steepness=torch.tensor([1.0, -1.0, 1.0]))
        with pytest.raises(TypeError, match="steepness must be a number or a tensor of numbers, got 'a'"):
            BentLossOfTest(steepness="a")

    def test_none_is_another_formula(self):
        d = (x - t).abs()
        torch.testing.assert_close(BentLossOfTest(least=1.5)(x, t), d.clamp(min=1.5).mean())
        torch.testing.assert_close(BentLossOfTest(least=torch.tensor(1.5))(x, t), d.clamp(min=1.5).mean())
        torch.testing.assert_close(BentLossOfTest(least=None)(x, t), d.mean())


class TestOperands:
    def test_one_may_be_left_out(self):
        given = torch.ones(1, 3)
        expected = (x - (t + 1.0)).abs().mean()
        for offset in (given, 1.0):
            torch.testing.assert_close(BentLossOfTest()(x, t, offset), expected)
            torch.testing.assert_close(BentLossOfTest.functional(x, t, offset=offset), expected)
        criterion = BentLossOfTest()
        torch.testing.assert_close(criterion(x, t), (x - t).abs().mean())
        torch.testing.assert_close(criterion(x, t, given), expected)
        torch.testing.assert_close(criterion(x, t, None), (x - t).abs().mean())

    def test_one_without_a_gradient(self):
        a, b = x.clone().requires_grad_(), t.clone().requires_grad_()
        BentLossOfTest()(a, b).backward()
        torch.testing.assert_close(a.grad, (x - t).sign() / 6)
        assert b.grad is None

    def test_components(self):
        a = torch.tensor([[0.0, 2.0], [1.0, 5.0]], requires_grad=True)
        b = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        losses = RangeLossOfTest.functional(a, b, reduction="none")
        torch.testing.assert_close(losses, torch.tensor([0.5, 2.5]))
        (losses * torch.tensor([1.0, 2.0])).sum().backward()
        torch.testing.assert_close(a.grad, torch.tensor([[-0.5, -0.5], [1.0, 1.0]]))
        torch.testing.assert_close(RangeLossOfTest()(a.t().contiguous().t(), b), losses.mean())
        with pytest.raises(ValueError, match=r"input must be a range, got a difference of -2 at index \(0,\)"):
            RangeLossOfTest()(a.flip(-1), b)
        with pytest.raises(ValueError, match=r"the last dimension of input must be the 2 numbers low, high"):
            RangeLossOfTest()(torch.zeros(3), torch.zeros(3))


class TestRows:
    def test_sums_places_and_counts(self):
        step = torch.tensor([0, 2])
        squares = torch.tensor([1.0, 0.0625 + 9.0 + 1.0])
        torch.testing.assert_close(StepLossOfTest.functional(x, step, reduction="none"), squares)
        torch.testing.assert_close(StepLossOfTest.functional(x, step, reduction="sum"), squares.sum())
        torch.testing.assert_close(StepLossOfTest()(x, step), squares.sum() / 4)
        torch.testing.assert_close(StepLossOfTest()(x, step, mask=torch.tensor([False, True])), squares[1] / 3)
        weights = torch.tensor([2.0, 1.0])
        torch.testing.assert_close(StepLossOfTest()(x, step, sample_weight=weights), (weights @ squares) / 5)
        torch.testing.assert_close(StepLossOfTest()(x, step, normalizer=2.0), squares.sum() / 2)

    @pytest.mark.parametrize("bad", [3, -1, 0.5])
    def test_places_outside_of_the_row(self, bad):
        step = torch.tensor([0, bad])
        with pytest.raises(ValueError, match=rf"step must be a whole number from 0 to 2, got {bad} at index \(1,\)"):
            StepLossOfTest()(x, step)
        with losskit.checks("nan"):
            losses = StepLossOfTest.functional(x, step, reduction="none")
        assert losses.isnan().tolist() == [False, True]
        torch.testing.assert_close(StepLossOfTest()(x, step, mask=torch.tensor([True, False])), torch.tensor(1.0))


class TestClassScores:
    def test_margins_sizes_and_factors(self):
        target, size, shares = torch.tensor([1, 0]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.0, 1.0])
        scores = x.clone()
        scores[torch.arange(2), target] *= 0.5
        each = torch.nn.functional.cross_entropy(scores * size[:, None], target, reduction="none") * shares[target]
        call = HeadLossOfTest.functional
        torch.testing.assert_close(call(x, target, size, shares, reduction="none"), each)
        torch.testing.assert_close(call(x, target, size, shares), each.mean())
        weight = torch.tensor([1.0, 2.0, 3.0])
        weighed = (each * weight[target]).sum() / weight[target].sum()
        torch.testing.assert_close(call(x, target, size, shares, weight=weight), weighed)
        torch.testing.assert_close(HeadLossOfTest(shares)(x, target, size), each.mean())

    def test_gradients(self):
        target, shares = torch.tensor([1, 0]), torch.tensor([1.0, 4.0, 1.0]).double()
        leaves = [x.double().requires_grad_(), torch.tensor([2.0, 3.0]).double().requires_grad_()]
        for reduction in ("none", "mean"):

            def loss(a, size, reduction=reduction):
                return HeadLossOfTest.functional(a, target, size, shares, reduction=reduction)

            assert torch.autograd.gradcheck(loss, leaves)
            assert torch.autograd.gradgradcheck(loss, leaves)

    def test_required_parameters(self):
        with pytest.raises(TypeError, match="shares"):
            HeadLossOfTest()
        with pytest.raises(ValueError, match=r"shares must have one entry for each of 3 classes, got shape \(2,\)"):
            HeadLossOfTest.functional(x, torch.tensor([1, 0]), torch.ones(2), torch.ones(2))


class TestRefusedDeclarations:
    def declare(self, body):
        scope = {"Tensor": Tensor, "param": param, "PointwiseLoss": PointwiseLoss, "exp": exp, "stop": stop,
                 "ClassScoresLoss": ClassScoresLoss}  # fmt: skip
        exec("class Wrong(PointwiseLoss):\n    'Wrong.'\n" + "\n".join(f"    {line}" for line in body), scope)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (["a: str = param(default='b', doc='')", "value = staticmethod(lambda input, a: input)"], "str goes with choices"),
            (["a: float = param(default=1.0, choices=('b',), doc='')", "value = staticmethod(lambda input, a: input)"],
             "str goes with choices"),
            (["a: str = param(default='c', choices=('b',), doc='')", "value = staticmethod(lambda input, a: input)"],
             "a must be 'b', got 'c'"),
            (["a: Tensor = param(doc='')", "arguments = 'reduction a'", "value = staticmethod(lambda input, a: input * a)"],
             "parameters without a default come first"),
        ],
    )  # fmt: skip
    def test_refused(self, body, message):
        with pytest.raises((DeclarationError, TypeError), match=message):
            self.declare(body)

    def test_a_tensor_in_a_formula_of_rows(self):
        with pytest.raises(DeclarationError, match="only element-wise losses take a tensor for a number"):

            class Wrong(ClassScoresLoss):
                """Wrong."""

                a: float | Tensor = param(default=1.0, doc="A number.")

                @staticmethod
                def value(log_probability, a):
                    return -a * log_probability


def test_a_part_that_is_a_constant_for_differentiation():
    class StoppedLossOfTest(PointwiseLoss):
        """A square whose weight is held fixed."""

        @staticmethod
        def value(input, target):
            return stop(exp(-absolute(input - target))) * (input - target) * (input - target)

    a = x.clone().requires_grad_()
    StoppedLossOfTest.functional(a, t, reduction="sum").backward()
    torch.testing.assert_close(a.grad, torch.exp(-(x - t).abs()) * 2 * (x - t))
