"""Export ALBERT of transformers as one ONNX file with a real loop, and run it at another depth.

ALBERT applies one layer again and again. The configuration here is small and the weights are random: nothing is
downloaded. `AlbertModel.from_pretrained(…)` exports the same way.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel

import laser_fx

LENGTH = 16


class Encoder(nn.Module):
    """Token numbers (batch, length) to the last hidden states (batch, length, width)."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        sizes = {"hidden_size": width, "embedding_size": width // 2, "intermediate_size": 4 * width}
        depth = {"num_hidden_layers": layers, "num_attention_heads": 4}
        config = AlbertConfig(vocab_size=1000, max_position_embeddings=LENGTH, **sizes, **depth)
        self.albert = AlbertModel(config, add_pooling_layer=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.albert(tokens).last_hidden_state


def at_depth(model: Encoder, tokens: Tensor, layers: int) -> Tensor:
    """What PyTorch itself answers with so many layers."""
    config = model.albert.encoder.config
    before, config.num_hidden_layers = config.num_hidden_layers, layers
    with torch.no_grad():
        answer = model(tokens)
    config.num_hidden_layers = before
    return answer


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    chosen = parser.parse_args(arguments)
    layers, width = (3, 16) if chosen.smoke else (chosen.layers, 128)

    torch.manual_seed(0)
    model, tokens = Encoder(layers, width).eval(), torch.randint(1000, (2, LENGTH))
    compiled = laser_fx.compile(model, (tokens,), options=laser_fx.Options.exact())
    print(compiled.loops.tree())

    with tempfile.TemporaryDirectory() as folder:
        rolled = compiled.to_onnx(Path(folder, "rolled.onnx"))
        unrolled = compiled.to_onnx(Path(folder, "unrolled.onnx"), form="unrolled", verify=False)
        assert rolled.verification is not None
        print("verified:", ", ".join(rolled.verification.runs))
        for file in (rolled, unrolled):
            print(f"{file.form:<8} {file.nodes:>5} nodes {file.bytes / 1e6:>6.2f} MB")

        encoder = laser_fx.export.OnnxModel(Path(folder, "rolled.onnx"))
        for depth in (layers, 2 * layers):
            answer, wanted = encoder(tokens, depth=depth)["output"], at_depth(model, tokens, depth)
            print(f"depth {depth:>2}: largest difference to PyTorch {(answer - wanted).abs().max():.0e}")


if __name__ == "__main__":
    main()
