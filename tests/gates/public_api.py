"""What the library shows to the world, as text that is checked in: a change of it is seen in review.

    public_api.py [--update] JSON LISTING

JSON is what `cargo rustdoc -- -Z unstable-options --output-format json` writes, of all features. LISTING has one line for each
public item, with its whole signature, and one for each trait that is implemented by hand or derived. `--update` writes it
anew; else a difference is printed, and exits 1. Paths are those that users write: of this crate without its name, of the
standard library and for generics the last word only.
"""

import difflib
import json
import sys
from pathlib import Path

FORMAT = 57  # of rustc 1.95; a newer one is read as long as it means the same
HEAD = "# Written by tests/run --api public_api. A line that goes or changes is a breaking change.\n"
STD = {"std", "core", "alloc"}
# What comes along by itself and nobody promises.
SILENT = {"Freeze", "RefUnwindSafe", "StructuralPartialEq", "UnsafeUnpin", "UnwindSafe"}


class Api:
    def __init__(self, told):
        self.index, self.paths = told["index"], told["paths"]
        self.public = {}  # id -> the first path under which users find it
        self.lines = set()  # (the path that it is sorted by, the line)
        self.root = told["root"]
        found = list(self.walk(self.root, "", frozenset()))
        for path, number in found:
            self.public.setdefault(number, path)
        for path, number in found:
            self.tell(path, number)

    def item(self, number):
        return self.index.get(str(number))

    def walk(self, number, path, above):
        """Each public path and the id of what is there."""
        item = self.item(number)
        if item is None or number in above:
            return
        [(kind, inner)] = item["inner"].items()
        if kind == "module":
            if path:
                yield path, number
            for child in inner["items"]:
                yield from self.walk_child(child, path, above | {number})
        else:
            yield path, number

    def walk_child(self, number, path, above):
        item = self.item(number)
        if item is None or item["visibility"] != "public":
            return
        inner = item["inner"]
        join = lambda name: f"{path}::{name}" if path else name
        if "use" not in inner:
            yield from self.walk(number, join(item["name"]), above)
            return
        use = inner["use"]
        target = self.item(use["id"]) if use["id"] is not None else None
        if target is None:
            self.add(join(use["name"]), f"pub use {join(use['name'])} = {use['source']}")
        elif use["is_glob"]:
            [(kind, inside)] = target["inner"].items()
            for child in inside["items" if kind == "module" else "variants"]:
                yield from self.walk_child(child, path, above | {use["id"]})
        else:
            yield from self.walk(use["id"], join(use["name"]), above)

    def add(self, path, line):
        # Lines of one kind stand together, the item before what it holds.
        kind = next(at for at, word in enumerate(("pub ", "impl")) if word in line)
        self.lines.add((path, kind, line))

    # -- items

    def tell(self, path, number):
        item = self.item(number)
        [(kind, inner)] = item["inner"].items()
        attributes = "#[non_exhaustive] " if "non_exhaustive" in item["attrs"] else ""
        add = lambda text: self.add(path, attributes + text)
        match kind:
            case "module":
                add(f"pub mod {path}")
            case "function":
                add(self.function(path, inner))
            case "constant":
                add(f"pub const {path}: {self.type(inner['type'])}")
            case "static":
                add(f"pub static {path}: {self.type(inner['type'])}")
            case "type_alias":
                add(f"pub type {path}{self.generics(inner['generics'])} = {self.type(inner['type'])}")
            case "macro" | "proc_macro":
                add(f"pub macro {path}!")
            case "struct":
                add(f"pub struct {path}{self.generics(inner['generics'])}{self.fields(path, inner['kind'])}{self.where(inner['generics'])}")
                self.impls(path, inner["impls"])
            case "union":
                add(f"pub union {path}{self.generics(inner['generics'])}")
                self.impls(path, inner["impls"])
            case "enum":
                add(f"pub enum {path}{self.generics(inner['generics'])}{self.where(inner['generics'])}")
                for variant in inner["variants"]:
                    variant = self.item(variant)
                    name = f"{path}::{variant['name']}"
                    self.add(name, f"pub variant {name}{self.fields(name, variant['inner']['variant']['kind'])}")
                self.impls(path, inner["impls"])
            case "trait":
                bounds = f": {self.bounds(inner['bounds'])}" if inner["bounds"] else ""
                add(f"pub trait {path}{self.generics(inner['generics'])}{bounds}{self.where(inner['generics'])}")
                for child in inner["items"]:
                    self.trait_item(path, self.item(child))
                for implementation in inner["implementations"]:
                    self.implementation(self.item(implementation))
            case "variant":
                add(f"pub variant {path}{self.fields(path, inner['kind'])}")
            case _:
                sys.exit(f"{path}: {kind} is not known here")

    def fields(self, path, kind):
        """Fields of a tuple stand beside its name, others are lines of their own."""
        match kind:
            case "unit" | "plain":
                return ""
            case {"tuple": numbers}:
                items = [self.item(number) if number is not None else None for number in numbers]
                shown = [self.type(item["inner"]["struct_field"]) if item and item["visibility"] in ("public", "default") else "_" for item in items]
                if set(shown) == {"_"}:
                    return " { .. }"  # how many there are is nobody's business
                return f"({', '.join(shown)})"
            case {"plain": plain} | {"struct": plain}:
                for number in plain["fields"]:
                    field = self.item(number)
                    self.add(f"{path}::{field['name']}", f"pub field {path}::{field['name']}: {self.type(field['inner']['struct_field'])}")
                return " { .. }" if plain["has_stripped_fields"] else ""
        sys.exit(f"{path}: fields {kind} are not known here")

    def trait_item(self, path, item):
        [(kind, inner)] = item["inner"].items()
        name = f"{path}::{item['name']}"
        match kind:
            case "function":
                self.add(name, self.function(name, inner) + (" { .. }" if inner["has_body"] else ""))
            case "assoc_type":
                bounds = f": {self.bounds(inner['bounds'])}" if inner["bounds"] else ""
                self.add(name, f"pub type {name}{bounds}")
            case "assoc_const":
                self.add(name, f"pub const {name}: {self.type(inner['type'])}")

    def impls(self, path, numbers):
        for number in numbers:
            if item := self.item(number):
                self.implementation(item, path)

    def implementation(self, item, path=None):
        inner = item["inner"]["impl"]
        trait, of = inner["trait"], self.type(inner["for"])
        if inner["blanket_impl"] is not None:
            return
        if trait is None:
            for child in map(self.item, inner["items"]):
                if child is None or child["visibility"] != "public":
                    continue
                generics, where = inner["generics"], self.where(inner["generics"])
                owner = path if not where and not generics["params"] else f"<{of}>"
                [(kind, told)] = child["inner"].items()
                name, place = f"{owner}::{child['name']}", f"{path}::{child['name']}"
                if kind == "function":
                    self.add(place, self.function(name, told) + (f" ({where.strip()})" if where else ""))
                else:
                    self.add(place, f"pub const {name}: {self.type(told['type'])}")
            return
        name = self.path(trait)
        if name.split("<")[0].split("::")[-1] in SILENT or (inner["is_synthetic"] and not inner["is_negative"]):
            return
        types = []
        for child in map(self.item, inner["items"]):
            if child and "assoc_type" in child["inner"] and child["inner"]["assoc_type"]["type"]:
                types.append(f"{child['name']} = {self.type(child['inner']['assoc_type']['type'])}")
        sign = "!" if inner["is_negative"] else ""
        told = f" {{ {', '.join(types)} }}" if types else ""
        generics = "" if inner["is_synthetic"] else self.generics(inner["generics"])
        where = "" if inner["is_synthetic"] else self.where(inner["generics"])
        self.add(of.split("<")[0], f"impl{generics} {sign}{name} for {of}{where}{told}")

    def function(self, path, inner):
        header = inner["header"]
        words = "".join(f"{word} " for word in ("const", "async", "unsafe") if header[f"is_{word}"])
        return f"pub {words}fn {path}{self.generics(inner['generics'])}{self.signature(inner['sig'])}{self.where(inner['generics'])}"

    def signature(self, sig):
        told = []
        for name, kind in sig["inputs"]:
            text = self.type(kind)
            if name == "self":
                text = {"Self": "self", "&Self": "&self", "&mut Self": "&mut self"}.get(text, f"self: {text}")
                told.append(text)
            else:
                told.append(f"{name}: {text}")
        output = f" -> {self.type(sig['output'])}" if sig["output"] else ""
        return f"({', '.join(told)}){output}"

    # -- generics

    def generics(self, generics):
        shown = [self.param(param) for param in generics["params"] if not self.is_synthetic(param)]
        return f"<{', '.join(shown)}>" if shown else ""

    def is_synthetic(self, param):
        return param["kind"].get("type", {}).get("is_synthetic", False)

    def param(self, param):
        [(kind, inner)] = param["kind"].items()
        if kind == "lifetime":
            return param["name"] + (f": {' + '.join(inner['outlives'])}" if inner["outlives"] else "")
        if kind == "const":
            return f"const {param['name']}: {self.type(inner['type'])}"
        bounds = f": {self.bounds(inner['bounds'])}" if inner["bounds"] else ""
        default = f" = {self.type(inner['default'])}" if inner["default"] else ""
        return param["name"] + bounds + default

    def where(self, generics):
        shown = []
        for predicate in generics["where_predicates"]:
            match predicate:
                case {"bound_predicate": bound}:
                    if bound["bounds"]:
                        shown.append(f"{self.forall(bound['generic_params'])}{self.type(bound['type'])}: {self.bounds(bound['bounds'])}")
                case {"lifetime_predicate": bound}:
                    shown.append(f"{bound['lifetime']}: {' + '.join(bound['outlives'])}")
                case {"eq_predicate": bound}:
                    shown.append(f"{self.type(bound['lhs'])} = {self.term(bound['rhs'])}")
        return f" where {', '.join(shown)}" if shown else ""

    def forall(self, params):
        return f"for<{', '.join(param['name'] for param in params)}> " if params else ""

    def bounds(self, bounds):
        return " + ".join(self.bound(bound) for bound in bounds)

    def bound(self, bound):
        match bound:
            case {"trait_bound": inner}:
                maybe = "?" if inner["modifier"] == "maybe" else ""
                return self.forall(inner["generic_params"]) + maybe + self.path(inner["trait"])
            case {"outlives": lifetime}:
                return lifetime
            case {"use": names}:
                return f"use<{', '.join(next(iter(name.values())) if isinstance(name, dict) else name for name in names)}>"
        sys.exit(f"a bound that is not known here: {bound}")

    # -- types

    def path(self, told):
        number, written = told["id"], told["path"]
        summary = self.paths.get(str(number))
        if number in self.public:
            name = self.public[number]
        elif summary and summary["path"][0] not in STD and summary["crate_id"] != 0:
            name = f"{summary['path'][0]}::{summary['path'][-1]}"
        else:
            name = written.split("::")[-1]
        return name + self.arguments(told["args"])

    def arguments(self, args):
        match args:
            case None | "return_type_notation":
                return ""
            case {"angle_bracketed": {"args": args, "constraints": constraints}}:
                shown = [self.argument(arg) for arg in args]
                for constraint in constraints:
                    name = constraint["name"] + self.arguments(constraint["args"])
                    match constraint["binding"]:
                        case {"equality": term}:
                            shown.append(f"{name} = {self.term(term)}")
                        case {"constraint": bounds}:
                            shown.append(f"{name}: {self.bounds(bounds)}")
                return f"<{', '.join(shown)}>" if shown else ""
            case {"parenthesized": {"inputs": inputs, "output": output}}:
                result = f" -> {self.type(output)}" if output else ""
                return f"({', '.join(map(self.type, inputs))}){result}"
        sys.exit(f"arguments that are not known here: {args}")

    def argument(self, arg):
        match arg:
            case "infer":
                return "_"
            case {"lifetime": lifetime}:
                return lifetime
            case {"type": kind}:
                return self.type(kind)
            case {"const": constant}:
                return constant["expr"]
        sys.exit(f"an argument that is not known here: {arg}")

    def term(self, term):
        return self.type(term["type"]) if "type" in term else term["constant"]["expr"]

    def type(self, kind):
        match kind:
            case "infer":
                return "_"
            case {"primitive": name}:
                return {"never": "!", "unit": "()"}.get(name, name)
            case {"generic": name}:
                return name
            case {"resolved_path": path}:
                return self.path(path)
            case {"borrowed_ref": inner}:
                lifetime = f"{inner['lifetime']} " if inner["lifetime"] else ""
                return f"&{lifetime}{'mut ' if inner['is_mutable'] else ''}{self.type(inner['type'])}"
            case {"raw_pointer": inner}:
                return f"*{'mut' if inner['is_mutable'] else 'const'} {self.type(inner['type'])}"
            case {"tuple": parts}:
                return f"({', '.join(map(self.type, parts))}{',' if len(parts) == 1 else ''})"
            case {"slice": inner}:
                return f"[{self.type(inner)}]"
            case {"array": inner}:
                return f"[{self.type(inner['type'])}; {inner['len']}]"
            case {"impl_trait": bounds}:
                return f"impl {self.bounds(bounds)}"
            case {"dyn_trait": inner}:
                shown = [self.forall(one["generic_params"]) + self.path(one["trait"]) for one in inner["traits"]]
                return f"dyn {' + '.join(shown + ([inner['lifetime']] if inner['lifetime'] else []))}"
            case {"qualified_path": inner}:
                of, trait = self.type(inner["self_type"]), inner["trait"]
                if trait is None or not trait["path"]:
                    return f"{of}::{inner['name']}"
                return f"<{of} as {self.path(trait)}>::{inner['name']}{self.arguments(inner['args'])}"
            case {"function_pointer": inner}:
                return f"{self.forall(inner['generic_params'])}fn{self.signature(inner['sig'])}"
        sys.exit(f"a type that is not known here: {kind}")


def main(told, listing, updating=False):
    told = json.loads(Path(told).read_text())
    if told["format_version"] != FORMAT:
        print(f"rustdoc's format is {told['format_version']}, this script was written for {FORMAT}")
    lines = [line for _, _, line in sorted(Api(told).lines)]
    if len(lines) < 100:
        sys.exit(f"only {len(lines)} items found")
    now = HEAD + "\n".join(lines) + "\n"
    listing = Path(listing)
    before = listing.read_text() if listing.exists() else ""
    if updating:
        listing.write_text(now)
    elif now != before:
        # No context: each line tells all of its item.
        changes = difflib.unified_diff(before.splitlines(), now.splitlines(), str(listing), "the code", lineterm="", n=0)
        print(*(line for line in changes if not line.startswith("@@")), sep="\n")
        print("The public API has changed. If that is meant: tests/run --api public_api, and a line in CHANGELOG.md")
        sys.exit(1)
    print(f"{len(lines)} public items")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(*(word for word in words if word != "--update"), updating="--update" in words)
