"""What is looked up in a committed table for people: what its checks found, build by build."""

from pipelines import inspection
from tests import builds

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
