"""Train the arm's P/Q network, choose its thresholds, and publish the bundle that ships.

    python scripts/train_arm.py [--seed 7] [--output DIR]

Needs the extra `torch`. The same seed on the same machine and torch release gives the same weights;
elsewhere the last bits of the sums differ, so the bundle's digest does too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from interlock.engines.onnx import OnnxSession
from interlock.strict import InferenceConfig, export_bundle
from interlock.strict.arm.kinematics import ARM, tracking_error
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.route import TOLERANCE
from interlock.strict.arm.training import TrainingConfig, to_onnx, train

SHIPPED = Path(__file__).parent.parent / "src" / "interlock" / "strict" / "arm" / "shipped"
VALIDATION = 100_000
UNSAFE = 0.0025
TAUS = np.round(np.geomspace(1e-4, 5e-2, 109), 6)


def choose_tau(model: onnx.ModelProto, seed: int) -> tuple[float, dict[str, float | int]]:
    """The smallest tau of the grid whose unsafe share is at most `UNSAFE` on validation requests.

    The unsafe share falls as tau grows, so the search stops at the first tau that holds. This is a
    plain empirical choice, without a confidence statement.
    """
    requests = sample_requests(VALIDATION, seed)
    found = OnnxSession(model.SerializeToString()).run({"x": requests.x})
    p, q = found["P"], found["Q"]
    with np.errstate(all="ignore"):
        error = tracking_error(ARM, requests.theta, requests.v, p / q)
    unsafe: npt.NDArray[np.bool_] = ~(error <= TOLERANCE)
    for tau in TAUS:
        accepted = np.abs(q[:, 0]) >= np.float32(tau)
        share = float(unsafe[accepted].mean())
        if share <= UNSAFE:
            return float(tau), {
                "validation_n": VALIDATION,
                "validation_seed": seed,
                "validation_accepted": float(accepted.mean()),
                "validation_unsafe": share,
            }
    raise SystemExit("no tau of the grid is safe enough: train for longer")


def main() -> None:
    """Train, choose, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=TrainingConfig().seed)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()

    config = TrainingConfig(seed=arguments.seed)
    weights = train(
        ARM, config, lambda phase, step, loss: print(f"{phase:7} {step:5}  loss {loss:.3e}")
    )
    model = to_onnx(weights)
    tau, found = choose_tau(model, seed=config.seed + 1)
    bundle = export_bundle(
        model,
        arguments.output,
        config=InferenceConfig(tau_infer=tau, tau_train=2 * tau),
        example_inputs=(sample_requests(16, seed=config.seed + 2).x,),
        name="two-link-arm",
        provenance={
            "task": "differential inverse kinematics of a planar two-link arm",
            "link_lengths_m": [ARM.first, ARM.second],
            "training": "make train-arm",
            "seed": config.seed,
            "hidden": config.hidden,
            "adam_steps": config.adam_steps,
            "lbfgs_iterations": config.lbfgs_iterations,
            **found,
        },
    )
    print(f"tau_infer {tau:g}, {found}")
    print(f"{arguments.output}  {bundle.digest}")


if __name__ == "__main__":
    main()
