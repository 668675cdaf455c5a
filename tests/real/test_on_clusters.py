"""Systems of the gallery on their real files, on a local cluster and on a scheduler and workers with TLS: the same files, the same weights."""

import pytest

from pipelines import warehouse
from pipelines.warehouse.file import digest_of
from tests import clusters, projects

GALLERY = projects.REPOSITORY / "flows" / "gallery"


def project(folder, name, *, until=None, epochs=2):
    """A pipeline of the gallery with fewer epochs, without the models from `until` on."""
    text = (GALLERY / name / "pipeline.toml").read_text("utf-8")
    if until:
        text = text[: text.index(f"[models.{until}]")]
    lines = [f"epochs = {epochs}" if line.startswith("epochs = ") else line for line in text.splitlines()]
    folder.mkdir()
    (folder / "pipeline.toml").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "data", "until"),
    [("flights", "nycflights13", None), ("digits", "mnist", "convolutional"), ("messages", "sms_spam", None)],
)
def test_tables_and_weights_are_the_same_on_a_local_cluster_and_with_tls(
    tmp_path, data_dir, name, data, until
):
    if not (data_dir / data).is_dir():
        pytest.skip(f"no real data at {data_dir / data}; set DLFLOW_DATA to the folder of data sets")
    found = {}
    with clusters.two_workers(tmp_path) as outside:
        for way, options in {
            "local": {"workers": 2},
            "outside": {"scheduler": outside.address, "tls": outside.tls},
        }.items():
            folder = project(tmp_path / way, name, until=until)
            record = projects.run(folder, values={"data": str(data_dir / data)}, **options)
            found[way] = (
                {
                    table["name"]: sorted(
                        digest_of(file.path)
                        for file in warehouse.Snapshot.open(str(folder / "warehouse" / table["name"])).files()
                    )
                    for table in record["tables"]
                },
                {model["name"]: model["weights_sha256"] for model in record["models"]},
                {model["workers"] for model in record["models"]},
            )

    assert outside.address.startswith("tls://")
    assert found["local"] == found["outside"]
    tables, weights, workers = found["local"]
    assert all(tables.values())
    assert weights
    assert workers == {2}
