"""report.html: a run as one self-contained page, built from the run's folder alone.

Its pictures are data URIs, and its content security policy allows only the style sheet and the
script in it, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from cyclegan_cli import __version__
from cyclegan_cli.engine.run import Run
from cyclegan_cli.errors import command_line, counted, duration
from cyclegan_cli.files import write_text
from cyclegan_cli.report.curves import Line, chart, number
from cyclegan_cli.report.record import Best, Record, best_of, read_record, train_command, value
from cyclegan_cli.report.samples import Gallery, Moment
from cyclegan_cli.settings import TrainSettings

REPORT = "report.html"
_UNDECIDED = {"lsgan": 0.25, "vanilla": 0.6931, "hinge": 1.0}  # D's loss where it cannot tell
_WARNINGS = 20  # of the newest that are shown


class Report:
    """Writes ``report.html`` into a run's folder; keeps the encoded pictures."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gallery = Gallery(run.folder / "samples")

    @property
    def path(self) -> Path:
        """Path of the page."""
        return self._run.folder / REPORT

    def write(self) -> None:
        """Write the page. Raises OSError."""
        write_text(self.path, self.html())

    def html(self) -> str:
        """The page of the run's folder as it is now."""
        run, record = self._run, read_record(self._run.folder)
        style, script = _asset("page.css"), _asset("page.js")
        sections = [
            _warnings(record),
            _samples(run, self._gallery.moments()),
            _curves(run, record),
            _evaluations(record),
            _data(run),
            _settings(run),
        ]
        return Template(_asset("page.html")).substitute(
            _head(run, record),
            name=escape(run.name),
            train=escape(train_command(run)),
            resume=escape(command_line("resume", run.name)),
            version=escape(__version__),
            begun=_clock(run.created),
            sections="\n".join(sections),
            style=style,
            style_digest=_digest(style),
            script=script,
            script_digest=_digest(script),
        )


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(key: str, title: str, body: str) -> str:
    """``key``: unique on the page."""
    return f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>\n{body}</section>'


# -- head --------------------------------------------------------------------------------------


def _head(run: Run, record: Record) -> dict[str, str]:
    """The page's head: its parts by their names in page.html."""
    s, last = run.settings, record.last
    step, epoch = (int(last["step"]), int(last["epoch"])) if last else (0, 0)
    total = run.steps
    short = total < run.steps_per_epoch * s.epochs
    state = "is finished" if step >= total else "is not finished"
    if step >= total and short:
        state = f"has ended at --max-steps {s.max_steps}"
    speed = f"{number(record.speed)} pictures/s" if record.measured else "-"
    facts = [
        ("Step", f"{step:,} of {total:,}", "where --max-steps ends it" * short),
        (
            "Epoch",
            f"{epoch} done" if short else f"{epoch} of {s.epochs} done",
            f"the learning rate is set for {s.epochs}" * short,
        ),
        ("Trained for", duration(record.seconds(s.batch_size)), "without pauses"),
        ("Speed", speed, "of each domain, of late"),
        ("Updated", _clock(last["time"]) if last else "not yet", "the last measure or warning"),
        *_best_facts(run, record),
    ]
    return {
        "x": escape(run.x_dir.name),
        "y": escape(run.y_dir.name),
        "generator": escape(s.generator.name),
        "crop_size": str(s.crop_size),
        "state": state,
        "done": str(min(step, total)),
        "total": str(total),
        "percent": str(100 * step // max(total, 1)),
        "facts": "".join(
            f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd>"
            f"{f'<dd>{escape(told)}</dd>' if told else ''}</div>"
            for k, v, told in facts
        ),
    }


def _best_facts(run: Run, record: Record) -> list[tuple[str, str, str]]:
    """The best epochs: of both directions together, and of each if it differs."""
    told = "nearest to real pictures: the smallest sliced Wasserstein distance (SWD)"

    def words(best: Best) -> str:
        return f"{best.epoch} (step {best.step:,}, SWD {number(best.swd)})"

    both = best_of(record.evaluations, "y", "x")
    each = [
        (f"Best epoch to {run.y_dir.name}", best_of(record.evaluations, "y")),
        (f"Best epoch to {run.x_dir.name}", best_of(record.evaluations, "x")),
    ]
    facts = [("Best epoch", words(both), told)] if both else []
    apart = [(k, b) for k, b in each if b and (not both or b.step != both.step)]
    return facts + [(k, words(b), "by the SWD of that direction alone") for k, b in apart]


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _warnings(record: Record) -> str:
    if not record.warnings:
        return ""
    items = []
    for line in reversed(record.warnings[-_WARNINGS:]):
        warning = line["warning"]
        hint = f"<p>{escape(str(warning['hint']))}</p>" if warning.get("hint") else ""
        items.append(
            f'<div class="warning"><p><strong>Step {int(line["step"]):,}:</strong> '
            f"{escape(str(warning.get('message', warning.get('kind', ''))))}</p>{hint}</div>"
        )
    earlier = len(record.warnings) - len(items)
    more = f'<p class="soft">And {earlier} earlier.</p>' if earlier else ""
    return _section("warnings", "Warnings", f"{''.join(items)}{more}")


# -- samples -----------------------------------------------------------------------------------


def _samples(run: Run, moments: Sequence[Moment]) -> str:
    if not moments:
        return _section("samples", "Samples", '<p class="soft">There are none yet.</p>')
    newest = moments[-1]
    label = _label(run, newest.step)
    x, y = run.x_dir.name, run.y_dir.name
    held = run.x_held and run.y_held
    told = "held out of the training" if held else "of the training itself (too few to hold out)"
    sections = [
        _direction(f"{x} to {y} and back", ("x", "G(x)", "F(G(x))"), (x, y), newest.x, label),
        _direction(f"{y} to {x} and back", ("y", "F(y)", "G(F(y))"), (y, x), newest.y, label),
    ]
    data = [
        {"label": _label(run, moment.step), "made": None if moment is newest else moment.made}
        for moment in moments
    ]
    controls = ""
    if len(moments) > 1:
        top = len(moments) - 1
        controls = (
            '<div class="controls" id="controls" hidden>'
            f'<label><span>Training</span><input id="slider" type="range" min="0" max="{top}" '
            f'value="{top}" step="1" aria-valuetext="{escape(label)}"></label>'
            f'<output id="told" for="slider" aria-live="polite">{escape(label)}</output>'
            '<button id="play" type="button">Play</button></div>'
            f'<script type="application/json" id="moments">{_script_json(data)}</script>'
        )
    return _section(
        "samples",
        "Samples",
        f'<p class="soft">The same pictures, {told}, at {counted(len(moments), "moment")}; '
        f"here at {escape(label)} unless moved.</p>\n{controls}\n"
        f'<div class="samples">{"".join(sections)}</div>',
    )


def _label(run: Run, step: int) -> str:
    return f"step {step:,}, epoch {step / run.steps_per_epoch:.1f}"


def _script_json(data: object) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e")


def _direction(
    title: str,
    heads: tuple[str, str, str],
    names: tuple[str, str],
    triples: Sequence[tuple[str, str, str]],
    label: str,
) -> str:
    """One section: a row of three pictures for each held-out picture."""
    source, target = names
    rows = []
    for n, (first, second, third) in enumerate(triples, 1):
        painted = f"Picture {n} of {source} as {target}"
        back = f"Picture {n} of {source} as {target} and back"
        rows.append(
            '<div class="triple">'
            f'<img src="{first}" alt="Picture {n} of {escape(source)}">'
            + "".join(
                f'<img src="{uri}" data-alt="{escape(alt)}" alt="{escape(alt)}, {label}">'
                for uri, alt in ((second, painted), (third, back))
            )
            + "</div>"
        )
    told = (f"from {source}", f"as {target}", "and back")
    columns = "".join(
        f"<span>{head}<br>{escape(t)}</span>" for head, t in zip(heads, told, strict=True)
    )
    return (
        f"<div><h3>{escape(title)}</h3>"
        f'<div class="heads" aria-hidden="true">{columns}</div>{"".join(rows)}</div>'
    )


# -- curves and tables -------------------------------------------------------------------------


def _curves(run: Run, record: Record) -> str:
    if not record.measured:
        return _section("curves", "Curves", '<p class="soft">There is no measure yet.</p>')
    first, last = record.measured[0], record.measured[-1]
    undecided = _UNDECIDED[run.settings.gan]
    ends = [(float(first["step"]), undecided), (float(last["step"]), undecided)]

    def losses(*names: str) -> list[Line]:
        return [Line(name, record.losses(name)) for name in names]

    def scores(name: str) -> list[Line]:
        lines = []
        for domain, made in (("y", "G(x)"), ("x", "F(y)")):
            lines.append(Line(made, record.scores(domain, name)))
            floor = record.scores(domain, f"{name}_floor")
            lines.append(Line(f"real {domain}, the floor", floor, floor=True))
        return lines

    rate = [Line("learning rate", record.losses("lr"), exact=True)]
    charts = [
        chart("swd", "Sliced Wasserstein distance (lower is better)", scores("swd")),
        chart("classifier", "Two-sample classifier (0.5: cannot tell)", scores("classifier")),
        chart("adversarial", "Generators: adversarial loss", losses("G", "F"), zero=False),
        chart(
            "discriminators",
            "Discriminators: loss",
            [*losses("D_X", "D_Y"), Line("cannot tell real from made", ends, floor=True)],
        ),
        chart("cycle", "Cycle-consistency loss", losses("cycle_X", "cycle_Y")),
        chart("identity", "Identity loss", losses("identity_X", "identity_Y")),
        chart("rate", "Learning rate", rate),
    ]
    return _section(
        "curves",
        "Curves",
        '<p class="soft">Lines are smoothed where they are long, over the range of what was '
        "measured. A falling adversarial loss is no sign of better pictures: the samples are, and "
        "the distances where there are evaluations.</p>\n"
        f'<div class="charts">{"".join(charts)}</div>',
    )


def _evaluations(record: Record) -> str:
    if not record.evaluations:
        return ""
    heads = ["step", "epoch"]
    heads += [f"{words} {of}" for of in ("G(x)", "F(y)") for words in ("SWD", "classifier")]
    best = best_of(record.evaluations, "y", "x")
    rows = []
    for line in record.evaluations:
        cells = [f"{int(line['step']):,}", str(line["epoch"])]
        for domain in ("y", "x"):
            for name in ("swd", "classifier"):
                found = value(line, "evaluation", domain, name)
                floor = value(line, "evaluation", domain, f"{name}_floor")
                shown = "-" if found is None else number(found)
                cells.append(shown if floor is None else f"{shown} ({number(floor)})")
        if best is not None and best.step == line["step"]:
            cells[1] += " (best)"
        rows.append(cells)
    top = "".join(f'<th scope="col" class="figure">{head}</th>' for head in heads)
    body = "".join(
        "<tr>" + "".join(f'<td class="figure">{escape(c)}</td>' for c in cells) + "</tr>"
        for cells in rows
    )
    return _section(
        "evaluations",
        "Evaluations",
        '<p class="soft">Figures in brackets: real pictures against real ones, the floor.</p>'
        '<div class="wide" tabindex="0" role="region" aria-labelledby="evaluations"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>",
    )


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows
    )
    return f"<table><tbody>{body}</tbody></table>"


def _data(run: Run) -> str:
    rows = []
    for domain, folder, files, held in (
        ("X", run.x_dir, run.x_files, run.x_held),
        ("Y", run.y_dir, run.y_files, run.y_held),
    ):
        out = f", and {len(held)} held out" if held else ", none held out"
        rows.append((domain, f"{folder.name}: {counted(len(files), 'picture')}{out} ({folder})"))
    steps, batch = counted(run.steps_per_epoch, "step"), run.settings.batch_size
    rows.append(("An epoch", f"{steps} of {counted(batch, 'picture')} of each domain"))
    return _section("data", "Data", _rows(rows))


def _settings(run: Run) -> str:
    default = TrainSettings().to_json()
    rows = []
    for name, chosen in run.settings.to_json().items():
        text = run.settings.generator.name if name == "generator" else _shown(chosen)
        usual = "" if chosen == default[name] else "  (not the default)"
        rows.append((name.replace("_", "-"), f"{text}{usual}"))
    return _section("settings", "Settings", _rows(rows))


def _shown(chosen: object) -> str:
    if chosen is None:
        return "not set"
    return ("yes" if chosen else "no") if isinstance(chosen, bool) else str(chosen)
