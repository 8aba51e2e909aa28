"""R71-R74, E29: what probes hear, and whom they have asked. The testbed keeps a result for a second."""

import itertools
import json
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from clients import GRPC, Hanging, Http2, KeptOpen, blob, connect, framed, head, http1, http2, new_id, raw_grpc, read_answer
from programs import asked_until, free_port
from redis_server import Redis
from scrape import scrape
from server import PATIENCE

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
KEEP = 1.0
PATIENT = 20_000  # milliseconds for a check of which the answer matters, and not how soon it comes
CANARY = "kanarienvogel"


class Upstream:
    """Answers every GET with the status of the day, and counts."""

    def __enter__(self):
        self.status, self.asked = 200, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_):
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://%s:%d" % self.server.server_address
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def ready(server):
    answer = http1(server.admin, "/readyz")
    return answer.status, json.loads(answer.body)["status"]


def until_ready_is(server, *wanted):
    return asked_until(lambda: ready(server) == wanted, f"/readyz is {wanted}")


def statuses(body):
    """The messages of a stream of HealthCheckResponse."""
    found = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        message, body = body[5:5 + length], body[5 + length:]
        found.append(message[1] if message else 0)
    return found


def checked(server, service=""):
    answer = raw_grpc(server.grpc, CHECK, service)
    assert answer.grpc_status == 0, answer
    return statuses(answer.body)[0]


def details(server):
    answer = http1(server.admin, "/health")
    assert answer.one("content-type") == "application/health+json"
    return json.loads(answer.body)


def test_liveness_asks_nobody(start):
    with free_port() as dead, Hanging() as upstream:
        server = start(TB_REDIS=f"redis://127.0.0.1:{dead}/", TB_UPSTREAM=upstream.url)
        for _ in range(100):
            answer = http1(server.admin, "/livez")
            assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
            assert http1(server.admin, "/startupz").status == 200
        assert upstream.paths.empty(), "nobody was asked"
        assert ready(server) == (503, "unavailable")
        assert upstream.next_path() == "/ok"
        answer = http1(server.admin, "/livez")
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def test_a_storm_of_probes_asks_once_in_a_while(start):
    with Redis() as redis:
        # A process of its own: the storm keeps this one busy.
        upstream = start()
        server = start(TB_REDIS=redis.url(), TB_UPSTREAM="http://%s:%d" % upstream.http, TB_CHECK_MS=PATIENT)
        began = time.monotonic()
        answered = itertools.count(1)
        failures = []

        def goes_on():
            # A storm, and long enough for a result to grow old twice.
            return next(answered) < 3_000 or time.monotonic() - began < 2.5 * KEEP

        def probe():
            with connect(server.admin) as sock:
                kept = KeptOpen(sock)
                while goes_on():
                    sock.sendall(head("GET", "/readyz"))
                    if (status := read_answer(kept).status) != 200:
                        failures.append(status)

        def probe_grpc():
            with Http2(server.grpc) as connection:
                while goes_on():
                    answer = connection.call("POST", CHECK, GRPC, framed(b""))
                    if statuses(answer.body) != [SERVING]:
                        failures.append(answer)

        threads = [threading.Thread(target=probe) for _ in range(4)] + [threading.Thread(target=probe_grpc)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        most = (time.monotonic() - began) / KEEP + 1
        assert not failures
        assert 2 <= scrape(upstream).sum("plimsoll_requests_started_total") <= most
        pings = int(redis.info("commandstats", "cmdstat_ping").split("calls=")[1].split(",")[0])
        assert 2 <= pings <= most


@pytest.mark.parametrize("redis", ["away", "refuses the password"])
def test_the_public_hears_one_word(start, redis):
    with Redis("--requirepass", "another") as running, free_port() as nobody, free_port() as none:
        port = none if redis == "away" else running.port
        url = f"redis://keeper:{CANARY}@127.0.0.1:{port}/"
        server = start(TB_REDIS=url, TB_UPSTREAM=f"http://127.0.0.1:{nobody}", TB_CHECK_MS=PATIENT)
        public = http1(server.admin, "/readyz")
        assert (public.status, public.body) == (503, b'{"status":"unavailable"}')
        assert {name for name, _ in public.headers} == {"content-type", "cache-control", "content-length", "connection", "date"}
        assert checked(server) == NOT_SERVING
        for path in ("/readyz", "/health"):
            assert http1(server.http, path).status == 404, "it is for operators"
        told = details(server)
        assert (told["status"], told["output"]) == ("fail", "unavailable")
        [upstream], [redis_check] = told["checks"]["upstream"], told["checks"]["redis"]
        assert upstream["status"] == "fail" and "refused" in upstream["output"]
        assert redis_check["status"] == "warn" and redis_check["output"]
        heard = [str(told), str(public), http1(server.admin, "/metrics").body.decode(), server.stderr()]
        line = server.wait_line("a line", event="health_check_failed", check="redis")
        assert line["error"] and line["level"] == "WARN"
    server.stop()
    assert not [text for text in heard + [str(raw) for raw in server.raw] if CANARY in text]


def test_what_it_can_do_without_leaves_it_degraded(start):
    with Redis() as redis:
        server = start(TB_REDIS=redis.url(), TB_CHECK_MS=PATIENT)
        assert ready(server) == (200, "ok")
    until_ready_is(server, 200, "degraded")
    assert details(server)["status"] == "warn"
    assert checked(server, "plimsoll.testbed.v1.Testbed") == SERVING


def test_a_check_that_hangs_has_failed(start):
    with Hanging() as upstream:
        server = start(TB_UPSTREAM=upstream.url)
        assert ready(server) == (503, "unavailable")
        [check] = details(server)["checks"]["upstream"]
        assert check["output"] == "no answer within 800 ms" and check["observedValue"] >= 800
        assert http1(server.admin, "/livez").status == 200


def test_each_change_is_a_line_with_its_cause(start):
    with Upstream() as upstream:
        server = start(TB_UPSTREAM=upstream.url, TB_CHECK_MS=PATIENT)
        assert ready(server) == (200, "ok")
        upstream.status, before = 503, upstream.asked
        until_ready_is(server, 503, "unavailable")
        # Failing goes on, and is no news.
        asked_until(lambda: ready(server) and upstream.asked >= before + 2, "it is asked again")
        failed = scrape(server).sum("plimsoll_health_check_failures_total", check="upstream")
        assert failed == upstream.asked - before
        upstream.status = 200
        until_ready_is(server, 200, "ok")
        server.wait_line("the end of it", event="readiness_changed", readiness="ok")
        server.stop()
    lines = [line for line in server.lines if line["target"] == "plimsoll::health"]
    told = [(line["event"], line.get("check") or line.get("readiness"), line["level"]) for line in lines]
    assert told == [
        ("health_check_failed", "upstream", "WARN"),
        ("readiness_changed", "unavailable", "WARN"),
        ("health_check_recovered", "upstream", "INFO"),
        ("readiness_changed", "ok", "INFO"),
        ("readiness_changed", "draining", "INFO"),
    ]
    assert lines[0]["error"] == "answered 503" and lines[0]["critical"] is True
    assert lines[1]["because"] == "upstream" and lines[1]["was"] == "ok"


def test_it_is_not_ready_long_before_it_leaves(start):
    server = start(TB_DRAIN_MS=6000)
    with Http2(server.grpc) as watching:
        watch = watching.send("POST", WATCH, GRPC, framed(b""))
        unknown = watching.send("POST", WATCH, GRPC, framed(blob("no.such.Service")))
        heard = lambda stream: statuses(watching.answers[stream].body)
        watching.read_until(lambda: heard(watch) and heard(unknown))
        assert (heard(watch), heard(unknown)) == ([SERVING], [SERVICE_UNKNOWN])
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        answer = watching.answer(watch)
        assert statuses(answer.body) == [SERVING, NOT_SERVING]
        assert answer.grpc_status == 0, "the stream does not hold the end up"
        assert ready(server) == (503, "draining") and checked(server) == NOT_SERVING
        assert http1(server.admin, "/livez").status == 200
        while time.monotonic() - began < PATIENCE:
            try:
                socket.create_connection(server.grpc, timeout=PATIENCE).close()
                status = http1(server.admin, "/readyz").status
            except (ConnectionRefusedError, ConnectionResetError):
                break
            if status is None:  # it has left between the two
                break
            assert status == 503
        assert time.monotonic() - began >= 3, "half of the time"
    server.wait_end()
    assert server.process.returncode == 0


def test_probes_pass_no_limiter(start):
    server = start(TB_MAX_INFLIGHT=1, TB_QUEUE=0)
    busy = new_id()
    with connect(server.http) as running:
        running.sendall(head("GET", "/sleep/600000", [("x-request-id", busy)]))
        asked_until(lambda: scrape(server).sum("plimsoll_requests_in_flight") == 1, "the call is in")
        assert http1(server.http, "/ok").status == 503, "it is full"
        for _ in range(20):
            for path in ("/livez", "/readyz", "/startupz"):
                assert http1(server.admin, path).status == 200
            answer = raw_grpc(server.admin, CHECK)
            assert answer.grpc_status == 0 and statuses(answer.body) == [SERVING]
    assert server.access(busy)["outcome"] == "client_gone"


def test_list_and_strangers(start):
    server = start()
    answer = http2(server.grpc, "/grpc.health.v1.Health/List", GRPC, "POST", framed(b""))
    assert b"plimsoll.testbed.v1.Testbed" in answer.body
    answer = raw_grpc(server.grpc, CHECK, "no.such.Service")
    assert answer.grpc_status == 5, "NOT_FOUND"
