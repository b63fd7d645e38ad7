"""The cases of `fuzz`, made by a fuzzer that watches which lines they reach (``pip install atheris``; Linux, macOS).

    python drills/guided.py adapter_config.json -runs=500000 -max_len=4096

The first argument is one of `fuzz.QUICK`; the others are libFuzzer's. A fault ends the run and leaves its bytes in a
file, which, given as an argument, shows it again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["prefix_peft", "peft.config", "json"]):
    import prefix_peft.training.train  # noqa: F401  (each line of it counts its visits)

from drills import fuzz
from drills.hostile.dice import from_bytes
from drills.hostile.judge import judge


def main() -> None:
    """Until libFuzzer has enough, or something does not hold."""
    name = sys.argv.pop(1) if sys.argv[1:] else ""
    if name not in fuzz.QUICK:
        sys.exit(f"name what to try first, one of {list(fuzz.QUICK)}; got {name!r}.")
    with TemporaryDirectory() as folder, fuzz.quiet():
        target = fuzz.make(name, Path(folder))

        def one(data: bytes) -> None:
            tally = judge(target, [(data.hex(), from_bytes(data))])
            assert not tally.faults, tally.faults

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
