"""The callback in real training runs of Lightning and of transformers, where these are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import laser_fx
from laser_fx import Options
from laser_fx.callbacks import LaserCallback
from tests.small import Contractive, low_rank
from tests.test_callbacks import Recorder

STEPS = 3
LASER = Options(rank=16, fidelity=0.9)


def test_lightning_trains_with_it(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = laser_fx.compile(Contractive(), options=LASER)

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return self.net(batch).square().mean()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logger = lightning.loggers.CSVLogger(tmp_path)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=logger,
        callbacks=[LaserCallback().lightning()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(low_rank(STEPS * 64, 32), batch_size=64))  # type: ignore[arg-type]
    logger.save()
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert "laser_fx/fidelity/loop_0/up" in lines[0]
    assert len(lines) == 1 + STEPS


def test_transformers_trains_with_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = laser_fx.compile(Contractive(), options=LASER)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.net(x).square().mean()}

    writer = Recorder()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=STEPS, per_device_train_batch_size=64, report_to=[], use_cpu=True, save_strategy="no"
    )
    data = [{"x": row} for row in low_rank(STEPS * 64, 32)]
    Trainer(Model(), arguments, train_dataset=data, callbacks=[LaserCallback(writer=writer).trainer()]).train()  # type: ignore[arg-type]
    assert sorted({step for _, _, step in writer.written}) == [1, 2, 3]
    assert 0.9 <= writer.at(STEPS)["laser_fx/fidelity/loop_0/up"] <= 1.0
