"""Architectures of timm and transformers: random weights, reduced in depth where they are large, never in kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .models import perturb


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        family: what the paper calls it; a library has several variants of each.
        library: ``timm`` or ``transformers``.
        make: the model, on the default device.
        inputs: its keyword arguments; ``""`` for the one that it takes by position. A shape is normal noise, a pair
            (shape, n) is integers below n.
    """

    family: str
    library: str
    make: Callable[[], nn.Module]
    inputs: dict[str, Any]


class Tensors(nn.Module):
    """A model whose result is a tuple of its floating-point tensors; transformers' are dataclasses of many."""

    def __init__(self, model: nn.Module, **fixed: Any) -> None:
        super().__init__()
        self.model, self.fixed = model, fixed

    def forward(self, *args: torch.Tensor, **named: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.model(*args, **named, **self.fixed)
        values = [out] if isinstance(out, torch.Tensor) else list(out.values()) if hasattr(out, "values") else list(out)
        return tuple(v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point())


def make(name: str, device: str = "cuda") -> tuple[nn.Module, list[torch.Tensor], dict[str, torch.Tensor]]:
    """A model in eval mode with seeded float32 weights, its arguments and its keyword arguments."""
    row = ARCHITECTURES[name]
    torch.manual_seed(0)
    with torch.device(device):
        model = Tensors(row.make()) if row.library == "timm" else row.make()
        perturb(model.eval().requires_grad_(False))
        given = {
            key: torch.randint(0, spec[1], spec[0]) if isinstance(spec[0], tuple) else torch.randn(spec)
            for key, spec in row.inputs.items()
        }
    args, named = [v for k, v in given.items() if not k], {k: v for k, v in given.items() if k}
    _settle(model, args, named)
    return model, args, named


@torch.no_grad()
def _settle(model: nn.Module, args: list[torch.Tensor], named: dict[str, torch.Tensor]) -> None:
    """Gives batch norms the statistics of this input: with random ones values outgrow float16 in deep models."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        model(*args, **named)
    for norm in norms:
        norm.eval()
        norm.running_var.clamp_(min=0.05)  # a channel that hardly varies would be noise, enlarged


# ------------------------------------------------------------------------------------------------ timm


def _timm(family: str, model: str, size: int = 224, **options: Any) -> Architecture:
    def build() -> nn.Module:
        import timm

        made: nn.Module = timm.create_model(model, pretrained=False, **options)
        return made

    return Architecture(family, "timm", build, {"": (2, 3, size, size)})


_TIMM: dict[str, Architecture] = {
    "resnet18": _timm("ResNet", "resnet18"),
    "resnext50": _timm("ResNeXt", "resnext50_32x4d"),
    "seresnet50": _timm("SE-ResNet", "seresnet50"),
    "densenet121": _timm("DenseNet", "densenet121"),
    "efficientnet_b0": _timm("EfficientNet", "efficientnet_b0"),
    "mobilenetv2": _timm("MobileNetV2", "mobilenetv2_100"),
    "mobilenetv3": _timm("MobileNetV3", "mobilenetv3_small_100"),
    "ghostnet": _timm("GhostNet", "ghostnet_100"),
    "convnext": _timm("ConvNeXt", "convnext_atto"),
    "convnextv2": _timm("ConvNeXt V2", "convnextv2_atto"),
    "regnet": _timm("RegNet", "regnety_002"),
    "vgg11": _timm("VGG", "vgg11_bn"),
    "inception_v3": _timm("Inception", "inception_v3", 299),
    "xception": _timm("Xception", "xception41"),
    "dla": _timm("DLA", "dla34"),
    "hrnet": _timm("HRNet", "hrnet_w18_small"),
    "repvgg": _timm("RepVGG", "repvgg_a0"),
    "nfnet": _timm("NFNet", "dm_nfnet_f0", 192),
    "vit": _timm("ViT", "vit_tiny_patch16_224"),
    "deit": _timm("DeiT", "deit_tiny_distilled_patch16_224"),
    "beit": _timm("BEiT", "beit_base_patch16_224", depth=3),
    "eva02": _timm("EVA", "eva02_tiny_patch14_224"),
    "cait": _timm("CaiT", "cait_xxs24_224", depth=6),
    "swin": _timm("Swin", "swin_tiny_patch4_window7_224", depths=(2, 2, 2, 2)),
    "swinv2": _timm("Swin V2", "swinv2_cr_tiny_224", depths=(2, 2, 2, 2)),
    "maxvit": _timm("MaxViT", "maxvit_rmlp_pico_rw_256", 256),
    "coatnet": _timm("CoAtNet", "coatnet_pico_rw_224"),
    "mixer": _timm("MLP-Mixer", "mixer_s32_224"),
    "poolformer": _timm("PoolFormer", "poolformer_s12"),
    "edgenext": _timm("EdgeNeXt", "edgenext_xx_small", 256),
    "mobilevit": _timm("MobileViT", "mobilevit_xxs", 256),
    "levit": _timm("LeViT", "levit_128s"),
    "pvt_v2": _timm("PVT", "pvt_v2_b0"),
    "xcit": _timm("XCiT", "xcit_nano_12_p16_224", depth=4),
    "efficientformer": _timm("EfficientFormer", "efficientformer_l1"),
    "fastvit": _timm("FastViT", "fastvit_t8", 256),
}


# ------------------------------------------------------------------------------------------------ transformers

#: Sizes that most configurations name so; each gets those that it knows.
_SMALL = {
    "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 512, "max_position_embeddings": 256, "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
_IDS = ((2, 64), 1024)


def _hf(family: str, model: str, config: str, inputs: dict[str, Any] | None = None, **options: Any) -> Architecture:
    call = {"use_cache": False} if options.pop("decoder", False) else {}

    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, config)
        known = inspect.signature(kind.__init__).parameters
        sizes = {k: v for k, v in _SMALL.items() if k in known or k in getattr(kind, "__annotations__", {})}
        made: nn.Module = getattr(transformers, model)(kind(**{**sizes, **options}))
        return Tensors(made, **call)

    return Architecture(family, "transformers", build, inputs or {"input_ids": _IDS})


def _vision(size: int = 64, channels: int = 3) -> dict[str, Any]:
    return {"pixel_values": (2, channels, size, size)}


_BART = {
    "d_model": 256, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512,
}  # fmt: skip
_SPEECH = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
_WAVES = {"input_values": (2, 8000)}

_TRANSFORMERS: dict[str, Architecture] = {
    "bert": _hf("BERT", "BertModel", "BertConfig", {"input_ids": _IDS, "attention_mask": ((2, 64), 2)}),
    "roberta": _hf("RoBERTa", "RobertaModel", "RobertaConfig"),
    "distilbert": _hf("DistilBERT", "DistilBertModel", "DistilBertConfig", dim=256, n_layers=3, n_heads=4),
    "electra": _hf("ELECTRA", "ElectraModel", "ElectraConfig", embedding_size=128),
    "deberta_v2": _hf(
        "DeBERTa", "DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"],
        position_buckets=32,
    ),
    "albert": _hf("ALBERT", "AlbertModel", "AlbertConfig", embedding_size=128),
    "mpnet": _hf("MPNet", "MPNetModel", "MPNetConfig"),
    "t5": _hf("T5", "T5EncoderModel", "T5Config", d_model=256, d_kv=64, d_ff=512, num_layers=3, num_heads=4),
    "bart": _hf(
        "BART", "BartModel", "BartConfig", {"input_ids": _IDS, "decoder_input_ids": _IDS}, decoder=True, **_BART
    ),
    "gpt2": _hf("GPT-2", "GPT2LMHeadModel", "GPT2Config", decoder=True, n_embd=256, n_layer=3, n_head=4),
    "gpt_neox": _hf("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", decoder=True),
    "gptj": _hf("GPT-J", "GPTJForCausalLM", "GPTJConfig", decoder=True, n_embd=256, n_layer=3, n_head=4, rotary_dim=32),
    "opt": _hf("OPT", "OPTForCausalLM", "OPTConfig", decoder=True, ffn_dim=512, word_embed_proj_dim=256),
    "bloom": _hf("BLOOM", "BloomForCausalLM", "BloomConfig", decoder=True, n_layer=3, n_head=4),
    "llama": _hf("Llama", "LlamaForCausalLM", "LlamaConfig", decoder=True),
    "mistral": _hf("Mistral", "MistralForCausalLM", "MistralConfig", decoder=True, sliding_window=32),
    "qwen2": _hf("Qwen", "Qwen2ForCausalLM", "Qwen2Config", decoder=True),
    "qwen3": _hf("Qwen 3", "Qwen3ForCausalLM", "Qwen3Config", decoder=True),
    "gemma2": _hf("Gemma", "Gemma2ForCausalLM", "Gemma2Config", decoder=True, sliding_window=32),
    "phi": _hf("Phi", "PhiForCausalLM", "PhiConfig", decoder=True),
    "phi3": _hf("Phi 3", "Phi3ForCausalLM", "Phi3Config", decoder=True, pad_token_id=0),
    "falcon": _hf("Falcon", "FalconForCausalLM", "FalconConfig", decoder=True, alibi=False),
    "stablelm": _hf("StableLM", "StableLmForCausalLM", "StableLmConfig", decoder=True),
    "mixtral": _hf(
        "Mixtral", "MixtralForCausalLM", "MixtralConfig", decoder=True, num_local_experts=4,
        experts_implementation="batched_mm",  # its other ways to run experts have sizes that depend on data
    ),
    "mamba": _hf("Mamba", "MambaForCausalLM", "MambaConfig", decoder=True, state_size=8),
    "whisper": _hf(
        "Whisper", "WhisperModel", "WhisperConfig",
        {"input_features": (1, 80, 200), "decoder_input_ids": ((1, 16), 1024)}, decoder=True,
        max_source_positions=100, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **_BART,
    ),
    "wav2vec2": _hf("wav2vec 2.0", "Wav2Vec2Model", "Wav2Vec2Config", _WAVES, **_SPEECH),
    "hubert": _hf("HuBERT", "HubertModel", "HubertConfig", _WAVES, **_SPEECH),
    "clip": _hf(
        "CLIP", "CLIPModel", "CLIPConfig", {"input_ids": _IDS, **_vision()},
        text_config={**_SMALL, "eos_token_id": 2, "projection_dim": 128},
        vision_config={**_SMALL, "image_size": 64, "patch_size": 16, "projection_dim": 128}, projection_dim=128,
    ),
    "hf_vit": _hf("ViT (transformers)", "ViTModel", "ViTConfig", _vision(), image_size=64),
    "dinov2": _hf("DINOv2", "Dinov2Model", "Dinov2Config", _vision(56), image_size=56, patch_size=14),
    "segformer": _hf(
        "SegFormer", "SegformerForSemanticSegmentation", "SegformerConfig", _vision(128), depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 5, 8],
    ),
    "yolos": _hf("YOLOS", "YolosModel", "YolosConfig", _vision(), image_size=[64, 64], num_detection_tokens=8),
    "sam_vision": _hf(
        "SAM", "SamVisionModel", "SamVisionConfig", _vision(128), image_size=128, global_attn_indexes=[1],
        window_size=4, mlp_dim=512, output_channels=64,
    ),
}  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {**_TIMM, **_TRANSFORMERS}
