"""The map holds: which folder may import which, who sees the command line, and how long anything is."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# From left to right; those of one entry stand side by side and do not know each other.
FOLDERS = (
    {"utils"}, {"scenes", "rendering"}, {"fields", "photographs"}, {"evaluation"}, {"deploy", "training"},
    {"compressors", "viewer"},
)  # fmt: skip
LEVEL = {folder: level for level, folders in enumerate(FOLDERS) for folder in folders}
READERS = sorted(path.stem for path in ROOT.glob("load_*.py") if path.stem != "load_scene")
ROOT_MODULES = {path.stem for path in ROOT.glob("*.py")}
IN_FOLDERS = sorted(path for folder in LEVEL for path in (ROOT / folder).rglob("*.py"))
ALL = sorted([*IN_FOLDERS, *ROOT.glob("*.py")])
TREES = {path: ast.parse(path.read_text()) for path in ALL}
# What may see flags: functions of these names, which turn them into settings and objects.
SEES_FLAGS = {"add_flags", "from_flags", "schedule"}
LONGEST_MODULE, LONGEST_FUNCTION = 365, 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> set[str]:
    """The first parts of all modules that are imported, anywhere in a file."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", IN_FOLDERS, ids=name_of)
def test_folders_import_from_their_left_only(path):
    own = path.relative_to(ROOT).parts[0]
    for name in imported(TREES[path]):
        if name in LEVEL and name != own:
            assert LEVEL[name] < LEVEL[own], f"{own} imports {name}"
        assert name not in ROOT_MODULES - {"run_nerf_helpers"}, f"{own} imports {name}.py of the root"


@pytest.mark.parametrize("reader", READERS)
def test_readers_import_what_readers_share(reader):
    ours = imported(TREES[ROOT / f"{reader}.py"]) & (set(LEVEL) | ROOT_MODULES)
    assert ours <= {"scenes", "utils", "run_nerf_helpers"}


def test_no_folder_hides_a_module_of_python_or_another_usual_name():
    import sys

    assert not set(LEVEL) & (set(sys.stdlib_module_names) | {"common", "data", "datasets", "compression"})


def test_modules_do_not_import_in_circles():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ALL}
    wants = {
        name: {
            node.module if node.module in modules else f"{node.module}.{alias.name}"
            for node in ast.walk(TREES[path])
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        & set(modules)
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in wants[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.parametrize("path", IN_FOLDERS, ids=name_of)
def test_flags_stay_out_of_folders(path):
    """No function in a folder takes, makes or keeps a namespace of flags, but those that are there to read it."""

    def check(node: ast.AST, allowed: bool) -> None:
        if isinstance(node, ast.FunctionDef):
            allowed = allowed or node.name in SEES_FLAGS
        if not allowed:
            named = getattr(node, "id", None) or getattr(node, "arg", None)
            # *args, of positional arguments, is another thing.
            assert not (isinstance(node, ast.arg) and named == "args"), f"line {node.lineno}: {named}"
            assert not (isinstance(node, ast.Attribute) and node.attr in ("Namespace", "args")), f"line {node.lineno}"
        for child in ast.iter_child_nodes(node):
            star = isinstance(node, ast.arguments) and child is node.vararg
            if not star:
                check(child, allowed)

    if name_of(path) not in ("utils/parser.py",):
        check(TREES[path], allowed=False)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_nobody_asks_what_kind_of_renderer_or_field_there_is(path):
    kinds = {
        node.name
        for other in (*(ROOT / "rendering").glob("*.py"), *(ROOT / "fields").glob("*.py"))
        for node in TREES[other].body
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Renderer", "Field"))
    }
    assert "OccupancyRenderer" in kinds and "RadianceField" in kinds
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            assert not asked & kinds, f"line {node.lineno}"


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_modules_and_functions_are_of_one_concern(path):
    lines = path.read_text().count("\n")
    assert lines <= LONGEST_MODULE or path.name == "run_nerf_helpers.py", f"{lines} lines"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            # Flags are a table, however many there are.
            assert length <= LONGEST_FUNCTION or node.name.endswith("_flags"), f"{node.name}: {length} lines"


def test_every_folder_says_what_it_is_about():
    for folder in LEVEL:
        assert ast.get_docstring(TREES[ROOT / folder / "__init__.py"])
