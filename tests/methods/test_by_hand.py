"""Small merges that a reader checks in his head: 4x4 matrices, the base all ones where it has no other value."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightsmith.errors
from tests.methods.scan_of import WholeTensors, merged, run, settings_of

ONES = [[1.0, 1.0, 1.0, 1.0]] * 4
ZEROS = [[0.0, 0.0, 0.0, 0.0]] * 4


def test_linear_is_the_weighted_mean() -> None:
    a = [[1.0, 2.0, 3.0, 4.0]] * 4
    b = [[3.0, 2.0, 1.0, 0.0]] * 4
    # (3 a + 1 b) / 4
    assert merged("linear", [a, b], [{"weight": 3.0}, {"weight": 1.0}], base=None) == [[1.5, 2.0, 2.5, 3.0]] * 4
    # without division: 3 a + 1 b
    weights = [{"weight": 3.0}, {"weight": 1.0}]
    assert merged("linear", [a, b], weights, base=None, normalize=False) == [[6.0, 8.0, 10.0, 12.0]] * 4


def test_task_arithmetic_adds_what_the_fine_tunes_changed() -> None:
    a = [[1.5, 1.0, 1.0, 1.0]] * 4  # +0.5 in the first column
    b = [[1.0, 1.0, 1.0, 0.0]] * 4  # -1 in the last
    result = merged("task_arithmetic", [ONES, a, b], [{}, {"weight": 2.0}, {"weight": 0.5}])
    assert result == [[2.0, 1.0, 1.0, 0.5]] * 4


def test_ties_trims_elects_and_averages_what_agrees() -> None:
    a = [[9.0, 1.1, 5.0, 1.1], *ONES[1:]]  # changes 8, 0.1, 4, 0.1
    b = [[-5.0, 1.1, 3.0, 1.1], *ONES[1:]]  # changes -6, 0.1, 2, 0.1
    values = [{}, {"weight": 1.0, "density": 2 / 16}, {"weight": 1.0, "density": 2 / 16}]
    # Two of sixteen elements stay in each: 8 and 4, -6 and 2. In the first column the sum is +2, so plus is elected and 8
    # stands alone; in the third both agree, and their mean is 3. The changes of 0.1 are trimmed.
    assert merged("ties", [ONES, a, b], values) == [[9.0, 1.0, 4.0, 1.0], *ONES[1:]]
    # Without normalize those that agree are added: 8, and 4 + 2.
    assert merged("ties", [ONES, a, b], values, normalize=False) == [[9.0, 1.0, 7.0, 1.0], *ONES[1:]]


def test_ties_counts_weights_in_the_election() -> None:
    a = [[2.0, 1.0, 1.0, 1.0]] * 4  # +1
    b = [[0.0, 1.0, 1.0, 1.0]] * 4  # -1
    result = merged("ties", [ONES, a, b], [{}, {"weight": 1.0}, {"weight": 3.0}])
    assert result == [[0.0, 1.0, 1.0, 1.0]] * 4  # 1 - 3 is negative: the second is elected, and -3 / 3 is its mean


def test_nearswap_swaps_what_is_near_and_steps_where_it_is_far() -> None:
    other = [[1.25, 2.0, 1.0, -1.0]] * 4
    assert merged("nearswap", [ONES, other], [{}, {}], t=0.5) == [[1.25, 1.5, 1.0, 0.5]] * 4


def test_ram_keeps_what_one_changed_and_averages_what_several_did() -> None:
    a = [[3.0, 1.0, 5.0, 1.0], *ONES[1:]]  # +2, and +4 where b has +2
    b = [[1.0, 2.0, 3.0, 1.0], *ONES[1:]]  # +1
    assert merged("ram", [ONES, a, b], [{}, {}, {}]) == [[3.0, 2.0, 4.0, 1.0], *ONES[1:]]
    assert merged("ram", [ONES, a], [{}, {}]) == a
    # Of two elements that each changed, one is shared: rho is 1, and what is its own counts 1 + 0.5 * 1.
    result = merged("ramplus_tl", [ONES, a, b], [{}, {}, {}], r=0.5, alpha=2.0)
    assert result == [[4.0, 2.5, 4.0, 1.0], *ONES[1:]]


def test_breadcrumbs_drops_the_largest_and_the_smallest() -> None:
    changes = [[16.0, 15.0, 14.0, 13.0], [12.0, 11.0, 10.0, 9.0], [8.0, 7.0, 6.0, 5.0], [4.0, 3.0, 2.0, 1.0]]
    # gamma 1/8 of 16 elements drops 16 and 15; of the rest the 8 largest stay, 14 to 7.
    result = merged("breadcrumbs", [ZEROS, changes], [{}, {"weight": 1.0, "density": 0.5, "gamma": 0.125}])
    assert result == [[0.0, 0.0, 14.0, 13.0], [12.0, 11.0, 10.0, 9.0], [8.0, 7.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_dare_drops_at_random_and_makes_up_for_it() -> None:
    """Each element stays or goes; what stays grows so that the sum of magnitudes is as before: 16 elements of 1."""
    changed = [[1.0, 1.0, 1.0, 1.0]] * 4
    result = merged("dare_linear", [ZEROS, changed], [{}, {"weight": 1.0, "density": 0.5}])
    kept = [value for row in result for value in row if value]
    assert 0 < len(kept) < 16
    assert all(abs(value - 16 / len(kept)) < 1e-4 for value in kept)
    plain = merged("dare_linear", [ZEROS, changed], [{}, {"weight": 1.0, "density": 0.5}], rescale=False)
    assert {value for row in plain for value in row} == {0.0, 1.0}
    assert sum(value for row in plain for value in row) == len(kept)  # the same choice


def test_della_keeps_what_is_certain_by_rank() -> None:
    """density - epsilon to density + epsilon: of rows 1 2 3 4 the smallest stays with 0.01, the largest with 0.99."""
    changed = [[1.0, 2.0, 3.0, 4.0]] * 4
    settings = settings_of("della", 0, [{}, {"weight": 1.0, "density": 0.5, "epsilon": 0.49}], rescale=False)
    whole = torch.stack([torch.zeros(4000), torch.tensor([1.0, 2.0, 3.0, 4.0] * 1000)])
    result = run("della", WholeTensors(whole, 4, 400), settings, "fused").reshape(1000, 4)
    assert merged("della", [ZEROS, changed], [{}, {"weight": 1.0}]) == changed  # density 1 keeps everything
    shares = (result != 0).float().mean(0)
    assert shares[0] < 0.04 and shares[3] > 0.96 and shares[0] < shares[1] < shares[2] < shares[3]


def test_slerp_goes_along_the_arc() -> None:
    east = [[1.0, 0.0, 0.0, 0.0], *ZEROS[1:]]
    north = [[0.0, 1.0, 0.0, 0.0], *ZEROS[1:]]
    # Halfway between two vectors at a right angle lies the one of length 1 at 45 degrees.
    assert merged("slerp", [east, north], [{}, {}], t=0.5) == [[0.70711, 0.70711, 0.0, 0.0], *ZEROS[1:]]
    assert merged("slerp", [east, north], [{}, {}], t=0.0) == east
    assert merged("slerp", [east, north], [{}, {}], t=1.0) == north


def test_slerp_of_parallel_vectors_is_a_line() -> None:
    twice = [[2.0, 2.0, 2.0, 2.0]] * 4
    assert merged("slerp", [ONES, twice], [{}, {}], t=0.25) == [[1.25, 1.25, 1.25, 1.25]] * 4


def test_model_stock_trusts_fine_tunes_that_agree() -> None:
    a = [[2.0, 0.0, 0.0, 0.0], *ZEROS[1:]]
    # Two that agree fully: cosine 1, t = 2 * 1 / (1 + 1) = 1, and the result is their mean.
    assert merged("model_stock", [ZEROS, a, a], [{}, {}, {}]) == a
    # At a right angle: cosine 0, t = 0, and the base stays.
    b = [[0.0, 2.0, 0.0, 0.0], *ZEROS[1:]]
    assert merged("model_stock", [ZEROS, a, b], [{}, {}, {}]) == ZEROS
    # At 60 degrees: cosine 1/2, t = 2 * 0.5 / 1.5 = 2/3 of the way to the mean.
    c = [[1.0, 3**0.5, 0.0, 0.0], *ZEROS[1:]]
    assert merged("model_stock", [ZEROS, a, c], [{}, {}, {}]) == [[1.0, 0.57735, 0.0, 0.0], *ZEROS[1:]]


def test_passthrough_copies_or_scales() -> None:
    a = [[1.0, 2.0, 3.0, 4.0]] * 4
    assert merged("passthrough", [a], [{}], base=None) == a
    assert merged("passthrough", [a], [{"scale": 0.5}], base=None) == [[0.5, 1.0, 1.5, 2.0]] * 4


def test_multislerp_has_the_mean_direction_and_the_mean_length() -> None:
    a, b = [[3.0, 0.0], [0.0, 0.0]], [[0.0, 5.0], [0.0, 0.0]]
    # Half way between the axes, with the length (3 + 5) / 2.
    diagonal = round(4 / 2**0.5, 5)
    assert merged("multislerp", [a, b], [{"weight": 1.0}] * 2, base=None) == [[diagonal, diagonal], [0.0, 0.0]]
    # Around a base of ones it is the same with task vectors.
    ones = [[1.0, 1.0]] * 2
    moved = [[[value + 1 for value in row] for row in matrix] for matrix in (a, b)]
    result = merged("multislerp", [ones, *moved], [{}, {"weight": 1.0}, {"weight": 1.0}])
    assert result == [[1 + diagonal, 1 + diagonal], [1.0, 1.0]]
    # Nothing moved: the base.
    assert merged("multislerp", [ones, ones, ones], [{}, {"weight": 1.0}, {"weight": 1.0}]) == ones


def test_directions_that_cancel_have_no_mean() -> None:
    a, b, c = [[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 0.0]]
    assert merged("multislerp", [a, b], [{"weight": 1.0}] * 2, base=None) == [[0.0, 0.0]]  # two are averaged
    with pytest.raises(weightsmith.errors.MergeError, match="cancel"):
        merged("multislerp", [a, b, c], [{"weight": 1.0}] * 3, base=None)


def test_karcher_lies_in_the_middle_of_the_arc() -> None:
    a, b, c = [[2.0, 0.0]], [[0.0, 4.0]], [[0.0, 0.0]]
    assert merged("karcher", [a, b], [{}, {}], base=None) == [[round(3 / 2**0.5, 5)] * 2]
    # A tensor of zeros has no direction, but counts in the mean length: (2 + 4 + 0) / 3.
    assert merged("karcher", [a, b, c], [{}] * 3, base=None) == [[round(2 / 2**0.5, 5)] * 2]
    assert merged("karcher", [c, c], [{}, {}], base=None) == c


def test_nuslerp_turns_tensors_rows_or_columns() -> None:
    a, b = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]
    half = [{"weight": 1.0}, {"weight": 1.0}]
    diagonal = round(1 / 2**0.5, 5)
    by_rows = merged("nuslerp", [a, b], half, base=None, nuslerp_flatten=False)
    assert by_rows == [[diagonal, diagonal], [0.0, 1.0]]  # the second rows are the same
    # By columns: (1, 0) and (0, 0) have no angle, a right one is taken; (0, 1) and (1, 1) are 45 degrees apart.
    by_columns = merged("nuslerp", [a, b], half, base=None, nuslerp_flatten=False, nuslerp_row_wise=True)
    middle = math.sin(math.pi / 8) / math.sin(math.pi / 4)
    assert by_columns == [[diagonal, round(middle, 5)], [0.0, round(2 * middle, 5)]]
    # The whole: both have length sqrt(2), and are 60 degrees apart.
    third = round(math.sin(math.pi / 6) / math.sin(math.pi / 3), 5)
    assert merged("nuslerp", [a, b], half, base=None) == [[third, third], [0.0, round(third * 2, 5)]]


def test_sce_weighs_by_energy_and_erases_the_minority() -> None:
    a = [[3.0, 1.0, 1.0, 1.0]]  # +2: four times the energy of
    b = [[0.0, 1.0, 1.0, 1.0]]  # -1
    assert merged("sce", [ONES[:1], a, b], [{}, {}, {}]) == [[3.0, 1.0, 1.0, 1.0]]
    c = [[2.0, 1.0, 1.0, 1.0]]  # +1: (4/5 * 2 + 1/5 * 1)
    assert merged("sce", [ONES[:1], a, c], [{}, {}, {}]) == [[2.8, 1.0, 1.0, 1.0]]
    # Of two elements that vary, the half that varies more.
    d = [[3.0, 1.5, 1.0, 1.0]]
    assert merged("sce", [ONES[:1], d, ONES[:1]], [{}, {}, {}], select_topk=0.5) == [[3.0, 1.0, 1.0, 1.0]]


def test_arcee_fusion_takes_what_stands_out() -> None:
    base = [[0.0, 0.0, 0.0, 0.0]] * 4
    other = [[5.0, 0.0, 0.0, 0.1], [0.1, 0.0, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0], [0.0, 0.0, 0.1, 0.0]]
    assert merged("arcee_fusion", [base, other], [{}, {}])[0][0] == 5.0
    assert merged("arcee_fusion", [base, other], [{}, {}])[0][3] == 0.1  # its row changed as a whole
    assert merged("arcee_fusion", [base, base], [{}, {}]) == base


def test_consensus_keeps_what_matters_to_several() -> None:
    a = [[3.0, 3.0, 1.0, 2.0]]  # changes 2, 2, 0, 1
    b = [[3.0, 1.0, 1.0, 2.0]]  # changes 2, 0, 0, 1
    c = [[1.0, 1.0, 5.0, 2.0]]  # changes 0, 0, 4, 1
    # 2 and 2 matter to two of three (2 >= 0.5 * 2), 2 and 4 to one each, and 1 to all three (1 >= 0.5 * 2).
    values = [{}] * 4
    result = merged("consensus", [ONES[:1], a, b, c], values, **{"lambda": 1.0})
    assert result == [[5.0, 1.0, 1.0, 4.0]]
    assert merged("consensus", [ONES[:1], a, b, c], values, agreement=3, **{"lambda": 0.5}) == [[1.0, 1.0, 1.0, 2.5]]


def test_the_median_is_not_moved_by_one_that_is_far_off() -> None:
    models = [[[1.0, 0.0]], [[2.0, 0.0]], [[900.0, 5.0]]]
    assert merged("weighted_median", models, [{}] * 3, base=None) == [[2.0, 0.0]]
    heavy = [{"weight": 1.0}, {"weight": 1.0}, {"weight": 3.0}]
    assert merged("weighted_median", models, heavy, base=None) == [[900.0, 5.0]]
    # Where two share the middle it is their mean: 1 and 2 hold half of the weight.
    even = [{"weight": 0.1}, {"weight": 0.2}, {"weight": 0.3}]
    assert merged("weighted_median", models, even, base=None) == [[451.0, 2.5]]


WHOLE = st.integers(-3, 3).map(float)  # equal values too


@given(st.lists(st.tuples(WHOLE, st.integers(1, 6)), min_size=1, max_size=7))
def test_half_of_the_weight_lies_on_either_side_of_the_median(models: list[tuple[float, int]]) -> None:
    values = [[[value]] for value, _ in models]
    [[median]] = merged("weighted_median", values, [{"weight": float(weight)} for _, weight in models], base=None)
    ordered = sorted(value for value, weight in models for _ in range(weight))  # as often as its weight says
    assert median == (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
