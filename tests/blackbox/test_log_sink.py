"""R7, R10, B9: calls do not notice what becomes of the log, and what is lost is counted and said."""

import os
import threading
import time

import pytest
from clients import Http2, connect, head, http1, http2, new_id, raw_grpc, read_answer
from server import LONG, PATIENCE, has

CALLS = 20_000 if LONG else 3_000


def many_calls(server, calls, size=100):
    """Answers of 200 on two connections, as many as asked for; paths are of this size, and so are lines."""
    with Http2(server.http) as connection, connect(server.http) as sock:
        for _ in range(calls // 100):
            streams = [connection.send("GET", "/items/" + "x" * size) for _ in range(98)]
            assert all(connection.answer(stream).status == 200 for stream in streams)
            for _ in range(2):
                sock.sendall(head("GET", "/ok"))
                assert read_answer(sock).status == 200


def test_a_full_disk_fails_no_call(start):
    server = start(TB_LOG="/dev/full")
    many_calls(server, CALLS)
    assert raw_grpc(server.grpc, "Echo", "x").grpc_status == 0
    assert http1(server.http, "/panic?where=await").status == 500
    server.stop()


def test_a_pipe_that_nobody_reads_stops_no_call_and_what_was_dropped_is_said(start, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    server = start(TB_LOG=str(pipe))
    # A pipe takes 64 KiB, the queue 8 MiB: at 2 KiB a line that is about 4 000 calls. More than that must be dropped.
    calls = 8_000
    many_calls(server, calls, size=1_800)
    assert http2(server.http, "/ok").status == 200
    # Now somebody reads: what was queued comes, then how many lines are missing.
    reading = threading.Thread(target=server.read_log, args=(reader,))
    reading.start()
    server.wait_line("what is missing", event="log_dropped")
    server.stop()
    reading.join(PATIENCE)
    dropped = sum(line["count"] for line in server.lines if line.get("event") == "log_dropped")
    assert dropped > 0
    lost_accesses = calls + 1 - len(server.accesses())
    assert 0 < lost_accesses <= dropped, (lost_accesses, dropped)


def test_a_sink_that_blocks_does_not_hold_up_the_end(start, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    server = start(TB_LOG=str(pipe))
    many_calls(server, 2_000)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    os.close(reader)


def test_a_reader_that_goes_away_fails_no_call(start, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    server = start(TB_LOG=str(pipe))
    many_calls(server, 100)
    os.close(reader)
    many_calls(server, CALLS)
    server.stop()


def test_a_file_that_cannot_be_opened_is_said_at_the_start(tmp_path):
    from server import Server

    server = Server(tmp_path, TB_LOG=str(tmp_path / "nowhere" / "log"))
    with pytest.raises(AssertionError, match="TB_LOG"):
        server.__enter__()
    assert server.process.returncode == 2


def test_a_call_that_is_cut_at_the_end_has_its_line(start, tmp_path):
    log = tmp_path / "log"
    server = start(TB_LOG=str(log), TB_DRAIN_MS=200)
    server.expected_end = 3
    ids = {protocol: new_id("cut") for protocol in ("http2", "http1", "sleep")}
    with Http2(server.http) as connection, connect(server.http) as sock:
        connection.send("GET", "/sleep/600000", [("x-request-id", ids["sleep"])])
        stream = connection.send("GET", "/stream?n=1000000&ms=10", [("x-request-id", ids["http2"])])
        connection.read_until(lambda: connection.answers[stream].body)
        sock.sendall(head("GET", "/stream?n=1000000&ms=10", [("x-request-id", ids["http1"])]))
        while b"xxxx" not in sock.recv(4096):
            pass
        server.stop()
    server.take(log.read_bytes().splitlines())
    for protocol, wanted in ids.items():
        [line] = server.accesses(wanted)
        assert line["outcome"] == "drained" and line["duration_ms"] >= 200, (protocol, line)


def test_the_duration_is_to_the_end_of_the_body_and_the_time_to_the_head_is_apart(start):
    server = start()
    wanted = new_id()
    for ask in (http1, http2):
        assert len(ask(server.http, "/stream?n=5&ms=100&size=10", [("x-request-id", wanted)]).body) == 50
        line = server.wait(lambda lines: next((line for line in reversed(lines) if has(line, {"request_id": wanted, "event": "request"})), None), "the call")
        assert line["duration_ms"] >= 500 and line["duration_ms"] - line["ttfb_ms"] >= 499, line
        wanted = new_id()
