import datetime
import decimal

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.export.carrying import carried_name, carried_schema, column_value

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=8))
def test_every_value_fits_its_column_and_comes_back(records):
    for field in carried_schema(records):
        values = [record.get(field.name) for record in records]
        stored = pa.array([column_value(value, field) for value in values], field.type).to_pylist()
        if field.metadata:
            stored = [None if text is None else orjson.loads(text) for text in stored]
        assert stored == values


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([True, None], pa.bool_()),
        ([1, 2], pa.int64()),
        ([2**60, 1], pa.int64()),
        ([1, 2.5], pa.float64()),
        (["a"], pa.string()),
        ([None], pa.string()),
        ([datetime.date(2024, 2, 29)], pa.string()),
        ([decimal.Decimal("1.50")], pa.string()),
        ([b"\xff"], pa.string()),
    ],
)
def test_scalars_of_one_kind_keep_their_type(values, type):
    (field,) = carried_schema([{"x": value} for value in values])
    assert field.type == type
    assert field.metadata is None


@pytest.mark.parametrize("values", [[1, "a"], [True, 1], [[1]], [{"a": 1}], ["a", ["a"]], [2**63], [2**60, 0.5]])
def test_other_values_become_json_texts(values):
    (field,) = carried_schema([{"x": value} for value in values])
    assert field.metadata == {b"encoding": b"json"}
    assert [orjson.loads(column_value(value, field)) for value in values] == values


def test_what_json_has_no_word_for_is_written_as_text():
    field = pa.field("x", pa.string())
    assert column_value(datetime.date(2024, 2, 29), field) == "2024-02-29"
    assert column_value(decimal.Decimal("1.50"), field) == "1.50"
    assert column_value(b"\xff\x00", field) == "/wA="


@given(st.sets(st.text(max_size=6) | st.sampled_from(["score", "input_score", "input_input_score", "input_"])))
def test_no_two_fields_get_one_name(names):
    columns = {carried_name(name, ["score", "rank"]) for name in names}
    assert len(columns) == len(names)
    assert not columns & {"score", "rank"}
