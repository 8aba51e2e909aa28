"""R26, R28, R31, R32, R34, R35, R36, R37, R38, R39, E21: quotas that no header evades, in one process and in Redis.

The quota is in calls a second, so that each test allows for the calls that came back while it ran.
"""

import contextlib
import os
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from clients import Http2, http1, http2, new_id, raw_grpc
from redis_server import Redis
from scrape import scrape
from server import LONG, PATIENCE

# Each is called with a server, a path and headers.
PROTOCOLS = {
    "h1": lambda server, path, headers=(): http1(server.http, path, headers),
    "h2c": lambda server, path, headers=(): http2(server.http, path, headers),
    "grpc": lambda server, path, headers=(): raw_grpc(server.http, path, b"", headers),
    "tonic": lambda server, path, headers=(): raw_grpc(server.grpc, path, b"", headers),
}
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
PROXY = "127.0.0.0/8"
RATE, BURST = 1, 5
PATIENT = 10_000  # milliseconds for a decision of Redis, where it is not to be late


def passed(answer):
    assert answer.cut is None, answer
    return answer.status == 200 and answer.grpc_status in (None, 0)


def reason(answer):
    return answer.one("plimsoll-reason")


class Calls:
    """Counts what passes, and knows the most that may."""

    def __init__(self, rate=RATE, burst=BURST):
        self.rate, self.burst = rate, burst
        self.passed = 0
        self.since = time.monotonic()

    def make(self, call):
        answer = call()
        self.passed += passed(answer)
        return answer

    def most(self):
        return self.burst + self.rate * (time.monotonic() - self.since) + 1

    def check(self):
        assert self.burst <= self.passed <= self.most(), f"{self.passed} of {self.most()}"


# -- R26: who calls


FORWARDED_BY_CALLER = [
    [("x-forwarded-for", "{ip}")],
    [("x-forwarded-for", "{ip}, 127.0.0.1")],
    [("x-forwarded-for", "{ip}"), ("x-forwarded-for", "{ip}")],
    [("x-forwarded-for", "127.0.0.1, {ip}")],
    [("x-forwarded-for", "[2001:db8::{n}]:80")],
    [("x-forwarded-for", "{ip}:4711")],
    [("x-forwarded-for", "unknown, {ip}")],
    [("x-forwarded-for", "\xff{ip}")],
    [("x-forwarded-for", ", ,{ip},")],
    [("x-forwarded-for", "1.1.1.1, " * 300 + "{ip}")],
    [("x-forwarded", "for={ip}")],
    [("forwarded", "for={ip}")],
    [("forwarded", 'for="[2001:db8::{n}]"')],
    [("forwarded", "for={ip};by=127.0.0.1, for=127.0.0.1")],
    [("x-real-ip", "{ip}")],
    [("true-client-ip", "{ip}")],
    [("cf-connecting-ip", "{ip}")],
    [("x-client-ip", "{ip}")],
    [("client-ip", "{ip}")],
    [("forwarded", "for={ip}"), ("x-real-ip", "{ip}"), ("x-forwarded-for", "{ip}")],
]


def spoofed(vector, n):
    return [(name, value.replace("{ip}", f"203.0.113.{n}").replace("{n}", f"{n:x}")) for name, value in vector]


@each_protocol
def test_no_header_buys_another_quota(start, protocol):
    server, call = start(TB_RATE=RATE, TB_BURST=BURST), PROTOCOLS[protocol]
    calls = Calls()
    for n, vector in enumerate(FORWARDED_BY_CALLER * 2):
        calls.make(lambda: call(server, "/limited", spoofed(vector, n % 250)))
    calls.check()


@each_protocol
def test_behind_a_proxy_the_caller_is_who_the_proxy_says(start, protocol):
    server, call = start(TB_RATE=RATE, TB_BURST=BURST, TB_TRUSTED=PROXY), PROTOCOLS[protocol]
    victim, attacker = "198.51.100.1", "203.0.113.66"
    calls = Calls()
    for n in range(30):
        # What he writes himself stands first, the proxy's word last, on the same line or on another.
        lie = f"{victim}, 198.51.100.{n}"
        one_line = [("x-forwarded-for", f"{lie}, {attacker}")]
        two_lines = [("x-forwarded-for", lie), ("x-forwarded-for", f"{attacker}, 127.0.0.9")]
        calls.make(lambda: call(server, "/limited", [("forwarded", f"for={n}"), *(one_line if n % 2 else two_lines)]))
    calls.check()
    spared = Calls()
    for _ in range(BURST):
        assert passed(spared.make(lambda: call(server, "/limited", [("x-forwarded-for", victim)]))), "the victim is blocked"


# -- R28: made-up keys


def flood(server, first, count):
    """So many callers, each once, over one connection; the numbers of those that passed."""
    with Http2(server.http) as connection:
        done = 0
        for base in range(first, first + count, 100):
            streams = []
            for n in range(base, min(base + 100, first + count)):
                address = f"{20 + (n >> 24)}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
                streams.append(connection.send("GET", "/limited", [("x-forwarded-for", address)]))
            done += sum(connection.answer(stream).status == 200 for stream in streams)
            for stream in streams:
                del connection.answers[stream]
        return done


def resident(server):
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_made_up_keys_stay_within_the_cap_and_free_nobody(start):
    # A caller of one call has all of its burst again after a second: the cap is far below what comes in one.
    cap, flooded = 20, 100_000 if LONG else 10_000
    server = start(TB_RATE=RATE, TB_BURST=BURST, TB_TRUSTED=PROXY, TB_KEY_CAP=cap)
    limited = Calls()
    own = lambda: http2(server.http, "/limited", [("x-forwarded-for", "198.51.100.1")])
    for _ in range(BURST + 5):
        limited.make(own)
    before = resident(server)
    for first in range(0, flooded, flooded // 10):
        flood(server, first, flooded // 10)
        for _ in range(3):
            limited.make(own)
        assert scrape(server).sum("plimsoll_rate_limit_keys", policy="limited") <= cap
    limited.check()
    assert resident(server) - before < 64 << 20
    server.wait_line("that there is no room", event="rate_limit_no_room", level="WARN", target="plimsoll::rate_limit")
    assert scrape(server).sum("plimsoll_rate_limit_faults_total", policy="limited", kind="no_room") > 0


# -- R31: the wall clock jumps


def test_a_wall_clock_that_jumps_changes_no_decision(start, tmp_path):
    clock = tmp_path / "clock"
    clock.write_text("+0h")
    faked = {"LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_NO_CACHE": 1, "FAKETIME_DONT_FAKE_MONOTONIC": 1}
    server = start(TB_RATE=RATE, TB_BURST=BURST, **faked)
    calls, hours = Calls(), []
    for skew in ("+0h", "+1h", "-1h"):
        # In one step: the clock is read all the time.
        (tmp_path / "next").write_text(skew)
        (tmp_path / "next").rename(clock)
        for _ in range(2 * BURST):
            answer = calls.make(lambda: http1(server.http, "/limited", [("x-request-id", new_id())]))
        hours.append(hours_ahead(server.access(answer.request_id)))
    calls.check()
    assert hours == [0, 1, -1], "the clock does not jump"


def faketime():
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "the Debian package faketime is not installed: tests/run does it"
    return str(found[0])


def hours_ahead(line):
    """By how much the clock that a line was just written by is ahead of ours."""
    written = datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00"))
    return round((written.timestamp() - time.time()) / 3600)


# -- R32: when to come again


def wait_as_told(seconds):
    time.sleep(seconds)  # sleeps: that this very wait is enough is what is tested


def test_whoever_waits_as_long_as_told_is_admitted(start):
    rate = 20
    server = start(TB_RATE=rate, TB_BURST=1)
    rounds = 100 if LONG else 20
    for protocol in ("grpc", "tonic"):
        for _ in range(rounds):
            while passed(refused := PROTOCOLS[protocol](server, "/limited")):
                pass
            assert refused.grpc_status == 8 and reason(refused) == "rate_limited"
            wait = int(refused.one("grpc-retry-pushback-ms"))
            assert 1 <= wait <= 1000 / rate, wait
            wait_as_told(wait / 1000)
            assert passed(PROTOCOLS[protocol](server, "/limited"))
    for protocol in ("h1", "h2c"):
        for _ in range(2):
            while passed(refused := PROTOCOLS[protocol](server, "/limited")):
                pass
            assert refused.status == 429 and reason(refused) == "rate_limited"
            assert refused.one("retry-after") == "1", "rounded up, and no more than a second too long"
            assert refused.one("ratelimit-policy") == f'"second";q=1;w=1'
            assert refused.one("ratelimit") == '"second";r=0;t=1'
            wait_as_told(int(refused.one("retry-after")))
            assert passed(PROTOCOLS[protocol](server, "/limited"))


@each_protocol
def test_the_books_tell_each_decision_and_the_line_its_layer(start, protocol):
    server, call = start(TB_RATE=RATE, TB_BURST=BURST), PROTOCOLS[protocol]
    answers = [call(server, "/limited", [("x-request-id", new_id())]) for _ in range(3 * BURST)]
    refused = [answer for answer in answers if not passed(answer)]
    for answer in refused:
        line = server.access(answer.request_id)
        assert (line["outcome"], line["layer"], line["which"]) == ("rate_limited", "rate_limit", "second")
    told = scrape(server).by("plimsoll_rate_limit_decisions_total", "decision")
    assert (told["admitted"], told["rejected"]) == (len(answers) - len(refused), len(refused))
    assert server.wait_line("rejections", event="rate_limited", policy="limited")["level"] == "WARN"


# -- R34, E21: Redis away


def until(holds, what, patience=5.0):
    """Asks again and again, each time a call; recovery is to take no more than five seconds."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"never: {what}"


def with_redis(start, redis, policy, **settings):
    settings = {"TB_RATE": RATE, "TB_BURST": BURST, "TB_REDIS_MS": PATIENT, **settings}
    return start(TB_REDIS=redis.url(), TB_REDIS_POLICY=policy, **settings)


@each_protocol
@pytest.mark.parametrize("policy", ["open", "closed", "local"])
def test_a_redis_that_is_gone_is_a_policy_and_comes_back_by_itself(start, policy, protocol):
    with Redis() as redis:
        server = with_redis(start, redis, policy)
        call = lambda: PROTOCOLS[protocol](server, "/limited-redis", [("x-request-id", new_id())])
        calls = Calls()
        for _ in range(3 * BURST):
            assert not calls.make(call).all("x-plimsoll-degraded")
        calls.check()

        redis.kill()
        alone = Calls(RATE / 3, 1)
        answers = [alone.make(call) for _ in range(20)]
        assert all(answer.one("x-plimsoll-degraded") == policy for answer in answers)
        match policy:
            case "open":
                assert all(map(passed, answers))
            case "closed":
                assert {reason(answer) for answer in answers} == {"store_error"}
                assert {(answer.status, answer.grpc_status) for answer in answers} in ({(503, None)}, {(200, 14)})
            case "local":
                # It is warm: who has spent all has nothing here either, but for what comes back by this share.
                assert alone.passed <= alone.most(), answers
        for answer in answers:
            line = server.access(answer.request_id)
            assert line["store"] == policy and line["store_error"] in ("away", "connection"), line
        told = scrape(server)
        assert told.sum("plimsoll_rate_limit_decisions_total", policy="limited_redis", decision="degraded") == 20
        assert told.sum("plimsoll_store_errors_total", store="redis", policy=policy) == 20

        redis.restart()
        until(lambda: not call().all("x-plimsoll-degraded"), "Redis decides again")
        for event in ("store_away", "store_back"):
            server.wait_line("the transition", event=event, target="plimsoll::rate_limit", level="WARN")
            assert len([line for line in server.lines if line.get("event") == event]) == 1


# -- R35: Redis hangs


def test_a_redis_that_hangs_costs_a_budget_at_first_and_then_nothing(start):
    with Redis() as redis:
        server = with_redis(start, redis, "open", TB_REDIS_MS=500)
        call = lambda: http1(server.http, "/limited-redis")
        assert not call().all("x-plimsoll-degraded")
        with redis.hangs():
            assert all(call().one("x-plimsoll-degraded") == "open" for _ in range(50))
            kinds = scrape(server).by("plimsoll_store_errors_total", "kind")
            # Three wait for nothing; all that come later do not wait.
            assert kinds == {"timeout": 3, "away": 47}
        until(lambda: not call().all("x-plimsoll-degraded"), "Redis decides again", patience=PATIENCE)


# -- R36, R37: replicas


def hammer(server, seconds):
    """Calls without a pause, until nothing is left at the end, and counts what passes."""
    count, last = 0, True
    with Http2(server.http) as connection:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end or last and now < end + PATIENCE:
            last = passed(connection.call("GET", "/limited-redis"))
            count += last
            del connection.answers[max(connection.answers)]
    return count


@pytest.mark.parametrize("hours", [0, 1])
def test_three_replicas_hold_a_caller_to_one_quota_whatever_their_clocks_say(start, hours):
    # What comes back in a second may be spent later, should a machine that is busy not get to it at once.
    rate, burst, seconds = 50, 50, 20 if LONG else 3
    with Redis() as redis:
        servers = []
        for place in range(3):
            skew = (place - 1) * hours
            clock = {"LD_PRELOAD": faketime(), "FAKETIME": f"{skew:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC": 1} if skew else {}
            servers.append(with_redis(start, redis, "closed", TB_RATE=rate, TB_BURST=burst, **clock))
        counts = [0, 0, 0]

        def run(place):
            counts[place] = hammer(servers[place], seconds)

        threads = [threading.Thread(target=run, args=(place,)) for place in range(3)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        most = burst + rate * (time.monotonic() - began)
        assert 0.95 * (burst + rate * seconds) <= sum(counts) <= 1.01 * most + 1, f"{counts}: {sum(counts)} of {most}"
        assert all(scrape(server).sum("plimsoll_store_errors_total") == 0 for server in servers)
        if hours:
            assert [hours_ahead(server.lines[-1]) for server in servers] == [-1, 0, 1], "their clocks are not apart"


# -- R38: answers that are none

BREAKS = {
    "readonly": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "oom": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}


@each_protocol
@pytest.mark.parametrize("kind", BREAKS)
def test_a_redis_that_cannot_write_admits_nobody_under_closed(start, kind, protocol):
    with Redis() as redis:
        server = with_redis(start, redis, "closed", TB_RATE=1000, TB_BURST=1000)
        call = lambda: PROTOCOLS[protocol](server, "/limited-redis")
        assert passed(call())
        breaks, mends = BREAKS[kind]
        redis.command(*breaks)
        assert not any(passed(call()) for _ in range(20))
        kinds = scrape(server).by("plimsoll_store_errors_total", "kind")
        assert kinds[kind] == 3 and kinds["away"] == 17, kinds
        redis.command(*mends)
        until(lambda: passed(call()), "Redis decides again")


def test_a_forgotten_script_is_sent_again_and_nobody_notices(start):
    with Redis() as redis:
        server = with_redis(start, redis, "closed")
        calls = Calls()
        for n in range(3 * BURST):
            if n % 4 == 0:
                redis.command("SCRIPT", "FLUSH")
            calls.make(lambda: http2(server.http, "/limited-redis"))
        calls.check()
        assert scrape(server).sum("plimsoll_store_errors_total") == 0


def test_a_key_of_another_type_is_an_error_for_its_caller_alone(start):
    with Redis() as redis:
        server = with_redis(start, redis, "closed", TB_TRUSTED=PROXY, TB_RATE=1, TB_BURST=1000)
        call = lambda who: http1(server.http, "/limited-redis", [("x-forwarded-for", who)])
        probe = set(redis.keys())
        # Each adds a second to the life of the key.
        assert all(passed(call("203.0.113.1")) for _ in range(60))
        [key] = [key for key in redis.keys() if "{" + "0" * 32 + "}" not in key and key not in probe]
        redis.command("DEL", key)
        redis.command("LPUSH", key, "x")
        assert not any(passed(call("203.0.113.1")) for _ in range(10))
        assert passed(call("203.0.113.2"))
        assert scrape(server).by("plimsoll_store_errors_total", "kind") == {"wrongtype": 10}


# -- R39: what is left behind, and what is never told


def test_keys_are_hashed_short_and_end_by_themselves(start):
    with Redis() as redis:
        server = with_redis(start, redis, "closed", TB_TRUSTED=PROXY, TB_RATE=5, TB_BURST=5)
        for n in range(50):
            assert passed(http1(server.http, "/limited-redis", [("x-forwarded-for", f"203.0.113.{n}")]))
        for key in redis.keys():
            assert len(key) <= 64 and "203.0" not in key
            assert redis.command("PTTL", key) != -1, f"{key} never ends"
        until(lambda: not redis.keys(), "all keys have ended")


def test_many_waiting_callers_make_one_connection(start):
    with Redis() as redis:
        server = with_redis(start, redis, "closed", TB_RATE=1000, TB_BURST=1000)
        with contextlib.ExitStack() as opened:
            connection = opened.enter_context(Http2(server.http))
            call = lambda: connection.send("GET", "/limited-redis")
            assert passed(connection.answer(call()))
            redis.kill()
            assert not any(passed(connection.answer(stream)) for stream in [call() for _ in range(90)])
            redis.restart()
            until(lambda: passed(connection.answer(call())), "Redis decides again")
        # Of its own questions each is a connection: this one is the only other.
        assert int(redis.info("stats", "total_connections_received")) == 2


@pytest.mark.parametrize("sent", ["hunter2-right", "hunter2-wrong"])
def test_a_password_is_never_shown(start, sent):
    with Redis("--requirepass", "hunter2-right") as redis:
        server = start(TB_REDIS=redis.url(sent), TB_REDIS_POLICY="closed", TB_REDIS_MS=PATIENT)
        answers = [http1(server.http, "/limited-redis") for _ in range(5)]
        assert all(map(passed, answers)) == (sent == "hunter2-right")
        if sent == "hunter2-wrong":
            server.wait_line("why", event="store_away", kind="auth")
        server.stop()
        told = b"\n".join(server.raw) + server.stderr().encode() + repr(answers).encode()
        assert b"hunter2" not in told
