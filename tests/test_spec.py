import pytest

from flows.project import open_project
from pipelines.errors import SpecError
from pipelines.integrate import Join

GOOD = """name = "shop"
[params]
data = "data"
[sources.orders]
kind = "csv"
path = "{data}/o.csv"
[sources.orders.columns]
id = { type = "int64", nullable = false }
price = "float64"
late = "int32"
[tables.orders]
source = "orders"
steps = [
  { do = "fill", columns = ["price"], with = "mean" },
]
checks = [{ check = "unique", columns = ["id"] }]
[tables.more]
table = "orders"
steps = [
  { do = "join", with = "orders", on = ["id"], cardinality = "m:1", prefix = "o_" },
  { do = "split", by = ["id"], test = 0.2 },
  { do = "features", label = "late", numeric = ["price"] },
]
partition_by = ["split"]
[models.m]
table = "more"
layers = [{ layer = "dense", units = 1 }]
loss = "binary_cross_entropy"
"""


def opened(tmp_path, text, **settings):
    file = tmp_path / "pipeline.toml"
    file.write_text(text, "utf-8")
    return open_project(file, settings)


def problems(tmp_path, text, **settings):
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, text, **settings)
    return [problem.removeprefix(str(tmp_path / "pipeline.toml")) for problem in caught.value.problems]


def test_a_good_file_becomes_sources_tables_and_models(tmp_path):
    project = opened(tmp_path, GOOD)

    assert project.pipeline.sources["orders"].path == str(tmp_path / "data/o.csv")
    assert list(project.pipeline.tables) == ["orders", "more"]
    assert project.pipeline.tables["more"].tables == ("orders",)
    assert isinstance(project.pipeline.tables["more"].steps[0], Join)
    assert project.checked["more"].schema.names == ["split", "x", "y"]
    assert [(move.step, move.kind) for move in project.checked["more"].moves] == [
        ("join orders", "map"),
        ("split", "map"),
        ("features", "fit"),
    ]
    assert project.models["m"].batch == 256


def test_a_setting_overrides_a_param_and_the_environment_fills_in(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_DATA", "/mnt/shop")

    by_setting = opened(tmp_path, GOOD, data="elsewhere")
    by_environment = opened(tmp_path, GOOD.replace('data = "data"', 'data = "${SHOP_DATA}"'))
    by_default = opened(tmp_path, GOOD.replace('data = "data"', 'data = "${SHOP_OTHER:-raw}"'))

    assert by_setting.pipeline.sources["orders"].path == str(tmp_path / "elsewhere/o.csv")
    assert by_environment.pipeline.sources["orders"].path == "/mnt/shop/o.csv"
    assert by_default.pipeline.sources["orders"].path == str(tmp_path / "raw/o.csv")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[tables.more]", "[tabels.more]", 17, "unknown section 'tabels'; did you mean 'tables'?"),
        (
            'source = "orders"',
            'sorce = "orders"',
            12,
            "unknown key 'sorce' in tables.orders; did you mean 'source'?",
        ),
        (
            'source = "orders"',
            'source = "ordes"',
            12,
            "tables.orders: there is no source 'ordes'; did you mean 'orders'?",
        ),
        ('table = "orders"', 'table = "more"', 17, "tables.more: depends on itself: more -> more"),
        (
            'do = "fill"',
            'do = "fil"',
            14,
            "tables.orders.steps[0]: there is no step 'fil'; did you mean 'fill'?",
        ),
        ('columns = ["price"]', 'columns = ["prize"]', 14, "no column 'prize'; did you mean 'price'?"),
        (
            'columns = ["price"], with',
            'colums = ["price"], with',
            14,
            "unknown key 'colums' in tables.orders.steps[0]; did you mean 'columns'?",
        ),
        ('on = ["id"], ', "", 20, "tables.more.steps[0]: key 'on' is missing"),
        (
            'cardinality = "m:1"',
            'cardinality = "n:1"',
            20,
            "tables.more.steps[0].cardinality = 'n:1': input should be 'm:1', '1:1', '1:m' or 'm:m'",
        ),
        ('with = "orders"', 'with = "order"', 20, "there is no table 'order'; did you mean 'orders'?"),
        (
            'partition_by = ["split"]',
            'partition_by = ["spilt"]',
            24,
            "tables.more: no column 'spilt' to partition by; did you mean 'split'?",
        ),
        ('id = { type = "int64"', 'id = { type = "int46"', 8, "int46"),
        ("test = 0.2", "test = 1.2", 21, "expected shares from 0 to 1"),
        ("test = 0.2", 'test = "price > 3"', 17, "there is no column 'id' at the end of the table"),
        ("{data}", "{dada}", 6, "sources.orders.path: {dada} is not in [params]; did you mean 'data'?"),
        ('layer = "dense"', 'layer = "dence"', 25, "unknown layer 'dence'; did you mean 'dense'?"),
        (
            'table = "more"',
            'table = "moore"',
            26,
            "models.m: there is no table 'moore'; did you mean 'more'?",
        ),
        ('table = "more"', 'table = "orders"', 26, 'has no step { do = "features", ... }'),
        (
            'loss = "binary_cross_entropy"',
            'loss = "binary_crossentropy"',
            25,
            "did you mean 'binary_cross_entropy'?",
        ),
        ('check = "unique"', 'check = "uniqe"', 16, "tables.orders.checks[0].check = 'uniqe'"),
        ('name = "shop"', "name = 3", 1, "name = 3: expected letters"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, old, new, line, message):
    assert GOOD.count(old) >= 1

    found = problems(tmp_path, GOOD.replace(old, new, 1))

    assert any(problem.startswith(f":{line}: ") and message in problem for problem in found), found


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path):
    text = (
        GOOD.replace('do = "fill"', 'do = "fil"')
        .replace("units = 1", "unit = 1")
        .replace('price = "float64"', 'price = "flaot64"')
    )

    found = problems(tmp_path, text)

    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    assert {9, 14, 25} <= set(lines)


def test_a_setting_that_the_file_does_not_have_is_an_error(tmp_path):
    assert problems(tmp_path, GOOD, dta="x") == [
        ":2: --set dta=...: the file has no such param; did you mean 'data'?"
    ]


def test_a_file_that_is_no_toml_or_not_there_is_one_sentence(tmp_path):
    with pytest.raises(SpecError, match=r"not valid TOML: .*line 1"):
        opened(tmp_path, "name = shop\n")
    with pytest.raises(SpecError, match="no such file; `dlflow new NAME` makes a project"):
        open_project(tmp_path / "nothing.toml")
    with pytest.raises(SpecError, match="Cannot overwrite a value"):
        opened(tmp_path, 'name = "a"\nname = "b"\n')


def test_what_a_url_refers_to_may_have_any_sign_where_a_user_or_password_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "a@b:/?%{x}")
    monkeypatch.setenv("SERVER", "db:5432")
    monkeypatch.setenv("WHOLE", "postgresql://u:p@h/d")
    urls = {}
    for url in (
        "postgresql://me:${SECRET}@${SERVER}/{name}",
        "${WHOLE}",
        "sqlite:///data/{name}.db",
        "sqlite:////a.db",
    ):
        (tmp_path / "pipeline.toml").write_text(
            f'[params]\nname = "shop"\n[sources.s]\nkind = "sql"\nurl = "{url}"\ntable = "t"\n[sources.s.columns]\nid = "int8"\n'
        )
        source = open_project(tmp_path / "pipeline.toml").pipeline.sources["s"]
        urls[url] = (source.url, source.path)

    assert list(urls.values()) == [
        ("postgresql://me:a%40b%3A%2F%3F%25%7Bx%7D@db:5432/shop", "postgresql://db:5432/shop#t"),
        ("postgresql://u:p@h/d", "postgresql://h/d#t"),
        (f"sqlite:///{tmp_path}/data/shop.db", f"{tmp_path}/data/shop.db"),
        ("sqlite:////a.db", "/a.db"),
    ]
