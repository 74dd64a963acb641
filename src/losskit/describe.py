"""What is known about a loss, gathered from its declaration: its card, as `losskit.explain` shows it.

The guide (`losskit_guide`) needs no torch and knows the built-in losses from cards that this file makes when the
package is built. Curves are over a loss's natural variable: the prediction, or for a loss of rows what its formula
speaks of. Class scores are two classes and the margin between them, so that every statistic is a function of it.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor

from losskit.batches import Batch, explained
from losskit.declaration import REQUIRED
from losskit.errors import error
from losskit.forms import argument_doc, operand_doc
from losskit.layers.linear import LinearLoss, linear_cross_entropy
from losskit.layers.linear_cross_entropy import LinearCrossEntropyLoss
from losskit.loss import Loss, heads, registered
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.registry import get
from losskit_guide import figures
from losskit_guide.card import Card, Pairs, Rows
from losskit_guide.lines import Line
from losskit_guide.render import ShownCard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from losskit.declaration import Peer

Declaration = Any  # a class of a family, or one written by hand with the same attributes


@overload
def explain(loss: str | Loss | type[Loss]) -> Card: ...
@overload
def explain(loss: str | Loss | type[Loss], operand: Any, /, *operands: Any, **named: Any) -> Batch: ...
@overload
def explain(loss: str | Loss | type[Loss], **named: Any) -> Card | Batch: ...
def explain(loss: str | Loss | type[Loss], *operands: Any, **named: Any) -> Card | Batch:
    """Everything that is known about a loss, or about one batch under it; shown well in notebooks and on terminals.

    Choose it with a loss alone to know what it does: formula, gradient, parameters, facts, advice. Choose it with the
    operands of a call to see the present batch: each row's loss and gradient, their histogram, the worst rows, and the
    rows on the curve of the loss. In a notebook that is the explorer's page where anywidget is installed, otherwise a
    picture; `print` gives text. Prefer `losskit.autopsy` to compare losses, or for losses that are not losskit's.

    Args:
        loss: A name, a class, or an instance, whose parameters the card then has; built-in or your own.
        operands: What the loss is called with. Copies are computed with, on the CPU in float64.
        named: Operands by name, and the extras of a call: `mask`, `sample_weight`, `normalizer`.

    Returns:
        The card of the loss; with operands the batch, whose `losses`, `pulls`, `worst` and `share_of` are those of
        `losskit.autopsy`, a row for each number of the unreduced loss.

    Raises:
        TypeError: It is no loss of losskit, or operands are missing, unknown, or no tensors.
        ValueError: Shapes do not match, a value is outside its range, or the loss has no number for each row.
        KeyError: No loss has this name.

    >>> import losskit, torch
    >>> losskit.explain("mse_loss").variants[0].equations[0].plain
    'ℓ = (x − t)²'
    >>> print(losskit.explain("l1_loss", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 9.0])))
    l1_loss: 3 rows, mean of the loss 2.16667.
    2 of 3 rows have 100% of the pull.
    <BLANKLINE>
    row  input  target  loss    pull  share
    2        3       9     6  0.3333  50.0%
    1        2     2.5   0.5  0.3333  50.0%
    0        1       1     0       0   0.0%
    """
    if operands or named:
        own = _made(loss)
        return explained(own, _card(own), operands, named)
    return _card(loss)


def _made(loss: Any) -> Loss:
    """The loss that a batch goes to."""
    if isinstance(loss, LinearLoss) or loss in (LinearLoss, LinearCrossEntropyLoss):
        hint = " Give the loss of scores itself, and scores: features @ linear_weight.T."
        expected = "a loss whose rows are numbers or scores"
        raise error("parameter", loss="explain", argument="loss", expected=expected, got="a head", hint=hint)
    made = get(loss) if isinstance(loss, str) else loss
    return made() if isinstance(made, type) and issubclass(made, Loss) else made


def _card(loss: Any) -> Card:
    if isinstance(loss, str):
        loss = get(loss)
    if isinstance(loss, LinearLoss):
        return head_card(loss)
    if loss in (LinearCrossEntropyLoss, LinearLoss):
        return head_card()
    if not isinstance(loss, Loss) and not (isinstance(loss, type) and issubclass(loss, Loss)):
        expected = "a loss of losskit, its class or its name"
        hint = " losskit.autopsy takes any criterion."
        got = f"{type(loss).__module__}.{type(loss).__name__}"
        raise error("parameter_type", loss="explain", argument="loss", expected=expected, got=got, hint=hint)
    if isinstance(loss, type):
        return card(loss)
    changed = {name: getattr(loss, name) for name in type(loss).params}
    return card(type(loss), {
        name: x for name, x in changed.items()
        if not isinstance(x, Tensor) and (x is not None or type(loss).params[name].default is not None)
    })  # fmt: skip


def plot(
    *losses: Any,
    over: str = "own",
    low: float | None = None,
    high: float | None = None,
    count: int = 401,
    **given: Any,
) -> Figure:
    """Value and gradient of losses over one axis, as a matplotlib figure.

    Args:
        losses: Names, also with settings ("huber_loss:delta=2"), loss instances or classes, or cards.
        over: "own" (each loss's natural variable), "probability" or "logit".
        low: Left end; by default what is worth looking at.
        high: Right end.
        count: How many points to compute.
        given: Settings for all losses that know them, such as target=0.

    >>> import losskit
    >>> figure = losskit.plot("mse_loss", "huber_loss:delta=2", target=0.0)
    >>> [axes.get_title() for axes in figure.axes]
    ['value', 'gradient']
    """
    shown = [loss if isinstance(loss, str | Card | Line) else explain(loss) for loss in losses]
    return figures.plot(*shown, over=over, low=low, high=high, count=count, **given)


def card(cls: Declaration, values: dict[str, Any] | None = None) -> Card:
    """The card of a declaration; `values` are parameters that differ from the defaults."""
    paragraphs = [re.sub(r"\s*\n\s*", "\n", p.strip()) for p in cls.about.split("\n\n")]
    summary, *rest = paragraphs
    advice = [line.replace("\n", " ") for p in rest[:1] for line in re.split(r"\n(?=Choose|Prefer)", p)]
    variants, symbols = cls._written()
    named = re.findall(r"\b[A-Z]\w+Loss\b", cls.about)
    by_class = {other.__name__: other.name for other in registered.values()}
    units = cls._units()
    return ShownCard(
        name=cls.name,
        class_name=cls.__name__,
        aliases=cls.aliases.split(),
        family=cls._label,
        task=cls.task,
        summary=summary.replace("\n", " "),
        advice=advice,
        notes=[p.replace("\n", " ") for p in rest[1:]],
        best_for=cls.best_for,
        not_for=cls.not_for,
        alternatives=[by_class[name] for name in dict.fromkeys(named) if name in by_class and name != cls.__name__],
        signature=cls._signature(),
        operands=[{"name": name, "doc": operand_doc(cls, name)} for name in cls._call_operands()],
        parameters=[parameter(cls, name) for name in cls.arguments.split() if name not in ("size_average", "reduce")],
        unreduced=cls._unreduced(),
        symbols=symbols,
        reductions=cls._means(),
        variants=variants,
        facts=asdict(cls.facts) if hasattr(cls, "facts") else {},
        cases=[
            {"arguments": dict(case.arguments), "value": case.value, "grad": case.grad, "source": case.source}
            for case in cls.cases
        ],
        deviations=[
            {"reason": d.reason, "arguments": dict(d.arguments), "torch": d.torch, "losskit": d.losskit, "of": d.of,
             "dtype": d.dtype}
            for d in cls.deviations
        ],
        peers=[asdict(peer) | {"here": call_here(cls, peer)} for peer in cls.peers],
        reference=cls.reference,
        curve=cls._curve(),
        rows=units if isinstance(units, Rows) else None,
        pairs=units if isinstance(units, Pairs) else None,
        values=values or {},
        usual=cls._shown(),
    )  # fmt: skip


def head_card(loss: LinearLoss | None = None) -> Card:
    """The card of cross entropy on features and weights, or of another loss on them."""
    criterion: Any = CrossEntropyLoss if loss is None else type(loss.criterion)
    of = card(criterion) if loss is None else explain(loss.criterion)
    about, _, rest = inspect.cleandoc(linear_cross_entropy.__doc__ or "").partition("\n\n")
    advice, _, told = rest.partition("\n\n")
    docs = dict(re.findall(r"^    (\w+): ((?:.+\n(?:        .+\n)*))", told.partition("Returns:")[0], re.M))
    docs = {name: re.sub(r"\s+", " ", doc).strip() for name, doc in docs.items()}
    own = {} if loss is None else loss._docs()
    after = [*criterion._call_operands()[1:], *(name for name in own if name not in criterion._call_operands())]
    of_head = replace(
        of,
        name=f"linear({of.name})",
        class_name=f"linear({of.class_name})",
        aliases=[],
        summary=f"{of.summary} On features and weights of a last layer.",
        notes=[*of.notes, HEAD_NOTE],
        alternatives=[of.name],
        operands=[
            *({"name": name, "doc": docs[name]} for name in ("input", "linear_weight")),
            *({"name": name, "doc": (docs | own).get(name) or operand_doc(criterion, name)} for name in after),
        ],
        peers=[],
        cases=[],
        deviations=[],
        facts={**of.facts, "convex": False, "lipschitz": None},  # of features and weights, whose product it is
    )
    if loss is not None:
        return of_head
    taken = {name: x.default for name, x in inspect.signature(linear_cross_entropy).parameters.items()}
    options = {name: default for name, default in taken.items() if default is not inspect.Parameter.empty}
    called = ["input", "linear_weight", *after, "*", *(f"{name}={default!r}" for name, default in options.items())]
    return replace(
        of_head,
        name="linear_cross_entropy",
        class_name="LinearCrossEntropyLoss",
        aliases=["linear", *heads["linear_cross_entropy"][2:]],
        summary=about.replace("\n", " "),
        advice=advice.split("\n"),
        signature=f"linear_cross_entropy({', '.join(called)})",
        parameters=[{**_OPTION, "name": name, "default": x, "doc": docs[name]} for name, x in options.items()],
    )


HEAD_NOTE = (
    "The scores of some rows are made, their gradient is written over them and multiplied into the gradients by "
    "features and weights, and the next rows take the same memory. losskit.linear(criterion) does it for any loss of "
    "class scores, or of a student's and a teacher's."
)
_OPTION = {"kind": "tensor", "required": False, "range": "", "tensor": False, "none": False}


def call_here(cls: type[Loss], peer: Peer) -> str:
    """The call of losskit that a peer is compared with."""
    optional = cls._optional_operands()
    return peer.here or f"{cls.name}({', '.join(x for x in cls._call_operands() if x not in optional)})"


def parameter(cls: type[Loss], name: str) -> dict[str, Any]:
    """A parameter as data."""
    declared = cls.params.get(name)
    kind = declared.kind if declared else "choice" if name == "reduction" else "tensor"
    limits = declared.domain.description if declared and kind in ("float", "int") else ""
    limits = ", ".join(map(repr, declared.choices)) if declared and declared.choices else limits
    tensor, none = (declared.tensor, declared.none) if declared else (False, False)
    default = cls._default(name)
    required = default is REQUIRED
    return {
        "name": name, "kind": kind, "required": required, "default": None if required else default, "range": limits,
        "tensor": tensor, "none": none, "doc": argument_doc(cls, name),
    }  # fmt: skip
