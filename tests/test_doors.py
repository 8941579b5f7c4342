"""Libraries come in by their doors, and nothing heavy is behind --help."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import segcli

PACKAGE = Path(segcli.__file__).parent
DOORS = {
    "torch": {"networks", "models", "engines", "bench", "commands"},
    "onnxruntime": {"engines", "commands"},
    "openvino": {"engines", "bench", "commands"},
    "onnx": {"models", "engines", "bench", "commands"},
    "SimpleITK": {"space", "bench"},
    "pydicom": {"formats"},
    "highdicom": {"formats"},
    "nibabel": {"api"},  # of the caller, who gives and takes its images; else of the tests
    "scipy": {"space", "inference", "results"},
    "psutil": {"memory", "parallel", "system", "batch", "bench"},  # batch: the processes of its workers
    "yaml": {"models"},
    "platformdirs": {"folders"},
    "msgspec": {"models", "results", "batch"},
    "PIL": {"results"},
    "safetensors": {"models", "bench"},
    "google": {"models", "engines"},
    "typer": {"commands"},
    "rich": {"commands"},
    "distributed": {"batch"},
    "httpx": {"models"},
    "truststore": {"models"},
}
# Files get into folders of others through one door, segcli/formats/atomic.py. What else makes files does so in a
# folder that tempfile made for it alone, or in the part of a download, as tests/test_writers.py shows.
MAKES_FILES = {
    "TemporaryFile",
    "write_bytes",
    "write_text",
    "savefig",
    "save_file",
    "savez",
    "tofile",
    "copyfile",
    "touch",
    "symlink_to",
}
OPENS_FOR_WRITING = {
    ("bench/__main__.py", "savefig"),  # into memory
    ("bench/total.py", "write_text"),  # TemporaryDirectory, or the folder that --work names
    ("commands/process.py", "open"),  # a descriptor
    ("formats/atomic.py", "open"),
    ("formats/dicom/archive.py", "TemporaryFile"),
    ("commands/running.py", "open"),  # TemporaryDirectory
    ("commands/events.py", "open"),
    ("models/fetch.py", "open"),  # the part of a download
    ("memory.py", "TemporaryFile"),
    ("system.py", "open"),  # a lock, in the temporary folder that each user of Windows has
}
HEAVY = ["torch", "onnxruntime", "openvino", "SimpleITK", "pydicom", "nibabel", "numpy", "rich", "scipy", "msgspec"]


def rooms() -> list[tuple[str, Path]]:
    """(room, file) of every module of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            found.append((parts[0], path))
    return found


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports. Type-checking imports are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module)
                found.update(f"{child.module}.{a.name}" for a in child.names)
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_a_library_comes_in_by_its_door(room: str, path: Path) -> None:
    for name in imports(path):
        library = name.split(".")[0]
        if library in DOORS:
            assert room in DOORS[library], f"{path.name} imports {name}"


def makes_files(path: Path) -> set[str]:
    """Calls in a file that make or change another one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name, _, of = ast.unparse(node.func).rpartition(".")[::-1]
            texts = [w.value for a in node.args for w in ast.walk(a) if isinstance(w, ast.Constant)]
            modes = [w for w in texts if isinstance(w, str) and set(w) <= set("rwxabt+")]
            if (name == "open" and any(set(mode) & set("wxa+") for mode in modes)) or (
                name in MAKES_FILES and of not in ("", "atomic")
            ):
                found.add(name)
    return found


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_2_11_files_are_made_through_one_door(room: str, path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    assert {(name, call) for call in makes_files(path)} <= OPENS_FOR_WRITING


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"]], ids=" ".join)
def test_nothing_heavy_is_behind_help(arguments: list[str]) -> None:
    code = (
        "import sys, json, atexit\n"
        "def loaded(): return sorted({name.split('.')[0] for name, module in sys.modules.items() if module})\n"
        "atexit.register(lambda: sys.stderr.write(json.dumps(loaded())))\n"
        f"sys.argv = ['segcli', *{arguments!r}]\n"
        "from segcli.commands.process import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(json.loads(done.stderr))


def test_importing_segcli_costs_nothing() -> None:
    code = "import sys; import segcli; print(sorted(m for m in sys.modules if m.startswith('segcli')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['segcli']"
