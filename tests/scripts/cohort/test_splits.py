"""Splits: sizes by weights, and people who stay where they are while a cohort grows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.cohort.datalist import (
    SPLITS,
    assign_splits,
    split_sizes,
)

WEIGHTS = st.tuples(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))


@pytest.mark.parametrize(
    ("n", "weights", "sizes"),
    [
        (28, (15, 5, 8), [15, 5, 8]),
        (56, (15, 5, 8), [30, 10, 16]),
        (50, (45, 5, 0), [45, 5, 0]),
        (2, (15, 5, 8), [1, 1, 0]),
        (2, (45, 5, 0), [1, 1, 0]),
        (3, (98, 1, 1), [1, 1, 1]),
        (1, (15, 5, 8), [1, 0, 0]),
        (1, (1, 50, 50), [1, 0, 0]),
        (0, (15, 5, 8), [0, 0, 0]),
    ],
)
def test_sizes_of_known_cohorts(n, weights, sizes):
    assert split_sizes(n, weights) == sizes


@settings(deadline=None)
@given(st.integers(0, 200), WEIGHTS)
def test_sizes_add_up_and_each_wanted_split_has_someone(n, weights):
    sizes = split_sizes(n, weights)
    assert sum(sizes) == n
    assert min(sizes) >= 0
    wanted = [index for index, weight in enumerate(weights) if weight > 0]
    assert all(sizes[index] == 0 for index in range(3) if index not in wanted)
    assert all(sizes[index] >= 1 for index in wanted[:n])
    if n >= 3 * sum(weights):
        exact = [n * weight / sum(weights) for weight in weights]
        assert all(abs(size - share) < 1 for size, share in zip(sizes, exact, strict=True))


@settings(deadline=None)
@given(st.integers(0, 200), WEIGHTS)
def test_a_larger_weight_never_gets_fewer(n, weights):
    sizes = split_sizes(n, weights)
    # where a split has less than one by its share, another one gives it a participant
    if all(n * weight >= sum(weights) for weight in weights if weight > 0):
        for first in range(3):
            for second in range(3):
                if weights[first] > weights[second]:
                    assert sizes[first] >= sizes[second]


NAMES = [f"sub-{index:02d}" for index in range(28)]


def _count(assigned):
    return [sum(split == name for split in assigned.values()) for name in SPLITS]


def test_assignment_is_a_function_of_names_and_seed():
    first = assign_splits(NAMES, (15, 5, 8), 0)
    assert assign_splits(list(reversed(NAMES)), (15, 5, 8), 0) == first
    assert set(first) == set(NAMES)
    assert _count(first) == [15, 5, 8]
    others = [assign_splits(NAMES, (15, 5, 8), seed) for seed in range(1, 6)]
    assert all(other != first for other in others)
    assert all(_count(other) == [15, 5, 8] for other in others)
    # not by the alphabet
    assert {name for name, split in first.items() if split == "training"} != set(NAMES[:15])


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), WEIGHTS, st.integers(0, 5))
def test_nobody_moves_when_a_cohort_grows(before, more, weights, seed):
    names = [f"sub-{index:02d}" for index in range(before + more)]
    first = assign_splits(names[:before], weights, seed)
    second = assign_splits(names, weights, seed, known=first)
    assert set(second) == set(names)
    assert all(second[name] == split for name, split in first.items())
    allowed = {split for split, weight in zip(SPLITS, weights, strict=True) if weight > 0}
    assert set(second.values()) <= allowed


def test_a_grown_cohort_comes_to_the_sizes_asked_for():
    first = assign_splits(NAMES[:14], (15, 5, 8), 0)
    assert _count(assign_splits(NAMES, (15, 5, 8), 0, known=first)) == [15, 5, 8]


def test_who_is_gone_takes_no_place_of_those_who_are_there():
    known = {"sub-90": "test", NAMES[0]: "test"}
    assigned = assign_splits(NAMES, (15, 5, 8), 0, known)
    assert set(assigned) == set(NAMES)
    assert assigned[NAMES[0]] == "test"
    assert _count(assigned) == [15, 5, 8]
