"""LinearChainCRFLoss: tags that depend on their neighbours."""

from losskit.declaration import Case, Operand
from losskit.facts import Facts
from losskit.families.chain import ChainLoss


class LinearChainCRFLoss(ChainLoss):
    """Linear-chain conditional random field: minus the log-probability of a chain of tags among all chains.

    Choose it on top of a tagger where neighbouring tags depend on each other: names, parts of speech, segments. The
    transitions are a parameter of your model, and so are `start` and `end`.
    Prefer CrossEntropyLoss where each tag is decided alone, which costs a step nothing of its neighbours.
    """

    name = "linear_chain_crf_loss"
    arguments = "reduction"
    operands = {
        "emissions": Operand("Scores of tags (N, T, K), or (T, K) of one sample."),
        "target": Operand("The right tags (N, T), padded with anything; (T,) of one sample."),
        "transitions": Operand("Scores of a tag (row) and the next one (column), (K, K); or (N, K, K)."),
        "start": Operand("Scores of the first tag, (K,) or (N, K); 0 without it.", optional=True),
        "end": Operand("Scores of the last tag, (K,) or (N, K); 0 without it.", optional=True),
        "lengths": Operand(
            "Steps of each sample, (N,): a tensor of any integer dtype or a list; all T without it.",
            type="Tensor | Sequence[int]", optional=True,
        ),
    }  # fmt: skip

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(emissions=[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], target=[0, 1, 1], transitions=[[0.2, -0.1], [0.0, 0.3]],
             value=1.3121077642998467,
             grad=[[-0.320672440986, 0.320672440986], [0.27404305429, -0.27404305429],
                   [0.466358392541, -0.466358392541]],
             source="eight chains by hand"),
        Case(emissions=[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], target=[0, 1, 1], transitions=[[0.0, 0.0], [0.0, 0.0]],
             value=2.0794415416798357, grad=[[-0.5, 0.5], [0.5, -0.5], [0.5, -0.5]],
             source="eight chains alike: 3 log(2)"),
    ]  # fmt: skip
    aliases = "crf_loss conditional_random_field_loss bilstm_crf_loss"
    task = "sequence"
    best_for = "Tagging where neighbouring tags depend on each other."
    not_for = "Tags that are independent given the input; labels without an alignment."
    reference = (
        "Lafferty, J., McCallum, A. and Pereira, F. (2001). Conditional random fields: probabilistic models for "
        "segmenting and labeling sequence data. ICML, 282-289."
    )
