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


def test_spliced_windows_are_what_a_score_is_first_held_against(make_data):
    """Repetition is another question: far attention puts it above everything."""
    data = make_data()
    rows = [
        {"scorer": "longattn", "source": "code", "control": control, "auc": [value, value - 0.1, value + 0.1]}
        for control, value in (("boilerplate", 0.1), ("repeated", 0.2), ("spliced-2", 0.6), ("spliced-4", 0.8))
    ]

    def tested(rows):
        validated = replace(data, validation={**data.validation, "separations": rows})
        return card(validated, "Does the score see long range?")

    assert (tested(rows).value, tested(rows).state) == ("80 %", "good")
    assert "a spliced-4 one" in tested(rows).text
    assert tested([{**rows[3], "auc": [0.8, None, None]}]).state == "look", "windows of one document"
    more = [{**rows[0], "control": control} for control in ("spliced-16", "spliced-8")]
    assert "a spliced-8 one" in tested([*rows, *more]).text
    assert "a twin one" in tested([*rows[:2], {**rows[0], "control": "twin"}]).text
    assert "a boilerplate one" in tested(rows[:2]).text


def test_a_scorer_that_was_measured_is_not_called_unmeasured_where_nothing_is_kept(make_data):
    data = make_data()
    evidence = replace(data.evidence, scorers=["token_null"], outcome=replace(data.evidence.outcome, shares=()))
    found = card(replace(data, evidence=evidence), "Is it more than counting tokens?")
    assert found.state == "unknown"
    assert "not measured" not in found.text
    unmeasured = replace(data, evidence=replace(data.evidence, scorers=()))
    assert "not measured" in card(unmeasured, "Is it more than counting tokens?").text
