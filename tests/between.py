"""A server between a program and a local S3 server: it cuts connections after a put, or loses the condition of one."""

from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler

__all__ = ["Between"]


class Between(BaseHTTPRequestHandler):
    """Hands requests to the store; `server.cut` says whose answers are never given, `server.drop` whose condition is lost."""

    protocol_version = "HTTP/1.1"

    def do_any(self):
        body = self.whole()
        ours = {"connection", "transfer-encoding", "content-length", "expect"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ours}
        if self.server.drop:
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        there = HTTPConnection(self.server.store, timeout=30)
        there.request(self.command, self.path, body, headers)
        answer = there.getresponse()
        content = answer.read()
        there.close()
        if self.server.cut and self.command == "PUT" and self.server.cut in self.path:
            self.server.cut = ""
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "server", "date"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def whole(self):
        """The body, also if it comes in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

    def log_message(self, *_):
        """Nothing."""
