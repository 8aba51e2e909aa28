"""What is published, and with which Rust it builds: what cargo itself does not look at.

- Each dependency that users build declares no newer Rust than ours.
- The package holds what it should, and every file that its sources include.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 3 << 20
MAY = re.compile(
    r"middleware/|examples/[^/]+$|docs/.*\.(md|yml|json)$|(README|CHANGELOG|SECURITY)\.md$|LICENSE-(MIT|APACHE)$|Cargo\.(toml(\.orig)?|lock)$|\.cargo_vcs_info\.json$"
)
MUST = ("middleware/lib.rs", "README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "docs/health.md", "examples/health.rs")
# Paths that are made of more than one literal are not seen.
INCLUDES = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"')


def cargo(*words):
    done = subprocess.run(["cargo", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def version(text):
    return tuple(map(int, (text.split(".") + ["0", "0"])[:3]))


def too_new(metadata):
    """Dependencies that want a newer Rust, and how many there are and do not say what they want."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    [ours] = [package for package in packages.values() if package["name"] == "plimsoll"]
    seen, left = set(), [ours["id"]]
    while left:
        if (number := left.pop()) in seen:
            continue
        seen.add(number)
        for dependency in nodes[number]["deps"]:
            # Those of tests are built by nobody but us.
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    silent = [number for number in seen if packages[number]["rust_version"] is None]
    newer = [
        f"{packages[number]['name']} {packages[number]['version']} wants Rust {packages[number]['rust_version']}, we promise {ours['rust_version']}"
        for number in sorted(seen - set(silent)) if version(packages[number]["rust_version"]) > version(ours["rust_version"])
    ]
    return newer, len(seen) - 1, len(silent)


def left_out(files):
    """Files that packaged sources include, and that are not in the package."""
    for name in sorted(files):
        if name.endswith(".rs"):
            for path in INCLUDES.findall((ROOT / name).read_text()):
                included = (ROOT / name).parent.joinpath(path).resolve().relative_to(ROOT).as_posix()
                if included not in files:
                    yield f"{name} includes {included}, which is not in the package"


def main():
    newer, dependencies, silent = too_new(json.loads(cargo("metadata", "--locked", "--format-version", "1", "--all-features")))
    files = set(cargo("package", "--locked", "--list", "--allow-dirty", "-p", "plimsoll").split("\n")) - {""}
    faults = newer + sorted(left_out(files))
    faults += [f"{name}: not to be published" for name in sorted(files) if not MAY.match(name)]
    faults += [f"{name}: missing in the package" for name in MUST if name not in files]
    size = sum((ROOT / name).stat().st_size for name in files if (ROOT / name).exists())
    if size > MOST_BYTES:
        faults.append(f"the package has {size} bytes, more than {MOST_BYTES}")
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(files)} files, {size} bytes; {dependencies} dependencies, of which {silent} do not say which Rust they want")
    sys.exit(1 if faults or dependencies < 20 else 0)


if __name__ == "__main__":
    main()
