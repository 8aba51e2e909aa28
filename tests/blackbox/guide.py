"""The adoption guide as a program: its blocks are applied, built, run and compared, in the order of the page.

A page begins with a manifest (`toml`) and a program (`rust`). Then `diff` changes them, `sh` runs commands, the `text` after
it is what they print, and the `json` after it is what the program logs meanwhile. `cargo run` starts the program anew.
"""

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.request import urlopen

from programs import Said, asked_until, free_port, is_open
from scrape import Scrape
from server import PATIENCE, ROOT, TARGET, die_with_parent

# The program of the page uses the library of this tree, and shares what the workspace has built.
MANIFEST_END = """
[patch.crates-io]
plimsoll = {{ path = "{root}" }}

[workspace]

{profiles}
"""
# What differs from run to run, and what stands for it.
VARIES = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", r"[0-9a-f-]{36}"),
    (r'(?<=trace_id":")[0-9a-f]{32}', r"[0-9a-f]{32}"),
    (r'(?<=span_id":")[0-9a-f]{16}', r"[0-9a-f]{16}"),
    (r'(?<=_ms":)[0-9.]+', r"[0-9.]+"),
    (r'(?<="user_agent":"curl/)[^"]+', r'[^"]+'),
    (r'(?<="in_flight":)\d+', r"\d+"),
    (r'(?<="waiting":)\d+', r"\d+"),
    (r'(?<="permits":)\d+', r"\d+"),
    (r"(?<=after )\d+(?= milliseconds)", r"\d+"),
    (r"(?<=;t=)\d+", r"\d+"),
    (r"(?<=pushback-ms: )\d+", r"\d+"),
]
COUNTED = re.compile(r"^\s+\d+ (\S+)$")  # a line of `uniq -c`


@dataclass(frozen=True)
class Block:
    step: str  # the number of the heading it stands under, or ""
    kind: str
    text: str
    line: int


def blocks(page):
    """The fenced blocks of a page."""
    found, step, fence = [], "", None
    for at, line in enumerate(page.read_text().splitlines(), 1):
        if fence is None and (heading := re.match(r"## (?:(\d+)\. )?", line)):
            step = heading[1] or ""
        if line.startswith("```"):
            if fence is None:
                fence = (line[3:].split(",")[0], at, [])
            else:
                kind, begin, lines = fence
                found.append(Block(step, kind, "\n".join(lines) + "\n", begin))
                fence = None
        elif fence is not None:
            fence[2].append(line)
    assert fence is None, f"{page}: the block in line {fence[1]} does not end"
    return found


def apply(files, diff):
    """The files with a unified diff applied; every line of it has to fit."""
    files, name, hunks = dict(files), None, []
    for line in diff.splitlines():
        if line.startswith("--- "):
            continue
        if line.startswith("+++ "):
            name = line[4:]
        elif line.startswith("@@"):
            hunks.append((name, [], []))
        else:
            sign, rest = line[:1] or " ", line[1:]
            assert sign in "+- " and hunks, f"not a line of a diff: {line}"
            hunks[-1][1].extend([rest] * (sign in "- "))
            hunks[-1][2].extend([rest] * (sign in "+ "))
    assert hunks, "an empty diff"
    for name, old, new in hunks:
        before, after = "\n".join(old) + "\n", "\n".join(new) + "\n"
        assert files[name].count(before) == 1, f"{name}: stands there {files[name].count(before)} times:\n{before}"
        files[name] = files[name].replace(before, after)
    return files


def reverse(diff):
    """The diff that takes this one out again."""
    swapped = {"+": "-", "-": "+"}
    return "\n".join(line if line[:3] in ("---", "+++") else swapped.get(line[:1], line[:1]) + line[1:] for line in diff.splitlines())


def pattern(line):
    """What a shown line stands for."""
    parts, at = "", 0
    spots = sorted((found.start(), found.end(), to) for shown, to in VARIES for found in re.finditer(shown, line))
    for begin, end, to in spots:
        if begin >= at:
            parts += re.escape(line[at:begin]) + to
            at = end
    return re.compile(parts + re.escape(line[at:]))


def fits(shown, seen):
    """Whether output is what the page shows. Of counted lines the counts differ, and the rare ones may be missing."""
    shown, seen = shown.strip("\n").split("\n"), seen.strip("\n").split("\n")
    if all(COUNTED.match(line) for line in shown):
        codes = [COUNTED.match(line)[1] for line in shown]
        counted = [found[1] for line in seen if (found := COUNTED.match(line))]
        return len(counted) == len(seen) >= 2 and codes[0] in counted and set(counted) <= set(codes)
    return len(shown) == len(seen) and all(pattern(one).fullmatch(two) for one, two in zip(shown, seen))


class Program:
    """The program of the page at some step of it."""

    def __init__(self, folder):
        self.folder, self.files, self.process, self.held = folder, {}, None, ExitStack()
        self.ports = {shown: str(self.held.enter_context(free_port())) for shown in ("3000", "9090", "50051")}

    def here(self, text):
        """A text of the page with the ports of this run."""
        for shown, real in self.ports.items():
            text = re.sub(rf"(localhost|127\.0\.0\.1):{shown}\b", rf"127.0.0.1:{real}", text)
        return text

    def build(self):
        (self.folder / "src").mkdir(parents=True, exist_ok=True)
        workspace = (ROOT / "Cargo.toml").read_text()
        profiles = "\n".join(re.findall(r"^\[profile\.dev.*?(?=^\[(?!profile\.dev)|\Z)", workspace, re.M | re.S))
        end = MANIFEST_END.format(root=ROOT, profiles=profiles)
        for name, text in self.files.items():
            text = self.here(text) if "SHOP_ADDR" not in text else text
            (self.folder / name).write_text(text + (end if name == "Cargo.toml" else ""))
        shutil.copy(ROOT / "Cargo.lock", self.folder / "Cargo.lock")
        built = subprocess.run(
            ["cargo", "build", "--offline"], cwd=self.folder, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)}, capture_output=True, text=True
        )
        assert built.returncode == 0, built.stderr[-4000:]

    def start(self):
        self.stop()
        self.build()
        addresses = {"SHOP_ADDR": self.here("127.0.0.1:3000"), "OPS_ADDR": self.here("127.0.0.1:9090")}
        self.process = subprocess.Popen(
            [TARGET / "debug/shop"], cwd=self.folder, env={"PATH": os.environ["PATH"], "NO_COLOR": "1", **addresses},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
        )
        self.said = Said(self.process)
        listens = [real for shown, real in self.ports.items() if f":{shown}\"" in self.files["src/main.rs"]]
        asked_until(lambda: all(is_open(int(port)) for port in listens), "the program listens")

    def stop(self):
        if self.process is not None:
            process, self.process = self.process, None
            # Not Ctrl-C's: where tests run in the background that one is ignored, and programs inherit it.
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()
                process.stdout.close()

    def run(self, commands):
        """What the commands print. The log is looked at from here on."""
        self.said.forget()
        if "cargo run" in commands:  # as a command among others: the program as it was built
            commands = commands.replace("cargo run", str(TARGET / "debug/shop"))
        before, asks, after = commands.partition("curl -s localhost:9090/metrics")
        printed = self.shell(before)
        if asks:
            # Who reads the numbers has let go of the calls before; a call that its caller left may still be under way.
            asked_until(lambda: Scrape(self.metrics()).sum("plimsoll_requests_in_flight") == 0, "the calls have ended")
            printed += self.shell(asks + after)
        return printed

    def shell(self, commands):
        ended = subprocess.run(
            ["bash", "-c", self.here(commands)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
        )
        return ended.stdout

    def metrics(self):
        with urlopen(self.here("http://localhost:9090/metrics"), timeout=PATIENCE) as answer:
            return answer.read().decode()

    def close(self):
        self.stop()
        self.held.close()

    def logs(self, shown):
        """Waits until the log holds the lines, in their order."""
        patterns = [pattern(self.here(line)) for line in shown.strip().split("\n")]

        def holds(text):
            lines = iter(text.split("\n"))
            return all(any(one.fullmatch(line) for line in lines) for one in patterns)

        self.said.all_until(holds, shown)


def first_files(all_blocks):
    """The program that a page begins with."""
    return {
        "Cargo.toml": next(block.text for block in all_blocks if block.kind == "toml"),
        "src/main.rs": next(block.text for block in all_blocks if block.kind == "rust"),
    }


def walk(page, step, folder):
    """Runs one step of a page, on top of the diffs of those before it."""
    all_blocks = blocks(page)
    program = Program(folder)
    program.files = first_files(all_blocks)
    first = next(at for at, block in enumerate(all_blocks) if block.step == step and block.kind in ("sh", "diff"))
    for block in all_blocks[:first]:
        if block.kind == "diff":
            program.files = apply(program.files, block.text)
    looked, printed = 0, None
    try:
        for block in all_blocks[first:]:
            if block.step != step:
                break
            where = f"{page.name}:{block.line}"
            if block.kind == "diff":
                program.files = apply(program.files, block.text)
            elif block.kind == "sh" and block.text == "cargo run\n":
                program.start()
            elif block.kind == "sh":
                if program.process is None:
                    program.start()
                printed = program.run(block.text)
            elif block.kind == "text":
                assert fits(program.here(block.text), printed), f"{where} shows\n{block.text}\nand there was\n{printed}"
                looked += 1
            elif block.kind == "json":
                program.logs(block.text)
                looked += 1
    finally:
        program.close()
    return looked
