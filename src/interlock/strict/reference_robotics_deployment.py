"""The reference deployment: train, calibrate, bundle, strict inference, fallback, report.

    python -m interlock.strict.reference_robotics_deployment --epochs 2 --n-samples 6000

A planar two-link arm asks a P/Q network for joint rates. The network is trained on `n_samples`
joint angles, its threshold certified on held-out requests, and both become a bundle. The bundle
then serves fresh requests in a route: the model behind its masks, a damped analytic solver,
refusal; every answer is checked against the true Jacobian.

Where nothing can be certified, the bundle is closed: its `tau_infer` lies above every |Q| that the
network can give, so the model answers nothing and the solver everything. No threshold is invented.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from interlock.bundle import Bundle
from interlock.bundle.manifest import MANIFEST, METADATA, MODEL
from interlock.errors import (
    BundleError,
    ConfigError,
    InterlockError,
    RunLockedError,
    StorageError,
    UsageError,
)
from interlock.kernel.journal_lock import FileHold
from interlock.report.page import write_whole
from interlock.strict.arm.calibration import CLOSED_TAU, HeldOutCalibration, calibrate
from interlock.strict.arm.kinematics import ARM
from interlock.strict.arm.requests import sample_requests
from interlock.strict.arm.served import Served, serve
from interlock.strict.calibration_record import extensions_of
from interlock.strict.certificate import check_levels
from interlock.strict.config import InferenceConfig
from interlock.strict.export import export_bundle
from interlock.strict.metrics import write_tau_infer_sweep
from interlock.strict.report import ReportFiles, write_report

if TYPE_CHECKING:
    import onnx

Say = Callable[[str], None]

BUNDLE = "bundle"
CALIBRATION = "calibration/calibration.json"
SWEEP = "tau_infer_sweep"
SUMMARY = "inference_summary.json"
AUDIT = "strict_inference_audit.jsonl"
CONTRACT = "output_contract.json"
LOCK = ".lock"

_MODEL_SEED, _EXAMPLES_SEED, _HELD_OUT_SEED, _REQUESTS_SEED = 0, 410_000, 420_000, 430_000
"""Added to the configuration's seed, so that no two sets of draws are the same."""


@dataclass(frozen=True)
class ReferenceRoboticsDeploymentConfig:
    """What to run. Raises ConfigError for values out of range.

    device         where torch trains, `cpu` or such as `cuda`; serving is on the CPU
    epochs         passes over the training samples
    n_samples      joint angles to train on
    seed           of training and of all draws
    weights        `train`, or `shipped`: the network that comes with the package, without torch
    output_dir     gets the outputs; those of an earlier run are replaced, other files left alone
    alpha          the largest unsafe share of the accepted answers that may be certified
    delta          the allowed probability that the certificate is wrong
    n_calibration  held-out requests for the certificate
    n_requests     requests to serve
    near_singular  share of the held-out and served requests that are near a singularity
    """

    device: str = "cpu"
    epochs: int = 2
    n_samples: int = 6000
    seed: int = 7
    weights: Literal["train", "shipped"] = "train"
    output_dir: str | os.PathLike[str] = "results/reference_deploy_robotics"
    alpha: float = 0.01
    delta: float = 0.05
    n_calibration: int = 20_000
    n_requests: int = 10_000
    near_singular: float = 0.35

    def __post_init__(self) -> None:
        """Check every value before any work."""
        for name in ("epochs", "n_samples", "n_calibration", "n_requests"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of 1 or more")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed is {self.seed!r}; it must be a whole number of 0 or more")
        if self.weights not in ("train", "shipped"):
            raise ConfigError(f"weights is {self.weights!r}; it must be 'train' or 'shipped'")
        check_levels(self.alpha, self.delta)
        value = self.near_singular
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"near_singular is {value!r}; it must be a number")
        if not 0 <= value <= 1:
            raise ConfigError(f"near_singular is {value}; it must lie in 0 … 1")


@dataclass(frozen=True)
class ReferenceRoboticsDeploymentArtifacts:
    """Where everything lies, and what was found.

    certified                    whether the model may answer at all
    calibration_path             the certificate, or the abstention with its reason
    inference_summary_path       counts of the served requests; `inference_summary` holds the same
    strict_inference_audit_path  JSON lines, one a request: masks, steps, reasons, answer
    output_contract_path         the outputs' meaning, and size and SHA-256 of every other file
    """

    output_dir: Path
    certified: bool
    bundle: Bundle
    bundle_dir: Path
    bundle_model_path: Path
    bundle_metadata_path: Path
    calibration_path: Path
    validation_report_path: Path
    validation_report_html_path: Path
    inference_summary_path: Path
    inference_summary: Mapping[str, Any] = field(repr=False)
    strict_inference_audit_path: Path
    output_contract_path: Path


def run_reference_robotics_deployment(
    config: ReferenceRoboticsDeploymentConfig = ReferenceRoboticsDeploymentConfig(),
    *,
    on_progress: Say | None = None,
) -> ReferenceRoboticsDeploymentArtifacts:
    """Run the whole path and return where its outputs lie.

    on_progress  is told what is being done, line by line

    An interrupted run leaves the earlier outputs, or the new bundle without the files that
    describe its inference; never a mixture. Raises ConfigError where `output_dir` holds something
    else under the bundle's name, RunLockedError where another run is writing to it,
    MissingExtraError where training lacks torch, and StorageError or BundleError where the
    directory cannot be written.
    """
    output = Path(config.output_dir)
    _check_output(output)
    with _only_run(output):
        return _run(config, output, on_progress or (lambda line: None))


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Hold the directory against other runs for as long as this one takes."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{output} cannot be made: {error.strerror or error}",
            hint="name another directory, or look at its permissions",
        ) from None
    hold = FileHold.on(output / LOCK)
    if hold is None:
        raise RunLockedError(
            f"another run is writing to {output}",
            hint="wait until it has ended, or name another output directory",
        )
    with hold:
        try:
            yield
        finally:
            hold.remove()


def _run(
    config: ReferenceRoboticsDeploymentConfig, output: Path, say: Say
) -> ReferenceRoboticsDeploymentArtifacts:
    network, origin = _network(config, say)

    say(f"calibrating on {config.n_calibration:,} held-out requests")
    held_out = sample_requests(
        config.n_calibration, config.seed + _HELD_OUT_SEED, config.near_singular
    )
    calibration = calibrate(network, held_out, config.alpha, config.delta)
    say(calibration.sentence)

    _remove_derived(output)
    write_tau_infer_sweep(
        (output / CALIBRATION).parent,
        calibration.sweep,
        provenance={"split": "held_out", "n": len(held_out), "guarantee": "none"},
        basename=SWEEP,
    )
    write_whole(output / CALIBRATION, _json(calibration.document()))
    say("exporting the bundle")
    bundle = _export(config, network, calibration, origin, output / BUNDLE)

    say(f"serving {config.n_requests:,} requests: model, analytic solver, refusal")
    requests = sample_requests(
        config.n_requests, config.seed + _REQUESTS_SEED, config.near_singular
    )
    served = serve(output / BUNDLE, bundle.digest, requests)
    say("writing the reports")
    return _publish(config, bundle, calibration, served, write_report(output / BUNDLE))


def _network(
    config: ReferenceRoboticsDeploymentConfig, say: Say
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The P/Q network, and where it comes from."""
    if config.weights == "shipped":
        from interlock.strict.arm.shipped import open_arm, shipped_network

        say("taking the shipped weights")
        runtime, _ = open_arm()
        return shipped_network(), {
            "training": "shipped weights",
            "shipped_bundle": runtime.bundle.digest,
        }
    from interlock.strict.arm.training import EpochConfig, to_onnx, train_epochs

    epochs = EpochConfig(
        n_samples=config.n_samples, epochs=config.epochs, seed=config.seed + _MODEL_SEED
    )
    say(f"training on {config.n_samples:,} samples for {config.epochs} epochs")
    losses: list[float] = []

    def on_epoch(phase: str, epoch: int, loss: float) -> None:
        losses.append(loss)
        if epoch == config.epochs or epoch % max(1, config.epochs // 10) == 0:
            say(f"  epoch {epoch} of {config.epochs}: mean loss {loss:.3e}")

    weights = train_epochs(ARM, epochs, on_epoch, device=config.device)
    return to_onnx(weights), {
        "training": "Adam in epochs over fixed samples",
        **asdict(epochs),
        "device": config.device,
        "last_epoch_loss": losses[-1],
    }


def _export(
    config: ReferenceRoboticsDeploymentConfig,
    network: onnx.ModelProto,
    calibration: HeldOutCalibration,
    origin: Mapping[str, Any],
    directory: Path,
) -> Bundle:
    certificate = calibration.certificate
    tau = CLOSED_TAU if certificate is None else certificate.tau
    thresholds = InferenceConfig(tau_infer=tau, tau_train=calibration.tau_train)
    closed = {} if certificate else {"closed": "nothing was certified; no |Q| reaches tau_infer"}
    examples = sample_requests(64, config.seed + _EXAMPLES_SEED, config.near_singular)
    return export_bundle(
        network,
        directory,
        example_inputs=(examples.x,),
        config=thresholds,
        name="two-link-arm-reference",
        provenance={
            "task": "differential inverse kinematics of a planar two-link arm",
            "link_lengths_m": [ARM.first, ARM.second],
            **origin,
            **closed,
        },
        certificate=certificate,
        extensions=extensions_of(calibration.curve, calibration.abstention),
    )


def _publish(
    config: ReferenceRoboticsDeploymentConfig,
    bundle: Bundle,
    calibration: HeldOutCalibration,
    served: Served,
    report: ReportFiles,
) -> ReferenceRoboticsDeploymentArtifacts:
    output = Path(config.output_dir)
    summary: dict[str, Any] = {
        "schema_version": 1,
        "bundle": bundle.digest,
        "certified": calibration.certificate is not None,
        "calibration": calibration.sentence,
        "config": {**asdict(config), "output_dir": os.fspath(config.output_dir)},
        **served.summary(),
    }
    write_whole(output / AUDIT, served.audit())
    write_whole(output / SUMMARY, _json(summary))
    write_whole(output / CONTRACT, _json(_contract(output, bundle, served)))
    return ReferenceRoboticsDeploymentArtifacts(
        output_dir=output,
        certified=calibration.certificate is not None,
        bundle=bundle,
        bundle_dir=output / BUNDLE,
        bundle_model_path=output / BUNDLE / MODEL,
        bundle_metadata_path=output / BUNDLE / METADATA,
        calibration_path=output / CALIBRATION,
        validation_report_path=report.markdown,
        validation_report_html_path=report.html,
        inference_summary_path=output / SUMMARY,
        inference_summary=summary,
        strict_inference_audit_path=output / AUDIT,
        output_contract_path=output / CONTRACT,
    )


def _contract(output: Path, bundle: Bundle, served: Served) -> dict[str, Any]:
    """What a consumer may rely on, and every file with its digest."""
    import hashlib

    def entry(path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    names = [CALIBRATION, *_sweep_files(), SUMMARY, AUDIT]
    names += sorted(f"{BUNDLE}/{path.name}" for path in (output / BUNDLE).iterdir())
    metadata = bundle.metadata
    return {
        "schema_version": 1,
        "bundle": bundle.digest,
        "inputs": metadata.inputs,
        "outputs": metadata.outputs,
        "strict": metadata.strict,
        "route": {
            "steps": [step.name for step in served.outcome.steps],
            "otherwise": served.otherwise,
        },
        "files": {name: entry(output / name) for name in names},
    }


def _check_output(output: Path) -> None:
    bundle = output / BUNDLE
    if bundle.exists() and not (bundle / MANIFEST).exists():
        raise ConfigError(
            f"{bundle} exists and is not a bundle; it is left alone",
            hint="name an output directory that is empty or of an earlier run",
        )
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output_dir is {output}, which is not a directory")


def _remove_derived(output: Path) -> None:
    """Remove what describes the inference of an earlier run, before its bundle is replaced."""
    try:
        for name in (CONTRACT, SUMMARY, AUDIT, CALIBRATION, *_sweep_files()):
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise BundleError(
            f"an earlier output cannot be replaced: {error.filename}: {error.strerror}"
        ) from None


def _sweep_files() -> list[str]:
    return [f"calibration/{SWEEP}{suffix}" for suffix in (".json", ".md", ".svg")]


def _json(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, also 0 where the calibration abstained."""
    defaults = ReferenceRoboticsDeploymentConfig()
    parser = argparse.ArgumentParser(
        prog="reference_robotics_deployment.py",
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default=defaults.device)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--n-samples", type=int, default=defaults.n_samples)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--weights", choices=["train", "shipped"], default=defaults.weights)
    parser.add_argument("--output-dir", type=Path, default=Path(defaults.output_dir))
    parser.add_argument("--alpha", type=float, default=defaults.alpha)
    parser.add_argument("--delta", type=float, default=defaults.delta)
    parser.add_argument("--n-calibration", type=int, default=defaults.n_calibration)
    parser.add_argument("--n-requests", type=int, default=defaults.n_requests)
    parser.add_argument("--near-singular", type=float, default=defaults.near_singular)
    given = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        config = ReferenceRoboticsDeploymentConfig(**vars(given))
        artifacts = run_reference_robotics_deployment(config, on_progress=say)
    except KeyboardInterrupt:
        print("interrupted; every file that is there is whole", file=sys.stderr)
        return 130
    except InterlockError as error:
        print(f"interlock: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    say(f"\n{artifacts.inference_summary['in_words']}")
    say(f"\nbundle   {artifacts.bundle_dir}\nreport   {artifacts.validation_report_html_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
