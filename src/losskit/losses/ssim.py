"""SSIMLoss: how unlike two images are in brightness, contrast and structure, window by window."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.losses._windows import gaussian, joined_gradients, parted, unlike, unlike_by_gradients

IMAGES = "(N, C, H, W) or (N, C, D, H, W)"
SIZE = Interval("at least 1", low=1.0, typical=1.0)


class SSIMLoss(ComposedLoss):
    """One less the structural similarity: compares means, variances and covariances of Gaussian windows of two images.

    Choose it to restore, compress or upscale images that people will look at, alone or beside L1Loss.
    Prefer MSSSIMLoss where large structures count, too, MSELoss where the error of a pixel is what is reported.

    Windows lie inside of the image, as in the published index: nothing is padded. The loss of an image is the mean over
    its windows and channels; 0 is a perfect copy, and it may be as large as 2. It is computed from differences of both
    images, so that it keeps its digits where they are nearly alike. Volumes have three dimensions of space.

    In float32 pixels must be less than 1e17, because squares overflow beyond: divide the images and `data_range` by the
    same number, which leaves the loss as it is.
    """

    data_range: float = param(default=1.0, domain=positive, doc="Largest less smallest value that a pixel may have.")
    window_size: int = param(default=11, domain=SIZE, doc="Pixels of a window along each side.")
    sigma: float = param(default=1.5, domain=positive, doc="Deviation of the Gaussian of a window, in pixels.")
    k1: float = param(default=0.01, domain=positive, doc="Keeps dark windows steady: c1 is (k1 data_range)^2.")
    k2: float = param(default=0.03, domain=positive, doc="Keeps flat windows steady: c2 is (k2 data_range)^2.")

    arguments = "data_range window_size sigma k1 k2 reduction"
    operands = {
        "input": Operand("Images (N, C, H, W), or volumes.", shape=IMAGES),
        "target": Operand("The true images.", shape=IMAGES),
    }
    unit = "(N,)"
    _usual_shape = (4, 3, 256, 256)

    @staticmethod
    def least(window_size):
        return {"H": window_size, "W": window_size, "D": window_size}

    @staticmethod
    def value(input, target, data_range, window_size, sigma, k1, k2):
        c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
        return unlike(*parted(input, target), gaussian(window_size, sigma), c1, c2).mean(1)

    @staticmethod
    def value_and_grad(input, target, data_range, window_size, sigma, k1, k2):
        c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
        half, apart = (x.contiguous() for x in parted(input, target))
        loss = unlike_by_gradients(half, apart, gaussian(window_size, sigma), c1, c2)
        if input.shape[1] > 1:
            half, apart = half.div_(input.shape[1]), apart.div_(input.shape[1])
        return loss.mean(1), joined_gradients(half, apart)

    equations = {
        "loss": (
            r"\ell = 1 - \frac{1}{W} \sum_w \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}"
            r"{(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}",
            "ℓ = 1 − 1/W Σ (2μₓμᵧ + c₁)(2σₓᵧ + c₂) / ((μₓ² + μᵧ² + c₁)(σₓ² + σᵧ² + c₂))",
        ),
        "where": (
            r"\mu_x = \sum_i k_i x_i, \quad \sigma_{xy} = \sum_i k_i (x_i - \mu_x)(y_i - \mu_y), \quad "
            r"k_i \propto e^{-\lvert i \rvert^2 / 2 \sigma^2}",
            "μₓ = Σᵢ kᵢxᵢ, σₓᵧ = Σᵢ kᵢ(xᵢ − μₓ)(yᵢ − μᵧ), kᵢ ∝ exp(−|i|² / 2σ²)",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x_i} = -\frac{2}{W} \sum_w k_{i - w} S_w \Big( \frac{\mu_y}{N_1} "
            r"- \frac{\mu_x}{D_1} + \frac{y_i - \mu_y}{N_2} - \frac{x_i - \mu_x}{D_2} \Big)",
            "∂ℓ/∂xᵢ = −2/W Σ k S (μᵧ/N₁ − μₓ/D₁ + (yᵢ − μᵧ)/N₂ − (xᵢ − μₓ)/D₂)",
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
        "c": ("c_1, c_2", "c₁, c₂", "squares of k₁R and k₂R"),
        "S": ("S_w = N_1 N_2 / D_1 D_2", "S = N₁N₂ / D₁D₂", "similarity of a window: the quotient in the sum"),
        "w": ("w", "w", "window, one of W in all channels of an image"),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=[[[[((3 * i + 5 * j) % 7) / 8 for j in range(8)] for i in range(8)]]],
             target=[[[[((3 * i + 5 * j + 1) % 7) / 8 for j in range(8)] for i in range(8)]]],
             window_size=3, value=0.73184993, source="mpmath, window by window"),
        Case(input=[[[[((3 * i + 5 * j) % 7) / 8 for j in range(8)] for i in range(8)]]],
             target=[[[[((3 * i + 5 * j) % 7) / 16 + 0.25 for j in range(8)] for i in range(8)]]],
             window_size=3, value=0.2078511, source="mpmath, half of the contrast"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-msssim",
            "1 - pytorch_msssim.ssim(input, target, data_range=1.0)",
            agrees=1e-6,
            given={"input": [[[[((3 * i + 5 * j) % 7) / 8 for j in range(16)] for i in range(16)]]],
                   "target": [[[[((3 * i + 4 * j) % 7) / 8 for j in range(16)] for i in range(16)]]]},
            why="pytorch-msssim gives the similarity.",
        ),
        Peer(
            "kornia",
            "kornia.losses.ssim_loss(input, target, window_size=11, padding='valid')",
            "0.5 * ssim_loss(input, target)",
            agrees=1e-10,
            given={"input": [[[[((3 * i + 5 * j) % 7) / 8 for j in range(16)] for i in range(16)]]],
                   "target": [[[[((3 * i + 4 * j) % 7) / 8 for j in range(16)] for i in range(16)]]]},
            why="kornia halves the loss, and pads unless told not to.",
        ),
    ]  # fmt: skip
    aliases = "structural_similarity"
    task = "images"
    best_for = "Restored, compressed or upscaled images that people look at."
    not_for = "Images smaller than a window; values of unknown range."
    reference = (
        "Wang, Z., Bovik, A. C., Sheikh, H. R. and Simoncelli, E. P. (2004). Image quality assessment: from error "
        "visibility to structural similarity. IEEE Trans. Image Process. 13, 600-612."
    )
