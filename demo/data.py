"""The demo's data: sets that ship with scikit-learn, split, standardised, and made into batches.

Nothing is downloaded. A quarter is held out for the test before anything is arranged or thinned out, so no image is in
both parts, nor is a sequence made of images of both.
"""

from dataclasses import dataclass, replace

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split

RARE = (3, 8, 9)  # digits that the thinned-out training set has few of; easily mistaken for others
RARE_SAMPLES = 5  # of each
FRAMES = 48  # columns of a row of digits: five digits of 8 columns, and up to 2 blank ones between two of them
LONGEST = 5  # digits in a row
BODY_MASS_INDEX = 2  # its column in the diabetes data


@dataclass(frozen=True)
class Data:
    """A data set split and standardised; `scale` turns standardised errors back into the data's unit."""

    train_inputs: torch.Tensor
    train_targets: torch.Tensor
    test_inputs: torch.Tensor
    test_targets: torch.Tensor
    scale: float = 1.0


def split(inputs, targets, stratify=None, seed=0):
    """Train and test parts, inputs standardised by the training part; whole numbers stay class indices."""
    parts = [torch.as_tensor(part) for part in (inputs, targets)]
    parts = [part.float() if part.is_floating_point() else part.long() for part in parts]
    train_inputs, test_inputs, train_targets, test_targets = train_test_split(
        *parts, test_size=0.25, random_state=seed, stratify=stratify
    )
    mean, deviation = train_inputs.mean(0), train_inputs.std(0)
    deviation[deviation == 0] = 1  # a pixel that is blank in every training image
    train_inputs, test_inputs = (train_inputs - mean) / deviation, (test_inputs - mean) / deviation
    return Data(train_inputs, train_targets, test_inputs, test_targets)


def breast_cancer():
    """569 tumours, 30 measurements each; the target is 1 for benign, 0 for malignant."""
    inputs, targets = datasets.load_breast_cancer(return_X_y=True)
    return split(inputs, targets[:, None].astype(float), stratify=targets)


def diabetes():
    """442 patients, 10 measurements each; the target is disease progression after a year, standardised."""
    inputs, targets = datasets.load_diabetes(return_X_y=True)
    data = split(inputs, targets[:, None])
    mean, deviation = data.train_targets.mean(), data.train_targets.std()
    return replace(
        data,
        train_targets=(data.train_targets - mean) / deviation,
        test_targets=(data.test_targets - mean) / deviation,
        scale=deviation.item(),
    )


def body_mass_index():
    """The diabetes data with the body mass index alone, in kg/m², and the target, both in their own units."""
    bunch = datasets.load_diabetes(scaled=False)
    inputs, targets = bunch.data[:, [BODY_MASS_INDEX]], bunch.target[:, None]
    parts = train_test_split(*(torch.as_tensor(x).float() for x in (inputs, targets)), test_size=0.25, random_state=0)
    train_inputs, test_inputs, train_targets, test_targets = parts
    return Data(train_inputs, train_targets, test_inputs, test_targets)


def digits(seed=0):
    """1797 images of 8x8 pixels; the target is the digit."""
    inputs, targets = datasets.load_digits(return_X_y=True)
    return split(inputs, targets, stratify=targets, seed=seed)


def digits_with_rare_ones():
    """The same images, but the training part has only a few of some digits; the test part is left as it is."""
    data = digits()
    kept = torch.ones(len(data.train_targets), dtype=torch.bool)
    for digit in RARE:
        kept[(data.train_targets == digit).nonzero()[RARE_SAMPLES:]] = False
    return replace(data, train_inputs=data.train_inputs[kept], train_targets=data.train_targets[kept])


def rows_of_digits():
    """Real images of digits in a synthetic arrangement: 3 to 5 of them side by side, 0 to 2 blank columns between.

    An input is the columns from left to right, 8 pixels each, blank ones at the end; the target is the digits from left
    to right, plus 1 because 0 is the blank of CTC, and 0 after the last.
    """
    images, targets = datasets.load_digits(return_X_y=True)
    parts = train_test_split(
        torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(targets), test_size=0.25, random_state=0,
        stratify=targets,
    )  # fmt: skip
    train_images, test_images, train_digits, test_digits = parts
    generator = torch.Generator().manual_seed(0)
    train = arrange(train_images, train_digits, 1024, generator)
    return Data(*train, *arrange(test_images, test_digits, 256, generator))


def arrange(images, digits, count, generator):
    """`count` rows of digits, as inputs and targets."""

    def below(limit):
        return int(torch.randint(limit, (), generator=generator))

    inputs, targets = torch.zeros(count, FRAMES, 8), torch.zeros(count, LONGEST, dtype=torch.long)
    for row in range(count):
        column = 0
        for place in range(3 + below(LONGEST - 2)):
            chosen = below(len(images))
            inputs[row, column : column + 8] = images[chosen].reshape(8, 8).T / 16
            targets[row, place] = digits[chosen] + 1
            column += 8 + below(3)
    return inputs, targets


def as_they_are(data, chosen, generator):
    """A batch: the chosen samples."""
    return data.train_inputs[chosen], data.train_targets[chosen]


def one_of_each(candidates, generator):
    """For each row of a table of yes and no, the index of one yes, drawn at random."""
    return (torch.rand(candidates.shape, generator=generator) * candidates).argmax(1)


def pairs(data, chosen, generator):
    """A batch: for each chosen image one of the same digit (target 1) or of another (-1), as (batch, 2, pixels)."""
    targets = torch.randint(0, 2, chosen.shape, generator=generator) * 2 - 1
    same = (data.train_targets[chosen, None] == data.train_targets).scatter(1, chosen[:, None], False)
    other = data.train_targets[chosen, None] != data.train_targets
    partners = one_of_each(torch.where((targets == 1)[:, None], same, other), generator)
    return data.train_inputs[torch.stack([chosen, partners], 1)], targets
