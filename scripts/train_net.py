"""Train `models/net`, LeNet on scikit-learn's digits, and write its directory.

    python scripts/train_net.py [--output DIR]

Needs the extra `train`. The same machine and torch release give the same weights; elsewhere the
last bits of the sums differ, and the model's digest with them.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import cnn
import model_files
import numpy as np

NETWORK = cnn.Network(
    "net",
    (3, 32, 32),
    (
        cnn.Conv(6, 5, pool=2),
        cnn.Conv(16, 5, pool=2),
        cnn.Dense(120),
        cnn.Dense(84),
        cnn.Dense(10),
    ),
    # Chosen on images of the training part: a circuit's fixed point then costs half as much.
    gains=(0.5, 2.0, 1.0, 1.0, 2.0),
)
FIT = cnn.Fit(seed=5, epochs=60, batch=64, learning_rate=2e-3, weight_decay=2e-2)
SPLIT_SEED, TEST, EXAMPLES = 1, 360, 200

CARD = """# net

LeNet for handwritten digits: {parameters:,} parameters, input `input` (1, 3, 32, 32) float32 in
0 … 1, output `logits` (1, 10) float32.

| | |
| --- | --- |
| layers | conv 3→6 5×5, ReLU, max pool 2; conv 6→16 5×5, ReLU, max pool 2; dense 400→120→84→10 |
| data | `load_digits` of scikit-learn: 1,797 grey images of 8×8 |
| source | UCI, “Optical Recognition of Handwritten Digits”, test part (CC BY 4.0) |
| scaling | each pixel (0 … 16) divided by 16 and repeated 4×4; the image repeated in 3 channels |
| training | `make train-net`: {train:,} images, random shifts of up to 3 pixels |
| accuracy | {accuracy}, on images held out from training |
| licence | weights and files: that of this repository |
| sha256 | `{digest}` |

`examples.npz` holds {examples} of the held-out images (`input`, `label`); `input.json` is the
first of them.

Limits: the held-out images come from the same writers' pool and scanner as those trained on, so
the accuracy says nothing about other handwriting. Three equal channels carry no colour. The model
exists to be proved, not to read mail.
"""


def digits() -> tuple[cnn.Floats, Any]:
    """All images (1797, 3, 32, 32) in 0 … 1 and their labels (1797,)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    small = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    large = small.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1)
    return np.ascontiguousarray(large), labels.astype(np.int64)


def shift(torch: Any, batch: Any) -> Any:
    """Each image moved by up to 3 pixels either way, black coming in."""
    padded = torch.nn.functional.pad(batch, (3, 3, 3, 3))
    places = torch.randint(0, 7, (len(batch), 2)).tolist()
    moved = [
        image[:, top : top + 32, left : left + 32]
        for image, (top, left) in zip(padded, places, strict=True)
    ]
    return torch.stack(moved)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=model_files.MODELS / "net")
    arguments = parser.parse_args()

    images, labels = digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    held, kept = order[:TEST], order[TEST:]
    trained = cnn.train(NETWORK, images[kept], labels[kept], FIT, shift)
    model = cnn.to_onnx(NETWORK, trained)
    assert cnn.parameters(model) == 62_006
    found = cnn.logits(model, images[held])
    hits = int((found.argmax(1) == labels[held]).sum())
    card = CARD.format(
        parameters=cnn.parameters(model),
        train=len(kept),
        accuracy=model_files.share(hits, TEST),
        examples=EXAMPLES,
        digest=hashlib.sha256(model).hexdigest(),
    )
    shown = held[:EXAMPLES]
    model_files.write(arguments.output, model, images[shown], labels[shown], card)
    print(f"{arguments.output}: {model_files.share(hits, TEST)}")
    print(f"largest logit {np.abs(found).max():.2f}")


if __name__ == "__main__":
    main()
