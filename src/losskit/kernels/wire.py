"""What Python, C++ and Triton must agree on, said once: limits, statuses, and how a call is packed into numbers.

`wire_header.py` prints this file for C++. Triton's kernels take the same numbers as constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from losskit.kernels.packing import MAX_ENTRIES, Layout

# -- limits -----------------------------------------------------------------------------------------------

MAX_OPERANDS = MAX_ENTRIES  # tensors that a formula takes
MAX_DECLARED = 8  # numbers among the parameters of a declaration
MAX_PARAMETERS = 16  # numbers that a kernel takes: those declared, and what is computed from them
MAX_DIMS = 16  # dimensions of a CPU tensor

# -- what an op answers -----------------------------------------------------------------------------------

DECLINED = -1  # it does not take these tensors; nothing was computed
FREED = -2  # the memory of a tensor is gone; nothing was read
SUSPICIOUS = 64  # the result is there, but the operands do not look like what the loss takes; above all violations


class ClassScoresViolation(IntEnum):
    LOG_PROBABILITY = 1  # of the input, above 0
    CLASS_INDEX = 2  # a target that is no class
    PROBABILITY = 3  # a target outside [0, 1]
    OWN_SCORE = 4  # of changed scores, outside the domain of the input
    MULTIPLE_OF_ROW = 5  # of changed scores, outside the domain of the operand


class MarginsViolation(IntEnum):
    CLASS_INDEX = 2
    MASK_GIVEN = 3  # all targets are rows of 0 and 1


class RegionsViolation(IntEnum):
    PROBABILITY = 1  # an input outside [0, 1] that should be probabilities
    CLASS_INDEX = 2  # a target that is no class
    TARGET = 3  # a target outside [0, 1]


class OrderedViolation(IntEnum):
    CLASS_INDEX = 2
    PROBABILITY = 3  # a target outside [0, 1]
    LABEL = 4  # a target or an event that is neither 0 nor 1


class ListsViolation(IntEnum):
    RELEVANCE = 2  # below 0


class SequenceViolation(IntEnum):
    """Numbered as the operands are."""

    LOG_PROBABILITY = 1
    LABEL = 2  # no class, or the blank
    INPUT_LENGTH = 3
    TARGET_LENGTH = 4  # one of them, or their total


class ChainViolation(IntEnum):
    """Numbered as the operands are."""

    TAG = 2
    LENGTH = 6


# -- numbers and their names ------------------------------------------------------------------------------

# Of torch (c10::ScalarType): those that can carry numbers of a loss.
SCALAR_TYPES = {
    "Byte": 0, "Char": 1, "Short": 2, "Int": 3, "Long": 4, "Half": 5, "Float": 6, "Double": 7, "Bool": 11,
    "BFloat16": 15, "UInt16": 27, "UInt32": 28,
}  # fmt: skip


class Reduction(IntEnum):
    ELEMENTS = 0  # 'none'
    MEAN = 1
    SUM = 2


class Checks(IntEnum):
    OFF = 0
    NAN = 1
    RAISE = 2


class Rows(IntEnum):
    """What the loss of a row makes of its elements, the last dimension."""

    ABSENT = 0  # there are no rows
    AVERAGED = 1
    ADDED = 2


class Number(IntEnum):
    """Positions in the numbers of a call; those of the family follow, then the parameters of the formula."""

    NORMALIZER = 0  # NaN: none was given
    FACTOR = 1  # of the gradients


class ClassScoresStatistic(IntEnum):
    LOG_PROBABILITY = 1
    LOG_SUM_EXP = 2
    MEAN_LOG_PROBABILITY = 3


class EmbeddingsStatistic(IntEnum):
    """Two embeddings have one distance, the first of three."""

    COSINE = 1
    COSINE_DISTANCE = 2
    DISTANCE = 3
    POSITIVE_DISTANCE = 3
    NEGATIVE_DISTANCE = 4
    TARGET = 5


class RegionsStatistic(IntEnum):
    OVERLAP = 1
    PREDICTED = 2
    ACTUAL = 3
    FALSE_POSITIVES = 4
    FALSE_NEGATIVES = 5


class Activation(IntEnum):
    """How the scores of regions become probabilities."""

    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2


class OrderedStatistic(IntEnum):
    LOG_SHARE = 1
    SCAN = 2
    ERROR = 3
    STEP = 4


class ListsStatistic(IntEnum):
    """Numbers of a pair of items, the first more relevant."""

    DIFFERENCE = 1
    RELEVANCE_DIFFERENCE = 2
    GAIN_DIFFERENCE = 3
    DISCOUNT_DIFFERENCE = 4
    DISTANCE_DISCOUNT = 5
    RANK = 6
    OTHER_RANK = 7


class Pairing(IntEnum):
    """Which rows and columns belong together; with two of these the rows are columns at once."""

    DIAGONAL = 0
    VIEWS = 1
    LABELS = 2


class Measure(IntEnum):
    COSINE = 0
    DOT = 1
    DISTANCE = 2


class Needs(IntEnum):
    """What a row of pairs must have to count."""

    NOTHING = 0
    POSITIVE = 1
    BOTH = 2


class TwoRowsStatistic(IntEnum):
    TEACHER = 1
    STUDENT = 2
    LOG_RATIO = 3


def names(members: type[IntEnum]) -> tuple[str, ...]:
    """The names of statistics, as formulas write them."""
    return tuple(name.lower() for name in members.__members__)


# -- layouts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """What the op of a family is told beside tensors and OPTIONS, and what it finds wrong."""

    family: Layout
    numbers: tuple[str, ...] = ()  # those after Number, before the parameters of the formula
    violations: type[IntEnum] | None = None

    def given(self, parameters: Iterable[float] = (), **own: float) -> list[float]:
        """The numbers of a call without a normalizer: Number, the family's own, the parameters of the formula."""
        return [math.nan, 1.0, *(own[name] for name in self.numbers), *parameters]

    def statistics(self, names: Iterable[str]) -> int:
        """What each operand of a formula is, as a list from bit 0 on."""
        return self.family.fields["statistics"].pack(names)


# Everything about a call that is not a tensor or a number. A field of MAX_OPERANDS bits has one for each operand.
OPTIONS = Layout(
    reduction=2,  # Reduction
    gradients=MAX_OPERANDS,  # that are wanted
    checks=2,  # Checks
    empty_is_zero=1,  # the mean over nothing is 0 instead of NaN
    weight_in_mean=1,  # `weight` counts in the denominator of the mean
    rows=2,  # Rows
    result=6,  # of SCALAR_TYPES, plus one; 0: that of the operands
    broadcast=MAX_OPERANDS,  # that may be broadcast
    family=32,  # what else the op's own family needs to know
)
POINTWISE = Op(
    Layout(
        advised=MAX_OPERANDS,  # violations are told but change nothing
        scores=MAX_OPERANDS,  # they look like probabilities if their first elements are all in [0, 1]
        composed=MAX_OPERANDS,  # their last dimension is the components, each an operand of the formula
        components=4,  # how many of them
    ),
)
CLASS_SCORES = Op(
    Layout(
        plain=1,  # the loss is -log_probability: no formula is called
        log_probabilities=1,  # the input is log-probabilities: there is no softmax
        statistics=ClassScoresStatistic,  # the operands of the formula
        changed=1,  # of a plain loss: the formula makes the own class's score; all scores are multiplied
        overwrite=1,  # the gradient by contiguous rows of scores is written over them, where that can be
        relevance=1,  # of a plain loss of contiguous rows of floats: the softmax of the target is the probabilities
    ),
    # multiple: of changed scores, NaN if an operand has a number for each row.
    numbers=("smoothing", "ignore_index", "multiple"),
    violations=ClassScoresViolation,
)
MARGINS = Op(
    Layout(many=1),  # a row has a list of targets
    violations=MarginsViolation,
)
EMBEDDINGS = Op(
    Layout(statistics=EmbeddingsStatistic, swap=1),
    numbers=("p", "eps"),
)
REGIONS = Op(
    Layout(
        statistics=RegionsStatistic,  # the operands of the formula
        activation=2,  # Activation
        squares=1,  # sums are of squares
        batch=1,  # a region is of all samples
        background=1,  # class 0 has a loss
        masked=1,  # the operand after the target tells the pixels that count
        pooled=1,  # the last operand weighs the classes, which are one region together
        smaller=1,  # what both regions have of a pixel is the smaller of p and t, not their product
    ),
    numbers=("ignore_index",),
    violations=RegionsViolation,
)
ORDERED = Op(
    Layout(
        statistics=OrderedStatistic,
        descending=1,  # the order by a key
        events=1,  # elements have a loss where the third operand is 1
        tied=1,  # elements with the same key have the sums at the end of the tie
        efron=1,  # and each event of a tie leaves out a part of the tie
        whole=1,  # one set for the whole batch, not one for each image
        classes=1,  # the elements are errors of a softmax over classes
        absent=1,  # classes without an element count, too
        masks=1,  # the last operand says which elements count
    ),
    numbers=("ignore_index",),
    violations=OrderedViolation,
)
LISTS = Op(
    Layout(
        averaged=1,  # a list's loss is the mean of its pairs, not their sum
        statistics=ListsStatistic,
    ),
    numbers=("k",),  # 0: all ranks
    violations=ListsViolation,
)
PAIRS = Op(
    Layout(
        pairing=2,  # Pairing
        measure=2,  # Measure
        needs=2,  # Needs
        symmetric=1,  # columns look for their rows, too
        more=1,  # the operands of further columns are there
        positive=1,  # `positive` and `negative` are formulas
        negative=1,
        temperature=4,  # the place of the operand; 0: it is no tensor
        logit_scale=4,
        logit_bias=4,
    ),
    # The last ones: what the operands of the formula are, an address and the parameters of each formula of a pair.
    numbers=(
        "scale", "bias", "aggregates", "positive", *(f"positive_{i}" for i in range(MAX_PARAMETERS)),
        "negative", *(f"negative_{i}" for i in range(MAX_PARAMETERS)),
    ),
)  # fmt: skip
TWO_ROWS = Op(
    Layout(
        statistics=TwoRowsStatistic,
        overwrite=1,  # the gradient by contiguous rows of the student's scores is written over them
    ),
    numbers=("temperature", "factor"),  # of the scores, and what multiplies the loss
)
CTC = Op(
    Layout(
        from_scores=1,  # the argument is raw scores: the log-softmax belongs to the loss
        exact_gradient=1,  # of the argument itself, not torch's of a log-softmax before it
        zero_infinity=1,  # an impossible alignment costs 0 instead of infinity
    ),
    numbers=("blank",),
    violations=SequenceViolation,
)
RNNT = Op(
    Layout(from_scores=1),  # as CTC's
    numbers=("blank", "clamp", "fastemit_lambda"),
    violations=SequenceViolation,
)
CRF = Op(
    Layout(start=1, end=1, lengths=1),  # whether these operands are there
    violations=ChainViolation,
)
OPS: Mapping[str, Op] = {
    "pointwise": POINTWISE, "class_scores": CLASS_SCORES, "margins": MARGINS, "embeddings": EMBEDDINGS,
    "regions": REGIONS, "ordered": ORDERED, "lists": LISTS, "pairs": PAIRS, "two_rows": TWO_ROWS, "rnnt": RNNT,
    "crf": CRF, "ctc": CTC,
}  # fmt: skip
