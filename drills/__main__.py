"""The command: ``python drills --help``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # a child of a process with more would wait for those that it does not have

from drills.command import main

if __name__ == "__main__":
    sys.exit(main())
