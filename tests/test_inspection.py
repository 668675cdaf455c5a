"""What is looked up in a committed table for people: what its checks found, build by build."""

from pipelines import inspection, warehouse
from pipelines.inspection import reject_summary
from tests import builds, projects
from tests.test_loads import Shop

PIPELINE = """
name = "ages"
[sources.people]
kind = "csv"
path = "people.csv"
columns = { id = "int64", age = "int64" }
[tables.people]
source = "people"
checks = [{ check = "range", column = "age", min = 0, max = LIMIT, severity = "warn" }MORE]
"""


def test_the_checks_of_earlier_builds_are_told_newest_first_and_no_more_than_asked_for(tmp_path):
    builds.csv(tmp_path / "people.csv", ["id", "age"], [[1, 20], [2, 130]])
    uri = str(tmp_path / "warehouse" / "people")
    for limit, more in (("200", ""), ("120", ""), ("150", ', { check = "row_count", min = 1 }')):
        builds.make(tmp_path, PIPELINE.replace("LIMIT", limit).replace("MORE", more))

    found = inspection.check_history(uri)

    assert [
        (one["version"], {check["name"]: check["passed"] for check in one["checks"]}) for one in found
    ] == [
        (2, {"range age": True, "row_count": True}),
        (1, {"range age": False}),
        (0, {"range age": True}),
    ]
    assert [one["time"] for one in found] == sorted((one["time"] for one in found), reverse=True)
    assert inspection.check_history(uri, versions=1) == found[:1]


def test_the_origin_of_a_row_of_a_table_is_that_table_at_its_version_and_the_number_of_the_row(tmp_path):
    text = (
        '[sources.s]\nkind = "csv"\npath = "data/*.csv"\ncolumns = { id = "int64" }\n[tables.s]\nsource = "s"\nload = "append"\n'
        '[tables.big]\ntable = "s"\nsteps = [{ do = "quarantine", where = "id > 2", rule = "big" }]\n'
    )
    shop = Shop(tmp_path / "shop", text=text.replace("{", "{{").replace("}", "}}"))
    for name, rows in {"a": [1, 3], "b": [2, 4, 1]}.items():
        (shop.folder / "data" / f"{name}.csv").write_text("id\n" + "".join(f"{row}\n" for row in rows))
    shop.run(name="s")
    shop.run(name="big")

    uri = str(shop.folder / "warehouse" / "big")
    [found] = reject_summary(uri)

    read = warehouse.Snapshot.open(str(shop.folder / "warehouse" / "s")).read()["id"].to_pylist()
    places = [f"{one['source']}:{one['line']}" for one in found["samples"]]
    assert sorted(places) == sorted(f"s@0:{at}" for at, number in enumerate(read, 1) if number > 2)
    said = projects.command(shop.folder, "quarantine", "big").stdout
    assert f"    {places[0]}: " in said
    assert ".parquet" not in said
