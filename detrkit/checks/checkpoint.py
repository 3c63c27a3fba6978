"""The check of a checkpoint: what kind it is, whether it is intact, what it holds, and what becomes of each tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detrkit.checkpoints.detector import CANDIDATES, find, load
from detrkit.checkpoints.foreign import WEIGHTS
from detrkit.checkpoints.report import LoadReport
from detrkit.checkpoints.storage import read, stated_hash
from detrkit.checks import Outcome
from detrkit.config import DetectorConfig
from detrkit.labels import LabelSpace


@dataclass(frozen=True)
class CheckpointCheck:
    """What a checkpoint holds; it was read whole.

    Attributes:
        path: file or folder.
        kind: ``detector``, ``training``, ``pretrained``, or the name of a foreign layout.
        sha256: the hash that it states, which its contents have; None for foreign ones, which state none.
        size: bytes.
        parameters: numbers in the detector's parameters.
        config: of the detector.
        label_space: the classes.
        report: what became of each tensor.
        progress: of a state of training: step, seconds, best AP, ...
        environment: in which that was made.
    """

    path: str
    kind: str
    sha256: str | None
    size: int
    parameters: int
    config: DetectorConfig
    label_space: LabelSpace
    report: LoadReport
    progress: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None


def check_checkpoints(path: str | Path, *, tensors: bool = False) -> Outcome:
    """All checkpoints of a run's folder, or one file, or a folder of another program.

    Args:
        path: folder or file.
        tensors: name each tensor in the text.

    Raises:
        CheckpointError: the first one that is missing, damaged, foreign, or does not fit its own configuration.
    """
    inside = [Path(path) / name for name in CANDIDATES if (Path(path) / name).is_file()]
    checks = [check_checkpoint(file) for file in inside or [find(path)]]
    text = "\n".join(as_text(check, tensors=tensors) for check in checks)
    return Outcome([{**asdict(check), "counts": check.report.counts} for check in checks], text)


def check_checkpoint(path: Path) -> CheckpointCheck:
    """One checkpoint, loaded as `detrkit.load` does.

    Raises:
        CheckpointError: missing, damaged, or not fitting its own configuration.
    """
    model = load(path)
    file = path / WEIGHTS[0] if path.is_dir() and (path / WEIGHTS[0]).is_file() else path
    report = model.loaded or LoadReport(str(path), "unknown", ())
    own = report.origin == "detrkit"
    note = read(file)[1] if own else {}
    return CheckpointCheck(
        str(path),
        str(note.get("kind", report.origin)),
        stated_hash(file) if own else None,
        file.stat().st_size,
        sum(p.numel() for p in model.parameters()),
        model.config,
        model.label_space,
        report,
        note.get("progress"),
        note.get("environment"),
    )


def as_text(check: CheckpointCheck, *, tensors: bool) -> str:
    """The check for people."""
    intact = f"intact, sha256 {check.sha256[:12]}..." if check.sha256 else "read whole; states no hash of its own"
    names = check.label_space.names
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    config = check.config
    lines = [
        f"{check.path}: {check.kind}, {check.size / 2**20:.1f} MiB, {intact}",
        f"  {check.parameters:,} parameters: {config.backbone}, {config.enc_layers} + {config.dec_layers} layers, "
        f"d_model {config.d_model}, {config.num_queries} queries",
        f"  {len(names)} classes: {listed}",
    ]
    lines += [f"  {title}: {_pairs(found)}" for title, found in _state(check).items() if found]
    became = f"tensors {check.report}".replace(f"{check.report.source} ", "", 1)
    lines += [f"  {line}" for line in became.splitlines()]
    if tensors:
        lines += [f"    {line}" for line in check.report.table().splitlines()]
    return "\n".join([*lines, ""])


def _state(check: CheckpointCheck) -> dict[str, dict[str, Any] | None]:
    return {"progress": check.progress, "made in": check.environment}


def _pairs(values: dict[str, Any]) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value != [])
