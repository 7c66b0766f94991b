"""Checkpoints along one fine-tuning: from them, models of equal accuracy are chosen (see `matching`).

Steep learning takes few steps, so networks are validated several times per epoch. Only the trained tensors are kept, and
only of networks whose rate, the lower of sensitivity and specificity, no kept one has already: a training that has settled
adds nothing. Of those below the lowest common rate the highest is nearest to any, so it alone is kept.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from pretrain_xai.networks.matching import NOTED, RATE
from pretrain_xai.networks.models import trained_tensors
from pretrain_xai.networks.weight_files import fitting, read_state, save_state
from pretrain_xai.tables import write_table

#: rates closer than this are taken for the same; a match is off by at most so much because of it
SPACING = 0.005


class Checkpoints:
    """Keeps checkpoints of one training as `step<n>.safetensors` after the n-th step.

    They lie in a hidden folder, which no failed or repeated job removes, until `save` puts them beside their table.

    Parameters
    ----------
    table : Path
        Of the checkpoints, as `Paths.checkpoints` has it; their folder has the same name without its suffix.
    per_epoch : int
        How often the network is validated per epoch.
    lowest_rate : float
        Of the rates that are looked for.

    Attributes
    ----------
    rows : list of dict
        Every validated step: `step` (from 1), what is NOTED (range [0, 1]), `kept`.
    """

    def __init__(self, table: Path, per_epoch: int, lowest_rate: float = 0.0) -> None:
        self.table, self.folder = table, table.with_name(f".{table.stem}")
        self.per_epoch, self.lowest_rate = per_epoch, lowest_rate
        self.rows: list[dict[str, Any]] = []

    def take_up(self, rows: list[dict[str, Any]]) -> None:
        """Go on after the `rows` of an interrupted training, which grow from here on.

        Files of an earlier training, or of steps that come again, are removed.
        """
        self.rows = rows
        kept = {_file(self.folder, row["step"]) for row in rows if row["kept"]}
        for file in set(self.folder.glob("*.safetensors")) - kept:
            file.unlink()

    def is_due(self, batch: int, n_batches: int) -> bool:
        """Return whether to validate after the batch (from 1) of an epoch: `per_epoch` times, as evenly as batches allow."""
        return batch * self.per_epoch // n_batches > (batch - 1) * self.per_epoch // n_batches

    def offer(self, step: int, network: nn.Module, validated: Mapping[str, float]) -> None:
        """Note how the network does on validation images after a step, and keep its trained tensors if its rate is new."""
        kept, rate = [row for row in self.rows if row["kept"]], validated[RATE]
        is_new = all(abs(rate - row[RATE]) > SPACING - 1e-6 for row in kept)
        low = [row for row in kept if max(row[RATE], rate) < self.lowest_rate]
        is_new &= all(rate > row[RATE] for row in low)
        self.rows.append({"step": step} | {name: validated[name] for name in NOTED} | {"kept": is_new})
        if is_new:
            save_state(_file(self.folder, step), trained_tensors(network))
            for row in low:
                row["kept"] = False
                _file(self.folder, row["step"]).unlink(missing_ok=True)  # gone before an interruption

    def save(self) -> None:
        """Write the table of the validated steps, with the folder of the checkpoints beside it."""
        final = self.table.with_suffix("")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(self.folder, final)
        write_table(pd.DataFrame(self.rows, columns=["step", *NOTED, "kept"]), self.table)


def load_checkpoint(folder: Path, step: int, network: nn.Module) -> None:
    """Give a network of the same training the trained tensors that it had after a step.

    Raises
    ------
    WeightsError
        There is no such checkpoint, or it is not one of this network.
    """
    path = _file(folder, step)
    state = read_state(path)
    expected = {name: tensor for name, tensor in network.state_dict().items() if name in state}
    network.load_state_dict(fitting(state, expected, path), strict=False)


def _file(folder: Path, step: int) -> Path:
    return folder / f"step{step}.safetensors"
