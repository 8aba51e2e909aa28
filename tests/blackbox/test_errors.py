"""E1, E4-E14: for each place where an error can vanish, what the client sees and what the access line says."""

import socket
from dataclasses import dataclass, field

import pytest
from clients import (
    GRPC, SERVICE, Answer, Grpc, Hanging, Http2, abandon_http1, abandon_http2, blob, connect, framed, head, http1, http2, new_id, raw_grpc, read_answer,
)

# What to compare of a line: a value, or a predicate of it.
ABSENT = object()


def holds(text):
    return lambda value: isinstance(value, str) and text in value


@dataclass
class Cell:
    """A way in which a call ends, over one protocol."""

    name: str
    ask: object  # (server, id) -> Answer, or None where there is nobody to see one
    seen: dict = field(default_factory=dict)
    line: dict = field(default_factory=dict)


def ids(wanted):
    return [("x-request-id", wanted)]


def get1(path):
    return lambda server, wanted: http1(server.http, path, ids(wanted))


def get2(path):
    return lambda server, wanted: http2(server.http, path, ids(wanted))


def rpc(method, data=b"", port="grpc"):
    return lambda server, wanted: raw_grpc(getattr(server, port), method, data, ids(wanted))


def grpcio(method, data=b""):
    def ask(server, wanted):
        with Grpc(server.grpc) as channel:
            return channel.call(method, data, ids(wanted))

    return ask


# Bodies fail 40 ms after their last chunk was taken: what the HTTP library has not sent when a body fails is lost, its
# head too.


def bad_chunk(server, wanted):
    """A body whose second chunk has no length: HTTP/1 can still be answered."""
    with connect(server.http) as sock:
        sock.sendall(head("POST", "/echo", [*ids(wanted), ("transfer-encoding", "chunked")]) + b"5\r\nhello\r\nzz\r\n")
        return read_answer(sock, "POST")


def cut_upload(server, wanted):
    with connect(server.http) as sock:
        sock.sendall(head("POST", "/echo", [*ids(wanted), ("content-length", "100"), ("expect", "100-continue")]))
        assert sock.recv(4096).startswith(b"HTTP/1.1 100"), "the handler has begun to read"
        sock.sendall(b"ten bytes.")
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


def reset_upload(method, path, headers, body):
    def ask(server, wanted):
        with Http2(server.http) as connection:
            stream = connection.send(method, path, [*ids(wanted), *headers], body, end=False)
            assert connection.call("GET", "/ok").status == 200  # frames are handled in order: the call has begun
            connection.reset(stream)

    return ask


def leave_before_the_head_http2(server, wanted):
    with Http2(server.http) as connection:
        stream = connection.send("GET", "/sleep/600000", ids(wanted))
        assert connection.call("GET", "/ok").status == 200
        connection.reset(stream)


def leave_before_the_head_grpc(server, wanted):
    with Http2(server.grpc) as connection:
        stream = connection.send("POST", SERVICE + "Sleep", [*GRPC, *ids(wanted)], framed(blob(b"600000")))
        assert connection.call("POST", SERVICE + "Echo", GRPC, framed(b"")).grpc_status == 0
        connection.reset(stream)


def leave_in_the_body(server, wanted):
    abandon_http1(server.http, "/stream?n=1000000&ms=1&size=1000", ids(wanted), after_bytes=3_000)


def leave_in_the_body_http2(server, wanted):
    abandon_http2(server.http, "/stream?n=1000000&ms=1&size=1000", ids(wanted), after_bytes=3_000)


def leave_in_the_body_grpc(server, wanted):
    with Grpc(server.grpc) as channel:
        call = channel.start("Stream", "n=1000000&ms=1&size=1000", ids(wanted))
        for _ in range(3):
            next(call)
        call.cancel()


def deadline_of_the_caller(server, wanted):
    with Grpc(server.grpc) as channel:
        assert channel.call("Echo").status == 0  # it is connected: what a call takes from here on is its own time
        return channel.call("Sleep", "600000", ids(wanted), timeout=0.5)


def http_answer_to_grpc(server, wanted):
    """A handler that knows no gRPC answers a gRPC call without a status."""
    return http2(server.http, "/ok", [*GRPC, *ids(wanted)])


CAUSE = "the inner service failed"
CELLS = [
    # E1: the inner service returns Err
    Cell("E1 an Err of the service, http1", get1("/err"), {"status": 500},
         {"outcome": "server_error", "status": 500, "level": "ERROR", "error": lambda text: CAUSE in text and "failed on demand" in text}),
    Cell("E1 an Err of the service, http2", get2("/err"), {"status": 500},
         {"outcome": "server_error", "status": 500, "error": lambda text: CAUSE in text and "failed on demand" in text}),
    # E4: a handler turns a typed error into a bare 5xx
    Cell("E4 a typed error behind a bare 502, http1", get1("/up/x"), {"status": 502, "body": b""},
         {"outcome": "server_error", "status": 502, "error": holds("TB_UPSTREAM is not set")}),
    Cell("E4 a typed error behind a bare 502, http2", get2("/up/x"), {"status": 502, "body": b""},
         {"outcome": "server_error", "status": 502, "error": holds("TB_UPSTREAM is not set")}),
    Cell("E4 a status with its message, grpc", rpc("Up", "/x"), {"grpc_status": 14},
         {"outcome": "server_error", "grpc_status": "UNAVAILABLE", "error": holds("TB_UPSTREAM is not set")}),
    # E5: the response's body fails after the head
    Cell("E5 a body that fails, http1 chunked", get1("/stream?n=5&ms=40&size=100&fail=err&at=3"), {"status": 200, "cut": "body"},
         {"outcome": "body_error", "status": 200, "bytes_out": 300, "level": "ERROR", "error": holds("failed on demand")}),
    Cell("E5 a body that fails, http1 with its length", get1("/stream?n=5&ms=40&size=100&fail=err&at=3&cl=1"), {"status": 200, "cut": "body"},
         {"outcome": "body_error", "status": 200, "bytes_out": 300, "error": holds("the stream failed at chunk 3")}),
    Cell("E5 a body that fails in place of its end, http1", get1("/stream?n=3&ms=40&size=100&fail=err&at=3"), {"status": 200, "cut": "body"},
         {"outcome": "body_error", "bytes_out": 300}),
    Cell("E5 a body that fails, http2", get2("/stream?n=5&ms=40&size=100&fail=err&at=3"), {"status": 200, "cut": "INTERNAL_ERROR"},
         {"outcome": "body_error", "status": 200, "bytes_out": 300, "error": holds("failed on demand")}),
    # E6: the request's body is cut, or cannot be decoded
    Cell("E6 a chunk without a length, http1", bad_chunk, {"status": 400},
         {"outcome": "request_body_error", "bytes_in": 5}),
    Cell("E6 an upload that is cut, http1", cut_upload, {},
         {"outcome": lambda value: value in ("request_body_error", "client_gone"), "bytes_in": 10}),
    Cell("E6 an upload that is reset, http2", reset_upload("POST", "/echo", [], b"ten bytes."), {},
         {"outcome": lambda value: value in ("request_body_error", "client_gone"), "bytes_in": 10}),
    Cell("E6 an upload that is reset, grpc", reset_upload("POST", SERVICE + "Upload", GRPC, framed(blob(b"ten bytes."))), {},
         {"outcome": lambda value: value in ("request_body_error", "client_gone"), "bytes_in": 17}),
    # E7, E8: the client goes away
    Cell("E7 gone before the head, http2", leave_before_the_head_http2, {}, {"outcome": "client_gone", "status": ABSENT}),
    Cell("E7 gone before the head, grpc", leave_before_the_head_grpc, {}, {"outcome": "client_gone", "status": ABSENT, "grpc_status": ABSENT}),
    Cell("E8 gone in the body, http1", leave_in_the_body, {},
         {"outcome": "client_gone_body", "status": 200, "bytes_out": lambda count: count >= 2_000}),
    Cell("E8 gone in the body, http2", leave_in_the_body_http2, {},
         {"outcome": "client_gone_body", "status": 200, "bytes_out": lambda count: count >= 3_000}),
    Cell("E8 gone in the body, grpc", leave_in_the_body_grpc, {},
         {"outcome": "client_gone_body", "status": 200, "grpc_status": ABSENT, "bytes_out": lambda count: count >= 3_000}),
    # E9: a gRPC error in the trailers, or in a trailers-only head
    Cell("E9 a caller's error, trailers-only", rpc("Sleep", "soon"), {"status": 200, "grpc_status": 3, "trailers": []},
         {"outcome": "client_error", "status": 200, "grpc_status": "INVALID_ARGUMENT"}),
    Cell("E9 a server's error, trailers-only", rpc("Up", "/x"), {"status": 200, "grpc_status": 14, "trailers": []},
         {"outcome": "server_error", "grpc_status": "UNAVAILABLE", "level": "ERROR"}),
    Cell("E9 no such method", rpc("Nothing"), {"grpc_status": 12}, {"outcome": "server_error", "grpc_status": "UNIMPLEMENTED"}),
    Cell("E9 an error in the trailers", rpc("Stream", "n=5&size=10&fail=err&at=2"), {"status": 200, "grpc_status": 13, "cut": None},
         {"outcome": "server_error", "status": 200, "grpc_status": "INTERNAL", "error": holds("failed on demand")}),
    Cell("E9 an error in the trailers, on the HTTP port", rpc("Stream", "n=5&size=10&fail=err&at=2", "http"), {"grpc_status": 13, "cut": None},
         {"outcome": "server_error", "grpc_status": "INTERNAL"}),
    Cell("E9 a caller's error, grpcio", grpcio("Sleep", "soon"), {"status": 3}, {"outcome": "client_error", "grpc_status": "INVALID_ARGUMENT"}),
    # E10: a gRPC stream that ends without a status
    Cell("E10 no status at the end", http_answer_to_grpc, {"status": 200, "grpc_status": 13},
         {"outcome": "body_error", "error": holds("missing grpc-status")}),
    # E11, E12: panics; more of them in test_panics.py
    Cell("E11 a panic in the call, http1", get1("/panic?where=call"), {"status": 500}, {"outcome": "panic", "status": 500, "level": "ERROR"}),
    Cell("E11 a panic in the future, http2", get2("/panic?where=await"), {"status": 500}, {"outcome": "panic", "status": 500}),
    Cell("E11 a panic in the future, grpc", rpc("Panic", "await"), {"status": 200, "grpc_status": 13},
         {"outcome": "panic", "grpc_status": "INTERNAL", "level": "ERROR"}),
    Cell("E12 a panic in the body, http1", get1("/stream?n=5&ms=40&size=100&fail=panic&at=3"), {"status": 200, "cut": "body"},
         {"outcome": "body_panic", "status": 200, "bytes_out": 300, "level": "ERROR"}),
    Cell("E12 a panic in the body, http2", get2("/stream?n=5&ms=40&size=100&fail=panic&at=3"), {"status": 200, "cut": "INTERNAL_ERROR"},
         {"outcome": "body_panic", "status": 200, "bytes_out": 300}),
    Cell("E12 a panic in the body, grpc", rpc("Stream", "n=5&ms=40&size=100&fail=panic&at=3"), {"status": 200, "grpc_status": 13, "cut": None},
         {"outcome": "body_panic", "grpc_status": "INTERNAL"}),
    # The caller's own deadline: it goes away, or tonic answers first (with 1); the line does not say "ok".
    Cell("E8 the caller's deadline, grpcio", deadline_of_the_caller, {"status": lambda code: code in (1, 4)},
         {"outcome": lambda value: value in ("client_gone", "deadline", "client_error")}),
]


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_the_client_and_the_line_agree(server, cell):
    wanted = new_id("cell")
    answer = cell.ask(server, wanted) or Answer()
    for name, value in cell.seen.items():
        got = getattr(answer, name)
        assert value(got) if callable(value) else got == value, (name, answer)
    line = server.access(wanted)
    for name, value in cell.line.items():
        if value is ABSENT:
            assert name not in line, line
        elif callable(value):
            assert name in line and value(line[name]), (name, line)
        else:
            assert line.get(name) == value, (name, line)
    # L5: the client never sees better than what happened.
    if line["outcome"] != "ok" and answer.status is not None:
        better = answer.cut is None and answer.status in (200, 201, 202, 204) and answer.grpc_status in (None, 0)
        assert not better, (answer, line)
    if line["outcome"] == "ok":
        assert answer.cut is None
    # One line per call, also when several things went wrong.
    after = new_id()
    http1(server.http, "/ok", ids(after))
    server.access(after)
    assert len(server.accesses(wanted)) == 1


def test_a_client_of_http1_that_goes_before_the_head_is_told(start):
    """E7. That the call has reached an upstream shows that it had begun."""
    with Hanging() as upstream:
        server = start(TB_UPSTREAM=upstream.url)
        for reset in (False, True):
            wanted = new_id("gone")
            with connect(server.http) as sock:
                sock.sendall(head("GET", f"/up/{wanted}", ids(wanted)))
                assert upstream.next_path() == f"/{wanted}"
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line = server.access(wanted)
            assert line["outcome"] == "client_gone" and "status" not in line, line
            assert len(server.accesses(wanted)) == 1


def test_a_task_that_dies_is_told_with_its_cause(server):
    """E13"""
    http1(server.http, "/panic?where=spawn")
    died = server.wait(lambda lines: next((line for line in lines if line.get("event") == "task_died"), None), "of the task")
    assert "a panic on demand" in str(died) and died["level"] == "ERROR", died
    assert http1(server.http, "/ok").status == 200


def test_admin_answers_and_says_only_its_status(server):
    for path in ("/livez", "/readyz"):
        answer = http1(server.admin, path)
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
