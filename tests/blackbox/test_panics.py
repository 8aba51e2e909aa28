"""R18, R49-R51, R53, E11-E14: a panic ends its own call, honestly, and nothing else."""

import re
import signal

import pytest
from clients import GRPC, SERVICE, Grpc, Http2, blob, framed, http1, http2, new_id, quoted, raw_grpc
from server import LONG, has

WHERES = ["call", "await", "drop"]
KINDS = [("str", "a panic on demand"), ("string", "a panic on demand"), ("int", None)]


def panic_line(server, request_id):
    return server.wait_line("a line about the panic", event="panic", request_id=request_id)


@pytest.mark.parametrize("client", [http1, http2], ids=["http1", "http2"])
@pytest.mark.parametrize("kind,text", KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("where", WHERES)
def test_a_panic_is_a_500_with_a_reason_and_without_its_text(server, client, where, kind, text):
    wanted = new_id()
    answer = client(server.http, f"/panic?where={where}&kind={kind}", [("x-request-id", wanted)])
    assert (answer.status, answer.one("plimsoll-reason"), answer.request_id) == (500, "panic", wanted)
    assert answer.one("content-type") == "application/problem+json"
    assert answer.one("cache-control") == "no-store"
    assert b"demand" not in answer.body and b".rs" not in answer.body
    line = server.access(wanted)
    assert (line["outcome"], line["status"], line["level"]) == ("panic", 500, "ERROR")
    told = panic_line(server, wanted)
    assert text is None or text in str(told), told
    assert ".rs:" in str(told), f"no location in {told}"
    assert sum(has(entry, {"event": "panic"}) for entry in server.lines_of(wanted)) == 1


@pytest.mark.parametrize("port", ["grpc", "http"])
@pytest.mark.parametrize("where", WHERES)
def test_a_panic_is_internal_in_grpc_without_its_text(server, port, where):
    wanted = new_id()
    answer = raw_grpc(getattr(server, port), "Panic", f"{where}&msg=boom-text", [("x-request-id", wanted)])
    assert (answer.status, answer.grpc_status, answer.one("plimsoll-reason")) == (200, 13, "panic")
    assert not answer.trailers and not answer.body, "trailers-only"
    assert "boom-text" not in repr(answer)
    assert server.access(wanted)["outcome"] == "panic"
    assert "boom-text" in str(panic_line(server, wanted))
    with Grpc(getattr(server, port)) as channel:
        assert channel.call("Panic", where).status == 13


def test_siblings_and_the_connection_outlive_a_panic(server):
    with Http2(server.http) as connection:
        sibling = connection.send("GET", "/stream?n=40&ms=5&size=10")
        connection.read_until(lambda: connection.answers[sibling].body)
        for where in WHERES:
            assert connection.call("GET", f"/panic?where={where}").status == 500
        body = connection.send("GET", "/stream?n=3&fail=panic&at=1")
        assert connection.answer(body).cut == "INTERNAL_ERROR"
        answer = connection.answer(sibling)
        assert (answer.cut, len(answer.body)) == (None, 400)
        assert connection.call("GET", "/ok").status == 200
    with Http2(server.grpc) as connection:
        sibling = connection.send("POST", SERVICE + "Stream", GRPC, framed(blob("n=40&ms=5&size=10")))
        connection.read_until(lambda: connection.answers[sibling].body)
        for where in WHERES:
            failed = connection.call("POST", SERVICE + "Panic", GRPC, framed(blob(where)))
            assert failed.grpc_status == 13
        assert connection.answer(sibling).grpc_status == 0


def test_a_connection_of_http1_outlives_a_panic(server):
    import clients

    with clients.connect(server.http) as sock:
        for path, status in (("/panic?where=await", 500), ("/ok", 200), ("/panic?where=call", 500), ("/ok", 200)):
            sock.sendall(clients.head("GET", path))
            assert clients.read_answer(sock).status == status


def test_a_panic_in_a_body_cuts_http1(server):
    for length in (0, 1):
        wanted = new_id()
        answer = http1(server.http, f"/stream?n=5&ms=40&size=100&fail=panic&at=3&cl={length}", [("x-request-id", wanted)])
        assert (answer.status, answer.cut) == (200, "body"), answer
        line = server.access(wanted)
        assert (line["outcome"], line["status"], line["bytes_out"]) == ("body_panic", 200, 300)
        panic_line(server, wanted)


def test_a_panic_in_a_body_resets_http2(server):
    wanted = new_id()
    answer = http2(server.http, "/stream?n=5&ms=40&size=100&fail=panic&at=3", [("x-request-id", wanted)])
    assert (answer.status, answer.cut) == (200, "INTERNAL_ERROR")
    assert server.access(wanted)["outcome"] == "body_panic"


@pytest.mark.parametrize("port", ["grpc", "http"])
def test_a_panic_in_a_body_is_trailers_13_in_grpc(server, port):
    wanted = new_id()
    answer = raw_grpc(getattr(server, port), "Stream", "n=5&ms=40&size=100&fail=panic&at=3", [("x-request-id", wanted)])
    assert (answer.status, answer.cut, dict(answer.trailers).get("grpc-status")) == (200, None, "13")
    line = server.access(wanted)
    assert (line["outcome"], line["grpc_status"]) == ("body_panic", "INTERNAL")
    with Grpc(getattr(server, port)) as channel:
        failed = channel.call("Stream", "n=5&ms=40&size=100&fail=panic&at=3")
        assert (failed.status, len(failed.body)) == (13, 300)


def test_the_text_of_a_panic_never_leaves_and_is_cleaned_in_the_log(server):
    wanted = new_id()
    secret = "CANARY7f3a"
    text = f"calling /pay?token={secret} with authorization: Bearer {secret} failed"
    for client in (http1, http2):
        answer = client(server.http, f"/panic?where=await&msg={quoted(text)}", [("x-request-id", wanted)])
        assert secret not in repr(answer)
    panic_line(server, wanted)
    server.access(wanted)
    assert not [line for line in server.raw if secret.encode() in line]


def test_a_task_that_panics_is_told(server):
    for ask in (
        lambda wanted: http1(server.http, "/panic?where=spawn", [("x-request-id", wanted)]),
        lambda wanted: raw_grpc(server.grpc, "Panic", "spawn", [("x-request-id", wanted)]),
    ):
        wanted = new_id()
        assert ask(wanted).status == 200
        died = server.wait_line("of the task", event="task_died", request_id=wanted)
        assert "a panic on demand" in str(died)
        assert died["level"] == "ERROR"


def test_every_line_bears_the_id_of_its_own_call(server):
    """1 000 calls at once on few connections: what each logs names its own id."""
    rounds = 20 if LONG else 5
    sent = set()
    for _ in range(rounds):
        with Http2(server.grpc) as first, Http2(server.http) as second:
            begun = []
            for number in range(200):
                connection = (first, second)[number % 2]
                wanted = new_id("own")
                where = ("await", "drop", "call", "spawn", "await")[number % 5]
                body = framed(blob(f"{where}&msg=says-{wanted}-said"))
                begun.append((connection, connection.send("POST", SERVICE + "Panic", [*GRPC, ("x-request-id", wanted)], body), wanted))
                sent.add(f"says-{wanted}-said")
            for connection, stream, wanted in begun:
                assert connection.answer(stream).request_id == wanted

    def told(lines):
        return {(text, line.get("request_id")) for line in lines for text in re.findall(r"says-own-\d+-said", str(line))}

    server.wait(lambda lines: {text for text, _ in told(lines)} >= sent, "all panics")
    assert {text: request_id for text, request_id in told(server.lines)} == {text: text[5:-5] for text in sent}


@pytest.mark.parametrize("number", range(20))
def test_the_last_line_is_written_before_an_abort(start, tmp_path, number):
    """A panic while another unwinds ends the process; its line is in the file, and so is the line of the call before."""
    log = tmp_path / "log"
    server = start(TB_LOG=str(log))
    before, wanted = new_id(), new_id()
    http1(server.http, "/ok", [("x-request-id", before)])
    if number % 2:
        answer = http1(server.http, "/panic?where=unwind", [("x-request-id", wanted)])
    else:
        answer = raw_grpc(server.grpc, "Panic", "unwind", [("x-request-id", wanted)])
    assert answer.status is None
    server.expected_end = -signal.SIGABRT
    server.stop()
    raw = log.read_bytes()
    assert raw.endswith(b"\n")
    server.take(raw.splitlines())
    assert len(server.accesses(before)) == 1
    fatal = [line for line in server.lines if has(line, {"event": "panic", "fatal": True})]
    assert fatal and fatal[-1] == server.lines[-1], server.lines[-3:]
    assert all("a panic on demand" in str(line) and line["request_id"] == wanted for line in fatal), fatal
