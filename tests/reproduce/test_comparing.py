"""Student's intervals of paired differences."""

import math

import pytest

from longattn.reproduce.comparing import paired, t_quantile

# two-sided 95 %, from printed tables
TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_printed_tables(freedom):
    assert t_quantile(0.975, freedom) == pytest.approx(TABLE[freedom], abs=6e-5)


def test_an_interval_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, so 4.3027 / sqrt(3) to either side."""
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414, 3), abs=1e-4)


def test_one_pair_has_no_interval_and_none_is_an_error():
    single = paired([1.5], [1.0])
    assert single.value == 0.5
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired([1.0], [1.0, 2.0])
