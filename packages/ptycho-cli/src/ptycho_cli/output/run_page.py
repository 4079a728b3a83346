"""The page of one run: figures, advice, pictures, settings, provenance (specs/cli.md, CLI-70)."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeGuard

from ptycho_contracts.config import SECTIONS, schema
from ptycho_data.checks.advice import NEAR_FLOOR, hint, over_floor

from ptycho_cli.output.evaluation import FIGURES, resolution, rows
from ptycho_cli.output.flags import with_flags
from ptycho_cli.output.markup import code, document, picture, section, table, words

CAPTIONS: Mapping[str, str] = {
    "amplitude.png": "Object, amplitude",
    "phase.png": "Object, phase",
    "coverage.png": "Illumination, positions, and the outline of what the other pictures show",
    "losses.png": "Loss of each epoch, with R and its Poisson floor where they are comparable",
    "probe.png": "Probe modes, each with its share of the power",
    "comparison.png": "Both images, aligned, and their difference",
    "frc.png": "Fourier ring correlation, with the thresholds 0.5 and half-bit",
    "convergence.png": "Loss of each epoch of the evaluation's reconstructions",
    "prior.png": "What the prior adds: phase and residual without and with it",
}
"""Pictures of a page in their order, with what they show."""

KINDS = {
    "train": "Training",
    "infer": "Inference",
    "reconstruct": "Reconstruction",
    "demo": "Demonstration",
    "evaluate": "Evaluation",
}
IMAGE = "image"
"""Folder of a demonstration's image, below its own."""
_DEFAULTS = {(one.section, row.name): row.default for one in SECTIONS for row in schema(one)}
_MISSING = "not known"


@dataclass(frozen=True)
class Run:
    """What a page tells of.

    Attributes:
        summary: Content of ``summary.json``; of an evaluation alone that of ``evaluation.json``.
        evaluation: Content of ``evaluation.json`` beside a summary; empty: none.
        pictures: PNG by file name.
        name: Of the folder, for a page of several runs.
    """

    summary: Mapping[str, Any]
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""

    @property
    def kind(self) -> str:
        """The command that ran, by what its summary holds."""
        if "infer" in self.summary and "train" in self.summary:
            return "demo"
        if self.summary is self.evaluation:
            return "evaluate"
        return "train" if "training" in self.summary else "infer" if "assembly" in self.summary else "reconstruct"

    @property
    def data(self) -> str:
        """Names of the files that it read."""
        names = [PurePath(str(entry.get("path", ""))).name for entry in self.inputs]
        shown = [name for name in names if not name.endswith(".safetensors")] or names
        return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")

    @property
    def data_sha256(self) -> tuple[str, ...]:
        """Of the data that were imaged, or trained on; neither models nor mappings; empty: unknown."""
        whole = self.summary.get("infer") or self.summary
        entries = [entry for entry in whole.get("inputs") or [] if isinstance(entry, Mapping)]
        data = [entry for entry in entries if not str(entry.get("path", "")).endswith((".safetensors", ".toml"))]
        return tuple(sorted(str(entry.get("sha256")) for entry in data))

    @property
    def inputs(self) -> list[Mapping[str, Any]]:
        """Path, bytes and sha256 of each file that it read."""
        return [entry for entry in self.summary.get("inputs") or [] if isinstance(entry, Mapping)]


def pictures_in(folder: Path) -> dict[str, bytes]:
    """Those of a page that lie in a folder, or below it in that of a demonstration's image."""
    places = {name: [place for place in (folder / name, folder / IMAGE / name) if place.is_file()] for name in CAPTIONS}
    return {name: found[0].read_bytes() for name, found in places.items() if found}


def write_page(path: Path, run: Run) -> None:
    """Write the page of a run that is about to be published; a failure costs the page, never the run."""
    try:
        path.write_text(run_page(run), encoding="utf-8")
    except Exception as error:
        path.unlink(missing_ok=True)
        text = f"no {path.name}: {type(error).__name__}: {error}; all other results are written"
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def run_page(run: Run) -> str:
    """The whole page."""
    title = KINDS[run.kind] + (f" of {run.data}" if run.data else "")
    figures = "".join(
        f"<div>{words(label)}<b>{words(value)}</b><span>{words(note)}</span></div>"
        for label, value, note in key_figures(run)
    )
    return document(
        title,
        f'<h1>{words(title)}</h1><p class="lead">{words(_lead(run))}</p>',
        f'<div class="figures">{figures}</div>',
        _advice(run),
        section("Pictures", _pictures(run)),
        section("Evaluation", _evaluation(run)),
        section("Numbers", _numbers(run)),
        section("Settings", _settings(run)),
        section("Provenance", _provenance(run)),
        f"<footer>{words(_foot(run))}</footer>",
    )


def key_figures(run: Run) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of each figure that matters most."""
    summary = _image(run)
    for part, label in (("used", "R"), ("held_out", "R of held-out patterns")):
        residual, floor = residual_and_floor(summary, part)
        if residual is not None:
            ratio = over_floor(residual, floor)
            known = (
                f"{ratio:.2f} times its Poisson floor {floor:.4g}" if ratio is not None else "its floor is not known"
            )
            yield label, number(residual), known
    yield from _training_figures(run.summary.get("train") or run.summary)
    correlation = run.summary.get("complex_correlation")
    if _is_number(correlation):
        yield "Complex correlation", f"{correlation:.4f}", "of the image with the truth"
    for curve in filter(None, [run.evaluation.get("frc")]):
        for name, label in (("half", "FRC 0.5"), ("half_bit", "FRC half-bit")):
            yield label, resolution(curve, name).removeprefix("at "), "crossing, as a fraction of Nyquist"
    if run.kind != "train":
        pixel = summary.get("object_pixel_size_m")
        yield "Object pixel", length(pixel), "side" if _is_number(pixel) else "the file does not tell the set-up"
    patterns = summary.get("patterns") or {}
    if patterns:
        mean = summary.get("mean_counts")
        photons = f"; {float(f'{mean:.3g}'):,.12g} photons each" if _is_number(mean) else ""
        yield "Patterns", str(patterns.get("used")), f"used, {patterns.get('held_out')} held out{photons}"
    wall, cpu = total(run.summary.get("seconds")), total(run.summary.get("cpu_seconds"))
    if wall is not None:
        of = " (the run on all patterns)" if run.kind == "evaluate" else ""
        yield "Time", f"{wall:.3g} s", of.strip() if cpu is None else f"{cpu:.3g} s of CPU{of}"


def _training_figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    training = summary.get("training")
    if not training:
        return
    reached = (training.get("losses") or {}).get("val_loss")
    yield "Validation loss", number(reached), f"a uniform object's is {number(training.get('uniform_loss'))}"
    calibration = (summary.get("probe") or {}).get("calibration") or {}
    ratio = over_floor(calibration.get("residual"), calibration.get("poisson_floor"))
    if ratio is not None:
        note = f"{ratio:.2f} times its Poisson floor {calibration['poisson_floor']:.4g}"
        yield "R of the calibrated probe", number(calibration["residual"]), note


def _image(run: Run) -> Mapping[str, Any]:
    """The summary of what made the image: of a demonstration that of its inference."""
    return run.summary.get("infer") or run.summary


def residual_and_floor(summary: Mapping[str, Any], part: str = "used") -> tuple[float | None, float | None]:
    """R and its floor, each a number or None."""
    residual, floor = ((summary.get(name) or {}).get(part) for name in ("residual", "poisson_floor"))
    return (residual if _is_number(residual) else None), (floor if _is_number(floor) else None)


def advice(run: Run) -> list[str]:
    """What to try, and what to beware of, in words of the command line."""
    texts = []
    if run.summary.get("training_collapsed") or (run.summary.get("training") or {}).get("collapsed"):
        texts.append("the training collapsed: the network has learned nothing of the object, and its images show none")
    command, summary = ("infer", _image(run)) if run.kind == "demo" else (run.kind, run.summary)
    found = hint(command, summary) if command != "evaluate" else None
    texts += [found] if found else []
    texts += [str(entry["text"]) for entry in run.evaluation.get("advice") or []]
    return [with_flags(text) for text in texts]


def _advice(run: Run) -> str:
    texts = advice(run)
    if not texts:
        ratio = over_floor(*residual_and_floor(_image(run)))
        if ratio is None:
            return ""
        texts = [
            f"R is {ratio:.2f} times its Poisson floor: the patterns are explained, or nearly (up to {NEAR_FLOOR:g})"
        ]
    items = "".join(f"<li>{words(text[:1].upper() + text[1:])}.</li>" for text in texts)
    return f'<div class="advice"><strong>Advice</strong><ul>{items}</ul></div>'


def _pictures(run: Run) -> str:
    shown = [picture(run.pictures[name], caption) for name, caption in CAPTIONS.items() if name in run.pictures]
    return f'<div class="pictures">{"".join(shown)}</div>' if shown else ""


def _evaluation(run: Run) -> str:
    if run.evaluation:
        return table([words(label), words(text)] for label, text in rows(run.evaluation))
    figures = run.summary.get("figures") or {}
    listed = [
        (
            words(label),
            "not crossed" if name.startswith("frc_") and figures[name] >= 1 else words(number(figures[name])),
        )
        for name, label in FIGURES
        if _is_number(figures.get(name))
    ]
    return table(listed) if listed else ""


_TOLD = (
    ("epochs", "epochs"),
    ("stopped_by", "stopped by"),
    ("loss", "loss"),
    ("levels_px", "levels, from coarse to fine [px]"),
    ("assembly", "assembly"),
    ("position_correction_rms_px", "correction of positions, RMS [px]"),
    ("background_counts_per_pattern", "background per pattern [counts]"),
    ("patterns_per_cpu_second", "patterns per CPU second"),
    ("parameters", "parameters of the network"),
)


def _numbers(run: Run) -> str:
    summary = run.summary
    told = [(label, shown(summary[name])) for name, label in _TOLD if name in summary]
    told += [(f"training: {name.replace('_', ' ')}", shown(value)) for name, value in _flat(summary.get("training"))]
    prior = summary.get("prior")
    if isinstance(prior, Mapping):
        told.append(("prior", f"{prior.get('kind')}, weight {shown(prior.get('weight'))}"))
    unit = summary.get("measurement")
    if isinstance(unit, Mapping):
        told.append(("unit of the patterns", f"{unit.get('unit')}, decided by {unit.get('decided_by')}"))
    losses = summary.get("losses")
    if isinstance(losses, list) and losses:
        told.append(("loss, first and last epoch", f"{number(losses[0])}, {number(losses[-1])}"))
    powers = (summary.get("probe") or {}).get("mode_powers") or []
    told += [(f"power of probe mode {place}", f"{power:.2%}") for place, power in enumerate(powers, 1)]
    parts = [_block("Run", told), _block("Seconds", _seconds(summary))]
    return f'<div class="columns">{"".join(parts)}</div>' if any(parts) else ""


def _seconds(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    wall, cpu = summary.get("seconds"), summary.get("cpu_seconds")
    for stage, seconds in wall.items() if isinstance(wall, Mapping) else ():
        of_cpu = cpu.get(stage) if isinstance(cpu, Mapping) else None
        yield stage, f"{number(seconds, '.3g')}" + ("" if of_cpu is None else f" ({number(of_cpu, '.3g')} of CPU)")


def _block(title: str, told: Iterable[tuple[str, str]]) -> str:
    listed = [(words(label), words(text)) for label, text in told]
    return f"<section><h3>{words(title)}</h3>{table(listed)}</section>" if listed else ""


def _settings(run: Run) -> str:
    parts = []
    for name, options in settings_of(run).items():
        listed = []
        for option, value in options.items():
            known = (name, option) in _DEFAULTS
            differs = known and value != _DEFAULTS[name, option]
            cell = f"<strong>{words(shown(value))}</strong>" if differs else words(shown(value))
            note = f' <span class="note">(default {words(shown(_DEFAULTS[name, option]))})</span>' if differs else ""
            listed.append((words(option), cell + note))
        parts.append(f"<section><h3>{words(name)}</h3>{table(listed)}</section>")
    note = '<p class="note">Bold: not the default.</p>'
    return f'{note}<div class="columns">{"".join(parts)}</div>' if parts else ""


def settings_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """Options by section."""
    settings = run.summary.get("settings") or {}
    return {name: options for name, options in settings.items() if isinstance(options, Mapping)}


def _provenance(run: Run) -> str:
    summary, parts = run.summary, []
    command = summary.get("command") or []
    if command:
        parts.append(f"<h3>Command</h3><p>{code(shlex.join(map(str, command)))}</p>")
    if run.inputs:
        listed = [
            (code(entry.get("path")), words(entry.get("bytes")), code(entry.get("sha256"))) for entry in run.inputs
        ]
        parts.append("<h3>Input</h3>" + table(listed, head=("file", "bytes", "sha256")))
    outputs = summary.get("outputs") or {}
    named = [(code(name), code(digest)) for name, digest in outputs.items() if not name.endswith((".png", ".html"))]
    if named:
        parts.append("<h3>Output</h3>" + table(named, head=("file", "sha256")))
    told = [(name, shown(summary[name])) for name in ("device", "seed") if name in summary]
    versions = summary.get("versions")
    told += [(name, str(text)) for name, text in versions.items()] if isinstance(versions, Mapping) else []
    program = [(words(label), words(text)) for label, text in told]
    return "".join(parts) + (f'<h3>Program</h3><div class="columns">{table(program)}</div>' if program else "")


def _lead(run: Run) -> str:
    parts = [f"ptycho-cli {(run.summary.get('versions') or {}).get('ptycho-cli', '')}".strip()]
    parts += [str(run.summary["finished"]).replace("T", " ", 1)] if run.summary.get("finished") else []
    device = _image(run).get("device")
    return ", ".join(parts + ([f"computed on {device}"] if device else []))


def _foot(run: Run) -> str:
    about = [
        "R: squared differences of measured and computed amplitudes, summed, over the counts, summed; its Poisson "
        "floor is what photon noise alone leaves."
    ]
    if {"amplitude.png", "comparison.png"} & set(run.pictures):
        about.append("Pictures show what was scanned; the files keep the phase ramp that the pictures leave out.")
    return " ".join([*about, "This page refers to nothing outside itself."])


def number(value: Any, form: str = ".4g") -> str:
    """A number in short, or that it is not known."""
    return format(value, form) if _is_number(value) else _MISSING


def length(metres: Any) -> str:
    """A length of the scale of an object pixel.

    >>> length(3.2288e-8), length(1.4e-11), length(None)
    ('32.29 nm', '14 pm', 'not known')
    """
    if not _is_number(metres):
        return _MISSING
    return f"{metres * 1e9:.4g} nm" if metres >= 1e-9 else f"{metres * 1e12:.4g} pm"


def total(seconds: Any) -> float | None:
    """The sum of stages, or one number as it is; None if there is neither."""
    if isinstance(seconds, Mapping):
        return float(sum(value for value in seconds.values() if _is_number(value)))
    return float(seconds) if _is_number(seconds) else None


def shown(value: Any) -> str:
    """A value of a setting or summary in short."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flat(entries: Any) -> Iterator[tuple[str, Any]]:
    for name, value in entries.items() if isinstance(entries, Mapping) else ():
        if isinstance(value, Mapping):
            yield from value.items()
        elif value is not None:
            yield name, value


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
