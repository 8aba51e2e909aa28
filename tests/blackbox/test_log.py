"""R5, R6, R10: no line can be forged, no secret is written, no last line is lost.

That each line is one JSON object without control bytes or repeated keys is checked in server.py, for every test.
"""

import random
import signal
import socket

import pytest
from clients import SERVICE, Grpc, Http2, connect, curl, head, http1, http2, new_id, quoted, raw_grpc, read_answer
from server import LONG, Server

HOSTILE = {
    "a newline and a forged line": b'x\n{"level":"ERROR","event":"request","request_id":"forged"}',
    "a carriage return": b"x\r\nforged: 1",
    "quotes and a closing brace": b'"},"forged":"1',
    "a backslash at the end": b"x\\",
    "escapes for a terminal": b"\x1b]0;forged\x07\x1b[2J\x1b[31m",
    "C1 as UTF-8": b"\xc2\x9b31m\xc2\x85",
    "NUL and DEL": b"\0\x7f\x08",
    "bytes that are not UTF-8": b"\x80\xff\xc3\x28\xed\xa0\x80",
    "letters beyond the first plane": "😀𝔭\u2028\u2029\u202e\ufeff".encode(),
    "JSON's own escapes": b"\\u0000\\n\\\"",
    "20 000 bytes": b"y" * 20_000,
}
BROKEN_CLIENTS_GET = (None, 400, 404, 414, 431)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_path_and_hostile_headers_forge_no_line(server, what):
    raw, encoded = HOSTILE[what], quoted(HOSTILE[what]).encode()
    wanted = new_id()
    ids = [("x-request-id", wanted)]
    for path in (b"/items/" + encoded, b"/nowhere/" + encoded, b"/ok?q=" + encoded, b"/ok?" + encoded):
        http1(server.http, path, ids)
        http2(server.http, path, ids)
    for name in ("user-agent", "referer", "content-type", "traceparent", "x-forwarded-for", "host"):
        for ask in (http1, http2):
            with_raw = ask(server.http, "/ok", [*ids, (name, raw)])
            assert with_raw.status in (200, *BROKEN_CLIENTS_GET), with_raw
    # As they are: the HTTP library takes some of these bytes, and refuses the others.
    http1(server.http, b"/items/" + raw, ids)
    http2(server.http, b"/items/" + raw, ids)
    raw_grpc(server.grpc, "Echo", raw, [*ids, ("hostile", raw), ("hostile-bin", raw)])
    raw_grpc(server.grpc, f"/{encoded.decode()}/x", raw, ids)
    raw_grpc(server.grpc, "Sleep", raw, ids)
    raw_grpc(server.grpc, "Stream", raw, ids)
    last = new_id()
    http1(server.http, "/ok", [("x-request-id", last)])
    server.access(last)
    assert not server.faults, server.faults[:3]
    assert not [line for line in server.lines if line.get("request_id") == "forged" or "forged" in line]


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_of_a_panic_forges_no_line(server, what):
    encoded = quoted(HOSTILE[what])
    for kind in ("str", "string"):
        wanted = new_id()
        http1(server.http, f"/panic?where=await&kind={kind}&msg={encoded}", [("x-request-id", wanted)])
        line = server.access(wanted)
        if line["status"] == 500:
            server.wait_line("the panic", event="panic", request_id=wanted)
    raw_grpc(server.grpc, "Panic", f"await&msg={encoded}")
    assert not server.faults, server.faults[:3]


def test_random_bytes_forge_no_line(server):
    """Seeded, so that a failure can be repeated."""
    chance = random.Random(20_260_101)
    calls = 20_000 if LONG else 1_500

    def noise(most):
        return bytes(chance.choice((chance.randrange(256), chance.randrange(128, 256), 34, 92, 10, 27)) for _ in range(chance.randrange(most)))

    connection = Http2(server.http)
    for number in range(calls):
        headers = [("user-agent", noise(60)), ("referer", noise(60))]
        path = b"/items/" + (noise(40) if number % 2 else quoted(noise(40)).encode())
        if number % 2:
            http1(server.http, path, headers)
        else:
            answer = connection.call("GET", path, headers)
            if connection.gone or answer.cut:
                connection.sock.close()
                connection = Http2(server.http)
    connection.sock.close()
    last = new_id()
    http1(server.http, "/ok", [("x-request-id", last)])
    server.access(last)
    assert not server.faults, server.faults[:3]
    assert len(server.accesses()) > calls / 20, "most of these calls are refused by the HTTP library, not all"


def test_no_line_is_over_16_kib_and_a_cut_line_says_so(server):
    wanted = new_id()
    answer = http1(server.http, "/items/" + "z" * 60_000, [("x-request-id", wanted)])
    assert answer.status in (200, 400, 414, 431)
    if answer.status == 200:
        assert server.access(wanted)["truncated"] is True
    assert not server.faults


def test_secrets_are_never_written(server):
    """Each kind of secret has a canary of its own; the log is searched for all."""
    canaries = {}

    def canary(what):
        return canaries.setdefault(what, f"CANARY{len(canaries):02d}x9f")

    last = new_id()
    for ask in (http1, http2):
        for path in ("/ok", "/nowhere", "/err", "/panic?where=await", "/stream?n=2&fail=err", "/stream?n=2&fail=panic"):
            between = "&" if "?" in path else "?"
            ask(server.http, path, [
                ("authorization", f"Bearer {canary('authorization')}"),
                ("proxy-authorization", f"Basic {canary('proxy')}"),
                ("cookie", f"session={canary('cookie')}"),
            ])
            if "panic?" not in path and "stream?" not in path:
                ask(server.http, f"{path}{between}token={canary('query')}&plain={canary('plain query')}")
                ask(server.http, f"{path}{between}{canary('a query without a value')}")
        quoting = {
            "a query in a panic": "GET /pay?card={} failed",
            "a header in a panic": "authorization: Bearer {}",
            "a cookie in a panic": "cookie: session={}",
            "a URL's password in a panic": "cannot reach http://user:{}@db/",
        }
        for what, text in quoting.items():
            ask(server.http, f"/panic?where=await&msg={quoted(text.format(canary(what)))}")
        ask(server.http, f"/stream?n={canary('a bad parameter')}")
    for path in ("Echo", "Panic", "Nothing"):
        raw_grpc(server.grpc, path, "await", [("authorization", f"Bearer {canary('grpc authorization')}"), ("cookie", canary("grpc cookie"))])
    http1(server.http, "/ok", [("x-request-id", last)])
    server.access(last)
    written = b"\n".join(server.raw).decode()
    assert [what for what, text in canaries.items() if text in written] == []


def test_the_path_is_written_with_the_names_of_its_query_only(server):
    wanted = new_id()
    http1(server.http, "/stream?n=1&size=3", [("x-request-id", wanted)])
    path = server.access(wanted)["path"]
    assert path.startswith("/stream") and "n=1" not in path and "size=3" not in path


def test_curl_sees_what_the_line_says_over_each_version(server):
    for version, protocol in (("--http1.1", "http/1.1"), ("--http2-prior-knowledge", "http/2")):
        wanted = new_id()
        answer = curl(server.http, "/echo", version, "--header", f"x-request-id: {wanted}", "--data", "twelve bytes")
        assert (answer.status, answer.body) == (200, b"twelve bytes")
        line = server.access(wanted)
        expected = {"protocol": protocol, "method": "POST", "path": "/echo", "route": "/echo", "status": 200, "outcome": "ok",
                    "bytes_in": 12, "bytes_out": 12, "level": "INFO", "target": "plimsoll::access"}
        assert {name: line.get(name) for name in expected} == expected
        assert 0 <= line["ttfb_ms"] <= line["duration_ms"] < 20_000
        assert line["user_agent"].startswith("curl/") and line["client"].startswith("127.0.0.1")


def test_grpcio_sees_what_the_line_says(server):
    wanted = new_id()
    with Grpc(server.grpc) as channel:
        answer = channel.call("Echo", "twelve bytes", [("x-request-id", wanted)])
    assert (answer.status, answer.body) == (0, b"twelve bytes")
    line = server.access(wanted)
    expected = {"protocol": "grpc", "method": "POST", "path": SERVICE + "Echo", "status": 200, "grpc_status": "OK", "outcome": "ok",
                "bytes_in": 19, "bytes_out": 19}
    assert {name: line.get(name) for name in expected} == expected
    assert line["user_agent"].startswith("grpc-python")


@pytest.mark.parametrize("number", range(20))
def test_the_last_line_is_written_at_sigterm(start, tmp_path, number):
    log = tmp_path / "log"
    server = start(TB_LOG=str(log))
    finished, cut = new_id(), new_id()
    with Http2(server.http) as connection:
        stream = connection.send("GET", "/stream?n=1000000&ms=10", [("x-request-id", cut)])
        connection.read_until(lambda: connection.answers[stream].body)
        answer = http1(server.http, "/ok", [("x-request-id", finished)])
        assert answer.status == 200
        connection.reset(stream)
    server.stop(signal.SIGINT if number % 4 == 3 else signal.SIGTERM)
    raw = log.read_bytes()
    assert raw.endswith(b"\n")
    server.take(raw.splitlines())
    assert [len(server.accesses(wanted)) for wanted in (finished, cut)] == [1, 1]
    assert any("drained" in str(line) for line in server.lines), "the program's own last words"


@pytest.mark.parametrize("setting,value,named", [
    ("TB_HTPP", "127.0.0.1:0", "TB_HTPP"),
    ("TB_HTTP", "nowhere", "TB_HTTP"),
    ("TB_DRAIN_MS", "soon", "TB_DRAIN_MS"),
])
def test_a_setting_that_is_wrong_ends_the_program_with_2_and_is_named(tmp_path, setting, value, named):
    server = Server(tmp_path, **{setting: value})
    with pytest.raises(AssertionError, match=named):
        server.__enter__()
    assert server.process.returncode == 2


def test_logs_of_half_requests_and_of_noise_are_whole(server):
    """What never becomes a call leaves no broken line."""
    for data in (b"\x16\x03\x01\x02\x00\x01", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50):
        for address in (server.http, server.grpc):
            with connect(address) as sock:
                sock.sendall(data)
                try:
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):
                        pass
                except OSError:
                    continue  # the server has ended the connection first
    last = new_id()
    with connect(server.http) as sock:
        sock.sendall(head("GET", "/ok", [("x-request-id", last)]))
        assert read_answer(sock).status == 200
    server.access(last)
    assert not server.faults
