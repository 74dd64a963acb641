"""The truth about the similarity of images: each window by itself."""

from differences import slopes
from image_rows import gaussian, pairs, similar
from proofs import Bars, Example, RowProof, Variant


def value(m, input, target, data_range, window_size, sigma, k1, k2):
    weights, c1, c2 = gaussian(m, window_size, sigma), (k1 * data_range) ** 2, (k2 * data_range) ** 2
    return m.sum(1 - similar(m, x, y, weights, c1, c2)[0] for x, y in zip(input, target, strict=True)) / len(input)


def exact(m, input, target, data_range=1.0, window_size=11, sigma=1.5, k1=0.01, k2=0.03):
    given = data_range, window_size, sigma, k1, k2
    by_input = slopes(lambda x: value(m, x, target, *given), input)
    by_target = slopes(lambda y: value(m, input, y, *given), target)
    return (value(m, input, target, *given),), {0: by_input, 1: by_target}


def channels(n, g):
    """Two small channels, dark and with little contrast."""
    x, y = pairs(n, g, (2, 3, 4))
    return 0.125 * x, 0.125 * y


proof = RowProof(
    name="ssim_loss",
    exact=exact,
    bars=Bars(value=2.0, gradient=3.9, eager_value=2.0, eager_gradient=3.9),
    variants=[
        Variant("images", pairs, {"window_size": 3}, gradients=(0, 1)),
        Variant(
            "channels",
            channels,
            {"window_size": 2, "sigma": 0.75, "data_range": 2.0, "k1": 0.125, "k2": 0.25},
            gradients=(0, 1),
        ),
    ],
    example=Example(
        data="""target = torch.rand(2, 3, 32, 32).cumsum(-1).cumsum(-2) / 1024  # smooth images
output = target + 0.05 * torch.randn(2, 3, 32, 32)""",
        by_hand="""k = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
k = (torch.outer(k, k) / k.sum() ** 2).expand(3, 1, 11, 11)
mean = lambda image: torch.nn.functional.conv2d(image, k, groups=3)
mx, my = mean(output), mean(target)
vx, vy, both = (
    mean(output**2) - mx**2,
    mean(target**2) - my**2,
    mean(output * target) - mx * my,
)
similarity = (
    (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
)
by_hand = 1 - similarity.mean((1, 2, 3))""",
        operands="output, target",
        more="""# The more noise, the less alike.
for noise in (0.0, 0.01, 0.1):
    print(
        noise, losskit.SSIMLoss()(target + noise * torch.randn_like(target), target).item()
    )""",
    ),
)
