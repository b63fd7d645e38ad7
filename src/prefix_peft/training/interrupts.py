"""SIGTERM and Ctrl-C: the step is finished and a checkpoint written before the run stops."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

STOPPING = "stopping behind this step, with a checkpoint"
WRITING = "the results are being written, which ends the run"


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and has saved where it was."""

    def __init__(self, number: int, step: int, checkpoint: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}; "
            f"--resume-from-checkpoint goes on from {checkpoint} as if it had not been."
        )
        self.status: int = 128 + number  # what a shell shows of the signal


class Interrupts:
    """Inside the ``with`` block the two signals are noted instead of obeyed; Ctrl-C after either stops at once.

    A signal that is ignored, as under nohup, stays so. Other threads than the main one can handle no signals; there the
    block does nothing.
    """

    def __init__(self, note: str = STOPPING) -> None:
        self.received: int = 0
        self.note: str = note
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
        note = f"\n{signal.Signals(number).name}: {self.note}. Ctrl-C (again) stops at once.\n"
        os.write(2, note.encode())  # print might be what was interrupted

    def agreed(self, accelerator: Accelerator) -> int:
        """The number of a signal that any rank has received, 0 for none; every rank asks at the same step."""
        if accelerator.num_processes == 1:
            return self.received
        received: Any = accelerator.gather(torch.tensor([self.received], device=accelerator.device))
        return int(received.max())
