"""R12, R13, L1 and the readers that users have: Prometheus' own tools and a real server of it."""

import json
import random
import subprocess
from urllib.parse import quote
from urllib.request import urlopen

from clients import GRPC, Grpc, Http2, framed, http1, http2, new_id
from programs import Said, asked_until, free_port
from scrape import balanced, scrape, text, tool
from server import LONG, PATIENCE, ROOT, die_with_parent

CALLS = 20_000 if LONG else 2_000


def some_calls(server):
    """They have ended: a call is counted before its line is written, and an answer may be here before both."""
    sent = []

    def next_id():
        sent.append(new_id("some"))
        return [("x-request-id", sent[-1])]

    for path in ("/ok", "/items/1", "/nowhere", "/err", "/panic?where=await", "/stream?n=5&fail=err&at=2"):
        http1(server.http, path, next_id())
        http2(server.http, path, next_id())
    with Grpc(server.grpc) as channel:
        for method, data in (("Echo", b"x"), ("Sleep", b"soon"), ("Panic", b"await"), ("Stream", b"n=5&fail=err&at=2")):
            channel.call(method, data, next_id())
    for wanted in sent:
        server.access(wanted)


def all_ended(server):
    """What is told once no call is under way."""
    return asked_until(lambda: (told := scrape(server)).sum("plimsoll_requests_in_flight") == 0 and told, "all calls have ended")


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

    def noisy(noise):
        return [
            ("GET", f"/items/{noise}", (), None), ("GET", f"/{noise}?q={noise}", (), None), (f"M{noise}", "/ok", (), None), (f"M{noise}", f"/{noise}", (), None),
            ("POST", f"/{noise}/{noise}", GRPC, framed(b"")), ("POST", f"/plimsoll.testbed.v1.Testbed/{noise}", GRPC, framed(b"")),
        ]

    with Http2(server.http) as connection:
        for call in noisy("first"):
            connection.call(*call)
        before = len(all_ended(server).values)
        for _ in range(CALLS):
            noise = f"{dice.getrandbits(64):x}"
            method, path, kind, body = dice.choice(noisy(noise))
            connection.call(method, path, [*kind, ("host", f"{noise}.test"), ("user-agent", noise)], body)
    told = all_ended(server)
    assert len(told.values) == before, "a label set each, and it was there"
    assert len(told.text) < 1 << 20
    balanced(told)


def test_the_environment_says_which_methods_are_known(start):
    server = start(OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS="GET, BREW")
    for method in ("GET", "BREW", "POST", "get"):
        http1(server.http, "/ok", method=method)
    told = scrape(server)
    assert told.by("plimsoll_requests_total", "http_request_method") == {"GET": 1, "BREW": 1, "_OTHER": 2}


def test_attributes_that_cannot_be_read_stop_nothing_and_are_said(start):
    server = start(OTEL_RESOURCE_ATTRIBUTES="service.version=1,garbage", OTEL_SERVICE_NAME="known")
    line = server.wait_line("what is ignored", event="setting_ignored")
    assert line["level"] == "WARN" and "OTEL_RESOURCE_ATTRIBUTES" in line["error"], line
    assert "version" not in line, "all of them or none"
    assert http1(server.http, "/ok").status == 200


def test_a_real_prometheus_answers_from_its_scrapes(start, tmp_path):
    server = start()
    some_calls(server)
    with free_port() as port:
        told = told_by_prometheus(server, port, tmp_path)
    outcomes = {row["metric"]["outcome"]: int(float(row["value"][1])) for row in told}
    assert outcomes["body_error"] == 2 and outcomes["panic"] == 3, outcomes


def told_by_prometheus(server, port, tmp_path):
    target = f"{server.admin[0]}:{server.admin[1]}"
    config = tmp_path / "prometheus.yml"
    jobs = [{"job_name": "testbed", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]
    config.write_text(json.dumps({"rule_files": [str(ROOT / "docs/alerts.yml")], "scrape_configs": jobs}))
    command = [
        tool("prometheus", "prometheus/usr/bin/prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    query = quote('sum by (outcome) (plimsoll_requests_total{job="testbed"})')
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=die_with_parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as prometheus:
        try:
            Said(prometheus).wait("Server is ready to receive web requests")

            def answer():
                try:
                    with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=PATIENCE) as response:
                        return json.load(response)["data"]["result"]
                except OSError:
                    return None

            return asked_until(answer, "an answer of prometheus")
        finally:
            prometheus.kill()
