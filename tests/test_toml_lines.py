import tomllib

from hypothesis import given
from hypothesis import strategies as st

from pipelines.toml_lines import line_of, lines

TEXT = '''# a comment with [brackets] and = signs
name = "x # not a comment"

[a."b.c"]
d = """one
[not.a.table]
two\\""""
e.f = [1, # one
  2, 3]
[[list]]
k = {x = 1, y = ['z', "}"]}
[[list]]
k = 2
[list.sub]
s = \'\'\'raw \' text\'\'\'
t = 1979-05-27 07:32:00
'''


def test_every_key_has_the_line_on_which_it_stands():
    found = lines(TEXT)

    assert found[("name",)] == 2
    assert found[("a", "b.c")] == 4
    assert found[("a", "b.c", "d")] == 5
    assert found[("a", "b.c", "e", "f")] == 8
    assert found[("a", "b.c", "e", "f", 1)] == 9
    assert (found[("list", 0)], found[("list", 1)]) == (10, 12)
    assert found[("list", 0, "k", "y", 1)] == 11
    assert found[("list", 1, "sub", "s")] == 15
    assert found[("list", 1, "sub", "t")] == 16


def test_a_path_that_is_not_there_has_the_line_of_what_is_above_it():
    found = lines(TEXT)

    assert line_of(found, ("list", 1, "missing", "deep")) == 12
    assert line_of(found, ("nothing",)) == 1


keys = st.text("abc", min_size=1, max_size=3)
values = st.recursive(
    st.integers(-9, 9) | st.booleans() | st.text('ab"#[]{}=,\n\\ ', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def written(value):
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        case list():
            return "[\n" + ",\n".join(map(written, value)) + "\n]"
        case dict():
            return "{" + ", ".join(f"{key} = {written(item)}" for key, item in value.items()) + "}"
    return str(value)


def paths(value, above=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*above, key)
        yield from paths(item, (*above, key))


@given(st.dictionaries(keys, values, max_size=4))
def test_all_that_tomllib_reads_has_a_line(document):
    text = "".join(f"{key} = {written(value)}\n" for key, value in document.items())
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # inline tables may not span lines before TOML 1.1
        return

    found = lines(text)

    assert set(paths(read)) <= set(found)
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())
