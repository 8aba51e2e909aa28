"""R42-R46, R74, R92, E25, E26: what comes before and around a call, and the end of a server."""

import os
import resource
import signal
import socket
import time
from pathlib import Path

import pytest
from clients import Grpc, Http2, connect, head, http1, new_id, read_answer
from programs import asked_until
from scrape import Scrape, text
from server import PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
HALVES = {
    "nothing": b"",
    "a request line": b"GET /ok HTTP/1.1\r\n",
    "half a preface": PREFACE[:14],
    "half settings": PREFACE + SETTINGS[:5],
    "headers without end": PREFACE + SETTINGS + b"\0\0\x01\x01\0\0\0\0\x01\x82",
}


def until_closed(sock):
    """All that comes until the peer closes, or resets."""
    came = b""
    try:
        while chunk := sock.recv(65536):
            came += chunk
    except ConnectionResetError:
        pass
    return came


def closed(server, reason):
    return Scrape(text(server)).sum("plimsoll_connections_closed_total", reason=reason)


def wait_closed(server, reason, count):
    assert asked_until(lambda: (now := closed(server, reason)) >= count and now, f"{count} are closed: {reason}") == count


def under_way(server, count):
    """So many calls are."""
    asked_until(lambda: Scrape(text(server)).sum("plimsoll_requests_in_flight") == count, f"{count} calls are under way")


@pytest.mark.parametrize("listener", ["http", "grpc"])
def test_half_a_head_is_closed_in_time_counted_and_said(start, listener):
    server = start(TB_HEADER_MS=300)
    began = time.monotonic()
    socks = [connect(getattr(server, listener)) for _ in HALVES]
    for sock, half in zip(socks, HALVES.values()):
        sock.sendall(half)
    for sock in socks:
        until_closed(sock)
        sock.close()
    assert 0.3 <= time.monotonic() - began < 5, "half of what it is without the setting"
    wait_closed(server, "head_timeout", len(HALVES))
    line = server.wait_line("a line", event="conn_closed", reason="head_timeout")
    assert line["level"] == "WARN" and line["peer"].startswith("127.0.0.1:")
    assert http1(server.http, "/ok").status == 200


def test_a_reader_that_takes_nothing_is_closed_and_its_call_ends(start):
    server = start(TB_WRITE_MS=300)
    wanted = new_id()
    with connect(server.http) as sock:
        sock.sendall(head("GET", "/stream?n=100000&ms=0&size=65536", [("x-request-id", wanted)]))
        line = server.access(wanted)
        assert line["outcome"] == "client_gone_body"
    wait_closed(server, "write_stalled", 1)


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


GET = b"\x82\x86\x84\x41\x01a"
FLOODS = {
    "too_many_resets": (b"", lambda n: frame(1, 5, 2 * n + 1, GET) + frame(3, 0, 2 * n + 1, b"\0\0\0\x08")),
    "too_many_continuations": (frame(1, 1, 1, GET), lambda n: frame(9, 0, 1, b"\x40\x01a\x01b")),
    "too_many_data_frames": (frame(1, 4, 1, b"\x83\x86\x44\x05/echo\x41\x01a"), lambda n: frame(0, 0, 1, b"")),
}


@pytest.mark.parametrize("reason", FLOODS)
def test_a_flood_is_cut_off_with_its_reason_and_others_are_served(start, reason):
    server = start()
    begin, again = FLOODS[reason]
    before = resident(server)
    with connect(server.http) as sock, Http2(server.http) as other:
        sock.sendall(PREFACE + SETTINGS + begin)
        sock.setblocking(False)
        sent = 0
        came = b""
        while sent < 200_000:
            chunk = b"".join(again(n) for n in range(sent, sent + 100))
            try:
                sock.setblocking(True)
                sock.sendall(chunk)
            except (BrokenPipeError, ConnectionResetError):
                break
            sent += 100
            if sent % 1_000 == 0:
                assert other.call("GET", "/ok").status == 200
        assert sent < 200_000, "it was never cut off"
        assert came == b""
    wait_closed(server, reason, 1)
    line = server.wait_line("a line", event="conn_closed", reason=reason)
    assert line["level"] == "WARN" and line["connections"] == 1 and line["error"]
    assert resident(server) - before <= 32


def resident(server):
    """MiB"""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


UNANSWERED = {"pings": frame(6, 0, 0, bytes(8)), "settings": SETTINGS}


@pytest.mark.parametrize("flood", UNANSWERED)
def test_who_takes_no_answers_is_closed_and_costs_no_memory(start, flood):
    server = start(TB_WRITE_MS=300)
    before = resident(server)
    with connect(server.http) as sock, Http2(server.http) as other:
        sock.sendall(PREFACE + SETTINGS)
        many = UNANSWERED[flood] * 1_000
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                sock.sendall(many)
                assert other.call("GET", "/ok").status == 200
    assert resident(server) - before <= 32
    # It is counted once it is closed.
    asked_until(lambda: closed(server, "write_stalled") + closed(server, "flood"), "why it was closed")
    told = Scrape(text(server)).by("plimsoll_connections_closed_total", "reason")
    assert told["write_stalled"] + told["flood"] == 1, told


def test_a_thousand_connections_that_rest_take_little_memory(start):
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), max(hard, 4096)))
    assert http1(server.http, "/ok").status == 200
    before = resident(server)
    connections = [Http2(server.http) for _ in range(1_000)]
    for connection in connections:
        assert connection.call("GET", "/ok").status == 200
    more = resident(server) - before
    for connection in connections:
        connection.sock.close()
    assert more <= 64, f"{more} MiB"


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_it_neither_spins_nor_dies(start):
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    socks = [socket.create_connection(server.http, timeout=PATIENCE) for _ in range(100)]
    server.wait_line("a line", event="conn_closed", reason="emfile")
    began, before = time.monotonic(), cpu_seconds(server.process.pid)
    socks[-1].settimeout(2)  # what spins takes all of the two seconds
    with pytest.raises(TimeoutError):
        socks[-1].recv(1)
    used = (cpu_seconds(server.process.pid) - before) / (time.monotonic() - began)
    for sock in socks:
        sock.close()
    assert http1(server.http, "/ok").status == 200
    assert used <= 0.05, f"{used:.0%} of a core"


def test_there_are_as_many_connections_as_there_may_be(start):
    server = start(TB_MAX_CONNS=3)
    kept = [connect(server.http) for _ in range(3)]
    for sock in kept:
        sock.sendall(head("GET", "/ok"))
        assert read_answer(sock).status == 200
    with connect(server.http) as one_more:
        assert until_closed(one_more) == b""
    wait_closed(server, "conn_cap", 1)
    # Operators have connections of their own.
    assert http1(server.admin, "/livez").status == 200
    for sock in kept:
        sock.close()


def test_kubernetes_order_of_the_end(start):
    """Probes first, then SIGTERM: not ready at once, calls go on, the listener closes, what runs ends, exit 0."""
    server = start(TB_DRAIN_MS=30_000, TB_NOTICE_MS=3000)
    assert http1(server.admin, "/startupz").status == 200
    assert http1(server.admin, "/readyz").status == 200
    slow = new_id()
    with connect(server.http) as running, Grpc(server.grpc) as grpc:
        running.sendall(head("GET", "/sleep/4000", [("x-request-id", slow)]))
        streaming = grpc.start("Stream", "n=5&ms=800&size=10")
        under_way(server, 2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_line("the drain", event="draining")
        answer = http1(server.admin, "/readyz")
        assert (answer.status, answer.body) == (503, b'{"status":"draining"}')
        assert http1(server.http, "/ok").status == 200, "endpoints are removed meanwhile: it still serves"
        assert http1(server.admin, "/livez").status == 200
        while True:
            try:
                socket.create_connection(server.http, timeout=PATIENCE).close()
            except (ConnectionRefusedError, ConnectionResetError):
                break
            assert http1(server.admin, "/readyz").status == 503
        assert time.monotonic() - began >= 3, "not before its time"
        assert read_answer(running).status == 200
        assert len(list(streaming)) == 5 and streaming.code().value[0] == 0
    server.wait_end()
    assert server.process.returncode == 0
    line = server.wait_line("the end", event="drained")
    assert line["cut"] == 0 and line["drained"] >= 1


@pytest.mark.parametrize("half", HALVES)
def test_half_a_head_does_not_hold_up_the_end(start, half):
    server = start(TB_DRAIN_MS=8000, TB_NOTICE_MS=0)
    with connect(server.http) as sock:
        sock.sendall(HALVES[half])
        assert http1(server.http, "/ok").status == 200
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 7, "a call would have had all of the time"


def test_a_second_signal_cuts_at_once(start):
    server = start(TB_DRAIN_MS=60_000)
    server.expected_end = 3
    wanted = new_id()
    with connect(server.http) as sock:
        sock.sendall(head("GET", "/sleep/600000", [("x-request-id", wanted)]))
        under_way(server, 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_line("the drain", event="draining")
        server.stop()
        answer = read_answer(sock)
    assert answer.status == 503 and answer.one("plimsoll-reason") == "drained"
    [line] = server.accesses(wanted)
    assert line["outcome"] == "drained"
