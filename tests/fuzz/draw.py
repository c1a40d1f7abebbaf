"""Random graphs."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from . import again, blocks, heads, images, moves, pointwise, products  # noqa: F401 - these register their operators
from .builder import Builder
from .graph import Graph
from .registry import OPERATORS


@st.composite
def graphs(draw: Any, order: int = 0, fewest: int = 3, most: int = 15) -> Graph:
    """Graphs of ``fewest`` to ``most`` steps, and more where a block of several ends them. Each step mostly reads what
    the last ones made.

    Args:
        order: hypothesis prefers what comes first, so runs that cover much shuffle the operators, each another way.
    """
    shuffled = random.Random(order)
    families = [shuffled.sample(OPERATORS[name], len(OPERATORS[name])) for name in OPERATORS]
    families = shuffled.sample(families, len(families))
    count = draw(st.integers(fewest, most))
    builder = Builder(draw, count)
    for _ in range(3 * count):  # some are refused: a draw of impossible arguments
        draw(st.sampled_from(draw(st.sampled_from(families))))(builder)
        if len(builder.steps) >= count:
            break
    assume(len(builder.steps) >= fewest)
    return builder.graph()
