"""Every encoder learns from the training rows alone, from any cut the same, and applies what it learned to any row."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from pipelines.errors import InputError, SpecError
from pipelines.features import ENCODERS, Features, encode
from pipelines.hashing import row_hash
from pipelines.sketch import summarise
from tests.strategies import cuts, with_origin

AT = pa.array([0, 86_400_000_000 * 45 + 3_600_000_000 * 6, None, 10**15], pa.timestamp("us", "UTC"))
TABLE = with_origin(
    pa.table(
        {
            "id": [1, 2, 3, 4],
            "price": [1.0, 3.0, None, 1e9],
            "city": ["a", "b", "a", "z"],
            "at": AT,
            "text": ["The cat, the hat", "a cat's cat", None, "dog"],
            "late": pa.array([0, 1, 1, 0], pa.int32()),
            "split": ["train", "train", "train", "test"],
        }
    )
)


def recipe_of(table, columns, *, parts=None, **more):
    step = Features(label="late", columns=columns, key=("id",), **more)
    step.build(table.schema)
    stage = step.stage(table.schema)
    parts = [part.select(list(stage.columns)) for part in parts or [table]]
    return json.loads(json.dumps(summarise(stage.sketch, parts), allow_nan=False))


def encoded(table, columns, **more):
    made = encode(table, recipe_of(table, columns, **more))
    return made.x, made.names


def many(rows=300, seed=1):
    rng = np.random.default_rng(seed)
    price = rng.normal(5, 3, rows)
    return with_origin(
        pa.table(
            {
                "id": range(rows),
                "price": pa.array(price, mask=rng.random(rows) < 0.1),
                "city": rng.choice(list("abcde"), rows),
                "late": pa.array((rng.random(rows) < 0.3).astype(np.int32)),
                "split": rng.choice(["train", "train", "test"], rows),
            }
        )
    )


@pytest.mark.parametrize(
    ("encoder", "authority"),
    [("standard", StandardScaler()), ("robust", RobustScaler()), ("min_max", MinMaxScaler(clip=True))],
)
def test_scalers_are_those_of_scikit_learn_fitted_on_the_training_rows(encoder, authority):
    table = many()
    frame = table.to_pandas()
    known = frame["price"].notna()
    training = frame[known & (frame["split"] == "train")][["price"]].to_numpy()

    X, names = encoded(table, {"price": encoder})

    expected = authority.fit(training).transform(frame[known][["price"]].to_numpy())[:, 0]
    if encoder == "standard":  # scikit-learn divides by the count, pandas and we by the count less one
        expected *= np.sqrt((len(training) - 1) / len(training))
    assert names == ("price", "price is missing")
    assert X[known, 0] == pytest.approx(np.clip(expected, -8, 8), abs=1e-6)
    assert X[:, 1].tolist() == (~known).astype(float).tolist()


def test_a_quantile_is_the_share_of_lesser_values():
    table = many()

    X, _ = encoded(table, {"price": "quantile"})

    frame = table.to_pandas()
    training = frame[(frame["split"] == "train")]["price"].dropna()
    for value, made in zip(frame["price"], X[:, 0], strict=True):
        share = 0.5 if np.isnan(value) else (training < value).mean()
        assert made == pytest.approx(share, abs=0.02)


def test_plain_values_stay_and_missing_ones_become_the_mean():
    X, _ = encoded(TABLE, {"price": "plain"})

    assert X.tolist() == [[1.0, 0.0], [3.0, 0.0], [2.0, 1.0], [1e9, 0.0]]


def test_bins_are_intervals():
    by_edge, names = encoded(TABLE, {"price": {"encode": "bins", "edges": [1.0, 2.5]}})
    by_width, _ = encoded(TABLE, {"price": {"encode": "bins", "count": 2, "by": "width"}})
    by_share, _ = encoded(many(), {"price": {"encode": "bins", "count": 4}})

    assert names == ("price < 1", "1 <= price < 2.5", "price >= 2.5")
    assert by_edge.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert by_width.tolist() == [[1, 0], [0, 1], [0, 0], [0, 1]]
    training = by_share[np.array(many()["split"]) == "train"].sum(axis=0)
    assert training.max() - training.min() <= 2


def test_dates_go_round_or_along():
    cyclic, names = encoded(TABLE, {"at": {"encode": "date", "parts": ["month", "hour"]}})
    along, _ = encoded(TABLE, {"at": {"encode": "date", "parts": ["month"], "cyclic": False}})

    assert names[:2] == ("sin month of at", "cos month of at")
    assert cyclic[0].tolist() == pytest.approx([0, 1, 0, 1, 0])
    assert cyclic[1].tolist() == pytest.approx([0.5, np.sqrt(0.75), 1, 0, 0], abs=1e-6)
    assert cyclic[2].tolist() == [0, 0, 0, 0, 1]
    assert along[:, 0].tolist() == pytest.approx([0, 1 / 11, 0, 8 / 11])


def test_categories_have_an_order_a_number_or_a_hash():
    ordinal, _ = encoded(TABLE, {"city": {"encode": "ordinal", "values": ["z", "b"]}})
    fitted, _ = encoded(TABLE, {"city": "ordinal"})
    one_hot, names = encoded(TABLE, {"city": {"encode": "one_hot", "min_count": 2}})
    hashed, _ = encoded(TABLE, {"city": {"encode": "hash", "width": 8}})

    assert ordinal[:, 0].tolist() == [-1, 1, -1, 0]
    assert fitted[:, 0].tolist() == [0, 1, 0, -1]
    assert (one_hot[:, 0].tolist(), names) == ([1, 0, 1, 0], ("city = a",))
    assert np.abs(hashed).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert np.array_equal(hashed[0], hashed[2])
    place = int(row_hash(TABLE, ("city",))[1] % np.uint64(8))
    assert abs(hashed[1, place]) == 1


def test_a_training_row_does_not_see_its_own_label():
    table = many()
    settings_ = {"encode": "target", "smoothing": 5.0, "folds": 4}
    recipe = recipe_of(table, {"city": settings_})

    made = encode(table, recipe).x[:, 0]
    scored = encode(table.drop_columns(["split", "late"]), recipe).x[:, 0]

    frame = table.to_pandas()
    frame["fold"] = (row_hash(table, ("id",), seed=0x746172676574) % np.uint64(4)).astype(int)
    training = frame[frame["split"] == "train"]
    for row in range(len(frame)):
        city, fold, part = frame.loc[row, ["city", "fold", "split"]]
        others = training[training["fold"] != fold] if part == "train" else training
        same = others[others["city"] == city]["late"]
        expected = (same.sum() + 5 * others["late"].mean()) / (len(same) + 5)
        assert made[row] == pytest.approx(expected, rel=1e-6)
        same = training[training["city"] == city]["late"]
        assert scored[row] == pytest.approx(
            (same.sum() + 5 * training["late"].mean()) / (len(same) + 5), rel=1e-6
        )


def test_an_unknown_category_is_the_mean_of_all_and_a_missing_one_is_a_category():
    recipe = recipe_of(TABLE, {"city": {"encode": "target", "smoothing": 0.0}})
    new = pa.table({"id": [9, 9], "city": ["?", None]})

    assert encode(new, recipe).x[:, 0].tolist() == pytest.approx([2 / 3, 2 / 3])


COLUMNS = {
    "price": ["standard", "robust", "min_max", "plain", "quantile", {"encode": "bins", "count": 3}],
    "city": ["one_hot", "ordinal", {"encode": "hash", "width": 3}, "target"],
}


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    price=st.sampled_from(COLUMNS["price"]),
    city=st.sampled_from(COLUMNS["city"]),
)
def test_the_cut_changes_no_bit_of_what_is_learned_or_made(data, price, city):
    table = many(rows=40, seed=data.draw(st.integers(0, 5)))
    columns = {"price": price, "city": city}
    parts = data.draw(cuts(table))

    recipe = recipe_of(table, columns)

    assert recipe_of(table, columns, parts=parts) == recipe
    whole = encode(table, recipe).x
    pieces = {
        part["id"][row].as_py(): encode(part, recipe).x[row].tobytes()
        for part in parts
        for row in range(len(part))
    }
    assert [pieces[number] for number in range(40)] == [row.tobytes() for row in whole]


# ---- tokens


def test_texts_become_sequences_as_keras_makes_them():
    recipe = recipe_of(TABLE, {"text": {"encode": "tokens", "length": 4, "vocabulary": 3}})

    made = encode(TABLE, recipe)

    assert recipe["inputs"][0]["words"] == [
        "cat",
        "the",
        "a",
    ]  # of equally frequent words the first by letter
    assert made.x.dtype == np.int32
    assert made.x.tolist() == [[3, 2, 3, 1], [0, 4, 1, 2], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert made.field.metadata == {b"dtype": b"int32", b"shape": b"[4]"}


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.none() | st.text("ab' ,\u00e9", max_size=12), min_size=1, max_size=5),
    length=st.integers(1, 5),
    pad=st.sampled_from(["before", "after"]),
    cut=st.sampled_from(["before", "after"]),
)
def test_padding_and_cutting_are_on_the_side_that_is_asked_for(texts, length, pad, cut):
    table = with_origin(
        pa.table(
            {
                "id": range(len(texts) + 1),
                "text": pa.array(["a b", *texts], pa.string()),
                "late": pa.array([0] * (len(texts) + 1), pa.int32()),
                "split": ["train"] * (len(texts) + 1),
            }
        )
    )
    encoder = {"encode": "tokens", "length": length, "pad": pad, "cut": cut}
    recipe = recipe_of(table, {"text": encoder})

    made = encode(table, recipe).x

    words = recipe["inputs"][0]["words"]
    long = encode(table, {**recipe, "inputs": [{**recipe["inputs"][0], "length": 50, "pad": "after"}]}).x
    for row, full in zip(made, long, strict=True):
        numbers = [number for number in full.tolist() if number]
        kept = numbers[-length:] if cut == "before" else numbers[:length]
        zeros = [0] * (length - len(kept))
        assert row.tolist() == (zeros + kept if pad == "before" else kept + zeros)
    assert all("'" not in (word[0], word[-1]) for word in words)


# ---- tensors


def images(dtype="uint8", scale=b"0.5"):
    values = np.arange(24).reshape(4, 3, 2).astype(dtype)
    metadata = {b"dtype": dtype.encode(), b"shape": b"[3, 2]", b"scale": scale}
    field = pa.field("image", pa.binary(6 * values.itemsize), metadata=metadata)
    rows = [row.tobytes() for row in values]
    return TABLE.append_column(field, pa.array(rows, field.type)), values


def test_a_tensor_alone_stays_as_it_is_and_its_reader_scales():
    table, values = images()

    made = encode(table, recipe_of(table, {"image": "tensor"}))
    own = encode(table, recipe_of(table, {"image": {"encode": "tensor", "scale": 0.25}}))

    assert np.array_equal(made.x, values)
    assert made.x.dtype == np.uint8
    assert made.field.metadata == {b"dtype": b"uint8", b"shape": b"[3, 2]", b"scale": b"0.5"}
    assert own.field.metadata[b"scale"] == b"0.25"


def test_channels_are_standardised_by_the_training_rows():
    table, values = images("float32", b"1")

    made = encode(table, recipe_of(table, {"image": {"encode": "tensor", "scale": "standard"}}))

    training = values[:3].reshape(-1, 2)
    expected = (values - training.mean(axis=0)) / training.std(axis=0, ddof=1)
    assert made.x == pytest.approx(expected, abs=1e-6)
    assert made.x.dtype == np.float32


def test_beside_other_columns_a_tensor_is_a_row_of_numbers():
    table, values = images()

    X, names = encoded(table, {"price": "plain", "image": "tensor"})

    assert X[:, 2:].tolist() == (values.reshape(4, 6) * 0.5).tolist()
    assert names[2:4] == ("image 0", "image 1")


@pytest.mark.parametrize("name", ["price", "city", "text", "image", "at"])
def test_no_rows_are_encoded_to_no_rows(name):
    table, _ = images()
    choices = {
        "price": ["standard", "plain", "quantile", {"encode": "bins", "edges": [0.0]}],
        "city": ["target", "hash", "ordinal", {"encode": "one_hot", "min_count": 1}],
        "text": [{"encode": "tokens", "length": 3}],
        "image": ["tensor", {"encode": "tensor", "scale": "standard"}],
        "at": [{"encode": "date", "parts": ["hour"]}],
    }
    for encoder in choices[name]:
        recipe = recipe_of(table, {name: encoder})
        assert encode(table.slice(0, 0), recipe).field == encode(table, recipe).field
        assert len(encode(table.slice(0, 0), recipe).x) == 0


# ---- what is wrong


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"price": "robustt"}, "there is no encoder 'robustt'; did you mean 'robust'?"),
        ({"price": {"encode": "bins"}}, "give either edges = [...] or count = ..."),
        ({"price": {"encode": "bins", "edges": [2, 1]}}, "in ascending order"),
        ({"price": {"encode": "bins", "cuont": 3}}, "unknown key 'cuont'; did you mean 'count'?"),
        ({"price": {"encode": "bins", "count": "many"}}, "count: Input should be a valid integer"),
        ({"city": "standard"}, "column 'city' is string, standard takes integer or float or bool"),
        ({"at": {"encode": "date", "parts": ["year"]}}, "Input should be 'month'"),
        ({"at": {"encode": "date", "parts": []}}, "parts is empty"),
        ({"text": {"encode": "tokens"}}, "length: Field required"),
        ({"text": {"encode": "tokens", "length": 3}, "price": "plain"}, "must be the only column of x"),
        ({"city": {"encode": "target", "folds": 1}}, "expected 2 to 100 folds"),
        ({"price": "tensor"}, "column 'price' is double, tensor takes tensor"),
    ],
)
def test_an_encoder_that_cannot_be_is_told_before_anything_runs(columns, message):
    with pytest.raises(SpecError) as caught:
        recipe_of(TABLE, columns)

    assert message in str(caught.value)


def test_a_target_needs_a_key_and_a_number():
    with pytest.raises(SpecError, match=r"needs key = \[\.\.\.\]"):
        Features(label="late", columns={"city": "target"}).build(TABLE.schema)
    with pytest.raises(SpecError, match="needs a label that is a number"):
        Features(label="text", columns={"city": "target"}, key=("id",)).build(TABLE.schema)


def test_a_column_without_a_value_in_the_training_rows_is_an_error():
    nothing = TABLE.set_column(1, "price", pa.array([None, None, None, 1.0]))

    with pytest.raises(InputError, match="column 'price' has no value in the training rows"):
        recipe_of(nothing, {"price": "min_max"})
    with pytest.raises(InputError, match="no number is left"):
        encode(TABLE, recipe_of(TABLE, {"city": {"encode": "one_hot", "min_count": 9}}))


# ---- what is learned knows the training rows alone

LEARNED = {
    **dict.fromkeys(("standard", "robust", "min_max", "plain", "quantile"), "price"),
    "bins": "price",
    "date": "at",
    "one_hot": "city",
    "ordinal": "city",
    "hash": "city",
    "target": "city",
    "tensor": "image",
    "tokens": "text",
}
SETTINGS = {
    "bins": {"count": 4},
    "one_hot": {"min_count": 1},
    "date": {"parts": ["month"]},
    "tokens": {"length": 4},
    "tensor": {"scale": "standard"},
}
NOTHING_TO_LEARN = ("hash", "date")


def everything(rows=60):
    """Rows with a column for every encoder."""
    table, rng = many(rows), np.random.default_rng(7)
    image = pa.field("image", pa.binary(8), metadata={"dtype": "float32", "shape": "[2, 1]"})
    times = pa.array(rng.integers(0, 10**15, rows), pa.timestamp("us", "UTC"))
    texts = [" ".join(rng.choice(["the", "cat", "sat", "on", "mats"], 3)) for _ in range(rows)]
    values = [row.tobytes() for row in rng.normal(size=(rows, 2)).astype("<f4")]
    table = table.append_column("at", times).append_column("text", pa.array(texts))
    split = rng.choice(["train", "train", "validation", "test"], rows)
    place = table.schema.get_field_index("split")
    return table.set_column(place, "split", pa.array(split)).append_column(
        image, pa.array(values, image.type)
    )


def disturbed(table, parts):
    """The same with wild values, new categories, words and labels in the rows of these parts of the split."""
    mask = pa.compute.is_in(table["split"], value_set=pa.array(parts)).combine_chunks()
    wild = {
        "price": 1e12,
        "city": "nowhere",
        "late": 7,
        "at": pa.scalar(-(10**15), table["at"].type),
        "text": "unheard words",
        "image": np.array([9e9, -9e9], "<f4").tobytes(),
    }
    for name, value in wild.items():
        place = table.schema.get_field_index(name)
        old = table[name].combine_chunks()
        new = pa.repeat(value if isinstance(value, pa.Scalar) else pa.scalar(value, old.type), len(old))
        table = table.set_column(place, table.schema.field(place), pa.compute.if_else(mask, new, old))
    return table


@pytest.mark.parametrize("name", LEARNED)
def test_rows_that_do_not_train_move_nothing_that_is_learned(name):
    table, columns = everything(), {LEARNED[name]: {"encode": name, **SETTINGS.get(name, {})}}

    recipe = recipe_of(table, columns)

    assert recipe_of(disturbed(table, ["test", "validation"]), columns) == recipe
    moved = recipe_of(disturbed(table, ["train"]), columns)
    assert moved["classes"] != recipe["classes"]
    assert (moved["inputs"] != recipe["inputs"]) is (name not in NOTHING_TO_LEARN)


@pytest.mark.parametrize("name", LEARNED)
def test_scoring_needs_neither_label_nor_split_and_gives_the_same_numbers(name):
    table, columns = everything(), {LEARNED[name]: {"encode": name, **SETTINGS.get(name, {})}}
    recipe = recipe_of(table, columns)
    others = table.filter(pa.compute.not_equal(table["split"], "train"))

    scored = encode(others.select([LEARNED[name]]), recipe)

    assert scored.x.tobytes() == encode(others, recipe).x.tobytes()


def test_every_encoder_is_tried_here():
    assert set(LEARNED) == set(ENCODERS)
