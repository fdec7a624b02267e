"""The overview's cards: which figure is taken, and what is made of it."""

from dataclasses import replace

from longattn.report.evidence import Lengths
from longattn.report.overview import cards


def card(data, title):
    (found,) = [one for one in cards(data) if one.title == title]
    return found


def with_medians(data, **medians):
    """Documents of kept windows with these medians, where half of all documents are of 100 tokens or fewer."""
    lengths = {name: Lengths({50: 100}, {50: median}, {}) for name, median in medians.items()}
    return replace(data, evidence=replace(data.evidence, lengths=lengths))


def test_the_length_that_differs_most_is_the_one_furthest_from_the_usual_by_its_ratio(make_data):
    """Six tenths are further from one than 1.45 times: outside of the limit, where the other is not."""
    found = card(with_medians(make_data(), a=60, b=145), "Is it only length?")
    assert (found.value, found.state) == ("0.60×", "look")
    assert "in a," in found.text
    assert card(with_medians(make_data(), a=70, b=145), "Is it only length?").state == "good"


def test_a_scorer_that_was_measured_is_not_called_unmeasured_where_nothing_is_kept(make_data):
    data = make_data()
    evidence = replace(data.evidence, scorers=["token_null"], outcome=replace(data.evidence.outcome, shares=()))
    found = card(replace(data, evidence=evidence), "Is it more than counting tokens?")
    assert found.state == "unknown"
    assert "not measured" not in found.text
    unmeasured = replace(data, evidence=replace(data.evidence, scorers=()))
    assert "not measured" in card(unmeasured, "Is it more than counting tokens?").text
