"""Wording read from a checkout: one laid out as RULER is, with sentences of our own, and the installed lm-eval."""

import json

import pytest

from longattn.evals import wording
from longattn.evals.wording import OURS, Template, WordingError, load_wording

FILES = {
    "constants.py": '''
TASKS = {
    'niah': {'tokens_to_generate': 128,
             'template': """Some {type_needle_v} are here. {context} What are all {query}?""",
             'answer_prefix': """ They are"""},
    'variable_tracking': {'tokens_to_generate': 30, 'template': "Track {context} {query}", 'answer_prefix': " Found:"},
    'common_words_extraction': {'tokens_to_generate': 120, 'template': "List {context}", 'answer_prefix': " Common:"},
    'freq_words_extraction': {'tokens_to_generate': 50, 'template': "Text {context}", 'answer_prefix': " Frequent:"},
    'qa': {'tokens_to_generate': 32, 'template': "Ask {context} {query}", 'answer_prefix': "So:"},
}
''',
    "niah.py": """
needle = "A {type_needle_v} of {key}: {value}!"
if kind == "essay":
    haystack = open("essays").read()
elif kind == "noise":
    haystack = "Nothing. At all."
else:
    haystack = needle
raise SystemExit("nothing of a checkout is run")
""",
    "variable_tracking.py": """
def chains(names, values):
    first = [f"VAR {names[0]} = 12345"]
    first = [f"VAR {names[0]} = {str(values())}"]
    return first + [f"VAR {names[j+1]} = VAR {names[j]} "]
""",
    "qa.py": 'DOCUMENT_PROMPT = "No. {i}: {document}"\n',
}


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "scripts" / "data" / "synthetic"
    (folder / "json").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return tmp_path


def test_sentences_are_read_from_a_checkout_and_nothing_of_it_is_run(checkout):
    found = load_wording(str(checkout))
    assert found.noise == "Nothing. At all."
    assert found.needle == "A {type_needle_v} of {key}: {value}!"
    assert found.niah == Template("Some {type_needle_v} are here. {context} What are all {query}?", " They are")
    # RULER's own replacements
    assert found.niah_one == Template("A {type_needle_v} is here. {context} What is {query}?", " They is")
    assert found.assign_value == "VAR {name} = {value}"
    assert found.assign_name == "VAR {name} = VAR {other} "
    assert found.qa == Template("Ask {context} {query}", " So:")
    assert found.document == "No. {i}: {document}"
    assert found.more_words == ()


def test_the_file_of_more_words_is_used_where_there_is_one(checkout):
    file = checkout / "scripts/data/synthetic/json/english_words.json"
    file.write_text(json.dumps({"0": "ash", "1": "oak"}))
    assert load_wording(str(checkout)).more_words == ("ash", "oak")


def test_the_name_says_whose_wording_it_is_and_changes_with_it(checkout):
    before = load_wording(str(checkout)).name
    assert before.startswith("RULER ")
    file = checkout / "scripts/data/synthetic/qa.py"
    file.write_text(file.read_text().replace("No.", "Nr."))
    assert load_wording(str(checkout)).name != before
    assert load_wording(None) is OURS


def test_a_folder_that_is_neither_is_refused(tmp_path, checkout):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WordingError, match="neither a checkout of RULER"):
        load_wording(str(tmp_path / "empty"))
    (checkout / "scripts/data/synthetic/qa.py").write_text("DOCUMENT = 1\n")
    with pytest.raises(WordingError, match="is not laid out as its wording is known to be"):
        load_wording(str(checkout))


def test_the_installed_lm_eval_has_all_sentences():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    found = load_wording("lm-eval")
    assert found.name.startswith("lm-eval ")
    for template in (found.niah, found.niah_one, found.variable_tracking, found.common_words, found.frequent_words):
        assert "{context}" in template.task
    assert found.niah_one.prefix.endswith(" is")
    assert "{type_needle_v}" in found.needle
    assert "{other}" in found.assign_name


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(wording.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WordingError, match=r"pip install 'longattn\[eval\]'"):
        load_wording("lm-eval")
