"""What other programs call our options and commands, and what is meant by a word that is none here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

# What other programs call an option, by what it is called here.
_MEANT = {
    "--device cuda": "--gpu --gpus --cuda --use-gpu",
    "--device cpu": "--cpu --no-gpu",
    "--output": "--o --out --out-dir --outdir --output-dir --output-folder --output-file --save-dir --dest",
    "--classes": "--labels --label --roi --rois --roi-subset --structures --organs --class",
    "--model": "-d --task --weights --checkpoint --chk --ckpt --network --net --dataset",
    "--overwrite": "--force --clobber --yes",
    "--tta": "--mirror --mirroring --flip --augment",
    "--precision float16": "--fp16 --float16",
    "--precision bfloat16": "--bf16 --bfloat16",
    "--precision": "--amp --mixed-precision --dtype",
    "--threads": "--workers --num-workers --nproc --npp --nps --cores --n-threads --num-threads",
    "--batch": "--batch-size --sw-batch-size",
    "--overlap": "--step-size --tile-step-size --stride",
    "--max-ram": "--memory --ram",
    "--max-vram": "--vram --gpu-memory",
    "--report html": "--html --preview",
    "--html": "--report",
    "--report csv": "--csv --statistics --stats --vol --volumes --save-csv",
    "--report png": "--png --picture --screenshot",
    "--write": "--format --output-type --output-format --save",
    "--write probabilities": "--probs --probabilities --save-probabilities --softmax",
    "--split": "--separate --per-class --masks --no-ml",
    "--largest-component": "--keep-largest --lcc --postprocess --remove-small-blobs",
    "--files-from": "--list --input-list --filelist",
    "--fast": "--quick --speed",
    "--quiet": "--silent --no-progress",
    "--verbose": "--log-level --info",
    "--image": "--scan --reference-image",
}


# What is so without being asked for, or is had otherwise, by the words that ask for it elsewhere.
_NEEDLESS = {
    "what is done already and verified is skipped": "--resume --continue --continue-prediction --skip-existing",
    "one label map of all structures is what is written": "--ml --multilabel",
    "mirrored copies are averaged with --tta alone": "--disable-tta --no-tta",
    "nothing is sent, and only `models get` downloads": "--offline --no-download --no-telemetry",
    "files are named without an option": "-i --i --in --input --inputs --input-dir --input-folder --input-file",
    "`segcli plan` says beforehand what a run needs": "--dry-run --dryrun --estimate",
    "the result goes to stdout, and into a file with > FILE": "-o --output",
}
# What other programs call a command.
_COMMANDS = {
    "predict": "segment run infer inference label apply process",
    "evaluate": "eval score metrics dice compare",
    "export-onnx": "export convert onnx",
    "doctor": "check env test selftest",
    "models get": "get download fetch install",
    "models import": "import add register",
    "models inspect": "inspect",
    "models verify": "verify validate",
    "models networks": "networks",
    "help": "docs topics man",
    "--version": "version",
}
_ALIKE = 0.7  # of two spellings, 0 to 1, below which one is no slip of the other


def meant(word: str, known: Collection[str]) -> str | None:
    """The option of a command that other programs call by this word, with its value where one is meant."""
    word = _spelt_as_ours(word)
    return next((ours for ours, words in _MEANT.items() if word in words.split() and ours.split()[0] in known), None)


def _spelt_as_ours(word: str) -> str:
    """An option as nnU-Net and TotalSegmentator write it, with one dash or `_` between words, with ours."""
    return word if len(word) == 2 else f"--{word.lstrip('-').replace('_', '-')}"


def command_meant(word: str) -> str | None:
    """The command that a word which is none stands for; `predict` for a scan."""
    import os

    if os.path.lexists(word) or word == "-":
        return f"predict {word}"
    return next((ours for ours, words in _COMMANDS.items() if word in words.split()), None)


def advice(word: str, known: Collection[str]) -> str:
    """The end of a refusal of an option: why it is not needed, what is meant, what is spelt like it, or nothing."""
    import difflib  # for refusals alone

    plain = _spelt_as_ours(word)
    if reason := next((reason for reason, words in _NEEDLESS.items() if plain in words.split()), None):
        return f": {reason}"
    bare = {flag.lstrip("-"): flag for flag in known if flag.startswith("--")}
    alike = difflib.get_close_matches(word.lstrip("-"), bare, 1, _ALIKE)
    begun = max((flag for flag in bare.values() if word.startswith(f"{flag}-")), key=len, default=None)
    found = meant(word, known) or (bare[alike[0]] if alike else begun)
    return f"; did you mean {found}?" if found else ""
