"""The source rules that no compiler knows. Prints every breach and every declared exception; exits 1 on a breach.

Each rule carries a sample that it must catch, and the samples are checked on every run: a rule that has gone blind fails.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 500
GATES = (
    "let_underscore_must_use", "unused_result_ok", "map_err_ignore", "indexing_slicing", "arithmetic_side_effects",
    "print_stderr", "print_stdout", "unwrap_used", "disallowed_methods",
)


@dataclass(frozen=True)
class Rule:
    """A pattern that may not stand in a line of code, but for the files in `free` or below a comment `excuse`."""

    name: str
    pattern: str
    sample: str
    excuse: str = ""
    free: tuple = ()
    comments: bool = False  # also look into comments
    unless: object = None  # (lines, at) -> whether it is allowed there

    def breaks(self, line):
        return re.search(self.pattern, line if self.comments else code_of(line))


def on_paused_clock(lines, at):
    """Whether a line is in a test whose clock is paused: sleeping takes no time there."""
    for back in range(at, -1, -1):
        if found := re.search(r"#\[(tokio::)?test\b(.*)", lines[back]):
            return "start_paused = true" in found[2]
    return False


def is_bound(lines, at):
    """Whether the value of the statement that ends here goes somewhere: `let one = two.ok();`."""
    for back in range(at, max(-1, at - 12), -1):
        code = code_of(lines[back])
        if not code.strip().startswith((".", "|", "}", ")")):
            return re.match(r"\s*(let\b|return\b|.*[^=!<>]=[^=])", code)
    return False


SWALLOW = r"// swallow: \S+ \S+"
SLEEPS = r"// sleeps: \S+"

# What the library's own code must not do.
LIBRARY = [
    Rule("a result is thrown away", r"\blet _\s*(:[^=]+)?=[^=]", "    let _ = sender.send(line);", SWALLOW),
    Rule("a result is thrown away", r"\.ok\(\)\s*;", "    file.flush().ok();", SWALLOW, unless=is_bound),
    Rule("a result is thrown away", r"\bdrop\(.*\.(send|write_all|flush|try_send|await)\b", "drop(tx.send(1));", SWALLOW),
    Rule("an error's cause is thrown away", r"map_err\(\s*(move\s*)?\|\s*_\w*\s*(:[^|]+)?\|", ".map_err(|_| Gone)?", SWALLOW),
    Rule("a task of which nobody hears", r"\b(tokio|task)::spawn(_blocking|_local)?\s*\(", "tokio::spawn(run());",
         SWALLOW, free=("task.rs",)),
    Rule("output past the log", r"\b(e?print(ln)?|dbg)!", '    eprintln!("oh");'),
    Rule("the time is read outside clock.rs", r"\b(Instant|SystemTime|OffsetDateTime|Timestamp|Zoned)::now\(",
         "let started = Instant::now();", free=("clock.rs",)),
    Rule("unfinished", r"\b(todo|unimplemented)!", "todo!()"),
    Rule("a feature is asked inside the code", r"\bcfg!\(\s*feature", 'if cfg!(feature = "axum") {'),
    Rule("a gate is switched off without a reason", r"#!?\[(allow|expect)\((?!.*\breason\b).*clippy::(%s)\b" % "|".join(GATES),
         "#[allow(clippy::unwrap_used)]"),
]
# What no file of ours may hold, tests and examples included.
EVERYWHERE = [
    Rule("unfinished", r"\b(TODO|FIXME|XXX|HACK)\b", "// TODO: later", comments=True),
    Rule("a test that does not run", r"#\[ignore\b", "#[ignore]"),
    Rule("unsafe code", r"\bunsafe\s*(\{|fn\b|impl\b)", "unsafe { *p }", free=("alloc.rs",)),
]
# What a test must not do: it waits for what happens, not for time to pass.
TESTS = [
    Rule("a test sleeps", r"\b(thread|time)::(sleep|sleep_until)\s*\(|\bsleep\(\s*(Duration|std::)", "tokio::time::sleep(d).await;", SLEEPS,
         unless=on_paused_clock),
]
PYTHON = [
    Rule("a test sleeps", r"\bsleep\(", "time.sleep(1)", r"# sleeps: \S+"),
    Rule("a test that may not run", r"\b(pytest\.(skip|importorskip|xfail)|mark\.(skip|skipif|xfail|flaky))\b", "@pytest.mark.skip"),
    Rule("an error is thrown away", r"^\s*except(\s+(Exception|BaseException))?\s*:\s*(pass)?\s*$", "    except:", r"# swallow: \S+"),
]


def code_of(line):
    """The line without its comment and without what stands in string literals."""
    line = re.sub(r'"(\\.|[^"\\])*"', '""', line)
    return re.sub(r"(^|\s)(//|#(?=\s)).*", r"\1", line)


def library_part(lines):
    """How many lines of a file come before its test module."""
    for at, line in enumerate(lines):
        if line.startswith("#[cfg(test)]") or line.startswith("#![cfg(test)]"):
            return at
    return len(lines)


def excuse_near(pattern, lines, at):
    """The declared exception on the line itself or in the comment right above its statement."""
    for back in range(at, max(-1, at - 8), -1):
        if found := re.search(pattern, lines[back]):
            return lines[back][found.start():].strip()
        if back < at and not lines[back].strip().startswith(("//", "#", ".", "let", "if", "match")):
            return None
    return None


class Report:
    def __init__(self):
        self.breaches, self.exceptions, self.warnings = [], [], []

    def apply(self, rules, path, lines, first, last):
        for rule in rules:
            if path.name in rule.free:
                continue
            for at in range(first, last):
                if not rule.breaks(lines[at]) or (rule.unless and rule.unless(lines, at)):
                    continue
                where = f"{path.relative_to(ROOT)}:{at + 1}"
                if rule.excuse and (excuse := excuse_near(rule.excuse, lines, at)):
                    self.exceptions.append(f"{where}: {excuse}")
                else:
                    self.breaches.append(f"{where}: {rule.name}: {lines[at].strip()}")

    def features(self, path, lines):
        """`cfg(feature)` stands at column 0, on a `mod` or `use` line."""
        for at, line in enumerate(lines):
            if not re.search(r"#!?\[cfg(_attr)?\(.*\bfeature\b", code_of(line) if '"' not in line else line):
                continue
            if line.strip().startswith("//") or re.match(r"#!\[cfg_attr\((docsrs|not\(feature = \"full\"\), allow)\b", line):
                continue
            after = at
            while after < len(lines) and lines[after].startswith("#["):
                after += 1
            target = lines[after] if after < len(lines) else ""
            if not line.startswith("#[") or not re.match(r"(pub(\([a-z]+\))?\s+)?(mod|use)\b", target):
                self.breaches.append(f"{path.relative_to(ROOT)}:{at + 1}: a feature is asked away from a mod or use line: {line.strip()}")


def check_samples():
    for rule in LIBRARY + EVERYWHERE + TESTS + PYTHON:
        if not rule.breaks(rule.sample):
            sys.exit(f"the rule '{rule.name}' ({rule.pattern}) does not catch its own sample: {rule.sample}")
    probe = Report()
    for bad in ('    #[cfg(feature = "axum")]\n    use axum;', '#[cfg(feature = "axum")]\nfn f() {}'):
        before = len(probe.breaches)
        probe.features(ROOT / "sample.rs", bad.split("\n"))
        if len(probe.breaches) == before:
            sys.exit(f"the rule about features does not catch its own sample: {bad}")


def rust_files(*folders):
    for folder in folders:
        yield from sorted(path for path in (ROOT / folder).rglob("*.rs") if "target" not in path.relative_to(ROOT).parts)


def manifests():
    """Every crate takes the workspace's lints, where `unsafe_code` is forbidden. The allocator that counts for the benches
    cannot do without: there it is denied, and switched on in that one file."""
    for manifest in sorted([ROOT / "Cargo.toml", *ROOT.glob("benches/Cargo.toml"), *ROOT.glob("examples/*/Cargo.toml")]):
        text = manifest.read_text()
        own = r"^unsafe_code = \"deny\"" if manifest.parent.name == "benches" else r"^\[lints\]\s*\nworkspace = true"
        if not re.search(own, text, re.M):
            yield f"{manifest.relative_to(ROOT)}: does not take the workspace's lints"
    if not re.search(r'^unsafe_code = "forbid"', (ROOT / "Cargo.toml").read_text(), re.M):
        yield "Cargo.toml: unsafe_code is not forbidden"


def main():
    check_samples()
    report = Report()
    report.breaches += manifests()
    files = 0
    for path in rust_files("middleware", "tests", "examples", "benches"):
        lines = path.read_text().splitlines()
        files += 1
        if len(lines) > MOST_LINES:
            report.warnings.append(f"{path.relative_to(ROOT)}: {len(lines)} lines, more than {MOST_LINES}")
        report.apply(EVERYWHERE, path, lines, 0, len(lines))
        of_library = path.is_relative_to(ROOT / "middleware") and path.name != "tests.rs" and path.parent.name != "tests"
        border = library_part(lines) if of_library else 0
        if of_library:
            report.apply(LIBRARY, path, lines, 0, border)
            report.features(path, lines)
        if of_library or path.is_relative_to(ROOT / "tests") or path.is_relative_to(ROOT / "middleware"):
            report.apply(TESTS, path, lines, border, len(lines))
    for path in sorted((ROOT / "tests/blackbox").rglob("*.py")):
        lines = path.read_text().splitlines()
        files += 1
        report.apply(PYTHON, path, lines, 0, len(lines))
    if files < 10:
        sys.exit(f"only {files} files found below {ROOT}")
    for title, entries in (("exception", report.exceptions), ("warning", report.warnings), ("BREACH", report.breaches)):
        for entry in entries:
            print(f"{title}: {entry}")
    print(f"{files} files, {len(report.breaches)} breaches, {len(report.exceptions)} declared exceptions, {len(report.warnings)} warnings")
    sys.exit(1 if report.breaches else 0)


if __name__ == "__main__":
    main()
