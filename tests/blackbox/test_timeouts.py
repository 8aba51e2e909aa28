"""E6, E16, E17: calls that take too long, deadlines, and bodies that are too large or too slow (R44, R47, R65-R67)."""

import json
import time

import pytest
from clients import GRPC, SERVICE, Http2, blob, connect, framed, head, http1, http2, new_id, raw_grpc, read_answer
from scrape import balanced, scrape

FOREVER = "600000"


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    from server import Server

    settings = {"TB_TIMEOUT_MS": 1000, "TB_BODY_MAX": 1000, "TB_BODY_MIN_BPS": 100_000, "TB_TRUSTED": "127.0.0.1"}
    with Server(tmp_path_factory.mktemp("strict"), **settings) as running:
        yield running


def ids(wanted):
    return [("x-request-id", wanted)]


def get1(path, headers=()):
    return lambda server, wanted: http1(server.http, path, [*ids(wanted), *headers])


def get2(path, headers=()):
    return lambda server, wanted: http2(server.http, path, [*ids(wanted), *headers])


def rpc(method, data=b"", headers=(), port="grpc"):
    return lambda server, wanted: raw_grpc(getattr(server, port), method, data, [*ids(wanted), *headers])


def sized(server, wanted):
    """The head alone is enough to be refused."""
    with connect(server.http) as sock:
        sock.sendall(head("POST", "/echo", [*ids(wanted), ("content-length", "1001")]))
        return read_answer(sock, "POST")


def chunked(server, wanted):
    with connect(server.http) as sock:
        chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n"
        sock.sendall(head("POST", "/echo", [*ids(wanted), ("transfer-encoding", "chunked")]) + chunk)
        return read_answer(sock, "POST")


def without_length(server, wanted):
    with Http2(server.http) as connection:
        return connection.call("POST", "/echo", ids(wanted), b"x" * 1001)


def upload(server, wanted):
    body = framed(blob(b"x" * 400)) * 3
    with Http2(server.grpc) as connection:
        return connection.call("POST", SERVICE + "Upload", [*GRPC, *ids(wanted)], body)


def slow1(server, wanted):
    with connect(server.http) as sock:
        sock.sendall(head("POST", "/echo", [*ids(wanted), ("content-length", "900")]) + b"slow")
        return read_answer(sock, "POST")


TIMED_OUT = {"outcome": "timeout", "which": "total", "layer": "timeout", "level": "ERROR"}
LATE = {"outcome": "deadline", "layer": "timeout"}
TOO_LARGE = {"outcome": "too_large", "layer": "body_limit", "level": "INFO"}
MALFORMED = {"outcome": "malformed", "layer": "timeout"}
CELLS = [
    ("E16 the server's own limit, http1", get1(f"/sleep/{FOREVER}"), {"status": 504}, TIMED_OUT),
    ("E16 the server's own limit, http2", get2(f"/sleep/{FOREVER}"), {"status": 504}, TIMED_OUT),
    ("E16 the server's own limit, grpc", rpc("Sleep", FOREVER), {"grpc_status": 4}, TIMED_OUT),
    ("E16 in the body, http1", get1("/stream?n=1000&ms=50"), {"status": 200, "cut": "body"}, TIMED_OUT),
    ("E16 in the body, http2", get2("/stream?n=1000&ms=50"), {"status": 200, "cut": "INTERNAL_ERROR"}, TIMED_OUT),
    ("E16 in the body, grpc", rpc("Stream", "n=1000&ms=50"), {"status": 200, "grpc_status": 4, "cut": None}, TIMED_OUT),
    ("E16 the caller's deadline, grpc", rpc("Sleep", FOREVER, [("grpc-timeout", "50m")]), {"grpc_status": 4}, LATE),
    ("E16 the caller's deadline, grpc on the HTTP port", rpc("Sleep", FOREVER, [("grpc-timeout", "50m")], "http"), {"grpc_status": 4}, LATE),
    ("E16 the caller's deadline in the body, grpc", rpc("Stream", "n=1000&ms=20", [("grpc-timeout", "90m")]), {"grpc_status": 4}, LATE),
    ("E16 the caller's deadline, http1", get1(f"/sleep/{FOREVER}", [("x-request-deadline", "50m")]), {"status": 504}, LATE),
    ("E16 a deadline that has passed", rpc("Echo", b"", [("grpc-timeout", "0S")]), {"grpc_status": 4}, LATE),
    ("E17 malformed, grpc", rpc("Echo", b"", [("grpc-timeout", "1Q")]), {"grpc_status": 3}, MALFORMED),
    ("E17 malformed, http2", get2("/ok", [("x-request-deadline", "soon")]), {"status": 400}, MALFORMED),
    ("E17 two of them", rpc("Echo", b"", [("grpc-timeout", "1S"), ("grpc-timeout", "1S")]), {"grpc_status": 3}, MALFORMED),
    ("E17 capped", rpc("Echo", b"", [("grpc-timeout", "99999999H")]), {"grpc_status": 0}, {"outcome": "ok", "deadline_capped": True}),
    ("E6 too large, sized", sized, {"status": 413}, TOO_LARGE),
    ("E6 too large, chunked", chunked, {"status": 413}, TOO_LARGE),
    ("E6 too large, without a length", without_length, {"status": 413}, TOO_LARGE),
    ("E6 too large, grpc", upload, {"grpc_status": 8}, TOO_LARGE),
]


@pytest.mark.parametrize("name,ask,seen,told", CELLS, ids=[cell[0] for cell in CELLS])
def test_the_client_the_line_and_the_metrics_agree(strict, name, ask, seen, told):
    before = scrape(strict).by("plimsoll_requests_total", "outcome")
    wanted = new_id("late")
    answer = ask(strict, wanted)
    for key, value in seen.items():
        assert getattr(answer, key) == value, (key, answer)
    line = strict.access(wanted)
    for key, value in told.items():
        assert line.get(key) == value, (key, line)
    reason = told["outcome"]
    if reason != "ok" and answer.status != 200:
        assert answer.one("plimsoll-reason") == reason
        assert json.loads(answer.body)["reason"] == reason
    after = scrape(strict)
    assert after.by("plimsoll_requests_total", "outcome")[reason] == before[reason] + 1
    balanced(after)


def test_a_slow_upload_is_told(tmp_path_factory, start):
    server = start(TB_BODY_MIN_BPS=100_000)
    wanted = new_id("slow")
    answer = slow1(server, wanted)
    assert answer.status == 408, answer
    line = server.access(wanted)
    assert (line["outcome"], line["which"], line["bytes_in"]) == ("request_body_error", "body", 4), line
    told = scrape(server)
    assert told.by("plimsoll_requests_total", "outcome")["request_body_error"] == 1
    assert told.by("plimsoll_timeouts_total", "which")["body"] == 1


def test_a_stranger_sets_no_deadline(server):
    wanted = new_id("stranger")
    assert http1(server.http, "/sleep/100", [*ids(wanted), ("x-request-deadline", "1m")]).status == 200
    assert server.access(wanted)["outcome"] == "ok"


def test_who_is_called_hears_of_the_deadline(start):
    """R67: the inner one gives up first, and by its own account."""
    inner = start(TB_TRUSTED="127.0.0.1")
    outer = start(TB_TIMEOUT_MS=2_000, TB_UPSTREAM="http://%s:%d" % inner.http)
    wanted = new_id("chain")
    began = time.monotonic()
    answer = http1(outer.http, f"/up/sleep/{FOREVER}", ids(wanted))
    assert answer.status == 504, answer
    assert time.monotonic() - began < 20
    line = inner.access(wanted)
    assert line["outcome"] == "deadline" and line["duration_ms"] < 2_000, line
    assert outer.access(wanted)["outcome"] in ("server_error", "timeout")


def test_limits_are_told_as_metrics(strict):
    raw_grpc(strict.grpc, "Echo", b"", [("grpc-timeout", "oops")])
    told = scrape(strict)
    assert told.sum("plimsoll_deadline_malformed_total") >= 1
    assert {series["which"] for series in told.series("plimsoll_timeouts_total")} == {"deadline", "head", "body", "idle", "total"}
