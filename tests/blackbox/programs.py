"""Programs that users have and tests ask: how to wait for what they say, and a real collector."""

import os
import re
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

from scrape import tool
from server import PATIENCE, die_with_parent


@contextmanager
def free_port():
    """A port that nobody else is given while it is held. Nobody listens there, so that who connects is refused, until a
    program that is told of it binds it as well, as servers may (SO_REUSEADDR)."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked_until(ask, what):
    """Asks another process until it has an answer; each question takes its time."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if answer := ask():
            return answer
    raise AssertionError(f"never: {what}")


class Said:
    """What a program writes, as it comes: it is read also while nobody waits for it, so that no writer is held up."""

    def __init__(self, process):
        self.text, self.ended = "", False
        self.changed = threading.Condition()
        threading.Thread(target=self.read, args=(os.dup(process.stdout.fileno()),), daemon=True).start()

    def read(self, pipe):
        while chunk := os.read(pipe, 1 << 16):
            with self.changed:
                self.text += chunk.decode(errors="replace")
                self.changed.notify_all()
        os.close(pipe)
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def forget(self):
        """What was said so far."""
        with self.changed:
            self.text = ""

    def wait(self, *words):
        self.all_until(lambda text: all(word in text for word in words), words)

    def all_until(self, holds, what):
        """What holds of all it said, once that is so."""
        end = time.monotonic() + PATIENCE
        with self.changed:
            while not (found := holds(self.text)):
                assert not self.ended and time.monotonic() < end, f"never said {what}, but: {self.text[-2000:]}"
                self.changed.wait(end - time.monotonic())
        return found


@contextmanager
def collector(folder):
    """rotel, which tells all that it receives: what it says, and the settings of who sends to it, by protocol."""
    with free_port() as grpc, free_port() as http, listening(folder, {"grpc": grpc, "http/protobuf": http}) as both:
        yield both


@contextmanager
def listening(folder, ports):
    command = [
        tool("rotel-agent", "rotel/rotel/rotel-agent"), "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log", "metrics", "--debug-log-verbosity", "detailed",
        f"--pid-file={folder / 'rotel.pid'}", f"--otlp-grpc-endpoint=127.0.0.1:{ports['grpc']}", f"--otlp-http-endpoint=127.0.0.1:{ports['http/protobuf']}",
    ]
    environment = {**os.environ, "HOME": str(folder)}
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent, env=environment
    ) as rotel:
        try:
            said = Said(rotel)
            said.wait("Starting Rotel")
            asked_until(lambda: all(is_open(port) for port in ports.values()), "rotel listens")
            yield said, lambda protocol: {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports[protocol]}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            }
        finally:
            rotel.kill()


SPAN = re.compile(
    r"service\.name: Str\((?P<service>[^)]*)\)"
    r"|Trace ID +: (?P<trace>\w+)\s+Parent ID +: (?P<parent>\w*)\s+ID +: (?P<id>\w+)\s+Name +: (?P<name>.*)\n\s+Kind +: SPAN_KIND_(?P<kind>\w+)"
)


def spans(text):
    """The spans that rotel told of, by service, kind and name."""
    service, found = None, {}
    for part in SPAN.finditer(text):
        if part["service"]:
            service = part["service"]
        else:
            found[service, part["kind"], part["name"]] = part.groupdict()
    return found
