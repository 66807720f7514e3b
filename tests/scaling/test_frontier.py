import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moe_search.scaling.frontier import frontier

VALUES = st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0])
TABLES = st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=12)


@given(TABLES)
def test_it_holds_whom_nobody_beats(table: list[tuple[float, float, float]]) -> None:
    values = np.array(table)
    found = frontier(values[:, 0], values[:, 1:])
    dominated = {i for i, one in enumerate(values) for other in values if (other <= one).all() and (other < one).any()}
    assert {tuple(values[i]) for i in found} == {tuple(one) for i, one in enumerate(values) if i not in dominated}
    assert len({tuple(values[i]) for i in found}) == len(found)
    assert list(values[found, 0]) == sorted(values[found, 0])


@given(TABLES, st.floats(0.05, 0.9))
def test_thinned_it_asks_for_a_saving_against_each_that_is_kept(
    table: list[tuple[float, float, float]], saving: float
) -> None:
    values = np.array(table)
    found = frontier(values[:, 0], values[:, 1:], saving=saving)
    assert values[found[0], 0] == values[:, 0].min()
    for place, index in enumerate(found):
        for better in found[:place]:
            assert (values[index, 1:] <= (1 - saving) * values[better, 1:]).any()
    for index in set(range(len(values))) - set(found):
        kept = [better for better in found if values[better, 0] <= values[index, 0]]
        assert any((values[index, 1:] > (1 - saving) * values[better, 1:]).all() for better in kept)


def test_what_has_no_loss_is_on_no_front() -> None:
    assert frontier([np.nan, 2.0, np.inf, 1.0], [[1.0], [1.0], [0.1], [2.0]]) == [3, 1]
