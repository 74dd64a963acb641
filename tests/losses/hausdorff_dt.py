"""The truth about squared errors, weighted by distances to a power. The distances are constants."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, input_distance, target_distance, alpha):
    d = input - target
    weight = input_distance**alpha + target_distance**alpha
    slope, nothing = 2 * d * weight, (0 * input,)
    gradients = {"input": (slope,), "target": (-slope,), "input_distance": nothing, "target_distance": nothing}
    return (d * d * weight,), gradients


def subnormal_factor(what, operands):
    """The error times the root of a distance's power may be subnormal before it is multiplied by the root again."""
    return max(1.0, operands["input_distance"], operands["target_distance"]) if what != "value" else 0.0


proof = PointwiseProof(
    name="hausdorff_dt_loss",
    exact=exact,
    variants=[{"alpha": 1.5}, {"alpha": 0.6}],
    # The square of a rounded difference times a rounded root, twice.
    bars=Bars(value=4.4, gradient=3.6, eager_value=4.2, eager_gradient=3.6),
    subnormal_factor=subnormal_factor,
    others={
        "target": [0.0, 1.0, 0.3, 1.0],
        "input_distance": [0.0, 1.0, 2.5, 300.0],
        "target_distance": [1.0, 0.0, 1.4, 7.0],
    },
    example=Example(
        data="""mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
mask[..., 10:20, 8:24] = True  # an object in each of two images
target = mask.float()
output = (0.6 * target + 0.4 * torch.rand(2, 1, 32, 32)).roll(3, dims=-1)  # probabilities
of_output = losskit.distance_field(output > 0.5)
of_target = losskit.distance_field(mask)
alpha = 1.5""",
        by_hand="by_hand = (output - target) ** 2 * (of_output**alpha + of_target**alpha)",
        operands="output, target, of_output, of_target",
        arguments="alpha=alpha, ",
        more="""# The farther the prediction is off, the more a wrong pixel costs.
for shift in (1, 2, 4, 8):
    moved = target.roll(shift, dims=-1)
    print(
        shift,
        losskit.HausdorffDTLoss()(
            moved, target, losskit.distance_field(moved > 0.5), of_target
        ),
    )""",
    ),
)
