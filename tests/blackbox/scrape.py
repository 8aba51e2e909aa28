"""What `/metrics` tells, and the programs that read it. `tests/run` puts them into `target/tools`."""

import re
import shutil
from collections import Counter

from clients import http1
from server import TARGET

TOOLS = TARGET / "tools"
LINE = re.compile(r"^([a-z_:0-9]+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-z_0-9]+)="((?:[^"\\]|\\.)*)"')


def tool(name, *places):
    """A program, from `target/tools` or the path."""
    for place in places:
        if (TOOLS / place).exists():
            return str(TOOLS / place)
    found = shutil.which(name)
    assert found, f"{name} is not installed: tests/run does it"
    return found


def text(server):
    answer = http1(server.admin, "/metrics")
    assert answer.status == 200
    return answer.body.decode()


class Scrape:
    def __init__(self, text):
        self.text = text
        self.values = []
        for line in text.splitlines():
            if found := LINE.match(line):
                name, labels, value = found.groups()
                self.values.append((name, dict(LABEL.findall(labels or "")), float(value)))

    def sum(self, name, **labels):
        return sum(value for known, told, value in self.values if known == name and labels.items() <= told.items())

    def by(self, name, label):
        counts = Counter()
        for known, told, value in self.values:
            if known == name:
                counts[told[label]] += int(value)
        return +counts

    def series(self, name):
        return [told for known, told, _ in self.values if known == name]


def scrape(server):
    return Scrape(text(server))


def balanced(told):
    """L1: what began has ended or is in flight."""
    started = told.sum("plimsoll_requests_started_total")
    assert started == told.sum("plimsoll_requests_total") + told.sum("plimsoll_requests_in_flight")
