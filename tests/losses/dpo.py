"""The truth about direct preference optimisation and its relatives."""

import numpy as np
import torch
from proofs import Bars, Example, PointwiseProof


def of_gap(m, h, loss_type, e, tau):
    """The terms of a loss of h, and of its derivative."""
    p, q = m.sigmoid(h), m.sigmoid(-h)
    if loss_type == "sigmoid":
        return ((1 - e) * m.softplus(-h), m.times(e, m.softplus(h))), (e * p, -(1 - e) * q)
    if loss_type == "robust":
        k = 1 / (1 - 2 * e)
        return (k * (1 - e) * m.softplus(-h), -k * m.times(e, m.softplus(h))), (-k * (1 - e) * q, -k * e * p)
    if loss_type == "hinge":
        return (m.maximum(1 - h, 0 * e),), (-m.where(h < 1, 1 + 0 * e, m.where(h >= 1, 0 * e, h)),)
    if loss_type == "exo_pair":
        e = e if e != 0 else e + 1 / (1000 + 0 * e)
        right, wrong = m.log1p(-e), m.log(e)
        value = m.times(p, m.softplus(-h)), p * right, m.times(q, m.softplus(h)), q * wrong
        return tuple(-x for x in value), (m.times(p * q, h), p * q * (wrong - right))
    on, off = m.sigmoid(h / tau), m.sigmoid(-h / tau)
    # exp(-h) / (1 + exp(-h / tau)), where the first may overflow.
    steep, less = m.where(h < 0, 1 / tau - 1, -1 + 0 * tau), m.softplus(-abs(h / tau))
    tamed, n = m.exp(m.times(steep, h) - less), m.softplus(-h)
    return (m.times(off, n), tamed), (-q * off, -tamed, tamed * off / tau, -m.times(on, n) * off / tau)


def of_gains(m, u, v, beta, loss_type):
    """The terms of a loss of both gains, and of its derivatives by them."""
    a, b, h = beta * u, beta * v, beta * (u - v)
    p, q, r = m.sigmoid(a), m.sigmoid(-a), m.sigmoid(b)
    if loss_type == "nca_pair":
        value = m.softplus(-a), m.softplus(a) / 2, m.softplus(b) / 2
        return value, (beta * p / 2, -beta * q), (beta * r / 2,)
    if loss_type == "bco_pair":
        return (m.softplus(-a), m.softplus(b)), (-beta * q,), (beta * r,)
    if loss_type == "sppo_hard":
        won, lost = u - 1 / (2 * beta), v + 1 / (2 * beta)
        return (won * won, lost * lost), (2 * won,), (2 * lost,)
    if loss_type == "apo_zero":
        return (q, r), (-beta * p * q,), (beta * r * m.sigmoid(-b),)
    pull = beta * m.sigmoid(h) * m.sigmoid(-h)
    return (p, m.sigmoid(-h)), (beta * p * q, -pull), (pull,)


def exact(m, chosen, rejected, ref_chosen, ref_rejected, beta, loss_type, label_smoothing, tau):
    u, v = chosen - ref_chosen, rejected - ref_rejected
    if loss_type in ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"):
        value, up, down = of_gains(m, u, v, beta, loss_type)
    else:
        value, slope = of_gap(m, beta * (u - v), loss_type, label_smoothing, tau)
        up, down = tuple(beta * x for x in slope), tuple(-beta * x for x in slope)
    nothing = (0 * (u - v),)
    return value, {"chosen": up, "rejected": down, "ref_chosen": nothing, "ref_rejected": nothing}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bends(h, loss_type, e, tau):
    """Magnitudes of the first and the second derivative of a loss of h, as sums over their terms."""
    p, q = sigmoid(h), sigmoid(-h)
    if loss_type == "sigmoid":
        return q + e, p * q
    if loss_type == "robust":
        return q + e / (1 - 2 * e), p * q
    if loss_type == "hinge":
        return 1.0 * (h < 1), 0.0 * h
    if loss_type == "exo_pair":
        far = np.abs(h - np.log((1 - (e or 1e-3)) / (e or 1e-3)))
        return p * q * far, p * q * (1 + far)
    on, off = sigmoid(h / tau), sigmoid(-h / tau)
    tamed, n = np.exp(np.where(h < 0, h * (1 / tau - 1), -h)) * sigmoid(np.abs(h / tau)), np.logaddexp(0, -h)
    first = q * off + on * off * n / tau + tamed * (1 + off / tau)
    second = q * off * (p + 2 * on / tau) + on * off * n / tau**2 + tamed * ((1 + off / tau) ** 2 + on * off / tau**2)
    return first, second


def gains(operands, beta):
    """Both gains and their difference, times beta, and the size of what is rounded in the difference."""
    c, r, a, b = (0.25 * np.float64(operands[name]) for name in ("chosen", "rejected", "ref_chosen", "ref_rejected"))
    u, v = c - a, r - b
    return *(4 * beta * x for x in (u, v, u - v)), 4 * beta * np.maximum(np.maximum(np.abs(u), np.abs(v)), abs(u - v))


def scale(what, operands, given):
    """The gap is a difference of rounded differences; a function of it is as wrong as it is steep."""
    beta, loss_type = given["beta"], given["loss_type"]
    if what.startswith("ref"):
        return 0.0
    with np.errstate(all="ignore"):
        a, b, h, size = gains(operands, beta)
        shown = lambda x, steep: np.where(np.isfinite(x * steep), np.abs(x * steep), 0.0)  # what is infinite is exact
        bend = lambda x: sigmoid(x) * sigmoid(-x)
        if loss_type == "sppo_hard":
            goal = 0.5 / beta
            u, v = a / beta, b / beta
            of_u, of_v = np.maximum(abs(u), goal), np.maximum(abs(v), goal)  # which show in squares of nothing, too
            squares = (
                shown(2 * of_u, np.maximum(abs(u - goal), 1e-6 * of_u)),
                shown(2 * of_v, np.maximum(abs(v + goal), 1e-6 * of_v)),
            )
            found = {"value": sum(squares), "chosen": shown(2, of_u), "rejected": shown(2, of_v)}[what]
        elif loss_type in ("nca_pair", "bco_pair"):
            of_value = shown(a, sigmoid(-a)) + shown(b, sigmoid(b))
            found = (
                of_value if what == "value" else beta * (shown(a, bend(a)) if what == "chosen" else shown(b, bend(b)))
            )
        elif loss_type in ("apo_zero", "apo_down"):
            of_u = shown(a, bend(a))
            of_v = shown(b, bend(b)) if loss_type == "apo_zero" else shown(size, bend(h))
            both = of_u + of_v if loss_type == "apo_down" else of_u
            found = of_u + of_v if what == "value" else beta * (both if what == "chosen" else of_v)
        else:
            first, second = bends(h, loss_type, given["label_smoothing"], given["tau"])
            found = shown(size, first if what == "value" else beta * second)
        return found[()]


def undecided(operands, given, dtype):
    """What a gap decides where its rounding is large, and the slope of 'hinge' next to its kink."""
    with np.errstate(all="ignore"):
        _, _, h, size = gains(operands, given["beta"])
        rounding = 4 * torch.finfo(dtype).eps * size
    if given["loss_type"] in ("nca_pair", "bco_pair", "sppo_hard", "apo_zero"):
        return ()
    if rounding > 1e-3 and abs(h) < rounding + 1e3:
        return ("value", "chosen", "rejected")
    return ("chosen", "rejected") if given["loss_type"] == "hinge" and abs(h - 1) <= rounding else ()


def points(given, dtype):
    """Answers that gained nothing, or as much as each other, or what some types aim at."""
    goal = 0.5 / given["beta"]
    rows = [(-3.0, -4.0, -3.0, -4.0), (-3.0, -4.0, -2.0, -3.0), (goal, -goal, 0.0, 0.0), (13.8 * goal, 0.0, 0.0, 0.0)]
    return [torch.tensor(rows, dtype=torch.float64)]


proof = PointwiseProof(
    name="dpo_loss",
    exact=exact,
    variants=[
        {"beta": 0.5, "label_smoothing": 0.1},
        {"loss_type": "robust", "label_smoothing": 0.1},
        {"loss_type": "hinge"},
        {"loss_type": "exo_pair"},
        {"loss_type": "exo_pair", "label_smoothing": 0.2},
        {"loss_type": "discopop"},
        {"loss_type": "discopop", "tau": 0.7, "beta": 1.0},
        {"loss_type": "nca_pair"},
        {"loss_type": "bco_pair"},
        {"loss_type": "sppo_hard"},
        {"loss_type": "apo_zero"},
        {"loss_type": "apo_down"},
    ],
    # 'exo_pair' adds four terms; 'apo_down' is a difference of products of sigmoids, with two roundings each in torch.
    bars=Bars(value=3.0, gradient=3.5, eager_value=3.5, eager_gradient=4.5),
    others={
        "rejected": [0.0, -1.0, -30.0, -400.0],
        "ref_chosen": [0.0, -2.0, -25.0, -40.0],
        "ref_rejected": [0.0, -1.0, -28.0, -410.0],
    },
    scale=scale,
    undecided=undecided,
    points=points,
    example=Example(
        data="""chosen, rejected = -20 * torch.rand(10), -20 * torch.rand(10)  # of whole answers
ref_chosen, ref_rejected = -20 * torch.rand(10), -20 * torch.rand(10)  # by the reference
beta = 0.1""",
        by_hand="""gap = (chosen - ref_chosen) - (rejected - ref_rejected)
by_hand = -torch.log(torch.sigmoid(beta * gap))""",
        operands="chosen, rejected, ref_chosen, ref_rejected",
        arguments="beta=beta, ",
        more="""# Other losses of the same four numbers are words, and a reference of 0.0 is none.
hinge = losskit.DPOLoss(loss_type="hinge")(chosen, rejected, ref_chosen, ref_rejected)
assert torch.allclose(hinge, torch.relu(1 - beta * gap).mean())
free = losskit.DPOLoss()(chosen, rejected, torch.tensor(0.0), torch.tensor(0.0))
assert torch.allclose(free, -torch.log(torch.sigmoid(beta * (chosen - rejected))).mean())""",
    ),
)
