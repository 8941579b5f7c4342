"""The map of the rooms is true: import order, doors, and nothing heavy behind --help."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import segcli

PACKAGE = Path(segcli.__file__).parent
# A room imports only rooms above it. Folders count as one line; inside, siblings may import each other.
ORDER = [
    "errors", "cores", "volume", "outputs", "grids", "resample", "intensity", "windows", "labels", "card", "networks",
    "checkpoint", "adopt", "engines", "segmentation", "ensemble", "report", "postprocess", "budget", "checks",
    "formats", "picture", "cases", "evaluate", "page", "record", "extras", "predict", "export", "api",
    "cluster", "doctor", "settings", "terminal", "run", "answers", "bench", "cli",
]  # fmt: skip
DOORS = {
    "torch": {"networks", "checkpoint", "engines", "adopt", "bench", "doctor"},
    "onnxruntime": {"engines", "doctor"},
    "openvino": {"engines", "bench", "doctor"},
    "onnx": {"export", "engines", "bench", "doctor"},
    "SimpleITK": {"resample", "bench"},
    "pydicom": {"formats"},
    "highdicom": {"formats"},
    "nibabel": set(),  # of the tests
    "scipy": {"resample", "intensity", "postprocess", "evaluate"},
    "psutil": {"engines", "budget", "formats", "cluster", "doctor"},
    "yaml": {"adopt"},
    "PIL": {"picture"},
    "safetensors": {"checkpoint", "adopt", "bench"},
    "google": {"engines"},
    "typer": {"cli"},
    "rich": {"terminal"},
    "distributed": {"cluster"},
}
HEAVY = ["torch", "onnxruntime", "openvino", "SimpleITK", "pydicom", "nibabel", "numpy", "rich", "scipy"]


def rooms() -> list[tuple[str, Path]]:
    """(room, file) of every module of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            found.append((parts[0], path))
    return found


def imports(path: Path, everywhere: bool) -> set[str]:
    """Dotted names that a file imports; only at module level unless `everywhere`. Type-checking imports are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import) and (top or everywhere):
                found.update(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and (top or everywhere):
                found.add(child.module)
                found.update(f"{child.module}.{a.name}" for a in child.names)
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.Lambda))

    visit(tree, True)
    return found


def test_every_room_is_on_the_map() -> None:
    assert {room for room, _ in rooms()} <= set(ORDER)


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_a_room_imports_only_rooms_above_it(room: str, path: Path) -> None:
    for name in imports(path, everywhere=False):
        parts = name.split(".")
        if parts[0] == "segcli" and len(parts) > 1 and parts[1] in ORDER and parts[1] != room:
            assert ORDER.index(parts[1]) < ORDER.index(room), f"{path.name} imports {name}"


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_a_library_comes_in_by_its_door(room: str, path: Path) -> None:
    for name in imports(path, everywhere=True):
        library = name.split(".")[0]
        if library in DOORS:
            assert room in DOORS[library], f"{path.name} imports {name}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"]], ids=" ".join)
def test_nothing_heavy_is_behind_help(arguments: list[str]) -> None:
    code = (
        "import sys, json, atexit\n"
        "def loaded(): return sorted({name.split('.')[0] for name, module in sys.modules.items() if module})\n"
        "atexit.register(lambda: sys.stderr.write(json.dumps(loaded())))\n"
        f"sys.argv = ['segcli', *{arguments!r}]\n"
        "from segcli.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(json.loads(done.stderr))


def test_importing_segcli_costs_nothing() -> None:
    code = "import sys; import segcli; print(sorted(m for m in sys.modules if m.startswith('segcli')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['segcli']"
