"""SoftClDiceLoss: whether the centre lines of predicted and true masks lie inside of each other."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, positive, probability
from losskit.facts import Facts
from losskit.families.centre_lines import lines_outside, parts
from losskit.families.composed import ComposedLoss

MASKS = "(N, C, H, W) or (N, C, D, H, W)"


class SoftClDiceLoss(ComposedLoss):
    """Dice of centre lines: how much of the predicted one is in the true mask, and of the true one in the predicted.

    Choose it beside DiceLoss for vessels, roads, neurites: a gap costs little area but breaks a line.
    Prefer DiceLoss or TverskyLoss for compact objects, which have no centre line worth the name.

    Centre lines come from repeated minima and maxima over neighbouring pixels, which have gradients. The usual sum is
    `(1 - a) * DiceLoss() + a * SoftClDiceLoss()`. The loss of an image is the mean over its classes. Where several
    neighbours are the least or the largest, one of them has the gradient.
    """

    iters: int = param(default=3, domain=Interval("at least 1", low=1.0, typical=1.0),
                       doc="How often masks are eroded: the largest radius, in pixels, at least.")  # fmt: skip
    smooth: float = param(default=1.0, domain=positive, doc="Added to numerators and denominators.")

    name = "soft_cldice_loss"
    arguments = "iters smooth reduction"
    operands = {
        "input": Operand("Predicted probabilities (N, C, H, W), or volumes.", domain=probability, shape=MASKS,
                         hint="For raw scores pass their sigmoid, or softmax."),
        "target": Operand("True masks, 0 and 1, or probabilities.", domain=probability, shape=MASKS),
    }  # fmt: skip
    unit = "(N,)"
    _usual_shape = (4, 1, 256, 256)

    @staticmethod
    def value(input, target, iters, smooth):
        # One less precision and one less sensitivity, in which nothing cancels.
        lines, outside = lines_outside(input, target, iters).unbind(-1)
        missed = outside / (lines + smooth)
        lines, outside = lines_outside(target, input, iters).unbind(-1)
        lost = outside / (lines + smooth)
        loss = (missed * (1.0 - lost) + lost * (1.0 - missed)) / (2.0 - missed - lost)
        return loss.mean(1)

    parts = staticmethod(parts)
    equations = {
        "loss": (
            r"\ell = \frac{1}{C} \sum_c \Big( 1 - \frac{2 P_c T_c}{P_c + T_c} \Big)",
            "ℓ = 1/C Σ (1 − 2PT / (P + T))",
        ),
        "where": (
            r"P = \frac{\sum_i s_i(p) \, t_i + \epsilon}{\sum_i s_i(p) + \epsilon}, \quad "
            r"T = \frac{\sum_i s_i(t) \, p_i + \epsilon}{\sum_i s_i(t) + \epsilon}",
            "P = (Σᵢ sᵢ(p)tᵢ + ε) / (Σᵢ sᵢ(p) + ε), T = (Σᵢ sᵢ(t)pᵢ + ε) / (Σᵢ sᵢ(t) + ε)",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial p_i} = -\frac{2}{C (P + T)^2} \Big( T^2 \frac{\partial P}{\partial p_i} "
            r"+ P^2 \frac{s_i(t)}{\sum_j s_j(t) + \epsilon} \Big)",
            "∂ℓ/∂pᵢ = −2 / (C(P + T)²) (T² ∂P/∂pᵢ + P² sᵢ(t) / (Σⱼ sⱼ(t) + ε))",
        ),
    }
    letters = {
        "input": ("p", "p", ""),
        "target": ("t", "t", ""),
        "smooth": (r"\epsilon", "ε", ""),
        "iters": ("k", "k", ""),
        "s": ("s(x)", "s(x)", "soft skeleton of a mask: what openings of the mask and of its k erosions remove"),
    }

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=[[[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]],
             target=[[[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]], value=0.0, source="a line on itself"),
        Case(input=[[[[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]],
             target=[[[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]], value=0.14285714285714285,
             source="a gap: P = 1, T = 3/4"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.SoftclDiceLoss(iter_=3, smooth_nr=1.0, smooth_dr=1.0, smooth=1e-12)(input, target)",
            agrees=1e-6,
            given={"input": [[[[((3 * i + 5 * j) % 7) / 8 for j in range(9)] for i in range(9)]]],
                   "target": [[[[float(i in (3, 4) or j == 5) for j in range(9)] for i in range(9)]]]},
            why="MONAI sums over the batch and over classes before it divides.",
        ),
    ]  # fmt: skip
    aliases = "cldice_loss centerline_dice"
    task = "segmentation"
    best_for = "Vessels, roads, neurites: lines that must not break."
    not_for = "Compact objects; use alone, for the width of a line says nothing to it."
    reference = (
        "Shit, S., Paetzold, J. C., Sekuboyina, A. et al. (2021). clDice: a novel topology-preserving loss function "
        "for tubular structure segmentation. CVPR. arXiv:2003.07311."
    )
