"""Scores over HTTP: rows by the names of their columns in, answers out, as JSON. One model, fixed when it starts.

    GET  /health     200 {"status": "ok", "model": "returns", "version": 3}
    GET  /           the columns that it expects, the answers that it gives, its limits
    POST /predict    {"rows": [{"price": 3.5, "kind": "a"}]} -> {"model", "version", "answers": [{"predicted", ...}]}

What is refused: 400 no JSON of this form, 408 too slow, 413 too large, 415 no application/json, 422 rows that do not fit (the
message names row and column), 503 no answer within the deadline. A row's answer is that of batch scoring, bit by bit.
"""

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flows.predictor import OUTPUTS, Predictor
from flows.server import ServerError
from pipelines.errors import InputError
from pipelines.recipes import from_records
from pipelines.tensors import Form, numbers_of

__all__ = ["Limits", "application", "serve"]

AT_ONCE = 64  # connections; more are told to come back (503)


@dataclass(frozen=True)
class Limits:
    """Of one request."""

    rows: int = 10_000
    bytes: int = 16 << 20
    deadline_s: float = 30.0


class _RefusedError(Exception):
    """A request that is not answered: status and sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def application(predictor: Predictor, limits: Limits, *, hosts: tuple[str, ...] = ("*",)) -> Starlette:
    """The ASGI application; `hosts` are the names that requests may call it by."""
    known = {"model": predictor.name, "version": predictor.version}

    async def health(request: Request) -> JSONResponse:
        del request
        return JSONResponse({"status": "ok", **known})

    async def about(request: Request) -> JSONResponse:
        del request
        columns = {name: dict(predictor.recipe["columns"][name]) for name in predictor.schema.names}
        answers = {field.name: _told(field) for field in predictor.answers}
        said = {**known, "task": predictor.task, "classes": predictor.recipe["classes"]}
        return JSONResponse(_plain({**said, "rows": columns, "answers": answers, "limits": asdict(limits)}))

    async def predict(request: Request) -> JSONResponse:
        try:
            async with asyncio.timeout(limits.deadline_s):
                rows = _rows(await _body(request, limits), limits)
        except TimeoutError:
            return _refusal(
                408, f"the request took more than {limits.deadline_s:g} s to come; send less at once"
            )
        except _RefusedError as refused:
            return _refusal(refused.status, str(refused))
        try:
            async with asyncio.timeout(limits.deadline_s):
                answers = await run_in_threadpool(partial(_answers, predictor, rows))
        except InputError as error:
            return _refusal(422, str(error))
        except TimeoutError:
            return _refusal(503, f"no answer within {limits.deadline_s:g} s; send fewer rows at once")
        return JSONResponse(_plain({**known, "answers": answers}))

    return Starlette(
        routes=[
            Route("/", about),
            Route("/health", health),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={404: _unknown, 405: _unknown},
    )


def serve(
    predictor: Predictor, *, host: str, port: int, limits: Limits, tell: Callable[[str], object] = print
) -> None:
    """Answer until the process is told to end; the address is told once requests are taken.

    Raises: ServerError if the port is taken.
    """
    import uvicorn  # noqa: PLC0415 - 0.2 s that tests of the application do not pay

    try:
        listening = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise ServerError(
            f"{host}:{port}: cannot listen ({error.strerror or error}); choose another --port, or stop what has it"
        ) from error
    with listening:
        address, bound = listening.getsockname()[:2]
        own = f"[{address}]" if ":" in address else address
        inside = ipaddress.ip_address(address).is_loopback
        hosts = ("localhost", "127.0.0.1", "[::1]", own) if inside else ("*",)
        tell(f"model {predictor.name} version {predictor.version}: http://{own}:{bound}")
        if not inside:
            tell("note: whoever reaches this address may ask; put a proxy with a password before it")
        uvicorn.Server(
            uvicorn.Config(
                application(predictor, limits, hosts=hosts),
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                server_header=False,
                limit_concurrency=AT_ONCE,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=max(1, round(limits.deadline_s)),
            )
        ).run(sockets=[listening])


async def _body(request: Request, limits: Limits) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _RefusedError(415, f"content-type is {kind!r}, expected application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.bytes:
            raise _RefusedError(413, f"more than {limits.bytes:,} bytes; send fewer rows at once")
    return bytes(body)


def _rows(body: bytes, limits: Limits) -> list[Any]:
    expected = 'expected {"rows": [{...}, ...]}, an object for each row with the columns that GET / names'
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"no JSON ({error}); {expected}") from error
    rows = found.get("rows") if isinstance(found, dict) and set(found) == {"rows"} else None
    if not isinstance(rows, list):
        raise _RefusedError(400, f"not of the form of a request; {expected}")
    if len(rows) > limits.rows:
        raise _RefusedError(413, f"{len(rows):,} rows, expected at most {limits.rows:,}; send them in parts")
    return rows


def _answers(predictor: Predictor, rows: list[Any]) -> list[dict[str, Any]]:
    table = predictor.predict(from_records(rows, predictor.recipe), where="rows")
    columns: dict[str, list[Any]] = {
        name: table[name].to_pylist() for name in table.column_names if name != OUTPUTS
    }
    if OUTPUTS in table.column_names:
        values, there = numbers_of(table, OUTPUTS)
        columns[OUTPUTS] = [row.tolist() if fine else None for row, fine in zip(values, there, strict=True)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _told(field: Any) -> Any:
    form = Form.of(field)
    if form is None:
        return {"type": str(field.type)}
    names = (field.metadata or {}).get(b"names")
    return {"dtype": form.dtype, "shape": list(form.shape)} | ({"names": json.loads(names)} if names else {})


def _plain(value: Any) -> Any:
    """As JSON has it: dates and times as text."""
    return json.loads(json.dumps(value, default=str))


async def _unknown(request: Request, error: Any) -> JSONResponse:
    sentence = f"{request.method} {request.url.path}: expected GET /, GET /health or POST /predict"
    return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse(
        {"error": sentence}, status, headers={"connection": "close"} if status in {408, 413} else None
    )


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number; null is a missing value")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
