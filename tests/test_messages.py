"""What a person needs to read: exceptions that are torch's kinds, hints that are the way out, a short traceback."""

import inspect
import pickle
import traceback
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import losskit
import losskit.functional as LF
from losskit.errors import MESSAGES, LossError, SpaceWarning

G = torch.Generator().manual_seed(4)
X, T = torch.randn(4, 3, generator=G), torch.randn(4, 3, generator=G)
Y, P, S, V = torch.tensor([0, 1, 2, 0]), torch.rand(4, 3, generator=G), torch.ones(4, 3), torch.ones(4)
ZERO_ONE = torch.tensor([[0.0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]])
LP, LABELS = torch.randn(6, 4, 5, generator=G).log_softmax(2), torch.randint(1, 5, (4, 2), generator=G)
FRAMES, LENGTHS = torch.full((4,), 6), torch.full((4,), 2)
CTC = LP, LABELS, FRAMES, LENGTHS
L, M = X.log_softmax(1), "meta"

# What people do wrong with torch's losses, whichever way torch says so.
WRONG = {
    "reduction": [
        (name, arguments, {"reduction": "avg"}) for name, arguments in (
            ("l1_loss", (X, T)), ("mse_loss", (X, T)), ("cross_entropy", (X, Y)), ("nll_loss", (L, Y)),
            ("ctc_loss", CTC), ("gaussian_nll_loss", (X, T, P)), ("poisson_nll_loss", (X, P)), ("kl_div", (L, P)),
            ("binary_cross_entropy", (P, P)), ("triplet_margin_loss", (X, T, P)), ("soft_margin_loss", (X, S)),
        )
    ],
    "parameters": [
        ("huber_loss", (X, T), {"delta": 0.0}), ("huber_loss", (X, T), {"delta": -1.0}),
        ("huber_loss", (X, T), {"delta": "2"}), ("smooth_l1_loss", (X, T), {"beta": -1.0}),
        ("cross_entropy", (X, Y), {"label_smoothing": 2.0}), ("cross_entropy", (X, Y), {"label_smoothing": -1.0}),
        ("cross_entropy", (X, Y), {"ignore_index": "a"}), ("multi_margin_loss", (X, Y), {"p": 3}),
        ("gaussian_nll_loss", (X, T, P), {"eps": -1.0}), ("triplet_margin_loss", (X, X, T), {"margin": -1.0}),
        ("poisson_nll_loss", (X, P), {"eps": "a"}), ("ctc_loss", CTC, {"blank": 9}), ("ctc_loss", CTC, {"blank": -1}),
    ],
    "shapes": [
        *((name, (X, T[:2]), {}) for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss")),
        ("binary_cross_entropy", (P, P[:2]), {}), ("binary_cross_entropy_with_logits", (X, P[:2]), {}),
        ("soft_margin_loss", (X, S[:2]), {}), ("hinge_embedding_loss", (X, S[:2]), {}), ("kl_div", (L, P[:2]), {}),
        ("poisson_nll_loss", (X, P[:2]), {}), ("gaussian_nll_loss", (X, T, P[:2]), {}),
        ("gaussian_nll_loss", (X, T[:2], P), {}), ("margin_ranking_loss", (X, T, S[:2]), {}),
        ("margin_ranking_loss", (X, T, V), {}), ("cosine_embedding_loss", (X, T, V[:3]), {}),
        ("cosine_embedding_loss", (X, T, S), {}), ("triplet_margin_loss", (X, T, X[:2]), {}),
        ("triplet_margin_loss", (X, T, X[0]), {}), ("cross_entropy", (X, Y[:2]), {}),
        ("cross_entropy", (X, Y[:, None]), {}), ("nll_loss", (L, Y[:2]), {}), ("nll_loss", (L, Y[:, None]), {}),
        ("multi_margin_loss", (X, Y[:2]), {}), ("multilabel_margin_loss", (X, Y), {}), ("multi_margin_loss", (X[None], Y), {}),
        ("multilabel_soft_margin_loss", (X, S[:2]), {}), ("mse_loss", (X, T), {"weight": torch.ones(2)}),
        *((name, (x, Y), {"weight": torch.ones(2)}) for name, x in (("cross_entropy", X), ("nll_loss", L), ("multi_margin_loss", X))),
        ("binary_cross_entropy", (P, P), {"weight": torch.ones(2)}),
        ("ctc_loss", (LP, LABELS[:2], FRAMES, LENGTHS), {}), ("ctc_loss", (LP[None], LABELS, FRAMES, LENGTHS), {}),
        ("ctc_loss", (LP, LABELS, FRAMES[:2], LENGTHS), {}), ("ctc_loss", (LP, LABELS, FRAMES, LENGTHS[:2]), {}),
    ],
    "scalars": [
        ("cross_entropy", (X[0, 0], Y[0]), {}), ("nll_loss", (X[0, 0], Y[0]), {}),
        ("cosine_embedding_loss", (X[0, 0], X[0, 0], V[0]), {}), ("multilabel_soft_margin_loss", (X[0, 0], S[0, 0]), {}),
    ],
    "no classes": [(name, (X[:, :0], Y), {}) for name in ("cross_entropy", "nll_loss", "multi_margin_loss")],
    "values": [
        ("cross_entropy", (X, Y + 5), {}), ("cross_entropy", (X, Y - 1), {}), ("nll_loss", (L, Y + 5), {}),
        ("multi_margin_loss", (X, Y + 5), {}), ("multi_margin_loss", (X, Y - 1), {}),
        ("multilabel_margin_loss", (X, torch.full((4, 3), 7)), {}), ("ctc_loss", (LP, LABELS, FRAMES + 9, LENGTHS), {}),
        ("ctc_loss", (LP, LABELS, FRAMES, LENGTHS + 9), {}), ("ctc_loss", (LP, LABELS, FRAMES - 9, LENGTHS), {}),
        ("ctc_loss", (LP, LABELS, FRAMES, LENGTHS - 9), {}), ("binary_cross_entropy", (P * 9, P), {}),
        ("binary_cross_entropy", (P, P * 9), {}), ("gaussian_nll_loss", (X, T, -P), {}),
    ],
    "dtypes": [
        ("cross_entropy", (Y, X), {}), ("cross_entropy", (X.long(), Y), {}), ("cross_entropy", (X, Y.float()), {}),
        ("nll_loss", (X.long(), Y), {}), ("nll_loss", (L, Y.float()), {}), ("nll_loss", (L, P), {}),
        ("binary_cross_entropy", (P.long(), P), {}), ("binary_cross_entropy_with_logits", (X.long(), P), {}),
        *((name, (X.long(), T.long()), {}) for name in (
            "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "soft_margin_loss", "kl_div", "poisson_nll_loss",
            "hinge_embedding_loss", "multilabel_soft_margin_loss")),
        ("gaussian_nll_loss", (X.long(), T.long(), P.long()), {}), ("margin_ranking_loss", (X.long(), T.long(), T.long()), {}),
        ("cosine_embedding_loss", (X.long(), T.long(), Y), {}), ("triplet_margin_loss", (X.long(), T.long(), T.long()), {}),
        ("multi_margin_loss", (X.long(), Y), {}), ("multi_margin_loss", (X, Y.float()), {}),
        ("multilabel_margin_loss", (X.long(), Y), {}), ("multilabel_margin_loss", (X, T), {}),
        ("ctc_loss", (LP.long(), LABELS, FRAMES, LENGTHS), {}), ("ctc_loss", (LP, LABELS.float(), FRAMES, LENGTHS), {}),
        ("ctc_loss", (LP, LABELS, FRAMES.float(), LENGTHS), {}), ("ctc_loss", (LP, LABELS, [1.5] * 4, LENGTHS), {}),
        ("cross_entropy", (X + 0j, Y), {}), ("mse_loss", (X + 0j, T + 0j), {}), ("mse_loss", (X.to_sparse(), T), {}),
        ("cross_entropy", (X, Y), {"weight": torch.ones(3).half()}), ("cross_entropy", (X.to_sparse(), Y), {}),
    ],
    "devices": [("l1_loss", (X, T.to(M)), {}), ("mse_loss", (X, T.to(M)), {}), ("cross_entropy", (X, Y.to(M)), {})],
    "no tensors": [
        *((name, (X, None), {}) for name in (
            "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy", "soft_margin_loss", "kl_div",
            "binary_cross_entropy_with_logits", "hinge_embedding_loss", "poisson_nll_loss", "multilabel_margin_loss",
            "multilabel_soft_margin_loss", "cross_entropy", "nll_loss", "multi_margin_loss")),
        *((name, (X, X, None), {}) for name in (
            "cosine_embedding_loss", "margin_ranking_loss", "gaussian_nll_loss", "triplet_margin_loss")),
        ("mse_loss", ([1.0], T), {}), ("cross_entropy", ([1.0], Y), {}), ("cross_entropy", (X, [1]), {}),
        ("l1_loss", (X, 3.0), {}), ("huber_loss", (X, [1.0]), {}), ("nll_loss", (L, [0]), {}),
        ("ctc_loss", (LP, None, FRAMES, LENGTHS), {}),
    ],
    "names": [("mse_loss", (X, T), {"weights": X}), ("huber_loss", (X, T), {"dleta": 2.0})],
}  # fmt: skip


def raised(call):
    try:
        call()
    except Exception as problem:  # of whatever kind
        return problem
    return None


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning", "ignore:reduction:UserWarning")
@pytest.mark.parametrize(("kind", "number"), [(kind, i) for kind, rows in WRONG.items() for i in range(len(rows))])
def test_whoever_catches_torchs_error_catches_ours(kind, number):
    name, arguments, keywords = WRONG[kind][number]
    theirs = raised(lambda: getattr(F, name)(*arguments, **keywords))
    for call in (
        lambda: getattr(LF, name)(*arguments, **keywords),
        lambda: getattr(LF, name)(*arguments, **keywords, sample_weight=torch.ones((), requires_grad=True)),
    ):
        ours = raised(call)
        assert isinstance(ours, LossError)
        assert theirs is None or isinstance(ours, type(theirs)), theirs


def test_errors_survive_another_process():
    for kind, (exception, _) in MESSAGES.items():
        problem = pickle.loads(pickle.dumps(exception(f"mse_loss: {kind}.")))
        assert type(problem) is exception
        assert problem.args == (f"mse_loss: {kind}.",)
        assert isinstance(problem, LossError | SpaceWarning)


# ---------------------------------------------------------------------------------------------------------
# The way out

ONE_CLASS = "There is one class: for yes or no use binary_cross_entropy_with_logits, or two channels."
SWAPPED = "Input looks like labels and target like scores: are the two swapped?"
HINTS = [
    # a loss is made, then called
    (lambda: losskit.MSELoss(X, T), "Call losskit.MSELoss()(input, target) or losskit.functional.mse_loss(input, target)."),
    (lambda: losskit.CrossEntropyLoss(X, Y), "Call losskit.CrossEntropyLoss()(input, target) or losskit.functional.cross_entropy(input, target)."),
    (lambda: losskit.HuberLoss(X, T), "takes no tensors of a call, got one as reduction"),
    (lambda: losskit.HuberLoss(input=X, target=T), "takes no tensors of a call, got one as input"),
    (lambda: losskit.TripletMarginLoss(X, T, P), "losskit.functional.triplet_margin_loss(anchor, positive, negative)"),
    (lambda: losskit.CTCLoss(*CTC), "losskit.functional.ctc_loss(log_probs, targets, input_lengths, target_lengths)"),
    (lambda: losskit.HuberLoss(mask=None), "It is an argument of the call: HuberLoss()(..., mask=...)."),
    # numbers in the place of something else
    (lambda: losskit.HuberLoss(2.0), "Did you mean delta=2.0?"),
    (lambda: losskit.SmoothL1Loss(0.5), "size_average must be True, False or None, got 0.5. Did you mean beta=0.5?"),
    (lambda: losskit.GaussianNLLLoss(1e-3), "full must be True or False, got 0.001. Did you mean eps=0.001?"),
    (lambda: losskit.PoissonNLLLoss(1e-3), "log_input must be True or False, got 0.001. Did you mean eps=0.001?"),
    (lambda: LF.huber_loss(X, T, 2.0), "Did you mean delta=2.0?"),
    (lambda: LF.smooth_l1_loss(X, T, 0.5), "Did you mean beta=0.5?"),
    (lambda: LF.mse_loss(X, T, P), "Weights are given by name: weight=... or sample_weight=..."),
    # names
    (lambda: LF.huber_loss(X, T, dleta=2), "huber_loss: got an unexpected keyword argument 'dleta'. Did you mean delta?"),
    (lambda: LF.cross_entropy(X, Y, label_smothing=0.1), "Did you mean label_smoothing?"),
    (lambda: LF.mse_loss(X, T, smaple_weight=X), "Did you mean sample_weight?"),
    (lambda: losskit.MSELoss()(X, T, maks=X > 0), "Did you mean mask?"),
    (lambda: losskit.HuberLoss()(X, T, delta=2.0), "It is an argument of the constructor: HuberLoss(delta=...)."),
    (lambda: losskit.HuberLoss()(X, T, reduction="sum"), "It is an argument of the constructor: HuberLoss(reduction=...)."),
    # one class
    (lambda: LF.cross_entropy(X[:, :1], torch.tensor([0, 1, 1, 0])), ONE_CLASS),
    (lambda: LF.cross_entropy(X[:, :1], torch.tensor([0.0, 1, 1, 0])), ONE_CLASS),
    (lambda: LF.nll_loss(L[:, :1], torch.tensor([0, 1, 1, 0])), ONE_CLASS),
    (lambda: LF.multi_margin_loss(X[:, :1], torch.tensor([0, 1, 1, 0])), "There is one class, and no other to be better than."),
    # swapped
    (lambda: LF.cross_entropy(Y, X), SWAPPED),
    (lambda: LF.cross_entropy(Y.float(), X), SWAPPED),
    (lambda: LF.nll_loss(Y, L), SWAPPED),
    (lambda: LF.multi_margin_loss(Y, X), SWAPPED),
    (lambda: LF.binary_cross_entropy_with_logits(ZERO_ONE.long(), X), SWAPPED),
    (lambda: LF.binary_cross_entropy_with_logits(ZERO_ONE, X), SWAPPED),
    (lambda: LF.binary_cross_entropy(ZERO_ONE, X), SWAPPED),
    (lambda: LF.soft_margin_loss(2 * ZERO_ONE - 1, X), SWAPPED),
    (lambda: LF.multilabel_soft_margin_loss(ZERO_ONE, X), SWAPPED),
    (lambda: LF.kl_div(X.softmax(1), L), "It looks as if input and target were swapped."),
    # shapes
    (lambda: LF.margin_ranking_loss(V, V, torch.tensor([-1.0])), "Did you mean target.expand(4)?"),
    (lambda: LF.cosine_embedding_loss(X, T, torch.ones(1)), "Did you mean target.expand(4)?"),
    (lambda: LF.mse_loss(X, T[:1]), "Did you mean target.expand(4, 3)?"),
    (lambda: LF.mse_loss(X, torch.tensor(1.0)), "Did you mean target.expand(4, 3)?"),
    (lambda: LF.mse_loss(X, T, sample_weight=V), "Did you mean sample_weight.unsqueeze(1), one for each row?"),
    (lambda: LF.mse_loss(torch.ones(4, 2, 3), torch.ones(4, 2, 3), mask=V > 0), "Did you mean mask.reshape(4, 1, 1), one for each row?"),
    (lambda: LF.mse_loss(torch.ones(4, 2, 3), torch.ones(4, 2, 3), weight=S), "Did you mean weight.unsqueeze(1), the same along dimension 1?"),
    # no tensors
    (lambda: LF.mse_loss(X.numpy(), T), "input must be a tensor, got ndarray. Use torch.as_tensor(input)."),
    (lambda: LF.mse_loss(X, [1.0]), "target must be a tensor, got list. Use torch.as_tensor(target)."),
    (lambda: LF.cross_entropy(X, 3), "target must be a tensor, got int. Use torch.as_tensor(target)."),
    (lambda: LF.mse_loss(X, np.float64(1)), "target must be a tensor, got float64. Use torch.as_tensor(target)."),
    (lambda: LF.cross_entropy((X, T), Y), "input must be a tensor, got tuple. Did you mean input[0]?"),
    (lambda: LF.cross_entropy({"logits": X}, Y), "input must be a tensor, got dict. Did you mean input['logits']?"),
    (lambda: LF.mse_loss([X[0], X[1]], T), "input must be a tensor, got list. Use torch.stack(input)."),
    (lambda: losskit.BCELoss(weight=np.ones(3)), "weight must be a tensor or None, got array([1., 1., 1.]). Use torch.as_tensor(weight)."),
    # parameters
    (lambda: LF.huber_loss(X, T, delta=torch.tensor(0.5, requires_grad=True)), "It has no gradient here: pass delta.item()."),
    (lambda: losskit.HuberLoss(delta=np.array(0.5)), "Use delta.item()."),
    (lambda: losskit.HuberLoss(delta="0.5"), "Use float(delta)."),
    (lambda: losskit.HuberLoss(delta=torch.ones(2)), "huber_loss: delta must be a number, got tensor of shape (2,)."),
    (lambda: losskit.HuberLoss(delta=torch.tensor(-1.0)), "huber_loss: delta must be positive"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HINTS)))
def test_the_way_out(number):
    mistake, text = HINTS[number]
    problem = raised(mistake)
    assert isinstance(problem, LossError)
    assert str(problem).endswith(text) or text in str(problem), problem
    assert ": " in str(problem)


# Every loss: the constructor refuses the tensors of a call, and a misspelt name finds the right one.
@pytest.mark.parametrize("loss", [cls for cls in losskit.losses().values() if cls.__module__.startswith("losskit.")])
def test_every_loss_says_so(loss):
    operands, needed = [torch.ones(2, 3) for _ in loss._call_operands()], loss._needed()
    if loss.name != "triplet_margin_with_distance_loss":  # keyword-only, and its own function
        with pytest.raises(TypeError, match=rf"{loss.__name__}\(\)\({operands and loss._call_operands()[0]}"):
            loss(*operands, *operands)
        with pytest.raises(TypeError, match="Did you mean reduction"):
            loss.functional(*operands, **needed, reducton="sum")
        with pytest.raises(TypeError, match="Did you mean sample_weight"):
            loss(**needed)(*operands, sample_wieght=operands[0])
        for function in (loss.functional, getattr(LF, loss.name), loss.forward):
            assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
        with pytest.raises(TypeError, match="Did you mean reduction"):
            loss(**needed, reducton="sum")


# ---------------------------------------------------------------------------------------------------------
# What is accepted


@pytest.mark.parametrize(
    "three", [np.int64(3), np.int8(3), np.float32(3), np.float64(3), Fraction(3), torch.tensor(3), torch.tensor([3.0])]
)
def test_any_number_is_a_normalizer(three):
    expected = LF.mse_loss(X, T, normalizer=3)
    eager = LF.mse_loss(X, T, normalizer=three, sample_weight=torch.ones((), requires_grad=True))
    torch.testing.assert_close([LF.mse_loss(X, T, normalizer=three), eager.detach()], [expected, expected])
    for loss, operands in (
        ("cross_entropy", (X, Y)),
        ("multi_margin_loss", (X, Y)),
        ("ctc_loss", CTC),
        ("triplet_margin_loss", (X, T, P)),
    ):
        function = getattr(LF, loss)
        torch.testing.assert_close(function(*operands, normalizer=three), function(*operands, normalizer=3))


@pytest.mark.parametrize(
    "half", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), torch.tensor(0.5), torch.tensor([0.5]).double()]
)
def test_any_number_is_a_parameter(half):
    expected = LF.huber_loss(X, T, delta=0.5)
    assert LF.huber_loss(X, T, delta=half) == expected
    module = losskit.HuberLoss(delta=half)
    assert module(X, T) == expected
    assert type(module.delta) is float
    assert LF.cross_entropy(X, Y, ignore_index=torch.tensor(2)) == LF.cross_entropy(X, Y, ignore_index=2)
    assert LF.cross_entropy(X, Y, ignore_index=np.int32(2)) == LF.cross_entropy(X, Y, ignore_index=2)


def test_a_tensor_is_taken_by_its_present_value():
    delta = torch.tensor(0.5)
    first = LF.huber_loss(X, T, delta=delta)
    delta.fill_(0.25)
    assert LF.huber_loss(X, T, delta=delta) == LF.huber_loss(X, T, delta=0.25) != first
    kept = len(losskit.HuberLoss._plans)
    for _ in range(10):
        LF.huber_loss(X, T, delta=torch.tensor(0.25))
    assert len(losskit.HuberLoss._plans) == kept


# ---------------------------------------------------------------------------------------------------------
# Where it is told


OWN = str(Path(losskit.__file__).parent)  # the folder of a clone may be called losskit, too


def frames(problem):
    """The frames of losskit, and of torch without its modules, that a traceback shows."""
    names = [frame.filename for frame in traceback.extract_tb(problem.__traceback__)]
    return [
        name
        for name in names
        if name.startswith((OWN, "<losskit ")) or ("/torch/" in name and "/nn/modules/" not in name)
    ]


@pytest.mark.parametrize(("kind", "number"), [(kind, i) for kind, rows in WRONG.items() for i in range(len(rows))])
def test_a_mistake_stands_under_one_frame(kind, number):
    name, arguments, keywords = WRONG[kind][number]
    problem = raised(lambda: getattr(LF, name)(*arguments, **keywords))
    assert len(frames(problem)) == 1
    assert problem.__cause__ is None
    assert problem.__suppress_context__ or problem.__context__ is None


def test_a_wrong_label_in_a_module_stands_under_one_frame():
    scores = X.clone().requires_grad_()
    for call in (
        lambda: losskit.CrossEntropyLoss()(scores, Y + 5),
        lambda: losskit.CrossEntropyLoss()(scores, Y + 5, sample_weight=torch.ones((), requires_grad=True)),
        lambda: losskit.MultiMarginLoss()(scores, Y + 5),
        lambda: losskit.BCELoss()(scores * 9, P),
    ):
        assert len(frames(raised(call))) == 1


# ---------------------------------------------------------------------------------------------------------
# NaN, where one asks for it

NAN = X.clone()
NAN[2, 1] = NAN[3, 0] = float("nan")
NANS = [
    (lambda: LF.cross_entropy(NAN, Y), "cross_entropy: input is NaN at index (2, 1), the first of 2."),
    (lambda: losskit.CrossEntropyLoss()(NAN.requires_grad_(False), Y), "cross_entropy: input is NaN at index (2, 1), the first of 2."),
    (lambda: LF.mse_loss(X, NAN), "mse_loss: target is NaN at index (2, 1), the first of 2."),
    (lambda: LF.triplet_margin_loss(X, T, NAN), "triplet_margin_loss: negative is NaN at index (2, 1), the first of 2."),
    (lambda: LF.multi_margin_loss(NAN, Y), "multi_margin_loss: input is NaN at index (2, 1), the first of 2."),
    (lambda: LF.multilabel_soft_margin_loss(NAN, ZERO_ONE), "multilabel_soft_margin_loss: input is NaN at index (2, 1), the first of 2."),
    (lambda: LF.cross_entropy(X, Y, torch.tensor([1.0, float("nan"), 1])), "cross_entropy: weight is NaN at index (1,), the first of 1."),
    (lambda: LF.mse_loss(X, T, sample_weight=NAN), "mse_loss: sample_weight is NaN at index (2, 1), the first of 2."),
    (lambda: LF.cross_entropy(NAN, Y, mask=torch.tensor([True, True, False, True])), "cross_entropy: input is NaN at index (3, 0), the first of 1."),
    (lambda: LF.cross_entropy(NAN, Y, ignore_index=2), "cross_entropy: input is NaN at index (3, 0), the first of 1."),
    (lambda: LF.cross_entropy(NAN.T.reshape(1, 3, 4), Y[None]), "cross_entropy: input is NaN at index (0, 0, 3), the first of 2."),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NANS)))
def test_nan_is_refused_where_one_asks(number):
    call, message = NANS[number]
    with losskit.checks(nan="raise"):
        assert str(raised(call)) == message
    assert call().isnan()


def test_nan_that_does_not_count_is_none():
    mask = ~NAN.isnan()
    late = LP.clone()
    late[5, 1] = float("nan")
    with losskit.checks("raise", nan="raise"):
        assert LF.mse_loss(NAN, T, mask=mask).isfinite()
        assert LF.ctc_loss(late, LABELS, FRAMES - 1, LENGTHS).isfinite()
        assert LF.triplet_margin_loss(NAN, T, P, mask=mask.all(1)).isfinite()
        torch.func.grad(lambda x: LF.mse_loss(x, T))(NAN)  # a graph is not looked at
        with losskit.checks("off"):
            assert LF.mse_loss(NAN, T).isnan()
        with pytest.raises(ValueError, match=r"log_probs is NaN at index \(5, 1, 0\)"):
            LF.ctc_loss(late, LABELS, FRAMES, LENGTHS)
    assert LF.mse_loss(NAN, T).isnan()
