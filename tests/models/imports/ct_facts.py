"""What tests of imports say of a checkpoint that states nothing itself, and where small checkpoints lie."""

from pathlib import Path

from segcli.models import imports

CONTAINERS = Path(__file__).parents[2] / "data" / "containers"
FACTS = imports.options(
    labels="background,liver,spleen",
    spacing="1.5,1.5,2",
    orientation="RAS",
    window="-125,275",
    patch="16,16,16",
    channels="CT",
)
