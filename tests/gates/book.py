"""The book and the examples: every link leads somewhere, every page is listed, every block is what it says it is.

Prints every breach and exits 1 on one. Each rule carries a sample that it must catch, and the samples are checked on every run.
Rust blocks are compiled as doc tests, the commands of the adoption guide are run by `tests/blackbox/test_adoption.py`.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOT_PAGES = {"SUMMARY.md"}
KINDS = {"diff", "ini", "json", "promql", "rust", "sh", "text", "toml", "yaml"}
LINK = re.compile(r"(?<!\!)\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)|!\[[^\]]*\]\(([^()\s]+)\)")


def prose_and_blocks(text):
    """The text without its fenced blocks, and the blocks: (kind with its attributes, text, line)."""
    prose, blocks, fence = [], [], None
    for at, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            if fence is None:
                fence = (line.strip()[3:], at, [])
            else:
                blocks.append((fence[0], "\n".join(fence[2]), fence[1]))
                fence = None
            prose.append("")
        elif fence is not None:
            fence[2].append(line)
            prose.append("")
        else:
            prose.append(line)
    if fence is not None:
        blocks.append(("open", "", fence[1]))
    return prose, blocks


def slug(heading):
    """The anchor that GitHub and mdBook give to a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path):
    prose, _ = prose_and_blocks(path.read_text())
    found = []
    for line in prose:
        if heading := re.match(r"#{1,6} (.*)", line):
            name = slug(heading[1])
            found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


def broken_links(path, text):
    """Links of a page that lead nowhere."""
    prose, _ = prose_and_blocks(text)
    for at, line in enumerate(prose, 1):
        for found in LINK.finditer(re.sub(r"`[^`]*`", lambda code: code[0] if "](" not in code[0] else "", line)):
            to = found[1] or found[2]
            if re.match(r"[a-z]+:", to):
                continue
            name, _, anchor = unquote(to).partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists():
                yield at, f"the link leads nowhere: {to}"
            elif path.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
                yield at, f"the link leads out of the book: {to}"
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                yield at, f"there is no such heading: {to}"


def bad_blocks(text):
    """Blocks that are not what they say."""
    for attributes, block, at in prose_and_blocks(text)[1]:
        kind, *more = attributes.split(",")
        if kind not in KINDS:
            yield at, f"not a kind of block: {attributes or 'none'}"
        elif kind == "rust" and set(more) - {"no_run", "should_panic", "compile_fail"} and not any(one.startswith("compile_fail") for one in more):
            yield at, f"a Rust block that is not compiled: {attributes}"
        elif kind == "toml":
            try:
                tomllib.loads(block)
            except tomllib.TOMLDecodeError as error:
                yield at, f"not TOML: {error}"
        elif kind == "json":
            try:
                for value in [block] if block.lstrip().startswith("{\n") else block.splitlines():
                    json.loads(value)
            except ValueError as error:
                yield at, f"not JSON: {error}"
        elif kind == "sh":
            parsed = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
            if parsed.returncode:
                yield at, f"not a command: {parsed.stderr.strip()}"


def missing_pages(summary, pages):
    """What the list of pages lacks, has twice or makes up."""
    listed = re.findall(r"\]\(([^)]+)\)", summary)
    yield from (f"{page} is not in SUMMARY.md" for page in sorted(pages - set(listed)))
    yield from (f"SUMMARY.md lists {page}, which is not there" for page in sorted(set(listed) - pages))
    yield from (f"SUMMARY.md lists {page} twice" for page in sorted({page for page in listed if listed.count(page) > 1}))


def not_compiled(guide, path, text):
    """A page whose Rust blocks are no doc tests."""
    if any(kind.split(",")[0] == "rust" for kind, _, _ in prose_and_blocks(text)[1]) and f'"../{path.relative_to(ROOT)}"' not in guide:
        yield 1, "its Rust blocks are not compiled: middleware/guide.rs does not name it"


def bad_examples(name, text, needed):
    """What an example of a layer lacks: its command in the first line, the features that it needs, fewer than 60 lines."""
    command = re.match(r"//! `(?:\w+=\S+ )*cargo run --example (\w+) --features ([\w,-]+)`[:,] \S", text)
    if not command or command[1] != name:
        yield "its first line is not its command"
    elif missing := set(needed) - set(command[2].split(",")) - ({*needed} if "full" in command[2] else set()):
        yield f"its command lacks the features {', '.join(sorted(missing))}"
    if len(text.splitlines()) >= 60:
        yield "60 lines or more"


def examples():
    """Every example, and that every layer has one."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    needed = {example["name"]: example.get("required-features", []) for example in manifest["example"]}
    there = {path.stem: path for path in sorted((ROOT / "examples").glob("*.rs"))}
    yield from (f"examples/{name}.rs: Cargo.toml does not name it" for name in sorted(set(there) - set(needed)))
    for name, path in there.items():
        yield from (f"examples/{name}.rs: {what}" for what in bad_examples(name, path.read_text(), needed.get(name, [])))
    layers = {path.stem for path in [*(ROOT / "middleware/server").iterdir(), *(ROOT / "middleware/client").iterdir()]} - {"mod"}
    yield from (f"{layer} has no example" for layer in sorted(layers - set(there)))


def names_of_code():
    """The events, outcomes and metrics that the library knows: what the pages may tell of."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "middleware").rglob("*.rs")))
    events = set(re.findall(r'event(?: =|"\),) "([a-z_]+)"', code))
    metrics = {name.replace(".", "_") for name in re.findall(r'"((?:plimsoll|http|rpc)\.[a-z_.]+)"', code)}
    return events, metrics


def made_up_names(text, events, metrics):
    """Events and metrics that a page tells of and the code does not know."""
    for at, line in enumerate(text.splitlines(), 1):
        for event in re.findall(r'\bevent(?:"?[:=]\s*)"([a-z_]+)"', line):
            if event not in events:
                yield at, f"there is no such event: {event}"
        for name in re.findall(r"\b((?:plimsoll|http_server|rpc_server)_[a-z_]+)\b", line):
            stem = re.sub(r"_(total|seconds|bytes|bucket|count|sum)(?=_|$)", "", name)
            if not any(stem == re.sub(r"_(total|seconds|bytes)$", "", known) for known in metrics):
                yield at, f"there is no such metric: {name}"


def untold_events(page, events):
    """Events of the library that the list of its lines does not have."""
    return [f"docs/reading.md does not tell of the event {event}" for event in sorted(events) if f"`{event}`" not in page]


def check_samples():
    page = DOCS / "README.md"
    samples = [
        (list(broken_links(page, "[x](nowhere.md)")), "a dead link"),
        (list(broken_links(page, "[x](README.md#nowhere)")), "a dead anchor"),
        (list(broken_links(page, "[x](../README.md)")), "a link out of the book"),
        (list(bad_blocks("```toml\na = \n```")), "bad TOML"),
        (list(bad_blocks('```json\n{"a":1,}\n```')), "bad JSON"),
        (list(bad_blocks("```sh\nfor x in; do\n```")), "a bad command"),
        (list(bad_blocks("```rust,ignore\nfn\n```")), "a Rust block that is not compiled"),
        (list(bad_blocks("```\nx\n```")), "a block of no kind"),
        (list(bad_blocks("```text\nx")), "a block that does not end"),
        (list(missing_pages("[a](a.md)", {"a.md", "b.md"})), "a page that is not listed"),
        (list(not_compiled("", page, "```rust\n```")), "a page that is no doc test"),
        (list(made_up_names('`event="nothing"`', *names_of_code())), "an event that there is not"),
        (list(bad_examples("log", "//! Logs.", ["access-log"])), "an example without its command"),
        (list(bad_examples("log", "//! `cargo run --example log --features axum`: logs", ["access-log"])), "an example whose command fails"),
        (untold_events("`panic`", {"panic", "abort"}), "an event that is not told"),
        (list(made_up_names("`plimsoll_nothing_total`", *names_of_code())), "a metric that there is not"),
    ]
    for found, what in samples:
        if not found:
            sys.exit(f"the rule about {what} does not catch its own sample")


def main():
    check_samples()
    breaches, links = [], 0
    guide = (ROOT / "middleware/guide.rs").read_text()
    events, metrics = names_of_code()
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pages = [ROOT / name for name in tracked if (ROOT / name).exists()]
    for path in pages:
        text = path.read_text()
        links += len(LINK.findall("\n".join(prose_and_blocks(text)[0])))
        found = [*broken_links(path, text), *bad_blocks(text)]
        if path.parent == DOCS or path == ROOT / "README.md":
            found += [*not_compiled(guide, path, text), *made_up_names(text, events, metrics)]
        breaches += [f"{path.relative_to(ROOT)}:{at}: {what}" for at, what in found]
    breaches += missing_pages((DOCS / "SUMMARY.md").read_text(), {path.name for path in pages if path.parent == DOCS} - NOT_PAGES)
    if len(pages) < 20 or links < 50:
        sys.exit(f"only {len(pages)} pages with {links} links found below {ROOT}")
    breaches += [*examples()]
    breaches += untold_events((DOCS / "reading.md").read_text(), events)
    for breach in breaches:
        print(f"BREACH: {breach}")
    print(f"{len(pages)} pages, {links} links, {len(breaches)} breaches")
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()
