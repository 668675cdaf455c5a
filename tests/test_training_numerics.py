"""One BLAS thread while any rank of the process trains, and what was there before afterwards."""

import threading

import threadpoolctl

from dlflow.training.numerics import numerics, one_blas_thread


def threads():
    return numerics()["blas_threads"]


def test_blas_has_one_thread_meanwhile_in_whatever_thread_asks():
    found = []

    def work():
        with one_blas_thread() as facts:
            found.append(facts["blas_threads"])

    with threadpoolctl.threadpool_limits(2, "blas"):
        before = threads()
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    work()

    assert before in {1, 2}  # 1 on a machine with one core
    assert found == [1, 1, 1, 1]


def test_the_limit_holds_until_the_last_rank_is_done():
    before = threads()
    inside, leave, seen = threading.Event(), threading.Event(), []

    def longer():
        with one_blas_thread():
            inside.set()
            leave.wait(10)
            seen.append(threads())

    with one_blas_thread():
        thread = threading.Thread(target=longer)
        thread.start()
        inside.wait(10)
    assert threads() == 1
    leave.set()
    thread.join()

    assert seen == [1]
    assert threads() == before


def test_the_facts_name_kernel_and_versions():
    facts = numerics()

    assert set(facts) == {"numpy", "blas", "blas_threads", "simd", "machine", "libc"}
    assert facts["blas"] != "unknown"
