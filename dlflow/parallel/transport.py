"""How ranks meet: Unix sockets on one host, with memory that they share; TCP between hosts, TLS where the cluster has it.

Links to those ranks only that the shape of the gang has this one exchange with: to all, in a mesh. Two one-way connections per pair,
because an OpenSSL object must not be used by two threads at once. What does not fit into the socket's buffer is sent by a thread of its
own, so that two ranks that send at once never wait for each other. What travels on a link: see `mesh`.
"""

import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dlflow.errors import PeerLost
from dlflow.parallel.handshake import POLL_S, Refused, Ticket, admit, knock
from dlflow.parallel.mesh import Link, Mesh, close_socket
from dlflow.parallel.shared import Pool, Torn, Window, hand, take
from dlflow.parallel.stages import Shape, peers_of

__all__ = ["Address", "Listener", "NoLink", "Tls", "connect"]

HANDSHAKE_S = 5.0  # for one who knocks; a silent stranger is closed after it
STRANGERS = 64  # handshakes at once
ACCEPT_S = 0.05  # how soon the door closes once all are in
BUFFER_BYTES = 4 << 20  # asked for; the kernel may give less


class NoLink(PeerLost):
    """A rank could not be reached from the beginning: it is gone, or sockets are forbidden between the workers."""


@dataclass(frozen=True)
class Address:
    """Where a rank listens: a path (port 0), or a host and a port."""

    host: str
    port: int = 0

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.port}" if self.port else f"unix:{self.host}"


@dataclass(frozen=True)
class Tls:
    """The two contexts of a worker in a TLS cluster."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class Listener:
    """A socket that waits for the other ranks: bound to `host`, or, without one, in a fresh folder that only this user can enter."""

    def __init__(self, host: str | None = None, *, backlog: int = 128) -> None:
        self._folder: str | None = None
        if host is None:
            self._folder = tempfile.mkdtemp(prefix="dlflow-")
            self.socket = socket.socket(socket.AF_UNIX)
            path = f"{self._folder}/rank"
            try:
                self.socket.bind(path)
            except OSError:
                self.close()
                raise
            self.address = Address(path)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.socket = socket.create_server((host, 0), family=family)
            self.address = Address(host, self.socket.getsockname()[1])
        self.socket.listen(backlog)

    def close(self) -> None:
        """Listen no more; the folder goes too. Closing twice is closing once."""
        self.socket.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def connect(
    listener: Listener,
    addresses: Mapping[int, Address],
    ticket: Ticket,
    rank: int,
    *,
    shape: Shape,
    start_s: float,
    deadline_s: float,
    tls: Tls | None = None,
    shared: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Mesh:
    """Links to the ranks that the shape pairs this one with, once all have come; strangers are turned away meanwhile. Closes the listener.

    `addresses` has those of these ranks; where these are paths, ranks that are `shared` read each other's memory. `check` is called at least every 0.2 s wherever this rank waits, now and later, and may raise.
    Raises: PeerLost if a rank has not come after `start_s`; OSError if there is no memory to share.
    """
    peers = peers_of(rank, shape)
    doorman = _Doorman(listener, ticket, rank, peers, tls)
    outgoing: dict[int, socket.socket] = {}
    deadline, pool = time.monotonic() + start_s, None
    try:
        pool = Pool() if shared and peers else None
        doorman.start()
        for peer in peers:
            try:
                outgoing[peer] = _dial(addresses[peer], tls)
                left = deadline - time.monotonic()
                knock(outgoing[peer], ticket, rank, peer, seconds=left, check=check)
                if not addresses[peer].port:
                    hand(outgoing[peer], pool)
            except (OSError, Refused) as error:
                raise NoLink(
                    f"rank {peer} ({addresses[peer]}) did not answer within {start_s:g} s before the first step ({error}); "
                    "fit_on forms the gang anew"
                ) from error
        doorman.wait(deadline, check)
        incoming = doorman.close(keep=True)
    except BaseException:
        doorman.close(keep=False)
        for conn in outgoing.values():
            close_socket(conn)
        if pool:
            pool.close()
        raise
    links = {peer: Link(incoming[peer][0], outgoing[peer], incoming[peer][1]) for peer in outgoing}
    names = {peer: str(address) for peer, address in addresses.items()}
    return Mesh(shape, rank, links, names, deadline_s=deadline_s, check=check, pool=pool)


class _Doorman:
    """Accepts connections in a thread, and hears each in one more, so that a silent stranger keeps nobody waiting."""

    def __init__(
        self, listener: Listener, ticket: Ticket, rank: int, peers: tuple[int, ...], tls: Tls | None
    ) -> None:
        self.complete = threading.Event()
        self._peers = set(peers)
        self._listener, self._ticket, self._rank, self._tls = listener, ticket, rank, tls
        self._admitted: dict[int, tuple[socket.socket, Window | None]] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._places = threading.BoundedSemaphore(STRANGERS)
        self._thread = threading.Thread(target=self._accept, name=f"dlflow-door-{rank}", daemon=True)
        if not peers:
            self.complete.set()

    def start(self) -> None:
        self._listener.socket.settimeout(ACCEPT_S)
        self._thread.start()

    def wait(self, deadline: float, check: Callable[[], None]) -> None:
        while not self.complete.wait(POLL_S):
            check()
            if time.monotonic() > deadline:
                with self._lock:
                    missing = sorted(self._peers - set(self._admitted))
                raise NoLink(
                    f"ranks {missing} did not come to rank {self._rank} in time; fit_on forms the gang anew"
                )

    def close(self, *, keep: bool) -> dict[int, tuple[socket.socket, Window | None]]:
        """Accept no more; the connections that were admitted, closed too unless they are kept."""
        self._closed.set()
        self._listener.close()
        self._thread.join(2 * POLL_S)
        with self._lock:
            if not keep:
                for conn, window in self._admitted.values():
                    close_socket(conn)
                    if window:
                        window.close()
            return dict(self._admitted)

    def _accept(self) -> None:
        while not (self._closed.is_set() or self.complete.is_set()):
            if not self._places.acquire(timeout=POLL_S):
                continue
            try:
                conn, _ = self._listener.socket.accept()
            except OSError:  # nobody came in this slice, or the listener is closed
                self._places.release()
                continue
            threading.Thread(target=self._hear, args=(conn,), name="dlflow-handshake", daemon=True).start()

    def _hear(self, conn: socket.socket) -> None:
        window = None
        try:
            _tune(conn)
            conn.settimeout(HANDSHAKE_S)
            if self._tls:
                conn = self._tls.server.wrap_socket(conn, server_side=True)
            peer = admit(conn, self._ticket, self._rank, seconds=HANDSHAKE_S)
            window = None if self._listener.address.port else take(conn)
            self._let_in(peer, conn, window)
        # a stranger, garbage, or a rank of an old generation: the right one may still come
        except (OSError, Refused, Torn):
            close_socket(conn)
            if window:
                window.close()
        finally:
            self._places.release()

    def _let_in(self, peer: int, conn: socket.socket, window: Window | None) -> None:
        with self._lock:
            if self._closed.is_set() or peer in self._admitted or peer not in self._peers:
                raise Refused(
                    f"rank {peer} is already here, or none that is expected; its connection was closed"
                )
            self._admitted[peer] = conn, window
            if len(self._admitted) == len(self._peers):
                self.complete.set()


def _dial(address: Address, tls: Tls | None) -> socket.socket:
    if address.port:
        conn = socket.create_connection((address.host, address.port), HANDSHAKE_S)
    else:
        conn = socket.socket(socket.AF_UNIX)
    try:
        if not address.port:
            conn.settimeout(HANDSHAKE_S)
            conn.connect(address.host)
        _tune(conn)
        return tls.client.wrap_socket(conn) if tls else conn
    except BaseException:
        conn.close()
        raise


def _tune(conn: socket.socket) -> None:
    if conn.family != socket.AF_UNIX:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
