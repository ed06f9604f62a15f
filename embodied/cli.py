"""The command line. Every import of torch or a simulator waits until a command needs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from embodied.usage import COLLECT, DATA, DEPLOY, DESCRIPTION, EVAL, HARDWARE, SERVE, TRAIN

EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "pyarrow": "train",
    "metaworld": "metaworld",
    "dm_control": "dmcontrol",
    "robosuite": "robosuite",
    "libero": "libero",
    "bddl": "libero",
    "mujoco": "metaworld",
    "h5py": "hdf5",
    "websockets": "remote",
    "msgpack": "remote",
    "matplotlib": "report",
    "av": "report",
    "wandb": "wandb",
    "transformers": "llm",
    "tokenizers": "llm",
    "math_verify": "maths",
    "yaml": "hardware",
    "mcap": "hardware",
    "rosbags": "hardware",
    "zenoh": "hardware",
    "cbor2": "hardware",
    "PIL": "hardware",
}
"""Package -> the extra of ours that installs it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _arguments(list(sys.argv[1:] if argv is None else argv))
    if arguments.command is None:
        _parser().print_help()
        return 0
    from embodied.core.types import UserError

    try:
        return arguments.run(arguments) or 0
    except UserError as error:
        _say(str(error), error=error.exit_code != 0)
        return error.exit_code
    except _foreign_user_errors() as error:
        _say(str(error), error=True)
        return getattr(error, "exit_code", 2)
    except ImportError as error:
        _say(_missing_package(error), error=True)
        return 2
    except OSError as error:
        _say(f"{error.filename or 'file'}: {error.strerror or error}", error=True)
        return 2
    except KeyboardInterrupt as stop:
        _say(str(stop) or "interrupted", error=True)
        return 130


def _arguments(argv: list[str]) -> argparse.Namespace:
    """Parse; settings may stand on either side of an option, which argparse alone refuses."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or not hasattr(arguments, "overrides"):
        parser.parse_args(argv)
    if rest:
        arguments.overrides += rest
    return arguments


def _missing_package(error: ImportError) -> str:
    """What to install for a package that is missing; any other ImportError is raised again."""
    name = error.name or getattr(error.__cause__, "name", None) or ""
    extra = EXTRAS.get(name.partition(".")[0])
    if extra is None:
        raise error
    return f'{name} is not installed; this needs: pip install "embodied[{extra}]"'


def _foreign_user_errors() -> tuple[type[Exception], ...]:
    """User errors of packages that must not import the core."""
    from embodied.data import DatasetError
    from envs import EnvsError
    from hardware.errors import HardwareError

    return (DatasetError, EnvsError, HardwareError)


def _say(text: str, *, error: bool = False) -> None:
    print(f"embodied: {text}", file=sys.stderr if error else sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "embodied", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, run: Any, help: str, epilog: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    train = add("train", _train, "Train a method on a task.", TRAIN)
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    train.add_argument("-m", "--multirun", action="store_true", help="sweep over KEY=A,B,...")
    train.add_argument("--settings", action="store_true", help="list every setting and leave")
    evaluate = add("eval", _eval, "Evaluate any policy on fixed initial states.", EVAL)
    evaluate.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    evaluate.add_argument(
        "--compare", nargs=2, metavar="LEDGER", help="may two results be compared, and how do they?"
    )
    collect = add("collect", _collect, "Record episodes of a policy into a dataset.", COLLECT)
    collect.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    chat = add("chat", _chat, "Talk to the language model of a run; Ctrl-D ends.")
    chat.add_argument("directory", metavar="RUN")
    serve = add("serve", _serve, "Serve a run's policy to other processes and machines.", SERVE)
    serve.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    methods = add("methods", _methods, "List the methods.")
    methods.add_argument("--markdown", action="store_true", help="as the table of README.md")
    report = add("report", _report, "Write report.html of a run.")
    report.add_argument("directory", metavar="RUN")
    reproduce = add("reproduce", _reproduce, "Run a method's proof and write its page in docs/.")
    reproduce.add_argument("method", metavar="METHOD")
    reproduce.add_argument("--seeds", type=int, help="number of seeds; the spec's if not given")
    reproduce.add_argument("--only", help="one experiment of the proof")
    reproduce.add_argument("--jobs", type=int, default=1, help="processes at a time")
    data = add("data", _data, "Look at, verify, repair or convert a dataset.", DATA)
    deploy = add("deploy", _deploy, "Run a policy on an arm or its twin, recorded.", DEPLOY)
    deploy.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    hardware = add("hardware", _hardware, "Check, serve, reset or teleoperate a robot.", HARDWARE)
    hardware.add_argument("action", choices=["check", "serve", "reset", "teleop"])
    hardware.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    data.add_argument("action", choices=["info", "verify", "repair", "convert", "view"])
    data.add_argument("path", metavar="DATASET", help="a folder, an HDF5 file or .mcap")
    data.add_argument("out", nargs="?", metavar="OUT", help="convert: where to write")
    data.add_argument("--to", metavar="FORMAT", help="convert: lerobot, robomimic, libero, minari")
    data.add_argument("--video", action="store_true", help="convert: pictures as mp4 (lerobot)")
    data.add_argument("--html", metavar="FILE", help="view: write a page instead of a table")
    data.add_argument(
        "--episodes", type=int, default=3, metavar="N", help="view: episodes drawn on the page"
    )
    return parser


def _train(arguments: argparse.Namespace) -> int:
    from embodied import sweeps
    from embodied.core.trainer import Interrupted
    from embodied.core.types import UserError

    if arguments.settings:
        return _list_settings(arguments.overrides)
    if not arguments.multirun:
        return _train_one(arguments.overrides)
    runs = sweeps.sweep(arguments.overrides)
    failed = 0
    for i, overrides in enumerate(runs, 1):
        _say(f"run {i} of {len(runs)}: {' '.join(overrides)}")
        try:
            _train_one(overrides)
        except Interrupted:
            raise
        except (UserError, *_foreign_user_errors()) as error:
            failed += 1
            _say(f"run {i} of {len(runs)} failed: {error}", error=True)
    if failed:
        raise UserError(f"{failed} of {len(runs)} runs failed; see above")
    return 0


def _train_one(overrides: Sequence[str]) -> int:
    from embodied import assemble
    from embodied.core import ranks
    from embodied.core.trainer import Interrupted
    from embodied.progress import CollectionBar, ProgressLine

    with CollectionBar() as bar:
        run = assemble.start(
            overrides, command=["embodied", "train", *overrides], on_episode=bar.advance
        )
    if ranks.index:  # rank 0 says it all
        with closing(run.trainer):
            run.trainer.run()
        return 0
    for key, (old, new) in run.changed.items():
        _say(f"changed: {key}: {old!r} -> {new!r}")
    about = run.about
    _say(f"{about['method']} on {about['env']}, seed {about['seed']}, in {run.directory}")
    _say(f"{about['threads']} thread(s) on {about['device']}: {about['thread_reason']}")
    try:
        with closing(run.trainer), ProgressLine() as progress:
            run.trainer.run(progress.update)
    except Interrupted as stop:
        stop.args = (f"{stop}; go on with: embodied train resume={run.directory}",)
        raise
    if run.trainer.evaluation is not None:
        result = run.trainer.evaluation
        low, high = result.interval
        _say(
            f"success {result.successes}/{len(result.episodes)} = {result.success:.0%} "
            f"(95 % interval {low:.0%} to {high:.0%})"
        )
    if run.settings.train.report:
        _write_report(run.directory)
    return 0


def _list_settings(overrides: Sequence[str]) -> int:
    from embodied import settings

    composed = settings.compose(overrides)
    for key, value in settings.flatten(composed.plain).items():
        print(f"{key}={'null' if value is None else value}")
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    from embodied import evaluation

    return evaluation.command(arguments.overrides, arguments.compare)


def _collect(arguments: argparse.Namespace) -> int:
    from embodied import collection

    return collection.command(arguments.overrides)


def _chat(arguments: argparse.Namespace) -> int:
    from embodied import text

    text.chat(arguments.directory, lambda: input("> "), print)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from embodied import serving

    return serving.command(arguments.overrides)


def _methods(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Column, Table

    from embodied.core import registry

    if arguments.markdown:
        print(methods_table())
        return 0
    whole = {"no_wrap": True, "overflow": "ignore"}
    table = Table(Column("method", **whole), "what it does", Column("paper", **whole), box=None)
    for method in registry.methods().values():
        table.add_row(method.id, method.summary, method.paper)
    Console().print(table)
    return 0


def methods_table() -> str:
    """The methods as a Markdown table, for README.md and docs/methods/index.md."""
    from embodied.core import registry

    lines = ["| method | what it does | paper |", "| --- | --- | --- |"]
    for method in registry.methods().values():
        address = method.paper.removeprefix("https://")
        lines.append(f"| `{method.id}` | {method.summary} | [{address}]({method.paper}) |")
    return "\n".join(lines)


def _report(arguments: argparse.Namespace) -> int:
    from embodied import assemble

    assemble.read_run(arguments.directory)
    _write_report(Path(arguments.directory))
    return 0


def _write_report(directory: Path) -> None:
    from embodied import videos

    videos.record_videos(directory)
    from embodied.report.html import write_report

    _say(f"report: {write_report(directory)}")


def _reproduce(arguments: argparse.Namespace) -> int:
    from embodied import proofs

    return proofs.reproduce(
        arguments.method, seeds=arguments.seeds, only=arguments.only, jobs=arguments.jobs
    )


def _deploy(arguments: argparse.Namespace) -> int:
    from embodied import deploy

    return deploy.command(arguments.overrides)


def _hardware(arguments: argparse.Namespace) -> int:
    if arguments.action == "teleop":
        from embodied import teleop

        return teleop.command(arguments.overrides)
    from envs import scene_arm
    from hardware import commands

    scene_arm.offer()
    return commands.run(arguments.action, arguments.overrides)


def _data(arguments: argparse.Namespace) -> int:
    from embodied import datatools

    return datatools.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
