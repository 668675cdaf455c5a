"""What a person sees: few calm lines, numbers that can be read, nothing that moves where nothing should."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.facts import equation, headline, tally, verdicts
from flows.summary import WIDTH
from flows.terminal import Terminal, problem, summary
from tests.records import bare_record, demo_record, unchanged_record

ESCAPE = "\x1b"


class Stream(io.StringIO):
    """A stream that says what it is."""

    def __init__(self, *, terminal=False, encoding="utf-8"):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._terminal


def whole_run(terminal, record):
    """The calls of a driver for a whole run."""
    with terminal:
        terminal.say("dlflow demo")
        for table in record["tables"]:
            terminal.step_started(table["name"], 4)
            for part in range(4):
                terminal.step_progress(table["name"], part + 1, 4, rows=(part + 1) * 1000)
            terminal.step_done(table["name"], rows=table["rows_in"], seconds=table["seconds"])
        for model in record["models"]:
            for epoch in model["history"]:
                terminal.training({"model": model["name"], "epochs": 5, "samples_per_s": 1e5, **epoch})
        for line in summary(record):
            terminal.say(line)


def test_a_run_of_six_tables_and_a_model_is_at_most_25_lines_without_an_escape_code():
    record = demo_record()
    record["tables"].append({**record["tables"][0], "name": "sixth"})
    record |= {"report": "orders/report.html", "next": ["dlflow plan", "dlflow new shop"]}
    stream = Stream()

    whole_run(Terminal(stream), record)

    lines = stream.getvalue().splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= WIDTH
    assert ESCAPE not in stream.getvalue()
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("fewer", ["tables", "models"])
@pytest.mark.parametrize("times", [0, 1, 9])
def test_a_summary_is_at_most_25_lines_of_100_columns_however_much_was_made(fewer, times):
    record = demo_record()
    record[fewer] = record[fewer] * times

    lines = summary(record)

    assert 1 <= len(lines) <= 25
    assert max(map(len, lines)) <= WIDTH


def test_the_summary_tells_the_whole_mission_in_order():
    record = demo_record() | {"report": "report.html", "next": "dlflow plan"}

    labels = [line.split()[0] for line in summary(record)]

    assert labels == [
        "dlflow", "ingest", "clean", "integrate", "warehouse", "ledger", "quality", "train", "evaluate", "proof",
        "report", "next",
    ]  # fmt: skip


def test_the_summary_tells_what_the_record_holds():
    text = "\n".join(summary(demo_record()))

    assert "3 sources · 6 files · 104,224 rows" in text
    assert "501 quarantined (6 rules) · 1,003 duplicates · 3,600 values filled · 300 outliers" in text
    assert "sales = orders ⋈ customers ⋈ products · 62 contradictions resolved · 200 unmatched" in text
    assert re.search(r"301,504 = 300,000 \+ 501 \+ 1,003 · over 5 tables +✔ balanced", text)
    assert re.search(r"5 checks · 4 pass · 1 warn · 0 block +▲", text)
    assert "loss 0.634 → 0.51" in text
    assert re.search(r"test AUC 0.794 · logistic 0.567 · accuracy 0\.\d+ · no over-fitting", text)
    assert re.search(r"weights (\w{6})… with 2 workers = \1… with 1 worker +✔ identical", text)


def test_bad_news_is_marked():
    record = demo_record()
    record["ledger"]["balanced"] = False
    record["models"][0]["proof"] |= {"identical": False, "weights_sha256": "0" * 64}
    record["models"][0]["baselines"][1]["metrics"]["auc"] = 0.9
    record["tables"][2]["checks"][0]["passed"] = False

    text = "\n".join(summary(record))

    assert "✘ does not balance" in text
    assert "≠ 000000… with 1 worker" in text
    assert "▲ no better" in text
    assert "3 pass · 1 warn · 1 block" in text
    assert [verdict.state for verdict in verdicts(record)] == ["plain", "bad", "bad", "warn", "bad"]


def test_nothing_to_do_is_said_in_two_lines():
    assert summary(unchanged_record())[1] == " nothing to do  5 tables and 1 model up to date"
    assert len(summary(unchanged_record())) == 2
    assert len(summary(bare_record())) == 2
    assert len(summary({})) == 2


def test_the_best_baseline_is_the_lowest_where_low_is_good():
    model = {
        "metrics": {"test": {"rmse": 3.0}},
        "baselines": [
            {"name": "mean", "metrics": {"rmse": 9.0}},
            {"name": "linear", "metrics": {"rmse": 2.5}},
        ],
    }

    first = headline(model)

    assert (first.name, first.baseline, first.beats_baseline) == ("RMSE", "linear", False)


COUNTS = st.integers(0, 10**9)


@given(out=COUNTS, quarantined=COUNTS, deduplicated=COUNTS, filtered=COUNTS, added=COUNTS)
def test_the_equation_is_true_when_it_is_added_up(out, quarantined, deduplicated, filtered, added):
    rows_in = max(out + quarantined + deduplicated + filtered - added, 0)
    added = out + quarantined + deduplicated + filtered - rows_in
    ledger = {
        "rows_in": rows_in,
        "rows_out": out,
        "quarantined": quarantined,
        "deduplicated": deduplicated,
        "filtered": filtered,
        "added": added,
    }

    left, right = equation(ledger).split(" = ")

    assert eval(left.replace(",", "")) == eval(right.replace(",", ""))  # noqa: S307 - digits and plus signs


def test_a_failed_check_counts_by_its_severity():
    checks = [
        {"passed": True},
        {"passed": False, "severity": "warn"},
        {"passed": False, "severity": "block"},
        {"passed": False},
    ]

    found = tally({"tables": [{"checks": checks[:2]}, {"checks": checks[2:]}, {}]})

    assert (found.passed, found.warned, found.blocked, found.total) == (1, 1, 2, 4)


def test_colours_need_a_terminal_and_give_way_to_no_color(monkeypatch):
    def shown(stream):
        Terminal(stream, live=False).say(" ledger       1 = 1  ✔ balanced")
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    coloured = shown(Stream(terminal=True))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(Stream(terminal=True))

    assert "\x1b[32m✔\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain == shown(Stream())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_stream_without_check_marks_gets_plain_words(encoding):
    stream = Stream(encoding=encoding)

    whole_run(Terminal(stream), demo_record())

    stream.getvalue().encode(encoding)
    assert "ok balanced" in stream.getvalue()


@given(st.text())
def test_control_characters_are_shown_not_obeyed(text):
    stream = Stream()

    Terminal(stream).say(text)
    Terminal(stream).step_done(text, rows=1, seconds=1.0, note=text)

    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", stream.getvalue())


def test_texts_from_many_threads_stay_whole():
    class Slow(Stream):
        def write(self, text):
            os.sched_yield()  # let the others in
            return super().write(text)

    stream = Slow()
    terminal = Terminal(stream)
    start = threading.Barrier(4)

    def talk(number):
        start.wait()
        for _ in range(50):
            terminal.say(f"{number}\n{number}\n{number}")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = stream.getvalue().splitlines()
    assert len(lines) == 600
    assert all(len(set(lines[at : at + 3])) == 1 for at in range(0, 600, 3))


def test_a_problem_is_one_sentence_one_fix_and_the_log():
    path = "/log/" + "x" * 150

    text = problem("orders.csv:3: cannot read 'oops' as float64 " + "word " * 30, "add on_error", path)

    lines = text.splitlines()
    assert lines[0].startswith("✘     orders.csv:3")
    assert "fix   add on_error" in lines
    assert f"log   {path}" in lines
    assert all(len(line) <= WIDTH for line in lines if path not in line)
    assert problem("no such file").splitlines() == ["✘     no such file"]


def test_several_problems_keep_their_lines():
    assert problem("a.toml:3: one\na.toml:9: two") == "✘     a.toml:3: one\n      a.toml:9: two"


LIVE = """
import sys
from flows.terminal import Terminal
with Terminal(sys.stdout) as terminal:
    terminal.say("first")
    terminal.step_started("orders [bold]", 10)
    terminal.step_progress("orders [bold]", 5, 10, rows=5000)
    terminal._progress and terminal._progress.refresh()
    terminal.say("between  \\u2714")
    terminal.training({"model": "m", "epoch": 1, "epochs": 2, "step": 5, "steps": 10, "loss": 0.5, "samples_per_s": 1000})
    terminal.training({"model": "m", "message": "a worker was lost"})
    terminal._progress and terminal._progress.refresh()
    terminal.step_done("orders [bold]", rows=10000, seconds=1.0)
    if "fail" in sys.argv:
        raise SystemExit(7)
"""


def at_a_terminal(*arguments, **environment):
    """What a program writes to a terminal of 100 columns, and its exit code."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}}
    env |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    program = subprocess.Popen(
        [sys.executable, "-c", LIVE, *arguments], stdin=side, stdout=side, stderr=side, env=env
    )
    os.close(side)
    written = b""
    with contextlib.suppress(OSError):  # so Linux says that the other side is closed
        while piece := os.read(main, 65536):
            written += piece
    os.close(main)
    return written.decode(), program.wait(30)


def left_on_screen(text):
    """The lines that stay: what a line is before it is erased does not count."""
    lines, row = [""], 0
    for code in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", text):
        if code == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code.endswith("A") and code.startswith(ESCAPE):
            row = max(row - int(code[2:-1] or 1), 0)
        elif code == "\x1b[2K":
            lines[row] = ""
        elif not code.startswith((ESCAPE, "\r")):
            lines[row] += code
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize("arguments", [(), ("fail",)])
def test_live_lines_move_on_a_terminal_and_are_gone_at_the_end(arguments):
    text, code = at_a_terminal(*arguments)

    assert code == (7 if arguments else 0)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "50 %" in plain
    assert "epoch 1/2  loss 0.5  1.0 k samples/s" in plain
    assert "orders [bold]" in plain
    assert text.rstrip().endswith("\x1b[?25h") or text.count("\x1b[?25l") <= text.count(
        "\x1b[?25h"
    )  # the cursor is back
    assert [line.split("  ")[0].strip() for line in left_on_screen(text)] == [
        "first",
        "between",
        "train m",
        "orders [bold]",
    ]


def test_a_dumb_terminal_gets_no_live_lines():
    text, _ = at_a_terminal(TERM="dumb")

    assert ESCAPE not in text


def test_rich_is_not_imported_where_nothing_moves():
    script = "import sys, flows.terminal as t; t.Terminal().step_started('a', 2); t.Terminal().say('x'); sys.exit('rich' in sys.modules)"

    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
