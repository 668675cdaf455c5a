"""The mesh of sockets: who is let in, what a lost peer looks like, and that nothing waits for ever."""

import os
import socket
import ssl
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dlflow.errors import PeerLost
from dlflow.parallel.comm import Alone, Stopped, all_gather, bytes_of
from dlflow.parallel.handshake import HELLO, MAGIC, Refused, Ticket, knock
from dlflow.parallel.shared import Torn, take
from dlflow.parallel.stages import peers_of
from dlflow.parallel.testing import on_every_rank
from dlflow.parallel.transport import Listener, Tls, connect
from tests.test_parallel_comm import tree_sum
from tests.training_jobs import shared_memories

TOKEN = bytes(range(32))


def contexts() -> Tls:
    from distributed.security import Security

    security = Security.temporary()
    return Tls(
        security.get_listen_args("worker")["ssl_context"],
        security.get_connection_args("worker")["ssl_context"],
    )


def mesh(
    size, work, *, shape=None, host=None, tls=None, shared=False, deadline_s=20.0, start_s=20.0, before=None
):
    """`work` on every rank of a real mesh; `before(listeners)` knocks first."""
    listeners = [Listener(host) for _ in range(size)]
    addresses = {rank: listener.address for rank, listener in enumerate(listeners)}
    if before:
        before(listeners)

    class Rank:
        def __init__(self, rank):
            self.rank, self.size, self.mesh = rank, size, None

        def run(self):
            ticket = Ticket(1, size, TOKEN)
            self.mesh = connect(
                listeners[self.rank],
                addresses,
                ticket,
                self.rank,
                shape=(size,) if shape is None else shape,
                start_s=start_s,
                deadline_s=deadline_s,
                tls=tls,
                shared=shared,
            )
            return work(self.mesh)

        def close(self):
            if self.mesh:
                self.mesh.close()
            listeners[self.rank].close()

    return on_every_rank([Rank(rank) for rank in range(size)], lambda rank: rank.run())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(1)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.mark.parametrize("length", [1, 1000, 400_001])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("host", "shared"), [(None, True), (None, False), ("127.0.0.1", False)], ids=["shared", "unix", "tcp"]
)
def test_a_mesh_sums_as_one_rank_does(host, shared, size, length):
    gradients = np.random.default_rng(0).standard_normal((8, length)).astype(np.float32)
    alone = tree_sum(Alone(), 8, gradients, steps=3)
    lent = []

    def work(comm):
        total = tree_sum(comm, 8, gradients, steps=3)
        lent.append(sum(comm._read.values()))
        return total

    totals = mesh(size, work, host=host, shared=shared)

    assert all(count > 0 for count in lent) is (shared and length > 100_000 and size > 1) or size == 1
    assert all(total.tobytes() == alone.tobytes() for total in totals)


def test_ranks_in_stages_have_links_to_those_they_exchange_with_only():
    gradients = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)
    alone = tree_sum(Alone(), 8, gradients, steps=2)

    def work(comm):
        assert sorted(comm._incoming) == sorted(comm._senders) == list(peers_of(comm.rank, (2, 3)))
        return tree_sum(comm, 8, gradients, steps=2)

    totals = mesh(6, work, shape=(2, 3))

    assert all(total.tobytes() == alone.tobytes() for total in totals)


def test_a_mesh_over_tls_sums_as_one_rank_does_and_shows_nothing_in_the_clear():
    gradients = np.random.default_rng(0).standard_normal((8, 400_001)).astype(np.float32)
    alone = tree_sum(Alone(), 8, gradients)
    kinds = []

    def work(comm):
        kinds.extend(type(conn) for conn in comm._incoming.values())
        kinds.extend(type(sender._conn) for sender in comm._senders.values())
        return tree_sum(comm, 8, gradients)

    totals = mesh(3, work, host="127.0.0.1", tls=contexts())

    assert all(total.tobytes() == alone.tobytes() for total in totals)
    assert set(kinds) == {ssl.SSLSocket}


def test_two_large_sends_at_once_do_not_wait_for_each_other():
    table = np.zeros((2, 8_000_000), np.float32)  # 32 MB each: far more than any socket's buffer

    def work(comm):
        mine = table.copy()
        mine[comm.rank] = comm.rank + 1
        all_gather(comm, mine, [0, 1, 2], 0)
        return mine[:, -1].tolist()

    assert mesh(2, work) == [[1, 2], [1, 2]]


def test_a_unix_listener_is_for_this_user_alone_and_leaves_nothing_behind():
    listener = Listener()
    folder = Path(listener.address.host).parent

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    listener.close()
    assert not folder.exists()


def test_a_tcp_listener_is_bound_to_its_host_only():
    listener = Listener("127.0.0.1")

    assert listener.socket.getsockname()[0] == "127.0.0.1"
    listener.close()


def strangers(listeners):
    """Everyone who might knock at rank 0: garbage, a huge message, nothing, a wrong token, an old generation, a wrong rank."""
    path = listeners[0].address.host
    conns = []

    def dial():
        conn = socket.socket(socket.AF_UNIX)
        conn.connect(path)
        conns.append(conn)
        return conn

    dial().sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    dial().sendall(b"\xff" * 100_000)
    dial()  # says nothing
    dial().sendall(HELLO.pack(MAGIC, 1, 1, 0, bytes(32), bytes(32)))
    for ticket in (Ticket(1, 2, bytes(32)), Ticket(0, 2, TOKEN)):
        conn = dial()

        def zombie(conn=conn, ticket=ticket):
            with pytest.raises((Refused, ConnectionError)):
                knock(conn, ticket, 1, 0, seconds=5)

        threading.Thread(target=zombie).start()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_strangers_and_zombies_are_turned_away_and_the_right_peer_still_comes_in():
    gradients = np.ones((4, 10), np.float32)
    began = time.monotonic()

    totals = mesh(2, lambda comm: tree_sum(comm, 4, gradients), before=strangers)

    assert [total[0] for total in totals] == [4, 4]
    assert time.monotonic() - began < 4  # the silent one held nobody up


@pytest.mark.parametrize(
    ("ticket", "why"),
    [
        (Ticket(1, 2, bytes(32)), "wrong token"),
        (Ticket(0, 2, TOKEN), "old generation"),
        (Ticket(7, 2, TOKEN), "coming generation"),
    ],
)
def test_a_rank_with_another_ticket_is_refused_on_both_sides(ticket, why):
    listener = Listener()
    other = Listener()
    addresses = {0: listener.address, 1: other.address}

    def right():
        with pytest.raises(PeerLost, match="rank"):
            connect(listener, addresses, Ticket(1, 2, TOKEN), 0, shape=(2,), start_s=1.0, deadline_s=1)

    thread = threading.Thread(target=right)
    thread.start()
    with pytest.raises(PeerLost, match="rank 0"):
        connect(other, addresses, ticket, 1, shape=(2,), start_s=1.0, deadline_s=1)
    thread.join()


def test_a_listener_that_does_not_know_the_token_is_left():
    ours, theirs = socket.socketpair()
    theirs.sendall(bytes(32))
    theirs.sendall(bytes(32))  # where the proof should be

    with ours, theirs, pytest.raises(Refused, match="does not know the token"):
        knock(ours, Ticket(1, 2, TOKEN), 0, 1, seconds=1)


def test_a_ticket_does_not_show_its_token():
    assert TOKEN.hex() not in repr(Ticket(1, 2, TOKEN))
    assert repr(TOKEN) not in repr(Ticket(1, 2, TOKEN))


def test_a_peer_that_closes_is_lost_at_once():
    def work(comm):
        if comm.rank == 0:
            comm.receive(1, memoryview(bytearray(8)), 17)

    with pytest.raises(PeerLost, match=r"rank 1 \(unix:.*\) closed its connection after 0\.\d s at step 17"):
        mesh(2, work)


def test_a_peer_that_says_nothing_is_lost_after_the_deadline():
    silent = threading.Event()

    def work(comm):
        if comm.rank == 0:
            try:
                comm.receive(1, memoryview(bytearray(8)), 3)
            finally:
                silent.set()
        silent.wait(10)

    began = time.monotonic()
    with pytest.raises(PeerLost, match=r"rank 1 .* sent nothing for 0.5 s at step 3"):
        mesh(2, work, deadline_s=0.5)
    assert 0.4 < time.monotonic() - began < 3


def test_a_peer_that_takes_nothing_is_lost_after_the_deadline():
    done = threading.Event()

    def work(comm):
        if comm.rank == 0:
            try:
                comm.send(1, memoryview(bytearray(64 << 20)), 3)
                comm.flush(3)
            finally:
                done.set()
        done.wait(10)

    with pytest.raises(PeerLost, match=r"rank 1 .* takes no more messages .* at step 3"):
        mesh(2, work, deadline_s=0.5)


@pytest.mark.parametrize(("step", "length"), [(4, 8), (5, 9)])
def test_a_message_of_another_step_or_length_is_an_error(step, length):
    def work(comm):
        if comm.rank == 0:
            comm.receive(1, memoryview(bytearray(8)), 5)
        else:
            comm.send(0, memoryview(bytearray(length)), step)
            comm.flush(step)
            comm.receive(0, memoryview(bytearray(1)), 9)

    with pytest.raises(
        PeerLost,
        match=rf"sent step {step}, message 0 of {length} bytes, expected step 5, message 0 of 8 bytes",
    ):
        mesh(2, work)


def test_a_rank_that_waits_is_stopped_soon():
    listeners = [Listener(), Listener()]
    stopped = threading.Event()

    def check():
        if stopped.is_set():
            raise Stopped("the driver ended this training")

    threading.Timer(0.1, stopped.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        connect(
            listeners[0],
            dict(enumerate(listener.address for listener in listeners)),
            Ticket(1, 2, TOKEN),
            0,
            shape=(2,),
            start_s=30,
            deadline_s=30,
            check=check,
        )
    assert time.monotonic() - began < 2
    listeners[1].close()


def test_a_rank_that_never_comes_is_named():
    listeners = [Listener(), Listener()]

    with pytest.raises(PeerLost, match=r"rank 1 .* did not answer within 0.3 s"):
        connect(
            listeners[0],
            dict(enumerate(each.address for each in listeners)),
            Ticket(1, 2, TOKEN),
            0,
            shape=(2,),
            start_s=0.3,
            deadline_s=30,
        )
    listeners[1].close()


LONG = 100_000  # bytes of a message that is lent


def lend(comm, step=0):
    """What rank 1 does: a message whose memory is its own."""
    vector = comm.zeros(LONG, np.uint8)
    vector[...] = 7
    comm.send(0, bytes_of(vector), step)
    return vector


def test_a_message_in_shared_memory_is_read_where_it_lies_and_cannot_be_written():
    def work(comm):
        if comm.rank == 1:
            lend(comm)
            comm.flush(0)
            return None
        room = memoryview(bytearray(LONG))
        found = comm.borrow(1, room, 0)
        said = found is room, found.readonly, bytes(found[:3]), len(found)
        comm.flush(0)
        return said

    assert mesh(2, work, shared=True)[0] == (False, True, b"\x07\x07\x07", LONG)


def test_memory_that_is_lent_may_change_only_when_the_other_has_flushed():
    changed = threading.Event()

    def work(comm):
        if comm.rank == 1:
            vector = lend(comm)
            comm.flush(0)
            vector[...] = 8
            changed.set()
            return None
        found = comm.borrow(1, memoryview(bytearray(LONG)), 0)
        early = changed.wait(0.3)
        before = found[0]
        comm.flush(0)
        assert changed.wait(10)
        return early, before, found[0]

    assert mesh(2, work, shared=True)[0] == (False, 7, 8)


def test_a_peer_that_never_reads_what_it_was_shown_is_lost_after_the_deadline():
    done = threading.Event()

    def work(comm):
        if comm.rank == 1:
            try:
                lend(comm, 4)
                comm.flush(4)
            finally:
                done.set()
        done.wait(10)

    with pytest.raises(PeerLost, match=r"rank 0 .* has not read in 0.5 s what it was shown at step 4"):
        mesh(2, work, shared=True, deadline_s=0.5)


def test_a_peer_that_dies_with_what_it_was_shown_is_lost_at_once():
    def work(comm):
        if comm.rank == 1:
            lend(comm, 4)
            comm.flush(4)
        else:
            comm.borrow(1, memoryview(bytearray(LONG)), 4)

    began = time.monotonic()
    with pytest.raises(PeerLost, match=r"rank 0 .* broke its connection .* at step 4"):
        mesh(2, work, shared=True)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("place", [LONG * 10, (1 << 63) + 5])
def test_a_place_beyond_the_memory_of_a_peer_is_a_loss_of_the_peer(place):
    def work(comm):
        if comm.rank == 1:
            comm._pool.place = lambda data: place
            lend(comm, 4)
            comm.receive(0, memoryview(bytearray(1)), 4)
        comm.borrow(1, memoryview(bytearray(LONG)), 4)

    with pytest.raises(PeerLost, match=rf"names {LONG} bytes at {place} of its memory of \d+ at step 4"):
        mesh(2, work, shared=True)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("what", ["memory that may shrink", "a file", "nothing"])
def test_what_is_no_memory_of_a_rank_is_not_taken(tmp_path, what):
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "file").open("wb") as file:
        if what == "nothing":
            theirs.sendall(b"\x01")
        else:
            other = os.memfd_create("loose") if what.startswith("memory") else os.dup(file.fileno())
            socket.send_fds(theirs, [b"\x01"], [other])
            os.close(other)
        before = descriptors()
        with pytest.raises(
            Torn, match="expected one that is sealed" if what != "nothing" else "0 descriptors"
        ):
            take(ours)
        assert descriptors() <= before


def test_shared_memory_is_gone_with_the_links_and_the_arrays():
    def work(comm):
        tree_sum(comm, 8, gradients)
        here.append(shared_memories())

    gradients, here = np.ones((8, 100_000), np.float32), []
    mesh(2, work, shared=True)

    assert min(here) > 0
    assert shared_memories() == 0
