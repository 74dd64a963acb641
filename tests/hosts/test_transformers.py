"""transformers: models of random weights, the loss that each computes of its labels, with torch's losses and losskit's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # its usual name
from agreement import BFLOAT16, FLOAT32, assert_same, both

transformers = pytest.importorskip("transformers")

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TEXT = {**WIDTH, "vocab_size": 99}
IMAGE = {**WIDTH, "image_size": 32, "patch_size": 8}
DECODER = {**TEXT, "num_key_value_heads": 2}
SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37, "decoder_ffn_dim": 37,
}  # fmt: skip
SPEECH = {
    **WIDTH, "vocab_size": 20, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip

draw = torch.Generator().manual_seed(0)
IDS = torch.randint(3, 90, (2, 12), generator=draw)
NEXT = IDS.clone()
NEXT[0, :5] = -100  # a prompt that is not learned
CLASSES = torch.tensor([0, 2])
PRESENT = torch.ones_like(IDS)
PRESENT[1, 9:] = 0
WORDS = {"input_ids": IDS, "labels": NEXT}
PADDED = {"input_ids": IDS, "attention_mask": PRESENT}
PIXELS = torch.randn(2, 3, 32, 32, generator=draw)
LARGER = torch.randn(2, 3, 64, 64, generator=draw)
SEGMENTS = torch.randint(0, 4, (2, 64, 64), generator=draw)
SEGMENTS[torch.rand(SEGMENTS.shape, generator=draw) < 0.1] = 255
SOUND = torch.randn(2, 800, generator=draw)
SPELLING = torch.randint(1, 20, (2, 8), generator=draw)
SPELLING[1, 5:] = -100
BOXES = [
    {"class_labels": torch.tensor([1, 2]), "boxes": 0.3 + 0.3 * torch.rand(2, 4, generator=draw)},
    {"class_labels": torch.tensor([0]), "boxes": 0.3 + 0.3 * torch.rand(1, 4, generator=draw)},
]
OUTLINES = [(torch.rand(count, 64, 64, generator=draw) > 0.5).float() for count in (2, 1)]
YES_NO = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
NUMBERS = torch.randn(2, 3, generator=draw)
SERIES = {
    "past_values": torch.rand(2, 8, generator=draw), "past_time_features": torch.rand(2, 8, 1, generator=draw),
    "past_observed_mask": torch.ones(2, 8), "future_values": torch.rand(2, 3, generator=draw),
    "future_time_features": torch.rand(2, 3, 1, generator=draw),
}  # fmt: skip
CHANNELS = torch.randn(2, 16, 2, generator=draw)


BACKBONE = {"depths": [1, 1, 1, 1], "out_features": ["stage1", "stage2", "stage3", "stage4"]}


def backbone(kind: str, **options: Any) -> Any:
    """The configuration of a network whose four stages a segmenter or detector reads."""
    return getattr(transformers, f"{kind}Config")(**{**BACKBONE, **options})


@dataclass
class Case:
    """A model class, its configuration, what it is called with, and the losses that it must have asked for."""

    model: str
    config: str
    options: dict[str, Any]
    batch: dict[str, Any]
    asks: set[str] = field(default_factory=lambda: {"cross_entropy"})
    dtype: torch.dtype = torch.float32
    of: str = ""  # what the case adds to a model that is there twice

    def make(self) -> torch.nn.Module:
        config = getattr(transformers, self.config)(**self.options)
        return getattr(transformers, self.model)(config).to(self.dtype).train()


BERT = "BertConfig"
TIED = {"decoder_start_token_id": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 99}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
CASES = [
    # Language models: cross entropy of the next word.
    Case("GPT2LMHeadModel", "GPT2Config", GPT2, WORDS),
    Case("GPT2LMHeadModel", "GPT2Config", GPT2, {**WORDS, "num_items_in_batch": torch.tensor(37)}, of="num_items_in_batch"),
    Case("LlamaForCausalLM", "LlamaConfig", DECODER, WORDS),
    Case("LlamaForCausalLM", "LlamaConfig", DECODER, WORDS, dtype=torch.bfloat16, of="bf16"),
    Case("Qwen2ForCausalLM", "Qwen2Config", DECODER, WORDS),
    Case(
        "MixtralForCausalLM", "MixtralConfig",
        {**DECODER, "num_local_experts": 4, "output_router_logits": True, "experts_implementation": "eager"}, WORDS,
    ),
    Case("Gemma2ForCausalLM", "Gemma2Config", {**DECODER, "head_dim": 8}, WORDS),
    Case("OPTForCausalLM", "OPTConfig", {**TEXT, "ffn_dim": 37, "word_embed_proj_dim": 32, "max_position_embeddings": 40}, WORDS),
    Case("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT, WORDS),
    Case("BertForMaskedLM", BERT, TEXT, {**PADDED, "labels": NEXT}),
    Case("XLMRobertaForMaskedLM", "XLMRobertaConfig", {**TEXT, "max_position_embeddings": 40}, WORDS),
    Case("BertForPreTraining", BERT, TEXT, {**WORDS, "next_sentence_label": torch.tensor([0, 1])}),
    Case("ElectraForPreTraining", "ElectraConfig", {**TEXT, "embedding_size": 16}, {**PADDED, "labels": IDS % 2}, {"binary_cross_entropy_with_logits"}),
    # Sequence to sequence.
    Case(
        "T5ForConditionalGeneration", "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0}, WORDS,
    ),
    Case("BartForConditionalGeneration", "BartConfig", {**SEQ2SEQ, **TIED, "max_position_embeddings": 40}, WORDS),
    Case(
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**SEQ2SEQ, **TIED, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
        {"input_features": torch.randn(2, 8, 40, generator=draw), "labels": NEXT},
    ),
    Case(
        "ProphetNetForConditionalGeneration", "ProphetNetConfig",
        {
            **TIED, "hidden_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 37, "decoder_ffn_dim": 37, "max_position_embeddings": 40, "ngram": 2, "num_buckets": 8, "relative_max_distance": 16,
        },
        WORDS, {"nll_loss"},
    ),
    # Classes, numbers and places in a text.
    Case("LlamaForSequenceClassification", "LlamaConfig", {**DECODER, "num_labels": 3, "pad_token_id": 0}, {"input_ids": IDS, "labels": CLASSES}),
    Case("BertForSequenceClassification", BERT, {**TEXT, "num_labels": 3}, {"input_ids": IDS, "labels": CLASSES}),
    Case("BertForSequenceClassification", BERT, {**TEXT, "num_labels": 1}, {"input_ids": IDS, "labels": torch.tensor([0.3, 2.0])}, {"mse_loss"}, of="one number"),
    Case(
        "BertForSequenceClassification", BERT, {**TEXT, "num_labels": 3, "problem_type": "regression"},
        {"input_ids": IDS, "labels": NUMBERS}, {"mse_loss"}, of="three numbers",
    ),
    Case(
        "BertForSequenceClassification", BERT, {**TEXT, "num_labels": 3, "problem_type": "multi_label_classification"},
        {"input_ids": IDS, "labels": YES_NO}, {"binary_cross_entropy_with_logits"}, of="several labels",
    ),
    Case("BertForTokenClassification", BERT, {**TEXT, "num_labels": 5}, {**PADDED, "labels": torch.where(PRESENT > 0, IDS % 5, -100)}),
    Case("BertForQuestionAnswering", BERT, TEXT, {"input_ids": IDS, "start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 40])}),
    Case("BertForMultipleChoice", BERT, TEXT, {"input_ids": IDS[:, None].repeat(1, 3, 1), "labels": CLASSES}),
    Case("BertForNextSentencePrediction", BERT, TEXT, {"input_ids": IDS, "labels": torch.tensor([0, 1])}),
    Case(
        "LukeForEntityClassification", "LukeConfig", {**TEXT, "entity_vocab_size": 20, "entity_emb_size": 16, "max_position_embeddings": 40, "num_labels": 3},
        {
            "input_ids": IDS, "entity_ids": torch.tensor([[2], [3]]), "entity_attention_mask": torch.ones(2, 1, dtype=torch.long),
            "entity_position_ids": torch.tensor([[[1, 2]], [[3, 4]]]), "labels": YES_NO,
        },
        {"binary_cross_entropy_with_logits"},
    ),
    Case(
        "VisualBertForQuestionAnswering", "VisualBertConfig", {**TEXT, "visual_embedding_dim": 16, "num_labels": 5},
        {**PADDED, "visual_embeds": torch.randn(2, 4, 16, generator=draw), "labels": torch.rand(2, 5, generator=draw).softmax(1)}, {"kl_div"},
    ),
    # Images.
    Case("ViTForImageClassification", "ViTConfig", {**IMAGE, "num_labels": 4}, {"pixel_values": PIXELS, "labels": torch.tensor([1, 3])}),
    Case(
        "ViTForMaskedImageModeling", "ViTConfig", {**IMAGE, "encoder_stride": 8},
        {"pixel_values": PIXELS, "bool_masked_pos": torch.rand(2, 16, generator=draw) > 0.5}, {"l1_loss"},
    ),
    Case(
        "SegformerForSemanticSegmentation", "SegformerConfig",
        {"num_labels": 4, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
        {"pixel_values": LARGER, "labels": SEGMENTS},
    ),
    Case(
        "SegformerForSemanticSegmentation", "SegformerConfig",
        {"num_labels": 1, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
        {"pixel_values": LARGER, "labels": torch.where(SEGMENTS == 255, 255, SEGMENTS % 2)}, {"binary_cross_entropy_with_logits"}, of="two classes",
    ),
    Case(
        "CLIPModel", "CLIPConfig",
        {"text_config": {**TEXT, "max_position_embeddings": 40}, "vision_config": IMAGE, "projection_dim": 16},
        {"input_ids": IDS, "pixel_values": PIXELS, "return_loss": True},
    ),
    Case(
        "YolosForObjectDetection", "YolosConfig", {**IMAGE, "image_size": [32, 32], "num_detection_tokens": 5, "num_labels": 3},
        {"pixel_values": PIXELS, "labels": BOXES}, {"cross_entropy", "l1_loss"},
    ),
    Case(
        "DeformableDetrForObjectDetection", "DeformableDetrConfig",
        {
            **SEQ2SEQ, "decoder_layers": 2, "num_queries": 5, "num_labels": 3, "num_feature_levels": 3, "use_timm_backbone": False,
            "backbone_config": backbone("ResNet", embedding_size=8, hidden_sizes=[8, 16, 16, 16], out_features=["stage2", "stage3", "stage4"]),
        },
        {"pixel_values": LARGER, "labels": BOXES}, {"binary_cross_entropy_with_logits", "l1_loss"},
    ),
    Case(
        "Mask2FormerForUniversalSegmentation", "Mask2FormerConfig",
        {
            "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "num_queries": 5, "num_labels": 3, "encoder_layers": 1, "decoder_layers": 2,
            "num_attention_heads": 4, "dim_feedforward": 37, "encoder_feedforward_dim": 37, "train_num_points": 32,
            "backbone_config": backbone("Swin", image_size=64, embed_dim=8, num_heads=[1, 1, 2, 2], window_size=2),
        },
        {"pixel_values": LARGER, "mask_labels": OUTLINES, "class_labels": [torch.tensor([1, 2]), torch.tensor([0])]},
        {"cross_entropy", "binary_cross_entropy_with_logits"},
    ),
    Case(
        "UperNetForSemanticSegmentation", "UperNetConfig",
        {
            "hidden_size": 16, "num_labels": 4, "auxiliary_in_channels": 16, "auxiliary_channels": 8, "pool_scales": [1, 2],
            "backbone_config": backbone("ConvNext", hidden_sizes=[8, 8, 16, 16]),
        },
        {"pixel_values": LARGER, "labels": SEGMENTS},
    ),
    Case("ConvNextForImageClassification", "ConvNextConfig", {"num_labels": 4, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, {"pixel_values": PIXELS, "labels": torch.tensor([1, 3])}),
    Case(
        "SwinForMaskedImageModeling", "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "encoder_stride": 4},
        {"pixel_values": PIXELS, "bool_masked_pos": torch.rand(2, 256, generator=draw) > 0.5}, {"l1_loss"},
    ),
    # Speech.
    Case(
        "SpeechT5ForTextToSpeech", "SpeechT5Config",
        {
            **WIDTH, "vocab_size": 99, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "encoder_ffn_dim": 37, "decoder_ffn_dim": 37, "num_mel_bins": 20, "speech_decoder_prenet_units": 32, "speech_decoder_postnet_units": 16,
            "speech_decoder_postnet_layers": 2, "reduction_factor": 2, "speaker_embedding_dim": 8, "max_speech_positions": 50, "max_text_positions": 50,
            "use_guided_attention_loss": False,
        },
        {"input_ids": IDS, "speaker_embeddings": torch.randn(2, 8, generator=draw), "labels": torch.randn(2, 10, 20, generator=draw)},
        {"l1_loss", "binary_cross_entropy_with_logits"},
    ),
    *(
        Case(f"{name}ForCTC", f"{name}Config", {**SPEECH, **options}, {"input_values": SOUND, "labels": SPELLING}, {"ctc_loss"}, of=of)
        for name in ("Wav2Vec2", "Hubert")
        for of, options in (("sum", {}), ("mean", {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}))
    ),
    Case("Data2VecAudioForCTC", "Data2VecAudioConfig", {**SPEECH, "conv_pos_kernel_size": 3}, {"input_values": SOUND, "labels": SPELLING}, {"ctc_loss"}),
    Case(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", {**SPEECH, "ctc_zero_infinity": True},
        {"input_values": SOUND[:, :75], "labels": SPELLING}, {"ctc_loss"}, of="labels longer than the sound",
    ),
    Case("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", {**SPEECH, "num_labels": 3, "classifier_proj_size": 16}, {"input_values": SOUND, "labels": CLASSES}),
    Case(
        "Wav2Vec2ForXVector", "Wav2Vec2Config", {**SPEECH, "num_labels": 3, "tdnn_dim": (16, 16, 16, 16, 32), "xvector_output_dim": 16},
        {"input_values": torch.randn(2, 4000, generator=draw), "labels": CLASSES[:, None]},
    ),
    # Series.
    Case(
        "PatchTSTForPrediction", "PatchTSTConfig",
        {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 4, "d_model": 16,
         "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 16, "loss": "mse"},
        {"past_values": CHANNELS, "future_values": CHANNELS[:, :4]}, {"mse_loss"},
    ),
    Case(
        "PatchTSMixerForPrediction", "PatchTSMixerConfig",
        {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 4, "d_model": 8, "num_layers": 1, "loss": "mse"},
        {"past_values": CHANNELS, "future_values": CHANNELS[:, :4]}, {"mse_loss"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model} {case.of}".strip())
def test_a_models_own_loss(case, monkeypatch):
    if "ctc_loss" in case.asks:
        # torch's gradient of float32 is up to 1.5e-5 of its greatest entry away from its own of float64, losskit's 5e-8.
        of_any = F.ctc_loss
        monkeypatch.setattr(
            F, "ctc_loss", lambda scores, *lengths, **options: of_any(scores.double(), *lengths, **options).float()
        )
    ours, theirs = both(case.make, lambda model: model(**case.batch).loss)
    assert set(ours.calls) == case.asks
    assert_same(ours, theirs, FLOAT32 if case.dtype is torch.float32 else BFLOAT16)


def test_a_batch_without_labels():
    """The mean over nothing is NaN for both, the gradient 0."""
    ignored = {**PADDED, "labels": torch.full_like(IDS, -100)}
    ours, theirs = both(Case("BertForMaskedLM", BERT, TEXT, ignored).make, lambda model: model(**ignored).loss, steps=1)
    assert ours.losses.isnan().all()
    assert theirs.losses.isnan().all()
    assert torch.equal(ours.gradient, torch.zeros_like(ours.gradient))


def test_forty_models():
    assert len(CASES) >= 40
    assert len(Counter(case.model for case in CASES)) >= 30
