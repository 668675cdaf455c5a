"""Random numbers are a pure function of their place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn import Stream
from dlflow.nn.initializers import INITIALIZERS, initializer
from dlflow.nn.streams import PURPOSES

words = st.integers(0, 2**64 - 1)
streams = st.builds(Stream, words, st.sampled_from(sorted(PURPOSES)), words, words, words)


@given(streams, st.integers(0, 50), st.integers(0, 50))
def test_asking_twice_gives_the_same_numbers_and_fewer_are_the_beginning_of_more(stream, size, more):
    assert np.array_equal(stream.bits(size), stream.bits(size + more)[:size])


@given(streams, streams)
def test_different_places_have_different_numbers(first, second):
    assert (first == second) == np.array_equal(first.bits(4), second.bits(4))


@given(streams, st.integers(0, 300))
def test_a_permutation_has_every_number_once(stream, size):
    assert np.array_equal(np.sort(stream.permutation(size)), np.arange(size))


def test_every_place_of_a_permutation_is_equally_likely():
    counts = np.zeros((5, 5))
    for step in range(2000):
        counts[np.arange(5), Stream(0, "shuffle", step=step).permutation(5)] += 1

    assert abs(counts - 400).max() < 90  # five standard deviations of a binomial count


def test_numbers_have_the_moments_of_their_distribution():
    uniform, normal = (
        Stream(1, "weights").uniform((100_000,), -1, 3),
        Stream(1, "weights").normal((100_000,), 2.0),
    )

    assert -1 <= uniform.min() < -0.99
    assert 2.99 < uniform.max() < 3
    assert abs(uniform.mean() - 1) < 0.02
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 2) < 0.02
    assert abs((np.abs(normal) < 2).mean() - 0.6827) < 0.01


def test_the_numbers_never_change():
    """A stored model and a resumed run rely on these values."""
    assert Stream(7, "shuffle", step=3, shard=1, layer=2).bits(2).tolist() == [
        5078119651488558501,
        550724793654021411,
    ]
    assert Stream(7, "shuffle").permutation(8).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]


def test_a_place_out_of_range_is_refused():
    with pytest.raises(ModelError, match="seed is -1"):
        Stream(-1, "weights")
    with pytest.raises(ModelError, match="did you mean 'dropout'"):
        Stream(1, "dropuot")


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("glorot_uniform", 0.0816),
        ("glorot_normal", 0.0816),
        ("he_normal", 0.1),
        ("he_uniform", 0.1),
        ("lecun_normal", 0.0707),
    ],
)
def test_initial_weights_have_the_spread_of_their_paper(name, deviation):
    w = initializer(name)((200, 100), Stream(0, "weights"))

    assert abs(w.std() / deviation - 1) < 0.02
    assert abs(w.mean()) < 0.003


def test_initializers_of_constants_and_of_kernels():
    stream = Stream(0, "weights")

    assert not initializer("zeros")((3,), stream).any()
    assert initializer("ones")((3,), stream).all()
    assert abs(initializer("small_uniform")((1000,), stream)).max() <= 0.05
    assert abs(initializer("he_normal")((3, 3, 50, 100), stream).std() / (2 / 450) ** 0.5 - 1) < 0.02


def test_an_initializer_that_needs_inputs_refuses_a_vector():
    for name in INITIALIZERS.keys() - {"zeros", "ones", "small_uniform"}:
        with pytest.raises(ModelError, match="has no inputs and outputs"):
            initializer(name)((5,), Stream(0, "weights"))
