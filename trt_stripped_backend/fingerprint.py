"""A 128-bit fingerprint of tensors' values, computed where they are: one device→host copy of 16 bytes per lot.

Method: multilinear hashing. Memory is read as 32-bit words x_i; a lane is ``(Σ a_i · x_i mod 2⁶⁴) >> 32`` with 64-bit
coefficients a_i of its own; four lanes make 128 bits. For two given inputs of one length that differ, the chance that a
lane agrees is 2⁻³² over the choice of coefficients, so 2⁻¹²⁸ for all four (D. Lemire, O. Kaser, "Strongly universal
string hashing is fast", The Computer Journal 57(11), 2014, theorem on MULTILINEAR). Words beyond one block of
coefficients are hashed block by block and the blocks' lanes hashed again, which adds at most one such chance per level.
The coefficients are fixed, so this guards against accidents, not against someone who wants a collision.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import torch

from .types import flat_bytes

_BLOCK = 1 << 18  # words for which coefficients are kept: 8 MiB for four lanes, which stays in a GPU's L2 cache
_LANES = 4


@functools.lru_cache(maxsize=16)
def _coefficients(device: torch.device) -> torch.Tensor:
    """Four rows of 64-bit coefficients: splitmix64 of the position, a fixed pseudo-random sequence."""
    z = torch.arange(1, _LANES * _BLOCK + 1, dtype=torch.int64, device=device) * -7046029254386353131
    z = (z ^ (z >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ (z >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return (z ^ (z >> 31 & 0x1FFFFFFFF)).view(_LANES, _BLOCK)


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes in logical order as 32-bit words, the last one padded with zeros."""
    raw = flat_bytes(tensor)
    spare = -raw.numel() % 4
    if spare or raw.data_ptr() % 4:
        raw = torch.nn.functional.pad(raw, (0, spare))
    return raw.view(torch.int32)


def _lanes(words: torch.Tensor) -> torch.Tensor:
    """Four 32-bit lanes of a stream of words, as int32."""
    coefficients = _coefficients(words.device)
    while True:
        count = words.numel()
        spare = -count % _BLOCK if count > _BLOCK else 0
        blocks = (
            torch.nn.functional.pad(words, (0, spare)).view(-1, min(max(count, 1), _BLOCK))
            if count
            else words.new_zeros(1, 1)
        )
        width = blocks.shape[1]
        sums = torch.stack([(blocks * row[:width]).sum(1) for row in coefficients], 1)
        words = (sums >> 32).to(torch.int32).reshape(-1)
        if len(blocks) == 1:
            return words


def fingerprint(tensors: Sequence[torch.Tensor]) -> str:
    """32 hexadecimal digits that depend on every bit of every tensor, on their order, shapes and dtypes.

    Args:
        tensors: of any dtypes and shapes, all on one device.
    """
    shapes = repr([(str(t.dtype), tuple(t.shape)) for t in tensors]).encode()
    if not tensors:
        return hashlib.sha256(shapes).hexdigest()[:32]
    with torch.no_grad():
        lanes = torch.cat([_lanes(_words(t)) for t in tensors])
        total = _lanes(lanes).cpu().numpy().tobytes()
    return hashlib.sha256(shapes + total).hexdigest()[:32]
