"""Reinforcement learning: roll out through the engine, train with a fused optimizer, and roll out again at once.

    python examples/rl_rollout.py

After each step of the optimizer the policy that acts is the one that was just trained: the engine reads the very
parameters that AdamW writes, and nothing is exported, synchronized or rebuilt. The task: push masses to the origin.
"""

from __future__ import annotations

import torch
from torch import nn

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
WORLDS, STEPS, UPDATES = 256, 16, 40


def policy() -> nn.Module:
    """Position and velocity → how likely it is to push left, not at all, right."""
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).to(DEVICE)


def start() -> torch.Tensor:
    return torch.rand(WORLDS, 2, device=DEVICE) * 2 - 1


def move(state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next state, and the reward for it."""
    velocity = 0.9 * state[:, 1] + 0.15 * (action - 1)
    position = state[:, 0] + 0.3 * velocity
    return torch.stack([position, velocity], 1), -position.abs()


@torch.no_grad()
def rollout(act: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, actions and the advantage of each."""
    state, seen = start(), []
    for _ in range(STEPS):
        action = torch.distributions.Categorical(logits=act(state)).sample()
        following, reward = move(state, action)
        seen.append((state, action, reward))
        state = following
    states, actions, rewards = (torch.stack(values) for values in zip(*seen, strict=True))
    returns = rewards.flip(0).cumsum(0).flip(0)
    return states, actions, (returns - returns.mean(1, keepdim=True)) / returns.std(1, keepdim=True)


def error(have: torch.Tensor, want: torch.Tensor) -> float:
    return float((have - want).norm() / want.norm())


def main() -> None:
    torch.manual_seed(0)
    model, probe = policy(), start()
    print(trt_stripped_backend.prebuild(model, (probe,), options=OPTIONS), "\n")
    act = torch.compile(model, backend="trt_stripped", options=OPTIONS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    with torch.no_grad():
        before, worst = act(probe), 0.0
    builds = trt_stripped_backend.stats()["builds"]
    for update in range(UPDATES):
        states, actions, advantage = rollout(act)
        chances = torch.distributions.Categorical(logits=model(states.flatten(0, 1)))
        loss = -(chances.log_prob(actions.flatten()) * advantage.flatten()).mean() - 0.01 * chances.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            worst = max(worst, error(act(probe), model(probe)))
        if update % 10 == 0 or update == UPDATES - 1:
            with torch.no_grad():
                state = start()
                for _ in range(STEPS):
                    state, _ = move(state, act(state).argmax(1))
            print(f"update {update:2}: {state[:, 0].abs().mean():.3f} from the origin after {STEPS} steps")
    with torch.no_grad():
        changed = error(before, model(probe))
    print(f"the policy changed by {changed:.0%}; largest error against eager after an update: {worst:.1e}")
    assert changed > 0.2, "training must show"
    assert worst < 1e-4, "the engine acts with the weights as they are"
    assert trt_stripped_backend.stats()["builds"] == builds, "no update builds an engine"
    print(f"{UPDATES} updates, {trt_stripped_backend.stats()['builds']} engines built")
    if DEVICE == "cpu":
        print("There is no GPU here: the plan waits in the cache, and the policy acted in PyTorch.")


if __name__ == "__main__":
    main()
