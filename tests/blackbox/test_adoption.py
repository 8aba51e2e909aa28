"""The guide and the quick starts as their readers follow them: each step is built, run and looked at."""

import pytest
from guide import apply, blocks, first_files, fits, reverse, walk
from server import ROOT, TARGET

PAGE = ROOT / "docs/adopt.md"


@pytest.mark.parametrize("step", ["", "1", "2", "3", "4", "5", "6", "7"], ids=lambda step: step or "begin")
def test_step_is_as_written(step):
    assert walk(PAGE, step, TARGET / "adoption") > 0


@pytest.mark.parametrize("page", ["start-axum", "start-tonic", "start-both"])
def test_quick_start_is_as_written(page):
    assert walk(ROOT / f"docs/{page}.md", "", TARGET / "adoption") > 0


@pytest.mark.parametrize("page", ["start-axum", "start-tonic"])
def test_two_lines_are_two_lines(page):
    """The first diff of a quick start: what it adds to the program, but for moved punctuation."""
    diff = next(block.text for block in blocks(ROOT / f"docs/{page}.md") if block.kind == "diff")
    program = diff[diff.index("+++ src/main.rs"):]
    gone = {line[1:].rstrip(";") for line in program.splitlines() if line.startswith("-")}
    new = [line for line in program.splitlines()[1:] if line.startswith("+") and line[1:].rstrip(";") not in gone]
    assert len(new) == 2, new


def test_every_step_has_its_parts():
    text = PAGE.read_text()
    steps = {block.step for block in blocks(PAGE) if block.kind == "diff"}
    assert steps == set("1234567")
    assert all(text.count(f"**{part}**") == 7 for part in ("Look at", "Check in your service", "Back"))


def test_every_step_can_be_taken_back():
    files = first_files(blocks(PAGE))
    for block in blocks(PAGE):
        if block.kind == "diff":
            after = apply(files, block.text)
            assert apply(after, reverse(block.text)) == files != after
            files = after


def test_what_does_not_fit_is_seen():
    line = '{"timestamp":"2026-11-21T18:32:47.087044Z","outcome":"ok","duration_ms":1.5}\n'
    assert fits(line, line.replace("1.5", "20").replace("18:32", "19:33"))
    assert not fits(line, line.replace('"ok"', '"panic"'))
    assert not fits("200\n200\n", "200\n")
    assert fits("    190 200\n    110 503\n", "     10 200\n      2 503\n")
    assert not fits("    190 200\n    110 503\n", "     10 200\n      2 500\n")
    with pytest.raises(AssertionError):
        apply({"a": "one\ntwo\n"}, "--- a\n+++ a\n@@ -1 +1 @@\n-three\n+four\n")
