import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.expression import Expression
from tests.test_expression import SHOP


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one value"),
        ("age, price", "expected one value"),
        ("age = 3", "maybe you meant '=='"),
        ("(age > 3", "the parentheses do not match"),
        ("age > 3) or (age < 1", "character 8: the parentheses do not match"),
        ("age > 3 and", "invalid syntax"),
        ("ago > 3", "no column 'ago'; did you mean 'age'?"),
        ("column('Total price')", "did you mean 'Total Price'?"),
        ("age > 3 and lenght(city) > 1", "character 13: no function 'lenght'; did you mean 'length'?"),
        ("é + foo(é)", "character 5: no function 'foo'"),
        ("1 +\n foo(2)", "character 6: no function 'foo'"),
        ("city.lower()", "is no function; write a function"),
        ("age & 1", "write `and`"),
        ("age ^ 2", r"write \*\* for a power"),
        ("~age", "write `not`"),
        ("age[0]", r'column\("name"\)'),
        ("f'{age}'", "write concat"),
        ("lambda: 1", "is not for expressions; allowed"),
        ("[x for x in age]", "is not for expressions"),
        ("(x := 3)", "is not for expressions"),
        ("__import__('os')", "no function '__import__'"),
        ("age == None", "write is_null"),
        ("age is 3", "`is` is only for None"),
        ("age in price", "must be literals in parentheses"),
        ("age in (1, None)", "for None write is_null"),
        ("age in ()", "must be literals"),
        ("age in (1, 'a')", "integer and string do not go together"),
        ("city + 1", r"\+ takes numbers, not string and integer"),
        ("city > 3", "do not go together"),
        ("day > 'tomorrow'", "cannot read 'tomorrow' as date"),
        ("day == city", r"write cast\(..., \"date\"\)"),
        ("age and city", "and takes true or false, not integer"),
        ("if_else(age, 1, 2)", "takes bool as argument 1, not integer"),
        ("age + 1 if city else 2", "takes true or false, not string"),
        ("if_else(age > 1, 1, 'a')", "do not go together"),
        ("hour(day)", "hour takes timestamp as argument 1, not date"),
        ("abs(None)", "None has no type here"),
        ("abs(age, 1)", "abs takes 1 arguments, not 2"),
        ("max(age)", "max takes 2 or more arguments, not 1"),
        ("round(age, 1, 2)", "round takes 1 to 2 arguments"),
        ("round(price, age)", "a whole number from -30 to 30"),
        ("contains(city, city)", "a text in quotes"),
        ("abs(x=age)", "by place"),
        ("cast(age, 'flaot64')", "no type 'flaot64'; did you mean 'float64'?"),
        ("cast(age > 1, 'date')", "bool cannot become date"),
        ("date(2023, 2, 30)", r"no day \(2023, 2, 30\)"),
        ("min(age > 1, age > 2)", "min takes no bool"),
        ("(age > 1) < (age > 2)", "< takes no bools"),
        ("-city", "a sign takes a number"),
        ("blob", "type binary cannot be used"),
        ("1e999", "larger than float64"),
        ("99999999999999999999", "larger than int64"),
        ("9223372036854775807 + 1", "overflow"),
        ("1j", "is not for expressions"),
        ("'\\ud800'", "surrogate"),
        ("age\0", "null bytes|null characters"),
        ("-" * 9_999 + "1", "deeper than 64"),
        ("not " * 2_000 + "ok", "deeper than 64"),
        ("+".join(["age"] * 70), "deeper than 64"),
        ("a" * 10_001, "10,001 characters, at most 10,000"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_wrong_is_said_with_its_place(text, message):
    with pytest.raises(SpecError, match=message) as caught:
        Expression(text).type(SHOP.schema)

    assert len(str(caught.value)) < 400


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab1.0 +-*/%<>=!()[]{},'\"\\\n#:@é\0andorif", max_size=30))
def test_no_text_breaks_anything(text):
    table = pa.table({"a": [1, None], "b": [0.5, 2.0]})
    try:
        found = Expression(text).evaluate(table)
    except (SpecError, InputError):
        return
    assert len(found) == 2
