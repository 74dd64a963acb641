"""sentence-transformers: a small BERT with a vocabulary of its own, and the losses that hold a loss or call torch's."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_same, both, train
from torch import nn

import losskit

sentence_transformers = pytest.importorskip("sentence_transformers")

import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import losses as cross
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = "the cat dog sat ran on a mat road and slept".split()
LEFT = ["the cat sat", "the dog ran on the road", "a cat slept", "the dog and the cat"]
RIGHT = ["a cat slept on a mat", "the dog sat", "the cat ran", "a dog and a cat"]
OTHER = ["on the road", "a mat", "the road and the mat", "ran"]
SIMILAR = torch.tensor([0.9, 0.2, 0.4, 1.0])
RELATED = torch.tensor([1, 0, 0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a model as a hub has them, with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
    }
    transformers.BertModel(transformers.BertConfig(vocab_size=len(names), **size)).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder):
    def make() -> SentenceTransformer:
        words = Transformer(str(folder))
        return SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())], device="cpu")

    return make


@pytest.fixture
def judge(folder):
    def make(labels: int) -> CrossEncoder:
        torch.manual_seed(1)  # of the head, which the files do not have
        return CrossEncoder(str(folder), num_labels=labels, device="cpu")

    return make


def steps_of(columns, labels):
    """What a trainer does with a loss that holds its model: tokens of each column go in, the loss comes out."""

    def loss_of(holder: nn.Module) -> torch.Tensor:
        features = [holder.model.preprocess(column) for column in columns]
        return holder(features, labels)

    return loss_of


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (losskit.MSELoss(), nn.MSELoss()),
        (losskit.HuberLoss(delta=0.2), nn.HuberLoss(delta=0.2)),
        (losskit.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss()),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_of_the_cosine(encoder, ours, theirs):
    runs = [
        train(lambda loss=loss: losses.CosineSimilarityLoss(encoder(), loss_fct=loss), steps_of([LEFT, RIGHT], SIMILAR))
        for loss in (ours, theirs)
    ]
    assert_same(*runs)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothed"])
def test_a_loss_of_classes(encoder, options):
    def make(library):
        return losses.SoftmaxLoss(
            encoder(), sentence_embedding_dimension=16, num_labels=2, loss_fct=library.CrossEntropyLoss(**options)
        )

    assert_same(
        *(train(lambda library=library: make(library), steps_of([LEFT, RIGHT], RELATED)) for library in (losskit, nn))
    )


@pytest.mark.parametrize(
    "kind, columns, labels",
    [
        (losses.MSELoss, [LEFT], torch.linspace(-1, 1, 64).reshape(4, 16)),
        (losses.MarginMSELoss, [LEFT, RIGHT, OTHER], SIMILAR),
        (losses.DistillKLDivLoss, [LEFT, RIGHT, OTHER], torch.stack([SIMILAR, 1 - SIMILAR], 1)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_its_losses_on_losskits_functions(encoder, kind, columns, labels):
    assert_same(*both(lambda: kind(encoder()), steps_of(columns, labels)))


def test_embeddings_of_several_sizes(encoder):
    def make():
        model = encoder()
        return losses.MatryoshkaLoss(model, losses.CosineSimilarityLoss(model), [16, 8])

    assert_same(*both(make, steps_of([LEFT, RIGHT], SIMILAR)))


@pytest.mark.parametrize(
    "kind, labels, columns, target",
    [
        (cross.BinaryCrossEntropyLoss, 1, [LEFT, RIGHT], SIMILAR),
        (cross.CrossEntropyLoss, 2, [LEFT, RIGHT], RELATED),
        (cross.MSELoss, 1, [LEFT, RIGHT], SIMILAR),
        (cross.MarginMSELoss, 1, [LEFT, RIGHT, OTHER], SIMILAR),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_cross_encoders_losses_on_losskits_functions(judge, kind, labels, columns, target):
    assert_same(*both(lambda: kind(judge(labels)), lambda holder: holder(columns, target)))
