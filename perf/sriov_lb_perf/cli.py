# SPDX-License-Identifier: Apache-2.0
"""``sriov-lb-perf``: compare two VIPs, look at results, keep a history.

Exit status of ``compare``: 0 the run is complete; 2 it is not, or could not tell what a given
threshold asks; 1 a threshold was crossed. Of ``nightly``: 0 nothing moved, 1 a regression, 2
could not tell. Wrong options: 2 (click's own). Heavy packages are imported inside the commands.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from sriov_lb_tests.errors import SriovLbError

EXIT_MOVED = 1
EXIT_UNCLEAR = 2


def explained(function: Callable) -> Callable:
    """Errors raised on purpose are told in words, without a traceback."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        from . import errors

        try:
            return function(*args, **kwargs)
        except SriovLbError as error:
            click.echo(f"sriov-lb-perf: {type(error).__name__}: {error}", err=True)
            sys.exit(EXIT_UNCLEAR)
        except KeyboardInterrupt:
            # Not click's "Aborted!" with status 1: that would be a regression.
            click.echo("sriov-lb-perf: told to end; what was built is taken away", err=True)
            sys.exit(EXIT_UNCLEAR)
        except ImportError as error:
            missing = errors.MissingPackage(f"{error}.")
            click.echo(f"sriov-lb-perf: MissingPackage: {missing}", err=True)
            sys.exit(EXIT_UNCLEAR)
        except Exception:
            # Python's own status would be 1, and that is a regression, or a threshold crossed.
            traceback.print_exc()
            click.echo("sriov-lb-perf: this is a bug; please report what stands above", err=True)
            sys.exit(EXIT_UNCLEAR)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sriov-lb-tests", prog_name="sriov-lb-perf")
def main() -> None:
    """Compare an SR-IOV VIP with its normal twin: by how much, how sure, and since when."""


def target_options(function: Callable) -> Callable:
    """What is measured, and from where."""
    options = (
        click.option("--sriov-vip", metavar="URL", help="A small object on the SR-IOV VIP."),
        click.option("--normal-vip", metavar="URL", help="The same object on the normal VIP."),
        click.option(
            "--client",
            "clients",
            multiple=True,
            metavar="WHERE",
            help="Where load is generated; repeatable. ssh://USER@HOST[:PORT][?key=FILE]"
            "[&jump=USER@HOST[:PORT][&jump_key=FILE]], namespace:NAME or local.",
        ),
        click.option(
            "--ssh-key",
            type=click.Path(dir_okay=False),
            help="Private key for --client ssh://… without a key of its own.",
        ),
        click.option(
            "--large",
            metavar="PATH",
            help="A large object on both VIPs, for goodput, such as /large.bin.",
        ),
        click.option(
            "--substrate",
            type=click.Choice(["hardware", "igb", "macvlan", "none", "unknown"]),
            help="What plays the VF; kept with the result.  [default: unknown]",
        ),
        click.option(
            "--targets",
            type=click.Path(dir_okay=False),
            help="A target file (YAML) instead of the options above.",
        ),
        click.option(
            "--from-cloud",
            is_flag=True,
            help="Build both load balancers, members and a client in the cloud first, and take "
            "them away afterwards.",
        ),
        click.option(
            "--cloud-clients",
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            metavar="N",
            help="With --from-cloud: how many clients generate the load; each takes a VF.",
        ),
        click.option(
            "--config-file",
            type=click.Path(dir_okay=False),
            help="tempest.conf with the section [sriov_lb], for --from-cloud.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def run_options(function: Callable) -> Callable:
    """How it is measured, and where the result goes."""
    options = (
        click.option(
            "--profile",
            default="smoke",
            show_default=True,
            help="Load profile: a name, or a YAML file.",
        ),
        click.option(
            "--artifacts",
            "--output",
            "output",
            type=click.Path(file_okay=False),
            help="Folder for the run's own folder. Default: ~/.local/state/sriov-lb-perf/runs",
        ),
        click.option("--seed", type=int, help="Repeat a run's order of trials."),
        click.option(
            "--locust-web",
            type=click.IntRange(1, 65535),
            metavar="PORT",
            help="Serve locust's own web UI on this loopback port while the run lasts.",
        ),
        click.option("--quiet", is_flag=True, help="No progress, only the end."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _pair(options: dict):
    """The targets of a comparison from the options.

    :raises BadTarget: contradicting or missing options; all missing ones at once.
    """
    from . import errors, targets
    from .clients import Client

    if options["targets"]:
        _alone("targets", options)
        return targets.load(options["targets"])
    missing = [
        name
        for name, value in (
            ("--sriov-vip", options["sriov_vip"]),
            ("--normal-vip", options["normal_vip"]),
            ("--client", options["clients"]),
        )
        if not value
    ]
    if missing:
        raise errors.BadTarget(
            f"Not given: {', '.join(missing)}.",
            remedy="Give these options, a --targets file, or --from-cloud.",
        )
    return targets.Pair(
        reference=targets.Target("normal", options["normal_vip"], large=options["large"]),
        candidate=targets.Target("sriov", options["sriov_vip"], large=options["large"]),
        clients=tuple(
            Client.parse(text, key_file=options["ssh_key"]) for text in options["clients"]
        ),
        substrate=options["substrate"] or "unknown",
    )


def _alone(option: str, options: dict) -> None:
    """What ``--targets`` and ``--from-cloud`` say themselves must not be said beside them.

    :raises BadTarget: it is.
    """
    from . import errors

    beside = ("targets", "sriov_vip", "normal_vip", "clients", "ssh_key", "large", "substrate")
    names = {"clients": "client"}
    given = [
        "--" + names.get(name, name).replace("_", "-")
        for name in beside
        if name != option and options[name]
    ]
    if given:
        raise errors.BadTarget(
            f"--{option.replace('_', '-')} and {', '.join(given)} exclude each other.",
            remedy="Say it in the target file; with --from-cloud [sriov_lb] substrate says what "
            "plays the VF, and clients and objects are made.",
        )


def _command() -> list[str]:
    """The command line for the result, without key paths."""
    words = []
    hide = False
    for word in sys.argv[1:]:
        bare = word.split("?")[0] if word.startswith(("ssh://", "--client=ssh://")) else word
        words.append("…" if hide else "--ssh-key=…" if word.startswith("--ssh-key=") else bare)
        hide = word == "--ssh-key"
    return ["sriov-lb-perf", *words]


@main.command()
@target_options
@run_options
@click.option(
    "--max-latency-ratio",
    type=float,
    help="Exit 1 when the median latency ratio (SR-IOV / normal) is surely above this.",
)
@click.option(
    "--min-rate-ratio",
    type=float,
    help="Exit 1 when the request rate ratio (SR-IOV / normal) is surely below this.",
)
@explained
def compare(**options) -> None:
    """Measure both VIPs side by side and write a result and its page."""
    outcome = _compare(options)
    click.echo(_summary(outcome))
    code = 0 if outcome.complete else EXIT_UNCLEAR
    for text, crossed in _thresholds(outcome, options):
        click.echo(text)
        if crossed:
            code = EXIT_MOVED
        elif crossed is None:
            code = max(code, EXIT_UNCLEAR) if code != EXIT_MOVED else code
    if not outcome.complete:
        click.echo(f"sriov-lb-perf: the run is incomplete: {outcome.failure}", err=True)
    sys.exit(code)


def _compare(options: dict):
    """Run a comparison as the options say and write its page."""
    from . import compare as comparing
    from . import profiles
    from .report import page
    from .results import store

    page.plotly_script()  # found missing now rather than after minutes
    profile = profiles.load(options["profile"])
    output = Path(options["output"]) if options["output"] else comparing.default_output()
    store.require_room(output, profile.room)
    if options["from_cloud"]:
        from . import provision

        _alone("from_cloud", options)
        context = provision.twins(
            options["config_file"],
            needs=profile.needs,
            sizes=profile.sizes,
            clients=options["cloud_clients"],
            journals=output / "journal",
            say=_say(options),
        )
    else:
        from contextlib import nullcontext

        context = nullcontext(_pair(options))
    # Told to end while something is built: it is taken away all the same.
    with comparing.told_to_end(), context as pair:
        shown = _Progress(profile, quiet=options["quiet"])
        with shown:
            outcome = comparing.compare(
                pair,
                profile,
                output,
                seed=options["seed"],
                command=_command(),
                progress=shown,
                web_port=options["locust_web"],
            )
    page.write(outcome.folder, outcome.document)
    return outcome


def _say(options: dict) -> Callable[[str], None]:
    return (lambda _text: None) if options["quiet"] else (lambda text: click.echo(text, err=True))


class _Progress:
    """A progress bar over the trials on a terminal, a line per stage elsewhere."""

    def __init__(self, profile, *, quiet: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet)
        self._profile = profile
        self._bar = None
        self._task = None

    def __enter__(self) -> _Progress:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        limit = self._profile.most_seconds()
        self._console.print(
            f"profile {self._profile.name}: at most {limit:.0f} s", highlight=False
        )
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} trials"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            total = sum(stage.most * stage.trials for stage in self._profile.stages)
            self._task = self._bar.add_task("starting", total=total)
        return self

    def __exit__(self, *_exc) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: str, run, sample) -> None:
        if event == "trial" and self._bar is not None:
            self._bar.update(self._task, description=run.stage.title, advance=1)
        elif event == "stage":
            if run.skipped:
                text = f"{run.stage.title}: left out, {run.skipped}"
            else:
                void = sum(bool(s.void) for s in run.samples)
                text = f"{run.stage.title}: {run.blocks_done()} blocks"
                if void:
                    text += f", {void} of {len(run.samples)} trials not valid"
            self._console.print(text, highlight=False)
            if self._bar is not None:
                left = run.stage.most * run.stage.trials - len(run.samples)
                self._bar.update(self._task, advance=left)


def _summary(outcome) -> str:
    """The verdict, a table of the tested metrics, and where the page is."""
    from .report import figures

    lines = [outcome.analysis.sentence, ""]
    rows = figures.summary(outcome.document)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    failed = [gate for gate in outcome.analysis.gates if gate.passed is False]
    lines += [f"gate failed: {gate.name}: {gate.text}" for gate in failed]
    lines += ["", f"result: {outcome.folder / 'result.json'}"]
    lines += [f"report: {outcome.folder / 'report.html'}"]
    return "\n".join(lines)


def _thresholds(outcome, options: dict):
    """[(sentence, crossed: True | False | None when it cannot be told)]"""
    checks = (
        ("max_latency_ratio", "http-latency", "p50", "above"),
        ("min_rate_ratio", "http-rate", "rate", "below"),
    )
    for option, engine, name, word in checks:
        limit = options.get(option)
        if limit is None:
            continue
        flag = "--" + option.replace("_", "-")
        stages = {s["name"] for s in outcome.document["stages"] if s["engine"] == engine}
        found = next(
            (
                m
                for m in outcome.analysis.metrics
                if m.stage in stages and m.metric.name == name and m.finding.ratio is not None
            ),
            None,
        )
        if found is None or found.finding.reasons:
            yield f"{flag} {limit:g}: could not tell", None
            continue
        ratio = found.finding.ratio
        crossed = ratio.low > limit if word == "above" else ratio.high < limit
        held = ratio.high <= limit if word == "above" else ratio.low >= limit
        state = "crossed" if crossed else "held" if held else "could not tell"
        yield (
            f"{flag} {limit:g}: {state} ({found.identifier} {ratio.estimate:.3f}, "
            f"{ratio.low:.3f} to {ratio.high:.3f})",
            True if crossed else False if held else None,
        )


@main.command()
@click.argument("run", type=click.Path(exists=True))
@explained
def report(run: str) -> None:
    """Write the page of a RUN (its folder or its result.json) again."""
    from .report import page
    from .results import store

    path = Path(run)
    folder = path if path.is_dir() else path.parent
    click.echo(page.write(folder, store.load(path)))


def history_option(function: Callable) -> Callable:
    return click.option(
        "--history",
        "history_file",
        type=click.Path(dir_okay=False),
        help="SQLite file. Default: ~/.local/state/sriov-lb-perf/history.sqlite",
    )(function)


def _history_path(given: str | None) -> Path:
    from . import compare as comparing

    return Path(given) if given else comparing.default_output().parent / "history.sqlite"


@main.command()
@target_options
@run_options
@history_option
@click.option(
    "--series", help="What this run is compared with over time. Default: PROFILE@SUBSTRATE"
)
@click.option(
    "--site", type=click.Path(file_okay=False), help="Publish the static site into this folder."
)
@click.option(
    "--least-change",
    type=click.FloatRange(min=0, min_open=True),
    default=0.02,
    show_default=True,
    help="Smaller relative changes are not reported.",
)
@click.option(
    "--confirm",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs that must stand after a change before it is reported.",
)
@explained
def nightly(**options) -> None:
    """Compare, store, look for changes, publish.

    Exit status: 0 nothing got worse, 1 a regression (which metric, since which run, by how
    much), 2 could not tell.
    """
    from . import nightly as nights

    # Held from before the first trial: a second nightly ends here, not after its minutes.
    with nights.held(_history_path(options["history_file"])) as history:
        outcome = _compare(options)
        click.echo(_summary(outcome))
        if not outcome.complete:
            click.echo(f"sriov-lb-perf: the run is incomplete: {outcome.failure}", err=True)
        night = nights.conclude(
            history,
            outcome.document,
            outcome.folder,
            series=options["series"],
            least_change=options["least_change"],
            confirm=options["confirm"],
        )
        click.echo(night.sentence)
        for hint in night.hints:
            click.echo(f"note: {hint}")
        if options["site"]:
            try:
                index = nights.publish(history, outcome.document, night, Path(options["site"]))
            except SriovLbError as error:
                # What was found tonight is in the history, and is told now or never.
                click.echo(f"sriov-lb-perf: the site was not published: {error}", err=True)
                sys.exit(night.status or EXIT_UNCLEAR)
            click.echo(f"site: {index}")
    sys.exit(night.status)


@main.group()
def history() -> None:
    """Look at the history of runs, or mend it."""


@history.command("list")
@history_option
@click.option("--series", help="Only this series.")
@explained
def history_list(history_file: str | None, series: str | None) -> None:
    """List the runs, oldest first."""
    from .history.store import History

    with History(_history_path(history_file)) as opened:
        for run in opened.runs(series):
            state = run["status"] if run["status"] != "complete" else (
                "sound" if run["sound"] else "not sound"
            )  # fmt: skip
            click.echo(f"{run['id']}  {run['series']}  {state:10}  {run['word']}")


@history.command("changes")
@history_option
@explained
def history_changes(history_file: str | None) -> None:
    """List what moved, and since when."""
    from .history.store import History

    with History(_history_path(history_file)) as opened:
        for series in opened.series():
            for change in opened.changes(series):
                percent = (change["after"] / change["before"] - 1) * 100
                click.echo(
                    f"{series}  {change['metric']}  {change['what']}  {percent:+.1f} %  "
                    f"since {change['run']}"
                )


@history.command("add")
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True))
@history_option
@click.option("--series", help="Default: PROFILE@SUBSTRATE of each run.")
@explained
def history_add(runs: tuple[str, ...], history_file: str | None, series: str | None) -> None:
    """Store RUNS (folders or result.json) that are not in the history, in that order."""
    from . import nightly as nights
    from .history.store import default_series
    from .results import store

    documents = [(store.load(run), Path(run)) for run in runs]
    with nights.held(_history_path(history_file)) as opened:
        for document, path in documents:
            folder = path if path.is_dir() else path.parent
            opened.add(document, folder.resolve(), series or default_series(document))
            click.echo(f"stored {document['id']}")


@history.command("publish")
@click.argument("folder", type=click.Path(file_okay=False))
@history_option
@explained
def history_publish(folder: str, history_file: str | None) -> None:
    """Write the static site of the history into FOLDER."""
    from .history.store import History
    from .report import site

    with History(_history_path(history_file)) as opened:
        click.echo(site.publish(opened, Path(folder)))


@main.command("export")
@click.argument("run", type=click.Path(exists=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "openmetrics", "junit"]),
    default="csv",
    show_default=True,
)
@explained
def export_run(run: str, form: str) -> None:
    """Print a RUN (folder or result.json) in another format."""
    from .history.store import default_series
    from .results import export, store

    document = store.load(run)
    click.echo(
        {
            "csv": lambda: export.csv_text(document),
            "openmetrics": lambda: export.open_metrics(document, default_series(document)),
            "junit": lambda: export.junit(document),
        }[form](),
        nl=False,
    )


@main.command("profiles")
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="What each asks for, a JSON object a line.")
@explained
def list_profiles(names: tuple[str, ...], as_json: bool) -> None:
    """List the load profiles, or check NAMES (or files), and tell how long each may take."""
    from . import profiles

    for name in names or profiles.names():
        profile = profiles.load(name)
        if as_json:
            told = {"name": profile.name, "time_limit": profile.time_limit,
                    "needs": sorted(profile.needs), "sizes": list(profile.sizes)}  # fmt: skip
            click.echo(json.dumps(told))
            continue
        click.echo(f"{name:10} at most {profile.most_seconds():6.0f} s  {profile.title}")


if __name__ == "__main__":
    main(prog_name="sriov-lb-perf")
