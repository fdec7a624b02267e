"""Sampled rows: unbiased, with errors that are what they are said to be, and exact where all rows are drawn."""

import numpy as np
import pytest

from longattn import sampling

ROWS, HEADS = 400, 2


@pytest.fixture(scope="module")
def population():
    """Two values of each row and head, of uneven spread that the sizes know of, and on a slope."""
    random = np.random.default_rng(0)
    sizes = random.gamma(2.0, 1.0, (ROWS, HEADS)) + 0.1
    values = sizes[..., None] * random.normal(1.0, 0.5, (ROWS, HEADS, 2)) + np.arange(ROWS)[:, None, None] / 50
    return sizes, values


def estimates(population, budget, seed):
    sizes, values = population
    probability = sampling.inclusion(sizes, np.ones(ROWS), budget)
    order = np.arange(ROWS)
    found = []
    for head in range(HEADS):
        drawn = sampling.draw(order, probability[:, head], sampling.generator(seed, "w", head))
        found.append(sampling.estimate(drawn, values[drawn.rows, head]))
    return found


def test_estimates_are_unbiased_and_their_errors_are_as_stated(population):
    """Four hundred samples: means within four standard errors, stated variances right, intervals that cover."""
    true = population[1].sum(axis=0)
    many = [estimates(population, 400.0, seed) for seed in range(400)]
    totals = np.stack([[head.totals for head in found] for found in many])
    stated = np.stack([[np.diag(head.covariance) for head in found] for found in many])
    assert np.all(np.abs(totals.mean(axis=0) - true) < 4 * totals.std(axis=0) / np.sqrt(len(many)))
    assert stated.mean(axis=0) == pytest.approx(totals.var(axis=0), rel=0.25)
    missed = np.abs(totals - true) / np.sqrt(stated)
    assert [np.mean(missed < z) for z in (1.0, 1.96)] == pytest.approx([0.683, 0.95], abs=0.03)


def test_every_row_drawn_is_exact(population):
    for found, true in zip(estimates(population, 1e9, 0), population[1].sum(axis=0), strict=True):
        assert found.totals == pytest.approx(true, rel=1e-13)
        assert not found.covariance.any()


def test_probabilities_keep_to_the_budget_and_to_one():
    sizes = np.array([[1.0, 1.0], [2.0, 100.0], [0.0, 1.0]])
    costs = np.array([1.0, 2.0, 3.0])
    probability = sampling.inclusion(sizes, costs, 4.0)
    assert (probability * costs[:, None]).sum() == pytest.approx(4.0)
    assert probability[1, 1] == 1.0
    assert probability[2, 0] == 0.0
    assert probability[1, 0] == pytest.approx(2 * probability[0, 0])
    assert sampling.inclusion(sizes, costs, 100.0).tolist() == [[1, 1], [1, 1], [0, 1]]


def test_no_row_is_drawn_twice_and_two_come_of_each_stratum(population):
    probability = sampling.inclusion(population[0], np.ones(ROWS), 50.0)[:, 0]
    drawn = sampling.draw(np.arange(ROWS)[::-1], probability, sampling.generator(0))
    assert len(set(drawn.rows.tolist())) == len(drawn.rows)
    assert drawn.sizes.sum() == ROWS
    assert np.bincount(drawn.stratum).tolist() == np.minimum(drawn.sizes, 2).tolist()


def test_draws_depend_on_seed_and_names_alone():
    draws = [sampling.generator(*names).random() for names in ((0, "a", 1), (0, "a", 1), (1, "a", 1), (0, "b", 1))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.fixture(scope="module")
def pilot():
    """Rows whose values are a token's number times a curve, which a pilot can know."""
    random = np.random.default_rng(1)
    tokens = random.integers(0, 5, (6, 96))
    curve = np.log1p(np.arange(96) / 8)
    values = (tokens[..., None, None] + 1.0) * curve[:, None, None] * np.array([[1.0, 0.5], [2.0, 0.1]])
    values = values + random.normal(0, 0.05, values.shape) * (tokens == 4)[..., None, None]
    return tokens, values.astype(np.float32), sampling.fit(tokens, values.astype(np.float32), np.ones((2, 2)), 8)


def test_a_pilot_predicts_what_tokens_and_positions_explain(pilot):
    tokens, values, prediction = pilot
    positions = np.arange(8, 96)
    missed = values[0, 8:] - prediction.values(tokens[0], positions)
    assert np.square(missed).mean() < 0.02 * values[0, 8:].var()
    # a token that was never seen is predicted as the mean token
    other = prediction.values(np.full(96, 77), positions)
    assert other.mean() == pytest.approx(values[:, 8:].mean(), rel=0.1)


def test_rows_of_a_token_that_varies_are_drawn_more_often(pilot):
    tokens, _, prediction = pilot
    positions = np.arange(4, 96)
    sizes = prediction.sizes(tokens[0], positions, 8)
    shown = tokens[0, 4:]
    assert sizes[(shown == 4) & (positions >= 8)].min() > sizes[(shown == 0) & (positions >= 8)].max()
    # rows before the first that counts are drawn as seldom as any
    assert sizes[:4].max() == sizes.min()
    order = prediction.order(tokens[0], positions, 8)
    assert sorted(order.tolist()) == list(range(92))
    assert set(order[:4].tolist()) == set(range(4))
    assert len(np.flatnonzero(np.diff(shown[order[4:]]))) == 4


def test_a_token_that_stands_only_before_the_first_row_is_like_one_never_seen(pilot):
    tokens, values, _ = pilot
    tokens = tokens.copy()
    tokens[0, 0] = 9
    prediction = sampling.fit(tokens, values, np.ones((2, 2)), 8)
    assert prediction.deviations.shape == (7, 2)
    assert np.array_equal(prediction.deviations[5], prediction.deviations[6])


def test_influence_is_the_slope_of_the_score():
    random = np.random.default_rng(2)
    s1, s2 = random.gamma(9, 100, (40, 3)), random.gamma(9, 0.1, (40, 3))
    sources, cells = ["a"] * 20 + ["b"] * 20, 1e6
    of_mass, of_square = sampling.influence(s1, s2, sources, cells, 0.5)

    def score(mass, square):
        strength, variance = mass.mean(), (square - mass**2 / cells).mean()
        within = [x - np.repeat([x[:20].mean(), x[20:].mean()], 20) for x in (s1.mean(1), (s2 - s1**2 / cells).mean(1))]
        return strength / within[0].std() - 0.5 * variance / within[1].std()

    centre = s1.mean(axis=0), s2.mean(axis=0)
    step = np.array([1e-3, 0, 0])
    slopes = [
        (score(centre[0] + step, centre[1]) - score(centre[0] - step, centre[1])) / 2e-3,
        (score(centre[0], centre[1] + step) - score(centre[0], centre[1] - step)) / 2e-3,
    ]
    assert slopes == pytest.approx([of_mass[0], of_square[0]], rel=1e-5)
