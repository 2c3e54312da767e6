"""The arrows between files: no circle, packages that know nothing of each other, no private names of other modules."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"pg_agents": ROOT / "pg_agents", "pg_envs": ROOT / "envs/pg_envs", "pg_zoo": ROOT / "zoo/pg_zoo"}
MAY_IMPORT = {"pg_agents": set(), "pg_envs": set(), "pg_zoo": {"pg_agents"}}

# What breaks the rules today. Each entry is to be deleted with what it allows; one that allows nothing fails too.
KNOWN: dict[str, set] = {
    # Files that import each other, each circle as a whole.
    "circles": set(),
    # An import from another package: the importing file, the file that it imports.
    "arrows": set(),
    # A file, and the private name that it takes from another.
    "private": set(),
    # Files that look into sys.modules.
    "sys.modules": {"pg_zoo.recipes.trust"},
}


@cache
def sources() -> dict[str, ast.Module]:
    """All files of the packages, by module name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, modules: dict[str, ast.Module]) -> Iterator[tuple[str, str | None, str]]:
    """Each import of one of the modules, wherever in the file it stands.

    Yields:
        The module, the name that is taken from it (None: the module itself), and what it is called in the file.
    """
    for node in ast.walk(modules[name]):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    if alias.name in modules:
                        yield alias.name, None, alias.asname or alias.name
            case ast.ImportFrom(module=module, names=aliases, level=level):
                assert level == 0, f"{name} has a relative import"
                for alias in aliases:
                    called = alias.asname or alias.name
                    if f"{module}.{alias.name}" in modules:
                        yield f"{module}.{alias.name}", None, called
                    elif module in modules:
                        yield module, alias.name, called
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"), args=[ast.Constant(target)]
            ) if target in modules:
                yield target, None, target


def arrows(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {name: {target for target, *_ in imports(name, modules)} for name in modules}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for name in graph:
        seen, waiting = set(), [*graph[name]]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += graph[one]
        reached[name] = seen
    return {frozenset(other for other in reached[name] if name in reached[other]) for name in graph} - {frozenset()}


def private_names(name: str, modules: dict[str, ast.Module]) -> Iterator[str]:
    """The private names of other modules that a module imports, or takes from a module that it has imported."""
    called = {}
    for target, taken, alias in imports(name, modules):
        if taken is None:
            called[alias] = target
        if is_private(target.rpartition(".")[2]):
            yield target
        if taken is not None and is_private(taken):
            yield f"{target}.{taken}"
    for node in ast.walk(modules[name]):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in called:
            yield f"{called[ast.unparse(node.value)]}.{node.attr}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_files_import_each_other():
    assert circles(arrows(sources())) == KNOWN["circles"]


def test_packages_import_only_what_stands_below_them():
    found = {
        (name, target)
        for name, targets in arrows(sources()).items()
        for target in targets
        if target.partition(".")[0] not in {name.partition(".")[0], *MAY_IMPORT[name.partition(".")[0]]}
    }
    assert found == KNOWN["arrows"]


def test_no_module_takes_a_private_name_of_another():
    modules = sources()
    assert {(name, taken) for name in modules for taken in private_names(name, modules)} == KNOWN["private"]


def test_no_module_looks_into_sys_modules():
    found = {
        name
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "modules" and ast.unparse(node.value) == "sys")
        or (isinstance(node, ast.ImportFrom) and node.module == "sys" and "modules" in {a.name for a in node.names})
    }
    assert found == KNOWN["sys.modules"]


def test_imports_that_a_first_look_misses_are_seen():
    texts = {
        "a": "if TYPE_CHECKING:\n    from p import b",
        "p": "",
        "p.b": "def late():\n    import p.c",
        "p.c": "importlib.import_module('a')",
        "d": "from a import x, _y\nimport p.b as other\nother._z",
    }
    modules = {name: ast.parse(text) for name, text in texts.items()}
    assert arrows(modules) == {"a": {"p.b"}, "p": set(), "p.b": {"p.c"}, "p.c": {"a"}, "d": {"a", "p.b"}}
    assert circles(arrows(modules)) == {frozenset({"a", "p.b", "p.c"})}
    assert [*private_names("d", modules)] == ["a._y", "p.b._z"]
