"""Progress bars on standard error."""

from __future__ import annotations

from typing import Any

from ssnas_core.common.distributed import rank


def progress_bar(label: str | None, total: int, unit: str, **options: Any) -> Any:
    """Return a bar of tqdm's: none is shown without a label, or by another process than the first.

    Args:
        label: stands before it.
        total: units there are.
        unit: their name, as "step".
        options: more of tqdm's.
    """
    from tqdm.auto import tqdm

    disable = label is None or rank() > 0
    return tqdm(total=total, desc=label, unit=unit, disable=disable, **options)
