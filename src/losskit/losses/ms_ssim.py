"""MSSSIMLoss: how unlike two images are at several scales."""

import torch

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.losses._windows import (
    gaussian,
    halved,
    joined,
    joined_gradients,
    of_half,
    parted,
    unlike,
    unlike_by_gradients,
)

IMAGES = "(N, C, H, W) or (N, C, D, H, W)"
SIZE = Interval("at least 1", low=1.0, typical=1.0)
PUBLISHED = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the finest scale first


def exponents(scales):
    """The published exponents of so many scales, whose sum is 1."""
    total = sum(PUBLISHED[:scales])
    return [exponent / total for exponent in PUBLISHED[:scales]]


class MSSSIMLoss(ComposedLoss):
    """One less the product of similarities at several scales: contrast and structure at each, brightness at the last.

    Choose it to restore, compress or upscale images whose viewers may be near or far.
    Prefer SSIMLoss for small images, or where the finest scale is what counts.

    Each scale halves the images by the mean of 2 x 2 pixels (an odd last row or column is left out), so a side must
    have window_size * 2^(scales - 1) pixels at least: 176 by default. The exponents are the published ones; of fewer
    scales than five the first ones, divided by their sum. An image of which a scale has no similarity on average, or a
    negative one, has a loss of 1 and no gradient.

    In float32 pixels must be less than 1e17, because squares overflow beyond: divide the images and `data_range` by the
    same number, which leaves the loss as it is.
    """

    data_range: float = param(default=1.0, domain=positive, doc="Largest less smallest value that a pixel may have.")
    window_size: int = param(default=11, domain=SIZE, doc="Pixels of a window along each side.")
    sigma: float = param(default=1.5, domain=positive, doc="Deviation of the Gaussian of a window, in pixels.")
    k1: float = param(default=0.01, domain=positive, doc="Keeps dark windows steady: c1 is (k1 data_range)^2.")
    k2: float = param(default=0.03, domain=positive, doc="Keeps flat windows steady: c2 is (k2 data_range)^2.")
    scales: int = param(default=5, domain=Interval("from 1 to 5", low=1.0, high=5.0, typical=2.0),
                        doc="How many scales there are.")  # fmt: skip

    name = "ms_ssim_loss"
    arguments = "data_range window_size sigma k1 k2 scales reduction"
    operands = {
        "input": Operand("Images (N, C, H, W), or volumes.", shape=IMAGES),
        "target": Operand("The true images.", shape=IMAGES),
    }
    unit = "(N,)"
    _usual_shape = (4, 3, 256, 256)

    @staticmethod
    def least(window_size, scales):
        side = window_size * 2 ** (scales - 1)
        return {"H": side, "W": side, "D": side}

    @staticmethod
    def value(input, target, data_range, window_size, sigma, k1, k2, scales):
        window, c2 = gaussian(window_size, sigma), (k2 * data_range) ** 2
        losses, (half, apart) = [], parted(input, target)
        for _ in range(1, scales):
            losses.append(unlike(half, apart, window, None, c2))
            half, apart = halved(half), halved(apart)
        losses.append(unlike(half, apart, window, (k1 * data_range) ** 2, c2))
        return joined(torch.stack(losses), exponents(scales)).mean(1)

    @staticmethod
    def value_and_grad(input, target, data_range, window_size, sigma, k1, k2, scales):
        window, c2 = gaussian(window_size, sigma), (k2 * data_range) ** 2
        pairs = [tuple(x.contiguous() for x in parted(input, target))]
        for _ in range(1, scales):
            pairs.append(tuple(halved(x) for x in pairs[-1]))
        c1s = [None] * (scales - 1) + [(k1 * data_range) ** 2]
        losses = [unlike_by_gradients(*pair, window, c1, c2) for pair, c1 in zip(pairs, c1s, strict=True)]
        with torch.enable_grad():
            each = torch.stack(losses).requires_grad_()
            loss = joined(each, exponents(scales)).mean(1)
            (slopes,) = torch.autograd.grad(loss.sum(), each)
        for pair, slope in zip(pairs, slopes, strict=True):
            for x in pair:
                x.mul_(slope.reshape(slope.shape + (1,) * (x.ndim - 2)))
        for fine, coarse in zip(pairs[-2::-1], pairs[:0:-1], strict=True):
            for x, y in zip(fine, coarse, strict=True):
                x.add_(of_half(y, x.shape))
        return loss.detach(), joined_gradients(*pairs[0])

    equations = {
        "loss": (
            r"\ell = 1 - \overline{S_M}^{\,w_M} \prod_{j < M} \overline{c_j}^{\,w_j}",
            "ℓ = 1 − mean(S_M)^(w_M) Π(j < M) mean(cⱼ)^(wⱼ)",
        ),
        "where": (
            r"c = \frac{2 \sigma_{xy} + c_2}{\sigma_x^2 + \sigma_y^2 + c_2}, \quad "
            r"S = \frac{2 \mu_x \mu_y + c_1}{\mu_x^2 + \mu_y^2 + c_1} \, c",
            "c = (2σₓᵧ + c₂) / (σₓ² + σᵧ² + c₂), S = (2μₓμᵧ + c₁) / (μₓ² + μᵧ² + c₁) · c",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x} = (\ell - 1) \Big( \frac{w_M}{\overline{S_M}} \frac{\partial "
            r"\overline{S_M}}{\partial x} + \sum_{j < M} \frac{w_j}{\overline{c_j}} \frac{\partial "
            r"\overline{c_j}}{\partial x} \Big)",
            "∂ℓ/∂x = (ℓ − 1) (w_M / mean(S_M) ∂mean(S_M)/∂x + Σ(j < M) wⱼ / mean(cⱼ) ∂mean(cⱼ)/∂x)",
        ),
    }
    letters = {
        "input": ("x", "x", ""),
        "target": ("y", "y", ""),
        "sigma": (r"\sigma", "σ", ""),
        "data_range": ("R", "R", ""),
        "window_size": ("n", "n", ""),
        "k1": ("k_1", "k₁", ""),
        "k2": ("k_2", "k₂", ""),
        "scales": ("M", "M", ""),
        "c": ("c_1, c_2", "c₁, c₂", "squares of k₁R and k₂R"),
        "w": ("w_j", "wⱼ", "exponent of scale j"),
        "m": (r"\mu, \sigma", "μ, σ", "means, deviations and covariance in a Gaussian window, as in SSIMLoss"),
    }

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=[[[[((3 * i + 5 * j) % 7) / 8 for j in range(8)] for i in range(8)]]],
             target=[[[[((3 * i + 5 * j) % 7) / 16 + 0.25 for j in range(8)] for i in range(8)]]],
             window_size=3, scales=1, value=0.2078511, source="one scale is SSIMLoss"),
        Case(input=[[[[0.0, 1.0], [1.0, 0.0]]]], target=[[[[1.0, 0.0], [0.0, 1.0]]]], window_size=1, scales=2,
             value=0.0, source="halved both are 0.5, and a window of one pixel has no contrast"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-msssim",
            "1 - pytorch_msssim.ms_ssim(F.interpolate(input, 176), F.interpolate(target, 176), data_range=1.0)",
            "ms_ssim_loss(F.interpolate(input, 176), F.interpolate(target, 176))",
            differs=9e-5,
            gradient_differs=8e-5,
            given={
                "input": [[[[((3 * i + 5 * j) % 7) / 8 for j in range(8)] for i in range(8)]]],
                "target": [[[[((3 * i + 5 * j) % 7) / 16 + 0.25 for j in range(8)] for i in range(8)]]],
            },
            why="pytorch-msssim gives the similarity, with weights that sum to 1.0001, and pads odd sides where here "
            "the last row is left out.",
        ),
    ]  # fmt: skip
    aliases = "multi_scale_structural_similarity"
    task = "images"
    best_for = "Images whose viewers may be near or far."
    not_for = "Small images; images without any likeness, where it has no gradient."
    reference = (
        "Wang, Z., Simoncelli, E. P. and Bovik, A. C. (2003). Multiscale structural similarity for image quality "
        "assessment. Asilomar Conf. Signals, Systems and Computers, 1398-1402."
    )
