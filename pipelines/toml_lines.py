"""Where each key of a TOML file stands, so that an error can name its line. tomllib reads the values but not the places.

The text has already been accepted by tomllib, so this scanner only has to find its way: headers, keys, and the
beginnings of values, through strings, comments, arrays and inline tables.
"""

import re

__all__ = ["line_of", "lines"]

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]\}#\n]+")


def lines(text: str) -> dict[Path, int]:
    r"""Line number (from 1) of every table, key and array element.

    >>> lines('a = 1\n[t]\nsteps = [\n  { do = "x" },\n  { do = "y" },\n]')[("t", "steps", 1, "do")]
    5
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


def line_of(found: dict[Path, int], path: Path) -> int:
    """Line of the longest beginning of `path` that the file has; 1 if there is none."""
    for length in range(len(path), 0, -1):
        if path[:length] in found:
            return found[path[:length]]
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.found = text.replace("\r\n", "\n"), 0, dict[Path, int]()
        self.counted, self.line = 0, 1

    def document(self) -> None:
        table: Path = ()
        elements: dict[Path, int] = {}
        while self._skip_blank():
            if self.text.startswith("[[", self.at):
                self.at += 2
                name = self._inside(elements, self._key())
                number = elements.get(name, -1) + 1
                elements[name] = number
                table = (*name, number)
                self._note(name, keep=True)
                self._note(table)
                self.at += 2
            elif self.text[self.at] == "[":
                self.at += 1
                table = self._inside(elements, self._key())
                self._note(table)
                self.at += 1
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        start = self.at
        path = (*table, *self._key())
        self._note(path, at=start)
        self._skip_blank()
        self.at += 1  # =
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip_blank()
        start = self.text[self.at]
        if start in "\"'":
            self._string()
        elif start == "[":
            self.at += 1
            number = 0
            while self._skip_blank() and self.text[self.at] != "]":
                self._note((*path, number))
                self._value((*path, number))
                number += 1
                self._skip_blank()
                self.at += self.text[self.at] == ","
            self.at += 1
        elif start == "{":
            self.at += 1
            while self._skip_blank() and self.text[self.at] != "}":
                self._pair(path)
                self._skip_blank()
                self.at += self.text[self.at] == ","
            self.at += 1
        elif match := _SCALAR.match(self.text, self.at):
            self.at = match.end()

    def _string(self) -> str:
        quote = self.text[self.at]
        mark = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(mark)
        start = self.at
        while not self.text.startswith(mark, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        content = self.text[start : self.at]
        self.at += len(mark)
        while len(mark) == 3 and self.text.startswith(quote, self.at):  # """a""""
            self.at += 1
        return content

    def _key(self) -> Path:
        parts: list[str] = []
        while True:
            self._skip_blank()
            if self.text[self.at] in "\"'":
                parts.append(self._string())
            elif match := _BARE.match(self.text, self.at):
                parts.append(match[0])
                self.at = match.end()
            self._skip_blank()
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    @staticmethod
    def _inside(elements: dict[Path, int], name: Path) -> Path:
        """`[[a]] ... [a.b]` belongs to the last element of a."""
        path: Path = ()
        for length, part in enumerate(name, 1):
            path = (*path, part)
            if length < len(name) and path in elements:
                path = (*path, elements[path])
        return path

    def _skip_blank(self) -> bool:
        """To the next thing that is neither blank nor comment; False at the end."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at].isspace():
                self.at += 1
            else:
                return True
        return False

    def _note(self, path: Path, *, at: int | None = None, keep: bool = False) -> None:
        at = self.at if at is None else at
        if at >= self.counted:  # lines are counted once, from where the last count ended
            self.line += self.text.count("\n", self.counted, at)
            self.counted = at
        line = self.line if at >= self.counted else self.text.count("\n", 0, at) + 1
        for length in range(1, len(path)):  # [a.b] makes a, too
            self.found.setdefault(path[:length], line)
        if not (keep and path in self.found):
            self.found[path] = line
