"""The truth about probabilities times signed distances, which are constants."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, distance_map):
    return (input * distance_map,), {"input": (distance_map,), "distance_map": (0 * input,)}


proof = PointwiseProof(
    name="boundary_loss",
    exact=exact,
    bars=Bars(value=0.5, gradient=0.0, eager_value=0.5, eager_gradient=0.0),
    others={"distance_map": [0.0, 1.0, -3.0, 1e-30, 1000.0]},
    example=Example(
        data="""mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
mask[..., 10:20, 8:24] = True  # an object in each of two images
output = torch.rand(2, 1, 32, 32)  # predicted probabilities
distance_map = losskit.signed_distance(mask)""",
        by_hand="by_hand = output * distance_map",
        operands="output, distance_map",
        more="""# Inside the distances are negative, at the pixels of the boundary 0.
print(distance_map[0, 0, 15, 5:12])
right = losskit.BoundaryLoss()(mask.float(), distance_map)
assert right < losskit.BoundaryLoss()(output, distance_map)""",
    ),
)
