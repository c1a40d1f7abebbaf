"""Generation with KV caches on a GPU: eager's tokens, greedily, and caches that hold what eager's hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

import trt_stripped_backend as ts
from tests.cpu.test_inplace import WRITES, Attention
from tests.gpu.common import error, perturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODES = ["bound", "general"]
VOCABULARY, PROMPT, TOKENS = 128, 5, 24
#: For ids and scores alike: far apart, so that a rounding decides no token.
SPREAD = 10.0


def llama(seed: int = 0) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM  # here: only these tests need them

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=None, bos_token_id=1,
    )  # fmt: skip
    return _ready(LlamaForCausalLM(config))


def gpt2(seed: int = 0) -> PreTrainedModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=128, pad_token_id=0, eos_token_id=None,
        bos_token_id=1,
    )  # fmt: skip
    return _ready(GPT2LMHeadModel(config))


def varied(make: Callable[[int], PreTrainedModel], ids: torch.Tensor, **given: Any) -> tuple[Any, torch.Tensor]:
    """A model whose tokens vary, and these: one that repeats itself would hide a stale cache."""
    for seed in range(50):
        model = make(seed)
        tokens = generate(model, ids, **given)
        if len(set(tokens[0, PROMPT:].tolist())) > 3:
            return model, tokens
    raise AssertionError("every model repeats itself")


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SPREAD)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval().cuda()


def generate(model: PreTrainedModel, ids: torch.Tensor, **given: Any) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, disable_compile=True, **given
    )
    return tokens


def compile_forward(model: PreTrainedModel, mode: str, **given: Any) -> None:
    options = {"refit_mode": mode, "min_block_size": 1}
    model.forward = torch.compile(model.forward, backend="trt_stripped", options=options, **given)


def prompts() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (2, PROMPT), generator=torch.Generator().manual_seed(0)).cuda()


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_static_cache_gives_eagers_tokens(mode: str) -> None:
    ids = prompts()
    model, want = varied(llama, ids, cache_implementation="static")
    compile_forward(model, mode)
    assert torch.equal(generate(model, ids, cache_implementation="static"), want)
    counts = ts.stats()
    assert counts["fallbacks"] == 0
    assert 2 <= counts["builds"] <= 6  # the prompt, then one token at a time
    again = generate(model, ids.flip(1), cache_implementation="static")
    assert ts.stats()["builds"] == counts["builds"]
    torch.compiler.reset()
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(again, generate(model, ids.flip(1), cache_implementation="static"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dynamic", [None, True])
@torch.no_grad()
def test_a_growing_cache_gives_eagers_tokens(dynamic: bool | None, mode: str) -> None:
    ids = prompts()
    model, want = varied(gpt2, ids)
    compile_forward(model, mode, dynamic=dynamic)
    assert torch.equal(generate(model, ids), want)
    counts = ts.stats()
    assert counts["fallbacks"] == 0
    assert counts["builds"] <= 6  # the prompt, the first token, any other token


@torch.no_grad()
def test_a_static_cache_follows_the_weights() -> None:
    model, ids = llama(), prompts()
    compile_forward(model, "bound")
    before = generate(model, ids, cache_implementation="static")
    builds = ts.stats()["builds"]
    for parameter in model.parameters():
        parameter.copy_(parameter.roll(1, 0))
    have = generate(model, ids, cache_implementation="static")
    assert ts.stats()["builds"] == builds
    with torch.compiler.set_stance("force_eager"):
        want = generate(model, ids, cache_implementation="static")
    assert torch.equal(have, want)
    assert not torch.equal(have, before)


@torch.no_grad()
def test_a_static_cache_holds_what_eagers_holds() -> None:
    from transformers import StaticCache

    model, ids = llama(), prompts()
    twin = copy.deepcopy(model)
    compile_forward(twin, "bound")
    caches = [StaticCache(config=model.config, max_cache_len=32) for _ in range(2)]
    for step in range(6):
        token = ids if step == 0 else ids[:, step % PROMPT, None]
        place = torch.arange(PROMPT, device="cuda") if step == 0 else torch.tensor([PROMPT + step - 1], device="cuda")
        given = {"use_cache": True, "position_ids": place[None].expand(2, -1)}
        want, have = (
            one(token, past_key_values=cache, **given).logits
            for one, cache in zip((model, twin), caches, strict=True)
        )
        assert error(have, want) < 2e-5, step
        for mine, other in zip(caches[1].layers, caches[0].layers, strict=True):
            assert error(mine.keys, other.keys) < 2e-5, step
            assert error(mine.values, other.values) < 2e-5, step


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WRITES)
@torch.no_grad()
def test_buffers_are_right_step_after_step(way: str, mode: str) -> None:
    model = perturbed(Attention(WRITES[way]))
    model.keys.zero_()
    model.values.zero_()
    other = copy.deepcopy(model)
    fast = torch.compile(other, backend="trt_stripped", options={"refit_mode": mode, "min_block_size": 1})
    for step in range(8):
        x, place = torch.randn(1, 1, 8, device="cuda"), torch.tensor([step], device="cuda")
        assert error(fast(x, place), model(x, place)) < 1e-5, step
        for mine, want in zip(other.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-5)
    assert int(other.steps) == 8
    assert ts.stats()["fallbacks"] == 0
    assert ts.stats()["builds"] == 1
