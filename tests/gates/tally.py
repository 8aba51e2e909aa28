"""Counts what ran: every suite of suites.txt must have run at least so many tests, and none may have been skipped.

    tally.py [--update] SUITES RUST_REPORT DOC_LOG PYTEST_REPORT

RUST_REPORT is the JUnit file of cargo-nextest or, where that is not installed, the output of `cargo test`.
`--update` writes SUITES anew from what ran. Prints one line per suite, then `passed=N failed=N`; exits 1 where a suite is missing, too small, unknown, skipped or failed.
"""

import re
import sys
import xml.etree.ElementTree as xml
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Count:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0


def of_nextest(path, counts):
    for suite in xml.parse(path).getroot().iter("testsuite"):
        count = counts[suite.get("name").replace("-", "_")]
        for case in suite.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                count.failed += 1
            elif case.find("skipped") is not None:
                count.skipped += 1
            else:
                count.passed += 1


def of_cargo_test(path, counts):
    """`Running tests/contract.rs (target/debug/deps/contract-0123)`, then `test result: ok. 12 passed; ...`."""
    name = None
    for line in Path(path).read_text(errors="replace").splitlines():
        if found := re.match(r"\s*Running (?:unittests )?(\S+) \(\S*?deps/(\w+)-[0-9a-f]+\)", line):
            source, crate = found[1], found[2]
            if source.startswith("tests/"):
                owner = "plimsoll" if (ROOT / source).exists() else next(ROOT.glob(f"*/*/{source}")).parts[-3]
                name = f"{owner}::{crate}"
            else:
                name = f"{crate}::bin/{crate}" if source.endswith("main.rs") else crate
        elif found := re.match(r"\s*Doc-tests (\S+)", line):
            name = f"{found[1]} (doc)"
        elif found := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", line):
            count = counts[name]
            count.passed += int(found[1])
            count.failed += int(found[2])
            count.skipped += int(found[3])


def of_pytest(path, counts):
    for case in xml.parse(path).getroot().iter("testcase"):
        count = counts["blackbox::" + case.get("classname").split(".")[-1]]
        if case.find("failure") is not None or case.find("error") is not None:
            count.failed += 1
        elif case.find("skipped") is not None:
            count.skipped += 1
        else:
            count.passed += 1


def expected(path):
    for line in Path(path).read_text().splitlines():
        if line and not line.startswith("#"):
            least, name = line.split(maxsplit=1)
            yield name, int(least)


def update(path, counts):
    """Suites of the library first, those of the black box last."""
    head = [line for line in Path(path).read_text().splitlines() if line.startswith("#")]
    names = sorted(counts, key=lambda name: (not name.startswith("plimsoll"), name.startswith("blackbox"), name))
    Path(path).write_text("\n".join(head + [f"{counts[name].passed:>3} {name}" for name in names]) + "\n")


def main(suites, rust, doc, python, updating=False):
    counts = defaultdict(Count)
    faults = []
    for read, path in ((of_nextest if rust.endswith(".xml") else of_cargo_test, rust), (of_cargo_test, doc), (of_pytest, python)):
        try:
            read(path, counts)
        except (OSError, xml.ParseError) as error:
            faults.append(f"no report to read: {error}")
    if updating and not faults:
        update(suites, counts)
    wanted = dict(expected(suites))
    for name in sorted(wanted.keys() | counts.keys()):
        count = counts[name]
        ran = count.passed + count.failed
        print(f"{name:<40} {count.passed:>6} passed {count.failed:>4} failed {count.skipped:>4} skipped   (at least {wanted.get(name, '?')})")
        if count.failed:
            faults.append(f"{name}: {count.failed} failed")
        if count.skipped:
            faults.append(f"{name}: {count.skipped} skipped")
        if ran and name not in wanted:
            faults.append(f"{name}: not in {suites}; add it there with its number of tests")
        if ran < wanted.get(name, 0):
            faults.append(f"{name}: {ran} tests ran, at least {wanted[name]} expected")
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"passed={sum(c.passed for c in counts.values())} failed={sum(c.failed for c in counts.values())}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(*(word for word in words if word != "--update"), updating="--update" in words)
