"""Programs that users have and tests ask: how to wait for what they say, and a real collector."""

import os
import re
import select
import socket
import subprocess
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
    """What a program writes, as it comes."""

    def __init__(self, process):
        self.pipe = process.stdout
        self.text = ""

    def wait(self, *words):
        end = time.monotonic() + PATIENCE
        while not all(word in self.text for word in words):
            ready, _, _ = select.select([self.pipe], [], [], max(0, end - time.monotonic()))
            chunk = os.read(self.pipe.fileno(), 1 << 16) if ready else b""
            assert chunk, f"never said {words}, but: {self.text[-2000:]}"
            self.text += chunk.decode(errors="replace")

    def all_until(self, holds, what):
        """All it said, once that holds."""
        end = time.monotonic() + PATIENCE
        while not (found := holds(self.text)):
            ready, _, _ = select.select([self.pipe], [], [], max(0, end - time.monotonic()))
            chunk = os.read(self.pipe.fileno(), 1 << 16) if ready else b""
            assert chunk, f"never said {what}, but: {self.text[-2000:]}"
            self.text += chunk.decode(errors="replace")
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
