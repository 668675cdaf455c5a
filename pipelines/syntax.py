"""The syntax of expressions: one text becomes nested functions of a table, or a SpecError that says where it is wrong.

Every node of the parsed text must be on the list in `_Compiler.node`. Types are checked when the functions run, so an
empty table of the right schema is enough to check them.
"""

import ast
import functools
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.functions import FUNCTIONS, call
from pipelines.names import did_you_mean
from pipelines.operators import (
    BINARY,
    COMPARISONS,
    Datum,
    Misuse,
    canonical,
    constant,
    interleaved,
    is_member,
    logical,
)

__all__ = ["Run", "compiled", "shortened"]

LENGTH = 10_000  # characters
DEPTH = 64  # levels of nesting

Run = Callable[[pa.Table], Datum]
"""The value of an expression for the rows of a table."""

_HINTS = {
    ast.BitAnd: "write `and`",
    ast.BitOr: "write `or`",
    ast.BitXor: "write ** for a power, != for either-or",
    ast.Invert: "write `not`",
    ast.Attribute: "write a function, lower(x), not a method, x.lower()",
    ast.JoinedStr: "write concat(a, b) or a + b",
    ast.Subscript: 'a column with another name is column("name")',
}
_ALLOWED = "allowed: columns, numbers, texts, + - * / // % **, comparisons, in, and, or, not, functions"


def compiled(text: str) -> tuple[Run, frozenset[str]]:
    """The function that computes an expression, and the columns it reads.

    Raises: SpecError with the place of what is wrong.
    """
    compiler = _Compiler(text)
    run = compiler.compiled()
    return run, frozenset(compiler.columns)


def shortened(text: str) -> str:
    """A text in quotes, cut to 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


class _Compiler:
    """Turns one text into nested functions of a table; collects the columns it reads."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: set[str] = set()

    def compiled(self) -> Run:
        if len(self.text) > LENGTH:
            raise SpecError(
                f"expression {shortened(self.text)} has {len(self.text):,} characters, at most {LENGTH:,} are read; "
                f"derive parts of it as columns first"
            )
        try:
            # in brackets it may run over several lines; only a balanced text leaves a list of one element
            tree = ast.parse(f"[{self.text}\n]", mode="eval").body
        except SyntaxError as error:
            raise self._syntax(error) from None
        except (MemoryError, RecursionError):
            raise SpecError(self._deep()) from None
        except ValueError as error:  # a NUL character, an integer of thousands of digits
            raise SpecError(f"expression {shortened(self.text)} cannot be read: {error}") from None
        if not isinstance(tree, ast.List) or len(tree.elts) != 1:
            raise SpecError(f"expression {shortened(self.text)}: expected one value, as in price * 2 > limit")
        return self._node(tree.elts[0], 1)

    def _node(self, node: ast.expr, depth: int) -> Run:
        if depth > DEPTH:
            raise SpecError(self._deep())
        depth += 1
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
                return self._literal(node, value)
            case ast.Name(id=name):
                return self._column(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()) if _is_literal(node):
                return self._literal(node, ast.literal_eval(node))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                kernel = pc.negate_checked if isinstance(sign, ast.USub) else _same
                return self._applied(node, functools.partial(_signed, kernel), [self._node(operand, depth)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._applied(
                    node, lambda value: logical("not", [value]), [self._node(operand, depth)]
                )
            case ast.BinOp(left=left, op=op, right=right) if type(op).__name__ in BINARY:
                return self._applied(
                    node, BINARY[type(op).__name__], [self._node(left, depth), self._node(right, depth)]
                )
            case ast.BoolOp(op=op, values=values):
                name = "and" if isinstance(op, ast.And) else "or"
                return self._applied(
                    node, lambda *given: logical(name, given), [self._node(value, depth) for value in values]
                )
            case ast.Compare():
                return self._compared(node, depth)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._choice(node, [test, body, orelse], depth)
            case ast.Call():
                return self._called(node, depth)
        kind: type = type(getattr(node, "op", node))
        hint = _HINTS.get(kind, _ALLOWED)
        raise self._wrong(node, f"{shortened(ast.unparse(node))} is not for expressions; {hint}")

    def _literal(self, node: ast.expr, value: float | str | None) -> Run:
        try:
            scalar = constant(value)
        except Misuse as error:
            raise self._wrong(node, str(error)) from None
        return lambda _: scalar

    def _column(self, node: ast.expr, name: str) -> Run:
        self.columns.add(name)
        return self._applied(node, lambda column: canonical(column), [lambda table: table[name]])  # noqa: PLW0108

    def _compared(self, node: ast.Compare, depth: int) -> Run:
        links = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            links.append(self._link(node, op, left, right, depth))
            left = right
        return (
            links[0] if len(links) == 1 else self._applied(node, lambda *given: logical("and", given), links)
        )

    def _link(self, node: ast.Compare, op: ast.cmpop, left: ast.expr, right: ast.expr, depth: int) -> Run:
        value = self._node(left, depth)
        match op:
            case ast.Is() | ast.IsNot():
                if not (isinstance(right, ast.Constant) and right.value is None):
                    raise self._wrong(node, "`is` is only for None; write ==")
                known = isinstance(op, ast.IsNot)
                return self._applied(node, pc.is_valid if known else pc.is_null, [value])
            case ast.In() | ast.NotIn():
                members = self._members(right)
                found = self._applied(node, lambda given: is_member(given, members), [value])
                return found if isinstance(op, ast.In) else self._applied(node, pc.invert, [found])
        return self._applied(node, COMPARISONS[type(op).__name__], [value, self._node(right, depth)])

    def _members(self, node: ast.expr) -> list[pa.Scalar]:
        if not isinstance(node, ast.Tuple | ast.List | ast.Set) or not node.elts:
            raise self._wrong(
                node,
                "the right side of `in` must be literals in parentheses, as in (1, 2); "
                "to look inside a text write contains(x, 'a')",
            )
        members = []
        for element in node.elts:
            value = ast.literal_eval(element) if _is_literal(element) else None
            if not isinstance(value, bool | int | float | str):
                raise self._wrong(
                    element,
                    f"{shortened(ast.unparse(element))} cannot stand in the list of `in`: "
                    f"only numbers, texts and bools; for None write is_null(x)",
                )
            members.append(self._literal(element, value)(None))
        return members

    def _called(self, node: ast.Call, depth: int) -> Run:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "column" and [type(argument) for argument in node.args] == [ast.Constant]:
            return self._column(node, str(ast.literal_eval(node.args[0])))
        if name not in FUNCTIONS:
            if not name:
                raise self._wrong(
                    node, f"{shortened(ast.unparse(node.func))} is no function; {_HINTS[ast.Attribute]}"
                )
            raise self._wrong(node, f"no function {name!r}{did_you_mean(name, [*FUNCTIONS, 'column'])}")
        function = FUNCTIONS[name]
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self._wrong(
                node,
                f"{name} takes its arguments by place, as in {name}(a{', b' if function.least > 1 else ''})",
            )
        if len(node.args) < function.least or (function.most is not None and len(node.args) > function.most):
            most = (
                ""
                if function.most == function.least
                else f" to {function.most}"
                if function.most
                else " or more"
            )
            raise self._wrong(node, f"{name} takes {function.least}{most} arguments, not {len(node.args)}")
        if name == "if_else":
            return self._choice(node, node.args, depth)
        given: list[Run] = [
            self._argument(argument, function.kind(place), name, depth)
            for place, argument in enumerate(node.args)
        ]
        return self._applied(node, lambda *values: call(function, name, values), given)

    def _argument(self, node: ast.expr, kind: str, name: str, depth: int) -> Run:
        if kind not in {"'text'", "digits"}:
            return self._node(node, depth)
        value = ast.literal_eval(node) if _is_literal(node) else None
        if kind == "digits" and isinstance(value, int) and not isinstance(value, bool) and -30 <= value <= 30:
            return lambda _: value
        if kind == "'text'" and isinstance(value, str):
            return lambda _: value
        wanted = "a text in quotes" if kind == "'text'" else "a whole number from -30 to 30"
        raise self._wrong(node, f"{name} takes {wanted} here, not {shortened(ast.unparse(node))}")

    def _choice(self, node: ast.expr, nodes: Sequence[ast.expr], depth: int) -> Run:
        """if_else, whose condition guards: a branch is computed for the rows that take it, so that others cannot fail it."""
        test, yes, no = (self._node(part, depth) for part in nodes)
        if all(isinstance(part, ast.Name | ast.Constant) for part in nodes[1:]):
            return self._applied(
                node, lambda *given: call(FUNCTIONS["if_else"], "if_else", given), [test, yes, no]
            )

        def run(table: pa.Table) -> Datum:
            mask = pc.fill_null(logical("if_else", [test(table)]), fill_value=False)  # unknown is not true
            if isinstance(mask, pa.Scalar):
                mask = pa.repeat(mask, table.num_rows)
            return interleaved(mask, yes(table.filter(mask)), no(table.filter(pc.invert(mask))))

        return self._located(node, run)

    def _applied(self, node: ast.expr, fn: Callable[..., Datum], arguments: Sequence[Run]) -> Run:
        return self._located(node, lambda table: fn(*[argument(table) for argument in arguments]))

    def _located(self, node: ast.expr, run: Run) -> Run:
        """The same; what it refuses is said with its place."""

        def located(table: pa.Table) -> Datum:
            try:
                return run(table)
            except Misuse as error:
                raise self._wrong(node, str(error)) from None

        return located

    # ---- what is wrong, and where

    def _wrong(self, node: ast.expr, message: str) -> SpecError:
        line = f"[{self.text}".split("\n")[node.lineno - 1]
        place = len(line.encode()[: node.col_offset].decode())  # ast counts bytes
        return SpecError(
            f"expression {shortened(self.text)}, character {self._place(node.lineno, place)}: {message}"
        )

    def _syntax(self, error: SyntaxError) -> SpecError:
        place = min(self._place(error.lineno or 1, (error.offset or 1) - 1), max(len(self.text), 1))
        message = error.msg.lower().replace(" or ':='", "")
        if "parenthesis" in message or "never closed" in message:  # it may speak of our bracket
            message = "the parentheses do not match"
        return SpecError(
            f"expression {shortened(self.text)}, character {place}: {message}; "
            f"the operators are those of Python: == != < <= and or not in is None"
        )

    def _place(self, line: int, column: int) -> int:
        """Character of the text, from 1, for a line (from 1) and column (from 0) of the text in its bracket."""
        before = f"[{self.text}".split("\n")[: line - 1]
        return max(sum(len(one) + 1 for one in before) + column, 1)

    def _deep(self) -> str:
        return f"expression {shortened(self.text)} is nested deeper than {DEPTH} levels; derive parts of it as columns first"


def _same(value: Datum) -> Datum:
    return value


def _signed(kernel: Callable[[Datum], Datum], value: Datum) -> Datum:
    if not (pa.types.is_integer(value.type) or pa.types.is_floating(value.type)):
        raise Misuse(f"a sign takes a number, not {value.type}")
    return kernel(value)


def _is_literal(node: ast.expr) -> bool:
    """A constant, or a number with a sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return isinstance(node.operand, ast.Constant) and type(node.operand.value) in {int, float}
    return isinstance(node, ast.Constant)
