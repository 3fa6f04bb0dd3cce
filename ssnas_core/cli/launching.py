"""The processes that one command runs in: those that Lightning Fabric starts, or that others did.

Fabric runs the same command again on this machine's further devices, and knows
what torchrun, SLURM and other launchers leave in the environment.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ssnas_core.common.errors import InputError

if TYPE_CHECKING:
    from ssnas_core.cli.commands import SeveralCommand

    _C = TypeVar("_C", bound=SeveralCommand)

_LOG = logging.getLogger(__name__)
_PATIENCE = timedelta(days=2)  # while the first process prepares the data


def launched(command: _C, *, by_shell: bool) -> _C:
    """The command for this process, with its own device, once all its processes are there.

    Args:
        command: what the options say.
        by_shell: whether `sys.argv` is this command, so that it can be run again.

    Raises:
        InputError: processes or devices that cannot be had.
    """
    devices, nodes = command.devices, command.num_nodes
    if devices != "auto" and devices < 1 or nodes < 1:
        raise InputError(f"--devices and --num-nodes must be >= 1, got {devices} and {nodes}.")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun says how many there are
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if devices == nodes == 1:
        return command
    if not by_shell and not {"LOCAL_RANK", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        raise InputError(
            "several processes begin with a command in a shell; in Python, launch them by "
            "Lightning Fabric or torchrun, and make the Run in each."
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # that another ended is told once, by us
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    from ssnas_core.common.distributed import rank, world_size

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # importing it has set another
    kind = command.device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(timeout=_PATIENCE),
        )
        fabric.launch()
    except (RuntimeError, ValueError, TypeError) as error:  # Fabric's own kinds are of these
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cannot work in {devices} x {nodes} processes on {kind} ({reason}); "
            "give other --devices or --num-nodes."
        ) from error
    if rank():
        logging.disable()  # the first process says it
    _LOG.info("%d processes, %d threads each", world_size(), torch.get_num_threads())
    return dataclasses.replace(command, device=str(fabric.device))


def is_first() -> bool:
    """Whether this is the first of several processes, or the only one."""
    module = _imported()
    return module is None or module.rank() == 0


def says_why() -> bool:
    """Whether this process is to tell why it ends, see `common.distributed.says_why`."""
    module = _imported()
    return module is None or module.says_why()


def leave() -> None:
    """End the work with the others, once all are done."""
    module = _imported()
    if module is not None:
        module.destroy()


def _imported() -> Any:
    """`common.distributed`, if anything needed it: it imports torch."""
    return sys.modules.get("ssnas_core.common.distributed")
