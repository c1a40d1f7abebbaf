"""Serves a model over HTTP and takes new weights while it does: no request waits, fails, or sees half of a change.

    pip install "trt_stripped_backend[rtx,examples]" uvicorn
    uvicorn examples.serve:app            then POST /classify {"rows": [[…16 numbers…]]}, POST /weights {"name": "b"}
    python examples/serve.py --self-test  concurrent requests and reloads, every answer checked

New weights go into a model of their own, which then takes the place of the one that serves; requests under way finish
with the old one. Both run in the same engine: no plan holds a weight, so a reload builds nothing.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import NamedTuple

import httpx
import torch
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from torch import nn

import trt_stripped_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {"min_block_size": 1}
BATCH = 8  # rows are filled up to it, so that there is one engine


def checkpoint(name: str) -> dict[str, torch.Tensor]:
    """The weights of a name. A real server would read a file."""
    torch.manual_seed(sum(map(ord, name)))
    return network().state_dict()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 5))


class Served(NamedTuple):
    name: str
    model: nn.Module
    fast: nn.Module


class Rows(BaseModel):
    rows: list[list[float]]


class Weights(BaseModel):
    name: str


def load(name: str) -> Served:
    """A model with these weights that has answered once."""
    model = network().eval()
    model.load_state_dict(checkpoint(name))
    model.to(DEVICE)
    served = Served(name, model, torch.compile(model, backend="trt_stripped", options=OPTIONS, dynamic=False))
    with torch.no_grad():
        served.fast(torch.zeros(BATCH, 16, device=DEVICE))
    return served


app = FastAPI()
app.state.served = load("a")
reloading = threading.Lock()


@app.post("/classify")
def classify(request: Rows) -> dict[str, object]:
    served: Served = app.state.served  # read once: this request keeps it
    if not 0 < len(request.rows) <= BATCH or any(len(row) != 16 for row in request.rows):
        raise HTTPException(422, f"1 to {BATCH} rows of 16 numbers")
    x = torch.zeros(BATCH, 16)
    x[: len(request.rows)] = torch.tensor(request.rows)
    with torch.no_grad():
        scores = served.fast(x.to(DEVICE))[: len(request.rows)].cpu()
    return {"weights": served.name, "scores": scores.tolist()}


@app.post("/weights")
def weights(request: Weights) -> dict[str, object]:
    with reloading:
        app.state.served = load(request.name)
    return {"weights": request.name, "builds": trt_stripped_backend.stats()["builds"]}


async def self_test(requests: int = 60) -> None:
    x = torch.randn(BATCH, 16)
    with torch.no_grad():
        want = {name: load(name).model(x.to(DEVICE)).cpu() for name in "abc"}
    builds, answers = trt_stripped_backend.stats()["builds"], []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://self") as client:

        async def ask(count: int) -> None:
            reply = await client.post("/classify", json={"rows": x[:count].tolist()})
            answers.append((count, reply.raise_for_status().json()))

        async def change(name: str) -> None:
            assert (await client.post("/weights", json={"name": name})).raise_for_status().json()["builds"] == builds

        for name in "bcab":
            await asyncio.gather(*(ask(1 + n % BATCH) for n in range(requests // 4)), change(name))
            await ask(BATCH)
            assert answers[-1][1]["weights"] == name
    for count, answer in answers:
        scores = torch.tensor(answer["scores"])
        torch.testing.assert_close(scores, want[answer["weights"]][:count], rtol=1e-3, atol=1e-4)
    used = sorted({answer["weights"] for _, answer in answers})
    print(f"{len(answers)} answers, each right for the weights that it names ({', '.join(used)}); 4 reloads")


if __name__ == "__main__" and "--self-test" in sys.argv:
    print(trt_stripped_backend.prebuild(network(), (torch.zeros(BATCH, 16),), options=OPTIONS), "\n")
    asyncio.run(self_test())
    print(f"{trt_stripped_backend.stats()['builds']} engines built")
    if DEVICE == "cpu":
        print("There is no GPU here: the plan waits in the cache, and requests were answered by PyTorch.")
