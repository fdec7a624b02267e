"""The pages of a validation and of a comparison in a browser: they fit a phone, and everybody can read them."""

import pytest

from longattn.validity.comparing import Agreement, Comparison, Disagreement
from longattn.validity.page import write_comparison, write_validation
from longattn.validity.statistics import Estimate
from longattn.validity.validating import Cost, Reading, Separation, Validation

ATTACK = "</pre><script>document.title = 'taken'</script>\u202e" + "x" * 400


@pytest.fixture
def page_file(tmp_path):
    path = tmp_path / "page.html"
    sure, unsure = Estimate(0.97, 0.95, 0.99), Estimate(-0.1, -0.4, 0.2)
    scorers = ("longattn", "far", "repetition", "length", "token_null", "random")
    validation = Validation(
        settings={"controls": ("spliced-8",), "resamples": 1000, "seed": 0, "pairs": 40, "pairs_for": {}},
        model={"name": "model", "hash": "5c3bcfcb623e6dd0", "dtype": "float32"},
        window=4096,
        scorers={name: {"scorer": name, "pairs": 40} for name in scorers},
        sources={ATTACK: {"windows": 40, "documents": 30}},
        corpus="0123456789abcdef",
        separations=[Separation(name, ATTACK, "spliced-8", 40, 30, sure, sure) for name in scorers],
        readings=[Reading(name, ATTACK, "length", 40, unsure) for name in scorers],
        notes=[f"{ATTACK}: a remark"],
        versions={"longattn": "0.1.0"},
        costs={name: Cost(0.34, 12_000.0) for name in scorers},
    )
    shares = {"0.05": 0.0, "0.125": 0.25, "0.25": 0.5, "0.5": 0.75}
    comparison = Comparison(
        scorers=scorers,
        windows={ATTACK: 216},
        agreements=[Agreement(ATTACK, "longattn", name, 216, -0.16, shares) for name in scorers[1:]],
        disagreements=[Disagreement(ATTACK, f"{ATTACK}@0", "longattn", "length", 0.98, 0.02, ATTACK)],
        costs={"longattn": 0.34},
    )

    def write(name: str):
        if name == "validation":
            write_validation(path, validation)
        else:
            write_comparison(path, comparison)
        return path

    return write


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.parametrize("name", ["validation", "comparison"])
def test_it_fits_and_can_be_read_by_all(name, width, scheme, page_file, open_page, accessibility_findings):
    page = open_page(page_file(name), width=width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach(of => { of.open = true; })")
    assert accessibility_findings(page) == []
    assert page.title() != "taken"
