"""The outgoing end of a link: sends at once what the socket takes, and the rest from a thread of its own."""

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from dlflow.parallel.handshake import POLL_S

__all__ = ["RECEIPT", "Sender"]

RECEIPT = struct.Struct("<Q")  # how many messages the other end has read in place
JOIN_BYTES = 1 << 14  # a header and a message up to this long leave in one packet


class Sender:
    """Sends buffers in order and never keeps its caller waiting; the thread starts when it is first needed."""

    def __init__(self, conn: socket.socket, deadline_s: float) -> None:
        self._conn, self._deadline_s = conn, deadline_s
        self._queue: deque[memoryview] = deque()
        self._changed = threading.Condition()
        self._error: OSError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        conn.setblocking(False)

    def send(self, header: bytes, data: memoryview) -> None:
        """Take over a message; `data` must not change before `flush`.

        Raises: OSError if the link is broken.
        """
        views = [memoryview(header), data] if len(data) > JOIN_BYTES else [memoryview(header + bytes(data))]
        with self._changed:
            if self._error:
                raise self._error
            while views and not self._queue:
                sent = _push(self._conn, views[0])
                if sent < len(views[0]):
                    views[0] = views[0][sent:]
                    break
                views.pop(0)
            if views:
                self._queue.extend(views)
                self._start()
                self._changed.notify_all()

    def flush(self, check: Callable[[], None]) -> None:
        """Wait until all is with the kernel; `check` is called now and then and may raise.

        Raises: OSError if the link is broken, or nothing was taken for the deadline.
        """
        while True:
            with self._changed:
                if self._error:
                    raise self._error
                if not self._queue:
                    return
                self._changed.wait(POLL_S)
            check()

    def receipt(self, check: Callable[[], None]) -> int:
        """The next receipt of the other end; `check` is called now and then and may raise.

        Raises: OSError if the link is broken, or none came within the deadline.
        """
        poll, came, began = select.poll(), b"", time.monotonic()
        poll.register(self._conn, select.POLLIN)
        while len(came) < RECEIPT.size:
            if not poll.poll(POLL_S * 1000):
                check()
                if time.monotonic() - began > self._deadline_s:
                    raise TimeoutError(f"no receipt came for {self._deadline_s:g} s")
                continue
            piece = self._conn.recv(RECEIPT.size - len(came))
            if not piece:
                raise ConnectionError("closed before it had read all")
            came += piece
        count: int = RECEIPT.unpack(came)[0]
        return count

    def close(self) -> None:
        """End the link and the thread. Closing twice is closing once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if (
            self._thread
        ):  # first: a TLS socket that is shut down under a writer would send what is left in the clear
            self._thread.join()
        with contextlib.suppress(OSError):
            self._conn.shutdown(socket.SHUT_RDWR)
        self._conn.close()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dlflow-sender", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while (view := self._next()) is not None:
                self._push_all(view)
                with self._changed:
                    self._queue.popleft()
                    self._changed.notify_all()
        except OSError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> memoryview | None:
        with self._changed:
            while not (self._queue or self._closed):
                self._changed.wait()
            return None if self._closed else self._queue[0]

    def _push_all(self, view: memoryview) -> None:
        poll = select.poll()
        poll.register(self._conn, select.POLLOUT)
        began = time.monotonic()
        while view:
            if sent := _push(self._conn, view):
                view, began = view[sent:], time.monotonic()
                continue
            if self._closed:
                raise ConnectionAbortedError("closed on this side")
            if time.monotonic() - began > self._deadline_s:
                raise TimeoutError(f"nothing was taken for {self._deadline_s:g} s")
            poll.poll(POLL_S * 1000)


def _push(conn: socket.socket, view: memoryview) -> int:
    """Send what the socket takes now; the number of bytes."""
    try:
        return conn.send(view)
    except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return 0
