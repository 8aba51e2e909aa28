"""Traces and metrics as a real collector receives them, over gRPC and over HTTP."""

import json
import os
import select
import signal
import subprocess

import pytest
from clients import http1
from programs import collector, free_port, spans
from scrape import scrape
from server import PATIENCE, TARGET, die_with_parent
from test_metrics import some_calls

PROTOCOLS = ["grpc", "http/protobuf"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_real_collector_receives_all(start, tmp_path, protocol):
    with collector(tmp_path) as (said, settings):
        server = start(**settings(protocol))
        some_calls(server)
        server.stop()
        said.wait("GET /items/{id}", "plimsoll.testbed.v1.Testbed/Echo", "http.server.request.duration", "plimsoll.requests")


class Shop:
    """The coffee shop, with ports of its own."""

    def __init__(self, folder, settings):
        environment = {"PATH": os.environ["PATH"], **{f"{name}_ADDR": "127.0.0.1:0" for name in ("RECEPTION", "BARISTA", "OPS")}, **settings}
        self.log = open(folder / "shop.log", "wb")
        self.process = subprocess.Popen(
            [TARGET / "debug/coffee_shop"], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
            preexec_fn=die_with_parent,
        )
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        greeting = self.process.stdout.readline().decode() if ready else ""
        places = {name: greeting.split(f"{name} on ")[1].split(",")[0].strip(".\n") for name in ("reception", "barista", "ops")}
        address = lambda name: (places[name].rsplit(":", 1)[0], int(places[name].rsplit(":", 1)[1]))
        self.reception, self.admin = address("reception"), address("ops")

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(PATIENCE) == 0
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.log.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_order_is_one_trace_through_both_services(tmp_path, protocol):
    place = "coffee_shop.v1.Barista/Place"
    wanted = [("reception", "SERVER", "POST /orders"), ("reception", "CLIENT", place), ("barista", "SERVER", place)]
    with collector(tmp_path) as (said, settings):
        shop = Shop(tmp_path, {**settings(protocol), "OTEL_BSP_SCHEDULE_DELAY": "50"})
        try:
            headers = [("content-type", "application/json"), ("traceparent", f"00-{TRACE}-{PARENT}-01")]
            answer = http1(shop.reception, "/orders", headers, "POST", b'{"coffee":"cappuccino"}')
            assert answer.status == 201, answer
            metrics = scrape(shop)
            told = said.all_until(lambda said: all(key in spans(said) for key in wanted) and spans(said), wanted)
        finally:
            shop.close()
    order, call, brewing = (told[key] for key in wanted)
    assert {span["trace"] for span in (order, call, brewing)} == {TRACE}
    assert (order["parent"], call["parent"], brewing["parent"]) == (PARENT, order["id"], call["id"])
    assert metrics.sum("plimsoll_requests_total", http_route="/orders") == 1
    # Whether it was soon enough the machine says: it is the first that this shop sees.
    [line] = [line for line in map(json.loads, (tmp_path / "shop.log").read_text().splitlines()) if line.get("path") == "/orders"]
    assert metrics.sum("plimsoll_slo_events_total", slo="orders") == 1
    assert metrics.sum("plimsoll_slo_good_events_total", slo="orders") == (line["duration_ms"] <= 300), line


def test_a_collector_that_is_away_costs_no_call_anything_and_is_said(start):
    with free_port() as port:
        a_collector_that_is_away_costs_no_call_anything_and_is_said(start, f"http://127.0.0.1:{port}")


def a_collector_that_is_away_costs_no_call_anything_and_is_said(start, away):
    server = start(OTEL_EXPORTER_OTLP_ENDPOINT=away, OTEL_METRIC_EXPORT_INTERVAL=50, OTEL_BSP_SCHEDULE_DELAY=50)
    assert http1(server.http, "/ok").status == 200
    for kind in ("export_failed", "spans_dropped"):
        line = server.wait_line("a loss", event=kind)
        assert line["level"] == "WARN" and line["target"] == "plimsoll::telemetry", line
    told = scrape(server)
    assert told.sum("plimsoll_export_errors_total") >= 1
    assert told.sum("plimsoll_spans_dropped_total", exporter="otlp_traces") >= 1
    assert http1(server.http, "/ok").status == 200
