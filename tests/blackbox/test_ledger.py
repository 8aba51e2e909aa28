"""R8, L2: exactly one access line per call, with the outcome that the call had, under a mixed load."""

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc as grpcio
from clients import GRPC, SERVICE, Grpc, Hanging, Http2, KeptOpen, blob, connect, framed, head, new_id, read_answer
from scrape import balanced, scrape
from server import LONG

SCALE = 10 if LONG else 1


class Ledger:
    """What was sent, by id: the outcomes that its line may have."""

    def __init__(self):
        self.sent = {}
        self.lock = threading.Lock()

    def enter(self, *outcomes):
        wanted = new_id("book")
        with self.lock:
            self.sent[wanted] = set(outcomes)
        return wanted


HTTP = [
    ("GET", "/ok", None, "ok", 200),
    ("GET", "/items/12", None, "ok", 200),
    ("POST", "/echo", b"some bytes", "ok", 200),
    ("GET", "/stream?n=5&size=2000", None, "ok", 200),
    ("GET", "/stream?n=5&size=2000&cl=1", None, "ok", 200),
    ("GET", "/nowhere", None, "client_error", 404),
    ("DELETE", "/ok", None, "client_error", 405),
    ("GET", "/stream?n=many", None, "client_error", 400),
    ("GET", "/err", None, "server_error", 500),
    ("GET", "/panic?where=call", None, "panic", 500),
    ("GET", "/panic?where=await", None, "panic", 500),
    ("GET", "/panic?where=drop", None, "panic", 500),
    ("GET", "/stream?n=5&fail=err&at=2", None, "body_error", 200),
    ("GET", "/stream?n=5&fail=panic&at=2", None, "body_panic", 200),
]
RPC = [
    ("Echo", b"some bytes", "ok", 0),
    ("Stream", b"n=5&size=2000", "ok", 0),
    ("Sleep", b"soon", "client_error", 3),
    ("Nothing", b"", "server_error", 12),
    ("Up", b"no path", "server_error", 14),
    ("Panic", b"call", "panic", 13),
    ("Panic", b"await", "panic", 13),
    ("Stream", b"n=5&fail=err&at=2", "server_error", 13),
    ("Stream", b"n=5&fail=panic&at=2", "body_panic", 13),
]


def over_http1(server, ledger, rounds):
    """Connections are kept while they can be."""
    sock = connect(server.http)
    for _ in range(rounds):
        for method, path, body, outcome, status in HTTP:
            headers = [("x-request-id", ledger.enter(outcome))]
            if body is not None:
                headers.append(("content-length", str(len(body))))
            sock.sendall(head(method, path, headers) + (body or b""))
            answer = read_answer(sock, method)
            # A body that fails at once takes its head with it: the HTTP library had not sent it yet.
            assert answer.status == status or answer.cut == "head" and outcome.startswith("body"), (path, answer)
            if answer.cut or outcome in ("body_error", "body_panic"):
                sock.close()
                sock = connect(server.http)
    sock.close()


def over_http2(server, ledger, rounds):
    with Http2(server.http) as connection:
        for _ in range(rounds):
            begun = []
            for method, path, body, outcome, status in HTTP:
                stream = connection.send(method, path, [("x-request-id", ledger.enter(outcome))], body)
                begun.append((stream, path, outcome, status))
            for stream, path, outcome, status in begun:
                answer = connection.answer(stream)
                assert answer.status == status or answer.cut == "INTERNAL_ERROR" and outcome.startswith("body"), (path, answer)


def over_grpc(server, address, ledger, rounds):
    with Grpc(address) as channel:
        for _ in range(rounds):
            for method, data, outcome, code in RPC:
                answer = channel.call(method, data, [("x-request-id", ledger.enter(outcome))])
                assert answer.status == code, (method, data, answer)


def cancel_http1(server, upstream, ledger, rounds):
    for number in range(rounds):
        with connect(server.http) as sock:
            sock.sendall(head("GET", "/up/on", [("x-request-id", ledger.enter("client_gone"))]))
            upstream.next_path()  # the call is under way
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes with a reset
        with connect(server.http) as sock:
            sock.sendall(head("GET", "/stream?n=1000000&ms=1", [("x-request-id", ledger.enter("client_gone_body"))]))
            while b"xxxx" not in sock.recv(65536):
                pass


def cancel_http2(address, ledger, rounds, kind, sleep, stream):
    """Frames are handled in order: the answer to a later call shows that the earlier one had begun. What it was sent it may
    not have read by then: that can fail first, if there is anything."""
    gone = ("client_gone", "request_body_error") if sleep[2] else ("client_gone",)
    with Http2(address) as connection:
        for number in range(rounds):
            begun = connection.send(*sleep[:2], [*kind, ("x-request-id", ledger.enter(*gone))], sleep[2])
            after = connection.send(*stream[:2], [*kind, ("x-request-id", ledger.enter("client_gone_body"))], stream[2])
            connection.read_until(lambda: connection.answers[after].body)
            connection.reset(begun)
            connection.reset(after)
    # The connection goes away under calls that are under way.
    with Http2(address) as connection:
        for _ in range(10):
            connection.send(*sleep[:2], [*kind, ("x-request-id", ledger.enter(*gone))], sleep[2])
        after = connection.send(*stream[:2], [*kind, ("x-request-id", ledger.enter("client_gone_body"))], stream[2])
        connection.read_until(lambda: connection.answers[after].body)


def cancel_grpcio(address, ledger, rounds):
    with Grpc(address) as channel:
        for _ in range(rounds):
            call = channel.start("Stream", "n=1000000&ms=1", [("x-request-id", ledger.enter("client_gone_body"))])
            next(call)
            call.cancel()
            assert call.code() is grpcio.StatusCode.CANCELLED


def test_each_call_has_one_line_with_its_outcome(start):
    with Hanging() as upstream:
        each_call_has_one_line(start(TB_UPSTREAM=upstream.url), upstream)


def each_call_has_one_line(server, upstream):
    ledger = Ledger()
    rounds = 40 * SCALE
    get_sleep = ("GET", "/sleep/600000", None)
    get_stream = ("GET", "/stream?n=1000000&ms=1", None)
    rpc_sleep = ("POST", SERVICE + "Sleep", framed(blob(b"600000")))
    rpc_stream = ("POST", SERVICE + "Stream", framed(blob(b"n=1000000&ms=1")))
    jobs = [
        partial(over_http1, server, ledger, rounds),
        partial(over_http1, server, ledger, rounds),
        partial(over_http2, server, ledger, rounds * 2),
        partial(over_grpc, server, server.grpc, ledger, rounds),
        partial(over_grpc, server, server.http, ledger, rounds),
        partial(cancel_http1, server, upstream, ledger, rounds * 2),
        partial(cancel_http2, server.http, ledger, rounds * 2, (), get_sleep, get_stream),
        partial(cancel_http2, server.grpc, ledger, rounds * 2, GRPC, rpc_sleep, rpc_stream),
        partial(cancel_http2, server.http, ledger, rounds * 2, GRPC, rpc_sleep, rpc_stream),
        partial(cancel_grpcio, server.grpc, ledger, rounds),
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()
    assert len(ledger.sent) > 3_000
    server.wait(lambda _: len({line["request_id"] for line in server.accesses()}) >= len(ledger.sent), "every call")
    told = scrape(server)
    server.stop()
    lines = Counter(line["request_id"] for line in server.accesses())
    assert lines == Counter(dict.fromkeys(ledger.sent, 1)), "a call without a line, with two, or a line without a call"
    wrong = [line for line in server.accesses() if line["outcome"] not in ledger.sent[line["request_id"]]]
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
    of_line = {line["request_id"]: line["outcome"] for line in server.accesses()}
    expected = Counter(of_line[wanted] if len(outcomes) > 1 else min(outcomes) for wanted, outcomes in ledger.sent.items())
    assert Counter(line["outcome"] for line in server.accesses()) == expected
    balanced(told)
    assert told.by("plimsoll_requests_total", "outcome") == expected, "L2: lines and counts, by outcome"
    assert told.sum("plimsoll_requests_in_flight") == 0


def test_pipelined_calls_have_a_line_each(server):
    ids = [new_id("pipe") for _ in range(50)]
    with connect(server.http) as sock:
        sock.sendall(b"".join(head("GET", f"/items/{wanted}", [("x-request-id", wanted)]) for wanted in ids))
        answers = KeptOpen(sock)
        for wanted in ids:
            assert read_answer(answers).request_id == wanted
    for wanted in ids:
        server.access(wanted)
    assert all(len(server.accesses(wanted)) == 1 for wanted in ids)
