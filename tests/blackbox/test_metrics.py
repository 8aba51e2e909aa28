"""R12, R13, L1 and the readers that users have: Prometheus' own tools, a real server of it, a real collector."""

import json
import os
import random
import select
import socket
import subprocess
import time
from urllib.parse import quote
from urllib.request import urlopen

from clients import Grpc, blob, http1, http2, new_id
from scrape import balanced, scrape, text, tool
from server import LONG, PATIENCE, ROOT, die_with_parent

CALLS = 20_000 if LONG else 2_000


def some_calls(server):
    for path in ("/ok", "/items/1", "/nowhere", "/err", "/panic?where=await", "/stream?n=5&fail=err&at=2"):
        http1(server.http, path, [("x-request-id", new_id())])
        http2(server.http, path, [("x-request-id", new_id())])
    with Grpc(server.grpc) as channel:
        for method, data in (("Echo", b"x"), ("Sleep", b"soon"), ("Panic", b"await"), ("Stream", b"n=5&fail=err&at=2")):
            channel.call(method, data)


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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_prometheus_own_check_finds_no_fault(start):
    server = start()
    some_calls(server)
    promtool = tool("promtool", "prometheus/usr/bin/promtool")
    checked = subprocess.run([promtool, "check", "metrics"], input=text(server).encode(), capture_output=True, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_status_of_grpc_is_that_of_the_trailers(start):
    server = start()
    some_calls(server)
    told = scrape(server)
    name = "rpc_server_call_duration_seconds_count"
    assert told.sum(name, rpc_response_status_code="OK") == 1
    assert told.sum(name, rpc_response_status_code="INVALID_ARGUMENT") == 1
    assert told.sum(name, rpc_response_status_code="INTERNAL") == 2
    assert told.sum("plimsoll_panics_total", where="response") == 3
    balanced(told)


def test_nothing_that_a_caller_sends_makes_a_series(start):
    server = start()
    dice = random.Random(1)
    some_calls(server)
    for method, path in (("GET", "/items/0"), ("GET", "/no-0"), ("M0", "/ok"), ("M0", "/no")):
        http2(server.http, path, method=method)
    before = len(scrape(server).values)
    for _ in range(CALLS):
        noise = f"{dice.getrandbits(64):x}"
        method, path = dice.choice([("GET", f"/items/{noise}"), ("GET", f"/{noise}?q={noise}"), (f"M{noise}", "/ok"), (f"M{noise}", f"/{noise}")])
        http2(server.http, path, [("host", f"{noise}.test"), ("user-agent", noise)], method=method)
    told = scrape(server)
    assert len(told.values) <= before + 3 * 17
    assert len(told.text) < 1 << 20
    balanced(told)


def test_a_real_prometheus_answers_from_its_scrapes(start, tmp_path):
    server = start()
    some_calls(server)
    port = free_port()
    target = f"{server.admin[0]}:{server.admin[1]}"
    config = tmp_path / "prometheus.yml"
    jobs = [{"job_name": "testbed", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]
    config.write_text(json.dumps({"rule_files": [str(ROOT / "docs/alerts.yml")], "scrape_configs": jobs}))
    command = [
        tool("prometheus", "prometheus/usr/bin/prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]
    query = quote('sum by (outcome) (plimsoll_requests_total{job="testbed"})')
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=die_with_parent, stderr=subprocess.DEVNULL) as prometheus:
        try:
            def answer():
                try:
                    with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=PATIENCE) as response:
                        return json.load(response)["data"]["result"]
                except OSError:
                    return None

            told = asked_until(answer, "an answer of prometheus")
        finally:
            prometheus.kill()
    outcomes = {row["metric"]["outcome"]: int(float(row["value"][1])) for row in told}
    assert outcomes["body_error"] == 2 and outcomes["panic"] == 3, outcomes


def collected(start, folder, protocol):
    """A real collector says that it has received spans and metrics of both listeners."""
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
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
            url = f"http://127.0.0.1:{ports[protocol]}"
            server = start(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
            some_calls(server)
            server.stop()
            said.wait("GET /items/{id}", "plimsoll.testbed.v1.Testbed/Echo", "http.server.request.duration", "plimsoll.requests")
        finally:
            rotel.kill()


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_real_collector_receives_all_over_grpc(start, tmp_path):
    collected(start, tmp_path, "grpc")


def test_a_real_collector_receives_all_over_http(start, tmp_path):
    collected(start, tmp_path, "http/protobuf")
