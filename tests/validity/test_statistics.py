"""AUC, rank correlation and intervals, against cases worked by hand."""

import numpy as np
import pytest

from longattn.validity import statistics


def test_auc_by_hand_with_ties():
    """Of six pairs 2>1, 2>0, 3>1, 3>0 are won and 2=2, 3>2: one tie, five wins."""
    better, worse = np.array([2.0, 3.0]), np.array([1.0, 2.0, 0.0])
    assert statistics.auc(better, worse) == pytest.approx((5 + 0.5) / 6)
    assert statistics.auc(worse, better) == pytest.approx(0.5 / 6)
    assert statistics.auc(np.ones(4), np.ones(3)) == 0.5


def test_an_empty_group_is_an_error():
    with pytest.raises(ValueError, match="got 0 and 1"):
        statistics.auc(np.array([]), np.array([1.0]))


def test_spearman_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert statistics.spearman(x, -x) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4: covariance 4.5, squares 5 and 4.5
    assert statistics.spearman(x, np.array([0.0, 5.0, 5.0, 9.0])) == pytest.approx(4.5 / np.sqrt(5 * 4.5))
    assert statistics.spearman(x, np.ones(4)) == 0


def test_draws_take_all_windows_of_a_document_and_are_the_same_each_time():
    documents = ["a", "b", "a", "c"]
    weights = statistics.draws(documents, 50, seed=3)
    assert np.array_equal(weights, statistics.draws(documents, 50, seed=3))
    assert not np.array_equal(weights, statistics.draws(documents, 50, seed=4))
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_an_interval_is_that_of_the_samples_written_out():
    random = np.random.default_rng(0)
    better, worse = random.normal(0.5, 1, 12), random.normal(0, 1, 12)
    weights = statistics.draws([str(i // 2) for i in range(12)], 40, seed=0)
    found = statistics.auc_interval(better, worse, weights)
    repeated = [np.repeat(np.arange(12), counts.astype(int)) for counts in weights]
    by_hand = [statistics.auc(better[rows], worse[rows]) for rows in repeated]
    assert found.value == pytest.approx(statistics.auc(better, worse))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))


def test_windows_of_few_documents_give_wide_intervals():
    """Twelve windows of three documents know less than twelve windows of twelve."""
    random = np.random.default_rng(0)
    level = np.repeat([0.0, 1.0, 2.0], 4)
    better, worse = level + 0.7 + 0.01 * random.normal(size=12), level
    few = statistics.auc_interval(better, worse, statistics.draws([str(i // 4) for i in range(12)], 400, 0))
    many = statistics.auc_interval(better, worse, statistics.draws([str(i) for i in range(12)], 400, 0))
    assert few.high - few.low > many.high - many.low > 0


def test_one_document_gives_no_interval_instead_of_one_without_width():
    values = np.array([0.0, 1.0, 1.0, 1.0])
    weights = statistics.draws(list("aaaa"), 200, 0)
    assert weights.shape == (0, 4)
    assert statistics.mean_interval(values, weights) == (0.75, None, None)
    assert statistics.auc_interval(values, np.full(4, 0.5), weights) == (0.75, None, None)
    assert statistics.resampled(lambda items: values[items].sum(), weights) == (3, None, None)
    # that every draw of two documents agrees is another finding
    sure = statistics.mean_interval(np.ones(4), statistics.draws(list("aabb"), 200, 0))
    assert sure == (1, 1, 1)


def test_the_interval_of_a_mean_holds_it():
    values = np.array([0.0, 1.0, 1.0, 1.0])
    found = statistics.mean_interval(values, statistics.draws(list("abcd"), 200, 0))
    assert found.low < found.value == 0.75 < found.high
