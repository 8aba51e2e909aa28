"""R1, R2, R4: an id that is safe, on every answer, and on every call that goes on from here."""

import http.server
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from clients import GRPC, Grpc, Http2, blob, curl, framed, http1, http2, new_id, raw_grpc
from server import LONG

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

# What happens to an id: it is kept, a fresh one takes its place, or the HTTP library refuses the whole request.
KEPT, FRESH, REFUSED = "kept", "fresh", "refused"

# (what, the values of x-request-id, what becomes of it over HTTP/1, over HTTP/2). Each hostile value has a mark, `zq`
# and two digits, by which the log is searched for it.
IDS = [
    ("one letter", [b"a"], KEPT, KEPT),
    ("digits", [b"0123456789"], KEPT, KEPT),
    ("a UUID", [b"0b6a1f0e-6d5c-4b6e-9b0a-0f1e2d3c4b5a"], KEPT, KEPT),
    ("upper case", [b"ABC-DEF"], KEPT, KEPT),
    ("all that is allowed", [b"a.b_c-D9"], KEPT, KEPT),
    ("dots alone", [b"..."], KEPT, KEPT),
    ("128 bytes", [b"k" * 128], KEPT, KEPT),
    ("blanks around it, which HTTP/1 takes off", [b"  blanks  "], KEPT, FRESH),
    ("129 bytes", [b"zq02" + b"k" * 125], FRESH, FRESH),
    ("5 000 bytes", [b"zq03" + b"k" * 4996], FRESH, FRESH),
    ("14 000 bytes", [b"zq04" + b"k" * 13996], FRESH, FRESH),
    ("nothing", [b""], FRESH, FRESH),
    ("a blank inside", [b"zq05 b"], FRESH, FRESH),
    ("a tab inside", [b"zq06\tb"], FRESH, FRESH),
    ("a quote", [b'zq07"b'], FRESH, FRESH),
    ("a backslash", [b"zq08\\b"], FRESH, FRESH),
    ("JSON that closes the line", [b'zq09","level":"ERROR","x":"'], FRESH, FRESH),
    ("an escaped newline", [b"zq10\\n{}"], FRESH, FRESH),
    ("percent-encoded newline", [b"zq11%0a%0d"], FRESH, FRESH),
    ("a slash", [b"zq12/b"], FRESH, FRESH),
    ("a path upwards", [b"../../zq13/etc"], FRESH, FRESH),
    ("a comma", [b"zq14,b"], FRESH, FRESH),
    ("a semicolon", [b"zq15;b"], FRESH, FRESH),
    ("an equals sign", [b"zq16=b"], FRESH, FRESH),
    ("a colon", [b"zq17:b"], FRESH, FRESH),
    ("an at sign", [b"zq18@b"], FRESH, FRESH),
    ("a plus", [b"zq19+b"], FRESH, FRESH),
    ("HTML", [b"<zq20>"], FRESH, FRESH),
    ("a shell command", [b"$(zq21)"], FRESH, FRESH),
    ("a template", [b"${jndi:zq22}"], FRESH, FRESH),
    ("UTF-8", "zq23é".encode(), FRESH, FRESH),
    ("C1 as UTF-8", b"zq24\xc2\x9b31m", FRESH, FRESH),
    ("bytes that are not UTF-8", b"zq25\x80\xff", FRESH, FRESH),
    ("half of a UTF-8 letter", b"zq26\xc3", FRESH, FRESH),
    ("a line separator", "zq27\u2028b".encode(), FRESH, FRESH),
    ("text that runs backwards", "zq28\u202eb".encode(), FRESH, FRESH),
    ("two values", [b"zq29", b"zq30"], FRESH, FRESH),
    ("the same value twice", [b"zq31", b"zq31"], FRESH, FRESH),
    ("a good and an empty value", [b"zq32", b""], FRESH, FRESH),
    ("an escape", [b"zq33\x1b[31m"], REFUSED, REFUSED),
    ("a NUL", [b"zq34\0"], REFUSED, REFUSED),
    ("a DEL", [b"zq35\x7f"], REFUSED, REFUSED),
]
IDS = [(what, values if isinstance(values, list) else [values], *rest) for what, values, *rest in IDS]


def ask_http1(server, headers):
    return http1(server.http, "/ok", headers)


def ask_http2(server, headers):
    return http2(server.http, "/ok", headers)


def ask_grpc(server, headers):
    return raw_grpc(server.grpc, "Echo", b"x", headers)


def ask_grpc_on_the_http_port(server, headers):
    return raw_grpc(server.http, "Echo", b"x", headers)


ASK = {"http1": ask_http1, "http2": ask_http2, "grpc": ask_grpc, "grpc_on_the_http_port": ask_grpc_on_the_http_port}


@pytest.mark.parametrize("protocol", ASK)
@pytest.mark.parametrize("what,values,over_http1,over_http2", IDS, ids=[row[0] for row in IDS])
def test_an_id_from_outside_is_kept_if_it_is_safe_and_otherwise_neither_echoed_nor_logged(
    server, protocol, what, values, over_http1, over_http2
):
    fate = over_http1 if protocol == "http1" else over_http2
    mark = b"".join(re.findall(rb"zq\d\d", b"".join(values))[:1])
    answer = ASK[protocol](server, [("x-request-id", value) for value in values])
    if fate is REFUSED:
        assert answer.status in (None, 400), answer
        assert not mark or all(mark not in line for line in server.raw)
        return
    kept = values[0].strip().decode("latin-1")
    if fate is KEPT:
        assert answer.request_id == kept
    else:
        assert UUID4.fullmatch(answer.request_id), answer.request_id
    line = server.access(answer.request_id)
    assert line.get("request_id_replaced", False) is (fate is FRESH), line
    if fate is FRESH and mark:
        everything = repr(answer).encode() + b"".join(server.raw)
        assert mark not in everything


def test_a_call_without_an_id_gets_a_fresh_one_that_replaces_nothing(server):
    for ask in ASK.values():
        answer = ask(server, [])
        assert UUID4.fullmatch(answer.request_id)
        assert "request_id_replaced" not in server.access(answer.request_id)


def test_the_second_header_counts_where_the_first_is_missing(server):
    for ask in ASK.values():
        wanted = new_id("correlation")
        assert ask(server, [("x-correlation-id", wanted)]).request_id == wanted
        assert "request_id_replaced" not in server.access(wanted)


def test_the_first_header_wins_over_the_second(server):
    for ask in ASK.values():
        wanted = new_id("first")
        assert ask(server, [("x-correlation-id", "second"), ("x-request-id", wanted)]).request_id == wanted


HTTP_ENDS = [
    ("ok", "GET", "/ok", 200, "ok"),
    ("a head without a body", "HEAD", "/ok", 200, "ok"),
    ("a path parameter", "GET", "/items/7", 200, "ok"),
    ("a streamed body", "GET", "/stream?n=3", 200, "ok"),
    ("no such route", "GET", "/nowhere", 404, "client_error"),
    ("wrong method", "DELETE", "/ok", 405, "client_error"),
    ("a bad query", "GET", "/stream?n=x", 400, "client_error"),
    ("a bad parameter", "GET", "/sleep/soon", 400, "client_error"),
    ("an error of the service", "GET", "/err", 500, "server_error"),
    ("a panic in the call", "GET", "/panic?where=call", 500, "panic"),
    ("a panic later on", "GET", "/panic?where=await", 500, "panic"),
    ("a panic in a drop", "GET", "/panic?where=drop", 500, "panic"),
]


@pytest.mark.parametrize("client", ["http1", "http2", "curl_http1", "curl_http2"])
@pytest.mark.parametrize("what,method,path,status,outcome", HTTP_ENDS, ids=[row[0] for row in HTTP_ENDS])
def test_every_answer_bears_the_id_of_its_access_line(server, client, what, method, path, status, outcome):
    wanted = new_id()
    headers = [("x-request-id", wanted)]
    if client.startswith("curl"):
        options = ["--head"] if method == "HEAD" else ["--request", method]
        version = "--http1.1" if client == "curl_http1" else "--http2-prior-knowledge"
        answer = curl(server.http, path, *options, version, "--header", f"x-request-id: {wanted}")
    else:
        answer = {"http1": http1, "http2": http2}[client](server.http, path, headers, method)
    assert (answer.status, answer.request_id) == (status, wanted)
    line = server.access(wanted)
    assert (line["status"], line["outcome"], line["method"]) == (status, outcome, method)
    assert line["protocol"] == ("http/1.1" if "http1" in client else "http/2")


GRPC_ENDS = [
    ("ok", "Echo", b"x", 0, "ok"),
    ("a stream", "Stream", b"n=3", 0, "ok"),
    ("bad data", "Sleep", b"soon", 3, "client_error"),
    ("no such method", "Nothing", b"", 12, "server_error"),
    ("no such service", "/nowhere.v1.Nothing/At", b"", 12, "server_error"),
    ("an error after the head", "Stream", b"n=3&fail=err&at=2", 13, "server_error"),
    ("a panic in the call", "Panic", b"call", 13, "panic"),
    ("a panic later on", "Panic", b"await", 13, "panic"),
    ("a panic in a drop", "Panic", b"drop", 13, "panic"),
]


@pytest.mark.parametrize("port", ["grpc", "http"])
@pytest.mark.parametrize("client", ["raw", "grpcio"])
@pytest.mark.parametrize("what,method,data,code,outcome", GRPC_ENDS, ids=[row[0] for row in GRPC_ENDS])
def test_every_grpc_answer_bears_the_id_of_its_access_line(server, port, client, what, method, data, code, outcome):
    wanted = new_id()
    headers = [("x-request-id", wanted)]
    address = getattr(server, port)
    if client == "raw":
        answer = raw_grpc(address, method, data, headers)
        assert (answer.status, answer.grpc_status, answer.cut) == (200, code, None)
        assert answer.request_id == wanted
    else:
        with Grpc(address) as channel:
            answer = channel.call(method, data, headers)
        assert answer.status == code, answer
        # grpcio shows the head of a trailers-only answer as its trailers.
        assert [value for key, value in answer.headers + answer.trailers if key == "x-request-id"] == [wanted]
    line = server.access(wanted)
    assert (line["protocol"], line["outcome"], line["status"]) == ("grpc", outcome, 200)


class Upstream(http.server.BaseHTTPRequestHandler):
    """Records the headers of what it is asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, [(name.lower(), value) for name, value in self.headers.items()]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"up")

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def upstream():
    class Listener(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    with Listener(("127.0.0.1", 0), Upstream) as stub:
        stub.seen = []
        serving = threading.Thread(target=stub.serve_forever, daemon=True)
        serving.start()
        yield stub
        stub.shutdown()
        serving.join()


def test_the_id_and_the_trace_go_upstream_once(start, upstream):
    server = start(TB_UPSTREAM=f"http://127.0.0.1:{upstream.server_address[1]}")
    calls = 1000 if LONG else 240

    def one(number):
        wanted = f"up-{number}"
        trace = f"00-{number + 1:032x}-{number + 1:016x}-0{number % 2}"
        headers = [("x-request-id", wanted), ("traceparent", trace), ("tracestate", f"a={number},b=2")]
        if number % 3 == 0:
            answer = http1(server.http, f"/up/{number}", headers)
        elif number % 3 == 1:
            answer = http2(server.http, f"/up/{number}", headers)
        else:
            answer = raw_grpc(server.grpc, "Up", f"/{number}", headers)
            assert answer.grpc_status == 0, answer
        assert (answer.status, answer.request_id) == (200, wanted)
        return f"/{number}", wanted, trace, f"a={number},b=2"

    with ThreadPoolExecutor(8) as pool:
        sent = {path: rest for path, *rest in pool.map(one, range(calls))}
    seen = {path: headers for path, headers in upstream.seen}
    assert len(upstream.seen) == calls and seen.keys() == sent.keys()
    for path, (wanted, trace, state) in sent.items():
        for name, value in (("x-request-id", wanted), ("tracestate", state)):
            assert [got for key, got in seen[path] if key == name] == [value], (path, name)
        # The testbed is part of the trace: what goes upstream is a span of its own, in the caller's trace.
        [parent] = [got for key, got in seen[path] if key == "traceparent"]
        version, trace_id, span_id, _flags = parent.split("-")
        assert (version, trace_id) == ("00", trace.split("-")[1]), path
        assert len(span_id) == 16 and span_id != trace.split("-")[2], path


def test_a_fresh_id_goes_upstream_in_place_of_a_hostile_one(start, upstream):
    server = start(TB_UPSTREAM=f"http://127.0.0.1:{upstream.server_address[1]}")
    answer = http1(server.http, "/up/x", [("x-request-id", "zq99 \"b"), ("traceparent", "00-nonsense-01")])
    [(_, headers)] = upstream.seen
    assert [value for name, value in headers if name == "x-request-id"] == [answer.request_id]
    [parent] = [value for name, value in headers if name == "traceparent"]
    assert "nonsense" not in parent and len(parent) == 55
    assert "zq99" not in repr(headers) and all(b"zq99" not in line for line in server.raw)


def test_ids_that_are_made_are_never_the_same(server):
    count = 20_000 if LONG else 2_000
    made = Counter()
    with Http2(server.http) as connection:
        for _ in range(count // 100):
            streams = [connection.send("GET", "/ok") for _ in range(100)]
            made.update(connection.answer(stream).request_id for stream in streams)
    assert len(made) == count


def test_the_line_names_the_trace_of_the_call(server):
    wanted = new_id()
    body = framed(blob(b"x"))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    http2(server.grpc, "/plimsoll.testbed.v1.Testbed/Echo", [*GRPC, ("x-request-id", wanted), ("traceparent", trace)], "POST", body)
    line = server.access(wanted)
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    # The span of this call, not the caller's.
    assert len(line["span_id"]) == 16 and line["span_id"] != "b7ad6b7169203331"
