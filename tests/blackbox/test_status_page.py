"""The page for operators in a real browser, on the coffee shop.

`target/venv/bin/python tests/blackbox/test_status_page.py docs/status.png 75` takes the picture of the documentation, after a
load of so many seconds.
"""

import http.client
import json
import random
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from browser import Refused, browser
from png import smaller
from programs import asked_until, free_port
from server import PATIENCE
from test_collector import Shop

TOKEN = "a-token-for-the-coffee-shop"
CANARY = "<img src=x onerror=window.canary=1>"


class Load:
    """Guests: each asks, reads, and asks again after a moment."""

    def __init__(self, shop, guests=4, pause=0.02, drills=()):
        self.shop, self.pause, self.drills = shop, pause, drills
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.order, args=(random.Random(seed),), daemon=True) for seed in range(guests)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def order(self, chance):
        connection = http.client.HTTPConnection(*self.shop.reception, timeout=PATIENCE)
        while not self.over.wait(self.pause * chance.random()):
            try:
                if self.drills and chance.random() < 0.01:
                    connection.request("GET", chance.choice(self.drills))
                elif chance.random() < 0.4:
                    connection.request("POST", "/orders", json.dumps({"coffee": "cappuccino"}), {"content-type": "application/json"})
                else:
                    connection.request("GET", chance.choice(["/menu", "/menu", "/orders/1"]))
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
                if self.over.is_set():
                    return
        connection.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as window:
        window.size(1280, 900)
        yield window


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path, {"PLIMSOLL_OPS_TOKEN": TOKEN})
    shop.folder = tmp_path
    yield shop
    if shop.process.poll() is None:
        shop.close()


def status(shop):
    connection = http.client.HTTPConnection(*shop.admin, timeout=PATIENCE)
    connection.request("GET", "/status.json")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def get(shop, path):
    connection = http.client.HTTPConnection(*shop.reception, timeout=PATIENCE)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()


def look(window, shop):
    # What a page of before says of its server's end is not this one's fault.
    window.open("about:blank")
    window.console()
    window.open(f"http://{shop.admin[0]}:{shop.admin[1]}/status")
    window.until("document.querySelector('#link').textContent === 'live'", "the page is live")
    # The token that a test before typed is gone with its page.
    assert window.run("return document.querySelector('#unlocked').hidden")


def unlock(window, token=TOKEN):
    window.type("#token", token)
    window.click("#unlock")
    assert window.run("return document.querySelector('#token').value") == ""


def faults(window):
    return [entry for entry in window.console() if entry["level"] in ("WARNING", "SEVERE")]


def lines(shop, event):
    """The lines of this event that the shop has written so far, but for one that it is at."""
    found = []
    for line in (shop.folder / "shop.log").read_bytes().split(b"\n")[:-1]:
        if event.encode() in line and (told := json.loads(line)).get("event") == event:
            found.append(told)
    return found


def test_a_load_is_seen_within_two_seconds_and_nothing_is_wrong(window, shop):
    look(window, shop)
    with Load(shop):
        told = asked_until(lambda: (told := status(shop))["calls"]["outcomes"].get("ok") and told, "calls end")
        # One event a second: the first after that may have been on its way already, the second has it.
        window.run("""
            const since = arguments[0];
            window.events = 0; window.seen = null;
            source.addEventListener('status', event => {
                if (JSON.parse(event.data).service.now_ms < since) return;
                window.events += 1;
                if (window.seen === null && parseFloat(document.querySelector('#tiles dd span').textContent) > 0) window.seen = window.events;
            });
        """, told["service"]["now_ms"])
        assert window.until("window.seen", "the load is seen") <= 2
        window.until("[...document.querySelectorAll('#routes td')].some(cell => cell.textContent === 'POST /orders')", "the route is shown")
        window.until("document.querySelector('#flight path.f') && document.querySelector('#rate path.f')", "the plots are drawn")
    assert faults(window) == []


def test_both_colours_and_small_screens_work(window, shop):
    look(window, shop)
    grounds = []
    for colours in ("light", "dark"):
        window.colours(colours)
        ground, ink = window.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        assert contrast(ground, ink) >= 7, (colours, ground, ink)
        for selector in ("h2", "#up", "#link", "footer"):
            panel, text = window.run(
                "const n = document.querySelector(arguments[0]); const p = n.closest('.panel') || document.body;"
                "return [getComputedStyle(p).backgroundColor, getComputedStyle(n).color]", selector)
            assert contrast(panel, text) >= 4.5, (colours, selector, panel, text)
        grounds.append(ground)
    assert grounds[0] != grounds[1]
    window.colours("light")
    for width in (1280, 700, 360):
        window.size(width, 900)
        wide = window.run("return document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} of {width}"
    window.size(1280, 900)
    assert faults(window) == []


def contrast(one, other):
    """By WCAG 2.1."""
    def light(colour):
        parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue
    lights = sorted((light(one), light(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def test_a_control_works_with_the_token_and_not_without(window, shop):
    look(window, shop)
    name = status(shop)["limits"][0]["name"]
    hold = f"[aria-label='Limit of {name}']"
    # Hidden until there is a token.
    with pytest.raises(Refused, match="not interactable"):
        window.type(hold, "7")
    unlock(window, "another-token-than-the-right-one")
    window.type(hold, "7")
    window.run("[...document.querySelectorAll('#limits button')].find(b => b.textContent === 'Hold at').click()")
    window.until("document.querySelector('#outcome').textContent === 'the token is missing or wrong'", "it is refused")
    assert window.run("return document.querySelector('#unlocked').hidden"), "the wrong token is forgotten"
    before = status(shop)["limits"][0]
    assert before["adaptive"] and lines(shop, "setting_changed") == []
    # The console hears of it in its own time.
    told = asked_until(lambda: faults(window), "the console tells of it")
    assert len(told) == 1 and "401" in told[0]["message"], told

    unlock(window)
    window.run("[...document.querySelectorAll('#limits button')].find(b => b.textContent === 'Hold at').click()")
    window.until("document.querySelector('#outcome').textContent.endsWith('→ fixed 7')", "it is made")
    window.until("document.querySelector('#limits .tag').textContent === 'held'", "it is shown")
    after = status(shop)["limits"][0]
    assert (after["limit"], after["adaptive"]) == (7, False)
    window.run("[...document.querySelectorAll('#limits button')].find(b => b.textContent === 'Back to adaptive').click()")
    window.until("document.querySelector('#limits .tag').textContent === 'adaptive'", "it is given back")
    changed = asked_until(lambda: len(found := lines(shop, "setting_changed")) == 2 and found, "two lines")
    assert [(line["setting"], line["to"]) for line in changed] == [(f"limit.{name}", "fixed 7"), (f"limit.{name}", "adaptive 7")]
    assert all(line["by"].startswith("127.0.0.1:") for line in changed)
    refused = lines(shop, "change_refused")
    assert [(line["level"], line["reason"]) for line in refused] == [("WARN", "token")]
    assert TOKEN not in (shop.folder / "shop.log").read_text()
    assert faults(window) == []


def test_a_drain_is_asked_for_twice_and_the_page_says_that_the_server_has_gone(window, shop):
    look(window, shop)
    unlock(window)
    window.click("#drain")
    assert window.run("return document.querySelector('#sure').open && document.activeElement.id") == "not-sure"
    window.click("#not-sure")
    assert not window.run("return document.querySelector('#sure').open")
    assert lines(shop, "setting_changed") == []
    window.click("#drain")
    window.click("#is-sure")
    assert shop.process.wait(PATIENCE) == 0
    shop.process.stdout.close()
    shop.log.close()
    window.until("document.querySelector('#link').textContent.startsWith('connection lost')", "it says so")
    window.until("document.body.classList.contains('stale') && /\\d+ s old/.test(document.querySelector('#news').textContent)", "it tells the age")
    assert [line["setting"] for line in lines(shop, "setting_changed")] == ["drain"]
    window.console()


def test_the_page_comes_back_with_the_server(window, tmp_path):
    with free_port() as port:
        the_page_comes_back_with_the_server(window, tmp_path, {"OPS_ADDR": f"127.0.0.1:{port}"})


def the_page_comes_back_with_the_server(window, tmp_path, place):
    first = Shop(tmp_path, place)
    look(window, first)
    first.close()
    window.until("document.querySelector('#link').textContent.startsWith('connection lost')", "it says so")
    again = tmp_path / "again"
    again.mkdir()
    second = Shop(again, place)
    try:
        window.until("document.querySelector('#link').textContent === 'live'", "it is live again")
        window.until("document.querySelector('#news').hidden && !document.body.classList.contains('stale')", "nothing is old")
        assert window.run("return document.querySelector('#controls').hidden"), "this one has no token"
    finally:
        second.close()
    window.console()


def test_without_metrics_the_page_tells_no_good_news(window, tmp_path):
    shop = Shop(tmp_path, {"OTEL_SDK_DISABLED": "true"})
    try:
        get(shop, "/menu")
        look(window, shop)
        told = status(shop)
        assert [told[part] for part in ("routes", "rejections", "trouble")] == [None] * 3
        tiles = window.run("return [...document.querySelectorAll('#tiles dd span')].slice(0, 3).map(n => n.textContent)")
        assert tiles == ["–"] * 3, "calls, errors, rejected"
        for part in ("routes", "rejections", "trouble"):
            assert window.text(f"#{part} .none") == "Metrics are not read here.", part
        # What needs no metrics is there.
        assert window.run("return document.querySelectorAll('#limits .block').length") == len(told["limits"]) > 0
        assert faults(window) == []
    finally:
        shop.close()


def test_what_callers_and_errors_say_is_never_run(window, shop):
    look(window, shop)
    for path in ("/<img src=x onerror=window.canary=1>", "/drills/panic?<script>window.canary=1</script>", "/%3Cscript%3Ewindow.canary%3D1%3C/script%3E"):
        try:
            get(shop, path.replace(" ", "%20"))
        except http.client.HTTPException:
            pass
    # Whatever the server could ever say: each text of a status is the canary.
    told = status(shop)
    # At once: the next status of the server takes its place.
    marks, is_told = window.run("""
        const bad = arguments[1], spoil = value => typeof value === 'string' ? bad : Array.isArray(value) ? value.map(spoil)
            : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, spoil(v)])) : value;
        const status = spoil(arguments[0]);
        status.routes = [{ ...status.routes[0], route: bad }]; status.layers = [{ name: bad, state: bad }];
        status.failures = [{ at_ms: 0, request_id: bad, method: bad, route: bad, outcome: bad, error: bad, duration_ms: 1 }];
        status.rejections = [{ reason: bad, rate: 1, calls: 1 }]; status.trouble = [{ metric: bad, attributes: bad, count: 1 }];
        status.tasks = [{ name: bad, died: 1, is_down: true }];
        status.health = { status: bad, checks: [{ name: bad, status: bad, error: bad }] };
        show(status);
        return [document.querySelectorAll('img, script').length, document.querySelector('#failures').textContent.includes(bad)];
    """, told, CANARY)
    assert marks == 1 and is_told, (marks, is_told)
    assert window.run("return window.canary === undefined")
    # And should something get in after all, the policy stops it.
    with pytest.raises(Refused):
        window.run("document.body.innerHTML = arguments[0]", CANARY)
    assert window.run("return window.canary === undefined")
    window.console()


def test_a_name_that_was_made_to_lead_here_reads_nothing(window, shop):
    window.open(f"http://rebound.example:{shop.admin[1]}/livez")
    assert window.run("return location.host") == f"rebound.example:{shop.admin[1]}", "what is shown is of that origin"
    window.run("""
        window.read = [];
        for (const path of ['/status', '/status.json', '/status/events', '/metrics', '/health', '/livez'])
            fetch(path, { headers: { 'Accept-Language': '' }, referrerPolicy: 'no-referrer' }).then(answer => window.read.push(answer.status));
    """)
    window.until("window.read.length === 6", "all is answered")
    assert window.run("return window.read") == [421] * 6
    # By its address the same browser reads, and a scraper reads by any name.
    look(window, shop)
    connection = http.client.HTTPConnection(*shop.admin, timeout=PATIENCE)
    connection.request("GET", "/metrics", headers={"host": "shop-ops.default.svc"})
    answer = connection.getresponse()
    assert answer.status == 200
    refused = re.search(rb'plimsoll_ops_refused_total{[^}]*reason="host"[^}]*} (\d+)', answer.read())
    connection.close()
    # The page that was opened, and six reads: browsers may try each once more.
    assert int(refused[1]) >= 7
    assert [entry for entry in faults(window) if "421" not in entry["message"]] == []


def change(shop, path, body):
    connection = http.client.HTTPConnection(*shop.admin, timeout=PATIENCE)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    connection.request("POST", f"/control/{path}", json.dumps(body), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def take_picture(place, seconds):
    """Of a service to which something happens: its limit is held low for a while, and given back."""
    folder = Path(tempfile.mkdtemp(dir=place.parent))
    shop = Shop(folder, {"PLIMSOLL_OPS_TOKEN": TOKEN})
    drills = ["/drills/panic", "/drills/error", "/drills/slow", "/drills/slow", "/drills/slow"]
    try:
        with browser(folder) as window, Load(shop, 8, 0.1, drills) as load:
            window.size(1280, 900)
            look(window, shop)
            told = status(shop)
            limit, policy = told["limits"][0]["name"], told["rate_limits"][0]["name"]
            load.over.wait(seconds * 0.4)
            change(shop, "limit", {"limit": limit, "set": 3})
            load.over.wait(seconds * 0.2)
            change(shop, "limit", {"limit": limit, "set": "adaptive"})
            load.over.wait(seconds * 0.3)
            change(shop, "rate_limit", {"policy": policy, "quotas": "40/s burst 80"})
            load.over.wait(seconds * 0.1)
            unlock(window)
            picture = smaller(window.picture())
    finally:
        shop.close()
        shutil.rmtree(folder)
    assert len(picture) < 300_000, len(picture)
    place.write_bytes(picture)


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]).resolve(), float(sys.argv[2]))
