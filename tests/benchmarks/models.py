"""The models that the main benchmark runs: built from their configurations, random weights, every norm perturbed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.default_dtype import default_dtype


class Pick(nn.Module):
    """A model with one tensor out: transformers' output classes are dataclasses of many."""

    def __init__(self, model: nn.Module, pick: Callable[[Any], torch.Tensor], **fixed: Any) -> None:
        super().__init__()
        self.model, self.pick, self.fixed = model, pick, fixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pick(self.model(x, **self.fixed))


class ResBlock(nn.Module):
    def __init__(self, channels: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = self.conv1(functional.silu(self.norm1(x))) + self.time(functional.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(h)))


class CrossAttention(nn.Module):
    def __init__(self, channels: int, context: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.group = nn.LayerNorm(channels), nn.GroupNorm(8, channels)
        self.q, self.k, self.v = (
            nn.Linear(channels, channels),
            nn.Linear(context, channels),
            nn.Linear(context, channels),
        )
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        tokens = self.group(x).flatten(2).transpose(1, 2)
        q, k, v = self.q(self.norm(tokens)), self.k(context), self.v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(attended).transpose(1, 2).reshape(b, c, h, w)


class UNet(nn.Module):
    """A small latent-diffusion UNet: GroupNorm, SiLU, time embedding, cross attention, nearest upsampling."""

    def __init__(self, width: int = 64, context: int = 96) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, -9, width // 2)))
        self.register_buffer("text", torch.randn(2, 7, context))
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.enter, self.leave = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.down1, self.down2 = ResBlock(width, width, 4 * width), ResBlock(width, 2 * width, 4 * width)
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.cross, self.middle = CrossAttention(2 * width, context), ResBlock(2 * width, 2 * width, 4 * width)
        self.up = ResBlock(3 * width, width, 4 * width)
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(1, x.shape[0] + 1, device=x.device)[:, None] * 10 * self.frequencies
        t = self.time(torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype))
        first = self.down1(self.enter(x), t)
        h = self.middle(self.cross(self.down2(self.shrink(first), t), self.text), t)
        h = torch.cat([functional.interpolate(h, scale_factor=2.0, mode="nearest"), first], 1)
        return self.leave(functional.silu(self.norm(self.up(h, t))))


class Decoder(nn.Module):
    """A layer of :class:`Llama`: rotary causal attention and SwiGLU, each behind an RMSNorm."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in "qkvo")
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        def rotated(t: torch.Tensor) -> torch.Tensor:
            a, b = t.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        n = self.norm1(x)
        q, k, v = (part(n).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        attended = functional.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        n = self.norm2(x)
        return x + self.down(functional.silu(self.gate(n)) * self.up(n))


class Llama(nn.Module):
    """Llama's decoder over a whole prompt: 1.69 B parameters in 8 of the 32 layers of Llama-2-7B.

    The vocabulary is small, because TensorRT takes memory by the largest weight when it builds a refittable engine.
    """

    def __init__(
        self, layers: int = 8, width: int = 4096, inner: int = 11008, vocabulary: int = 8192, heads: int = 32
    ) -> None:
        super().__init__()
        self.head_size = width // heads
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Decoder(width, inner, heads) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        places = torch.arange(ids.shape[1], dtype=torch.float32, device=ids.device)
        pairs = torch.arange(0, self.head_size, 2, dtype=torch.float32, device=ids.device)
        angles = places[:, None] * torch.exp(pairs * (-math.log(1e4) / self.head_size))
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


@dataclass(frozen=True)
class Model:
    """One row: ``make()`` on the default device, the input's ``shape``; token ids are below ``vocabulary``.

    Parameters are made in ``dtype``, so that a large model never exists in another.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    vocabulary: int = 0
    dtype: torch.dtype = torch.float32


def _timm(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False)
        return model

    return make


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return Pick(GPT2LMHeadModel(GPT2Config()), lambda out: out.logits, use_cache=False)


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return Pick(BertModel(BertConfig()), lambda out: out.last_hidden_state)


def _t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8)
    return Pick(T5EncoderModel(config), lambda out: out.last_hidden_state)


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8192, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    return Pick(LlamaForCausalLM(config), lambda out: out.logits, use_cache=False)


def _whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048)
    return Pick(WhisperEncoder(config), lambda out: out.last_hidden_state)


MODELS: dict[str, Model] = {
    "resnet50": Model(_timm("resnet50"), (8, 3, 224, 224)),
    "convnext_tiny": Model(_timm("convnext_tiny"), (8, 3, 224, 224)),
    "efficientnet_b0": Model(_timm("efficientnet_b0"), (8, 3, 224, 224)),
    "vit_base": Model(_timm("vit_base_patch16_224"), (8, 3, 224, 224)),
    "swin_tiny": Model(_timm("swin_tiny_patch4_window7_224"), (8, 3, 224, 224)),
    "gpt2": Model(_gpt2, (2, 128), 50257),
    "bert_base": Model(_bert, (4, 128), 30522),
    "t5_encoder": Model(_t5, (2, 128), 32128),
    "llama_gqa": Model(_llama, (2, 128), 8192),
    "whisper_encoder": Model(_whisper, (1, 80, 3000)),
    "unet": Model(UNet, (2, 4, 32, 32)),
}
#: Models for questions of memory; only benchmarks that name them run them.
LARGE: dict[str, Model] = {
    "llama_1b5": Model(Llama, (2, 128), 8192, torch.bfloat16),
    # the same layers and kernels, 2 % of the parameters: what a build takes beside the weights
    "llama_narrow": Model(lambda: Llama(8, 512, 1376, 8192, 4), (2, 128), 8192, torch.bfloat16),
}


def perturb(model: nn.Module) -> nn.Module:
    """Moves biases, scales and running statistics away from zero and one: a dropped one shows."""
    for module in model.modules():
        for attribute in ("bias", "weight", "gamma"):
            value = getattr(module, attribute, None)
            if isinstance(value, torch.Tensor) and value.ndim == 1 and value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.1)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
    return model


def make(name: str, device: str = "cuda") -> tuple[nn.Module, torch.Tensor]:
    """A model in eval mode with seeded weights in its row's dtype, and an input. A dropped bias or norm scale shows."""
    row = (MODELS | LARGE)[name]
    torch.manual_seed(0)
    with torch.device(device), default_dtype(row.dtype):
        model = perturb(row.make().eval().requires_grad_(False))
        x = torch.randint(0, row.vocabulary, row.shape) if row.vocabulary else torch.randn(row.shape)
    return model, x
