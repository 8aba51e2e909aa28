"""What the book shows besides Rust: manifests, queries, and times that have to fit together."""

import re
import subprocess

import yaml
from guide import blocks
from scrape import tool
from server import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def shown(kind, pages=PAGES):
    return [(page.name, block) for page in pages for block in blocks(page) if block.kind == kind]


def test_manifests_parse():
    found = shown("yaml")
    assert len(found) >= 3
    for page, block in found:
        assert all(isinstance(part, dict) for part in yaml.safe_load_all(block.text)), f"{page}:{block.line}"


def test_queries_parse(tmp_path):
    """Each as the expression of a rule, which is what Prometheus' own tool checks."""
    found = shown("promql")
    assert len(found) >= 5
    rules = [{"record": f"shown:{number}", "expr": block.text.strip()} for number, (_, block) in enumerate(found)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]}))
    promtool = tool("promtool", "prometheus/usr/bin/promtool")
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_pod_has_time_to_end():
    page = DOCS / "kubernetes.md"
    text = page.read_text()
    deployment = next(yaml.safe_load_all(next(block.text for _, block in shown("yaml", [page]))))
    pod = deployment["spec"]["template"]["spec"]
    notice, deadline = (int(re.search(rf"\.{name}\(Duration::from_secs\((\d+)\)\)", text)[1]) for name in ("notice", "deadline"))
    assert pod["terminationGracePeriodSeconds"] >= notice + deadline + 5
    assert "grace period = notice + deadline + 5" in (DOCS / "troubleshooting.md").read_text()
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        probe = container[name]["httpGet"]
        assert (probe["path"], probe["port"]) == (path, "ops")
    for name, port in ports.items():
        assert f'"0.0.0.0:{port}"' in text, f"the program does not listen on {name}"
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < notice
