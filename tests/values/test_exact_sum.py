from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pp_graph.values.exact_sum import ExactSum

# Sums of these stay finite.
NUMBERS = st.lists(st.floats(-1e300, 1e300), max_size=20)


@given(NUMBERS, NUMBERS, st.randoms())
def test_order_and_merging_change_no_bit(some: list[float], others: list[float], random: object) -> None:
    one, other, shuffled = ExactSum(), ExactSum(), ExactSum()
    for number in some:
        one.add(number)
    for number in others:
        other.add(number)
    one.merge(other)
    numbers = [*some, *others]
    random.shuffle(numbers)  # type: ignore[attr-defined]
    for number in numbers:
        shuffled.add(number)
    assert one.total == shuffled.total == math.fsum(numbers)


def test_infinities_and_nan_add_up_as_usual() -> None:
    found = ExactSum()
    found.add(1.0)
    found.add(math.inf)
    other = ExactSum()
    other.merge(found)
    assert other.total == math.inf
    other.add(-math.inf)
    assert math.isnan(other.total)
