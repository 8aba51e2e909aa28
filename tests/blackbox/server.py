"""The testbed as a child process, and its log as it comes.

The log goes through a named pipe, so that a test waits for a line and not for time. Every line that any test
causes is held to the rules of the log: one JSON object, no key twice, no control byte, at most 16 KiB.
"""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LONG = os.environ.get("PLIMSOLL_LONG") == "1"
PATIENCE = 60.0  # seconds until a wait for an event fails
MOST_BYTES = 16 * 1024

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# What no line may hold: C0 (its newline is cut off), DEL, and C1 as UTF-8.
CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def without_repeats(pairs):
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"keys twice: {repeated}")
    return dict(pairs)


def fault_of(raw):
    """What is wrong with a line of the log, or None."""
    if CONTROL.search(raw):
        return "a control byte"
    if len(raw) + 1 > MOST_BYTES:
        return f"{len(raw)} bytes"
    try:
        line = json.loads(raw.decode("utf-8"), object_pairs_hook=without_repeats, parse_constant=float)
    except ValueError as error:
        return str(error)
    if not isinstance(line, dict):
        return "not an object"
    missing = [name for name in ("timestamp", "level", "target") if name not in line]
    return f"without {missing}" if missing else None


class Server:
    """`with Server(folder, TB_X="..") as server:` starts a testbed and holds it to a clean end."""

    def __init__(self, folder, program="testbed", **settings):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.program = TARGET / "debug" / program
        self.settings = {name: str(value) for name, value in settings.items()}
        self.changed = threading.Condition()
        self.lines = []  # as JSON
        self.raw = []  # as bytes
        self.faults = []  # (what, line)
        self.ended = False  # the log's pipe has closed
        self.expected_end = 0
        self.process = None

    # -- its life

    def __enter__(self):
        pipe = self.folder / "log"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        listen = {name: "127.0.0.1:0" for name in ("TB_HTTP", "TB_GRPC", "TB_ADMIN")}
        # Nobody watches readiness here, so no time is spent on telling it, and calls that end need not hurry.
        drain = {} if "TB_DRAIN_MS" in self.settings else {"TB_DRAIN_MS": "20000", "TB_NOTICE_MS": "0"}
        environment = {"PATH": os.environ["PATH"], "TB_LOG": str(pipe), **drain, **listen, **self.settings}
        self.errors = open(self.folder / "stderr", "wb")
        self.process = subprocess.Popen(
            [self.program], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=self.errors, preexec_fn=die_with_parent,
        )
        self.reader = threading.Thread(target=self.read_log, args=(reader,), daemon=True)
        self.reader.start()
        try:
            self.http, self.grpc, self.admin = self.read_addresses()
        except AssertionError:
            self.kill()
            raise
        return self

    def read_addresses(self):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline().decode() if ready else ""
        found = re.match(r"listening http=(\S+) grpc=(\S+) admin=(\S+)", line)
        assert found, f"{self.program} said {line!r} and {self.stderr()!r}"
        return [(address.rsplit(":", 1)[0], int(address.rsplit(":", 1)[1])) for address in found.groups()]

    def read_log(self, pipe):
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        rest = b""
        while True:
            # Before the first writer there is no event; once the last has gone, the pipe hangs up. A process that had
            # ended before the pipe was asked writes nothing after it.
            has_ended = self.process.poll() is not None
            events = poll.poll(100)
            chunk = os.read(pipe, 1 << 20) if events else b""
            if chunk:
                *whole, rest = (rest + chunk).split(b"\n")
                self.take(whole)
            elif events or has_ended:
                break
        if rest:
            self.faults.append(("cut off", rest))
        os.close(pipe)
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def take(self, raw_lines):
        with self.changed:
            for raw in raw_lines:
                self.raw.append(raw)
                if fault := fault_of(raw):
                    self.faults.append((fault, raw))
                else:
                    self.lines.append(json.loads(raw))
            self.changed.notify_all()

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self.kill()
            return
        self.stop()
        assert not self.faults, f"{len(self.faults)} bad lines: {self.faults[:5]}"

    def stop(self, sign=signal.SIGTERM):
        """Asks it to end and waits until it has; its exit code must be the expected one."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        self.wait_end()
        assert self.process.returncode == self.expected_end, f"exit code {self.process.returncode}: {self.stderr()}"

    def wait_end(self):
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still runs {PATIENCE} s after it was to end: {self.stderr()}") from None
        self.reader.join(PATIENCE)
        self.close()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(PATIENCE)
        self.close()

    def close(self):
        self.process.stdout.close()
        self.errors.close()

    def stderr(self):
        return (self.folder / "stderr").read_text(errors="replace")

    # -- its log

    def wait(self, holds, what, patience=PATIENCE):
        """Waits until `holds(lines)` is true of the log so far, and returns its value."""
        until = time.monotonic() + patience
        with self.changed:
            while not (value := holds(self.lines)):
                left = until - time.monotonic()
                if left <= 0 or self.ended:
                    last = [json.dumps(line) for line in self.lines[-5:]]
                    raise AssertionError(f"the log never told {what}; its last lines: {last}; bad lines: {self.faults[:3]}")
                self.changed.wait(left)
            return value

    def wait_line(self, what, **fields):
        """The first line that has these fields."""
        return self.wait(lambda lines: next((line for line in lines if has(line, fields)), None), f"{what} {fields}")

    def access(self, request_id):
        """The access line of a call, by its id. There must be one; see `accesses` for "exactly one"."""
        return self.wait_line("an access line", event="request", request_id=request_id)

    def accesses(self, request_id=None):
        with self.changed:
            return [line for line in self.lines if line.get("event") == "request" and request_id in (None, line.get("request_id"))]

    def lines_of(self, request_id):
        with self.changed:
            return [line for line in self.lines if line.get("request_id") == request_id]


def has(line, fields):
    return all(line.get(name) == value for name, value in fields.items())
