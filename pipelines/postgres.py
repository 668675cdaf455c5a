"""A PostgreSQL server by URL: connections with deadlines, names quoted, and every failure one sentence without the password.

Over ADBC, whose driver reads by COPY in binary straight into Arrow: 500,000 rows of 7 columns cost the reader 0.19 s of
processor time, against 1.3 s with psycopg and 1.8 s with SQLAlchemy over psycopg (tests/bench/test_sql_drivers.py).
"""

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.errors import InputError, PartFailed

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection

__all__ = ["SCHEMES", "connected", "masked", "place", "quoted", "text", "told"]

SCHEMES = ("postgresql", "postgres")
_ALIVE = {  # a cut network is noticed within half a minute, not after the two hours of the system
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
    "application_name": "dlflow",
}
_SESSION = {  # the text of a value must not depend on the settings of server, database or user
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "synchronize_seqscans": "off",
    "idle_in_transaction_session_timeout": "0",
}
_REFUSED = re.compile(r"authentication|pg_hba|does not exist|no password|not permitted|permission denied|SSL")
_WRONG_QUERY = {
    "42",
    "22",
    "25",
    "0A",
}  # classes of SQLSTATE: syntax and names, data, read-only, not supported


def place(url: str) -> str:
    """A server and database in words: no user, no password, no parameters.

    >>> place("postgresql://me:secret@db:5432/shop?sslmode=require")
    'postgresql://db:5432/shop'
    """
    return f"postgresql://{_split(url)[1]}"


def masked(message: str, url: str) -> str:
    """A message without what is secret in a URL.

    >>> masked('bad "p%40ss" or p@ss', "postgresql://me:p%40ss@db/shop")
    'bad "***" or ***'
    """
    user, _, query = _split(url)
    secret = [user.partition(":")[2], *re.findall(r"(?:^|&)(?:ssl)?password=([^&]*)", query)]
    shown = message.replace(url, place(url))
    for one in sorted(
        {*secret, *(urllib.parse.unquote(one) for one in secret)} - {""}, key=len, reverse=True
    ):
        shown = shown.replace(one, "***")
    return shown


def _split(url: str) -> tuple[str, str, str]:
    """User and password, server and database, parameters; a password with signs that a URL reads otherwise stays whole."""
    rest = url.partition("://")[2]
    user, _, behind = rest.rpartition("@")
    server, _, query = behind.partition("?")
    return user, server.partition("#")[0], query


def quoted(name: str) -> str:
    """A name as SQL has it.

    >>> quoted('we"ird')
    '"we""ird"'
    """
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL has it, whatever the server's settings.

    >>> text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


@contextlib.contextmanager
def connected(
    url: str, *, connect_s: float, query_s: float, lock_s: float, readonly: bool
) -> Iterator["Connection"]:
    """A connection that commits by itself; all that fails inside is told in one sentence.

    Raises: PartFailed if the server cannot be reached, is cut off or takes longer than the deadlines; InputError if it
    refuses user, database or query.
    """
    from adbc_driver_manager import Error  # noqa: PLC0415
    from adbc_driver_postgresql import dbapi  # noqa: PLC0415

    try:
        connection = dbapi.connect(_with_defaults(url, connect_s), autocommit=True)
    except Error as error:
        _raise_refused(url, str(error), connect_s, error)
    with told(url, query_s=query_s, lock_s=lock_s), connection:
        with connection.cursor() as cursor:
            settings = _SESSION | {
                "statement_timeout": f"{int(query_s * 1000)}",
                "lock_timeout": f"{int(lock_s * 1000)}",
                "default_transaction_read_only": "on" if readonly else "off",
            }
            given = ", ".join(
                f"set_config({text(name)}, {text(value)}, false)" for name, value in settings.items()
            )
            cursor.execute(f"SELECT {given}").fetchone()
        yield connection


@contextlib.contextmanager
def told(url: str, *, query_s: float, lock_s: float) -> Iterator[None]:
    """What the server says to what is asked inside, in one sentence.

    Raises: as `connected`.
    """
    from adbc_driver_manager import Error  # noqa: PLC0415

    try:
        yield
    except Error as error:
        _raise_failed(url, error, query_s, lock_s)


def _with_defaults(url: str, connect_s: float) -> str:
    parts = urllib.parse.urlsplit(url)
    given = {one.partition("=")[0] for one in parts.query.split("&")}
    wanted = {"connect_timeout": f"{max(2, round(connect_s))}", **_ALIVE}  # libpq takes 1 s for 2
    more = [f"{key}={value}" for key, value in wanted.items() if key not in given]
    query = "&".join([*filter(None, [parts.query]), *more])
    return urllib.parse.urlunsplit(parts._replace(scheme="postgresql", query=query))


def _raise_refused(url: str, said: str, connect_s: float, error: Exception) -> NoReturn:
    why = _sentence(said, url)
    if _REFUSED.search(why):
        raise InputError(
            f"{place(url)}: the server refuses the connection: {why}; correct url or the user's rights"
        ) from None
    if why.startswith("invalid"):
        raise InputError(
            f"{place(url)}: url is not valid: {why}; expected postgresql://user:${{PASSWORD}}@host:port/database"
        ) from None
    raise PartFailed(
        f"{place(url)}: cannot be reached within {connect_s:g} s (connect_s): {why}; check host and port in url, and that "
        "the server runs"
    ) from error


def _raise_failed(url: str, error: Any, query_s: float, lock_s: float) -> NoReturn:
    state, why = error.sqlstate or "", _sentence(str(error), url)
    if state == "57014":
        raise PartFailed(
            f"{place(url)}: not answered within {query_s:g} s (query_s): {why}; raise query_s, or give a key to cut by"
        ) from error
    if state == "55P03":
        raise PartFailed(
            f"{place(url)}: {why}, after waiting {lock_s:g} s (busy_s); run again when no other program holds the table"
        ) from error
    if state == "42501":
        raise InputError(f"{place(url)}: {why}; give the user of url the right to do that") from error
    if state[:2] in _WRONG_QUERY or state[:2] == "23":
        raise InputError(f"{place(url)}: {why}; correct the query, or the names in it") from error
    raise PartFailed(f"{place(url)}: the connection failed: {why}; run again to continue") from error


def _sentence(said: str, url: str) -> str:
    """What the server, or libpq, says, in one line."""
    found = re.search(r"(?:ERROR|FATAL|PANIC):\s+(.*)", said)
    what = found[1] if found else said.strip().split("\n")[0]
    what = re.sub(r"^[A-Z_]+: |\[libpq\] |Failed to connect: |Failed to prepare query: ", "", what)
    return masked(what, url).strip(" .")
