"""The command line. Every import of torch or a simulator waits until a command needs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Train robot policies in simulation, resume to the bit, publish numbers with intervals.

  embodied train method=wsrl env=metaworld/door-open-v3 data=scripted seed=1
  embodied eval policy=runs/wsrl-metaworld-door-open-v3-1 episodes=50
  embodied serve policy=runs/wsrl-metaworld-door-open-v3-1
  embodied report runs/wsrl-metaworld-door-open-v3-1
  embodied deploy policy=runs/sac-real-panda_twin-0 robot=panda_twin transport=zenoh
"""

TRAIN = """\
Settings are key=value; `embodied train --settings` lists them all with their defaults.

  method=ID              what is trained: `embodied methods` lists them
  env=ID                 e.g. metaworld/door-open-v3, dm_control/walker-walk, maze/point-v0
  env_args.reward=sparse env_args.horizon=200 env_args.terminate_on_success=true
  data=PATH              offline data; data=scripted collects some first (collect.episodes=...)
  task=chain model=PATH  of a language method: its task, and a model of transformers (or tiny);
                         data=rows.jsonl: prompts, completions or preferences as TRL takes them;
                         games are task=tictactoe, kuhn or negotiation, learnt by method=spiral
  method.KEY=VALUE       settings of the method, e.g. method.warmup_steps=5000
  reward.bias=-1         reward transform of data and training environments
  experiment=NAME        a named experiment of configs/experiment
  seed=1 run=PATH device=auto threads=0
  resume=PATH            continue a run; lengths, evaluation and logging may be changed
  -m seed=1,2,3          a sweep: one run per combination, one after the other

Ctrl-C and SIGTERM save and say how to go on.
"""

EVAL = """\
  policy=WHO          a run directory, scripted, play, random, or ws://HOST:PORT (docs/remote.md)
  suite=NAME          libero_spatial, metaworld/mt10, dm_control, robosuite, ... or one task's id;
                      by default the run's own task
  episodes=50 seed=0  how many initial states of each task, and which list of them; LIBERO's are
                      the stored ones in their order
  env_args.KEY=VALUE  options of the environments, over those of the run and of the benchmark
  workers=1 batch=1   processes, and episodes in flight in each (a server is asked about all of
                      them in one message); the ledger is the same for any
  videos=3            of each task, or videos=failures: the first lost ones; linked in the page
  out=DIRECTORY       of ledger and page; by default the run's, else runs/evaluations
  timeout=60          seconds a policy server may take to answer

  embodied eval policy=runs/... suite=libero_spatial episodes=50 workers=2 videos=failures
  embodied eval policy=ws://localhost:8000 suite=libero_10 env_args.obs=both batch=8
  embodied eval --compare A.jsonl B.jsonl
"""

COLLECT = """\
  env=ID or suite=NAME  what on; several tasks go into one dataset, each with its instruction
  out=PATH              a directory, or a file for robomimic and libero
  format=lerobot        or robomimic, libero, minari; video=true keeps pictures as mp4 (lerobot)
  episodes=100 seed=0   of each task; episode i depends on the seed and i alone
  policy=scripted       the task's expert; or a run directory, random, ws://HOST:PORT, or play:
                        endless skills without a goal (env=robosuite/Stack env_args.horizon=20000)
  noise=0.3 offset=[] noise_correlation=0 random_prob=0 failure_prob=0
                        how much worse the policy is made on purpose (noise=0 unless scripted)
  successes_only=true   leave failed episodes out, go on with the next index
  env_args.obs=pixels   and other options of the environment
  workers=1             processes; the dataset is the same, byte for byte, for any number

Each episode is on the disk when it is counted. Ctrl-C saves; the same command goes on, also with
more episodes. Data made otherwise is not mixed in.

  embodied collect env=metaworld/door-open-v3 format=robomimic out=demos.hdf5 episodes=50 workers=2
  embodied collect suite=metaworld/mt10 out=data/mt10 episodes=20 noise=0 successes_only=true
"""

SERVE = """\
  policy=RUN            a run directory
  host=127.0.0.1        where to listen; any other address needs a token
  port=8000             0 takes any that is free
  token_file=PATH       clients must know what it holds; else $EMBODIED_TOKEN, else no token
  clients=8 idle=600    at once, and seconds after which one that asks nothing is let go

Whoever asks by docs/remote.md is answered: `embodied eval policy=ws://HOST:PORT`, a robot's PC
(hardware/policy_client.py), or a program of yours. Ctrl-C ends.

  embodied serve policy=runs/wsrl-metaworld-door-open-v3-1
  embodied serve policy=runs/... host=0.0.0.0 token_file=token
  EMBODIED_TOKEN=$(cat token) embodied eval policy=ws://gpu:8000 suite=metaworld/mt10
"""

DEPLOY = """\
  policy=WHO          a run directory, scripted, random, or ws://HOST:PORT
  robot=panda_twin    the twin, or a YAML file of your arm (README, "On a real arm")
  transport=local     or zenoh, rosbridge, rclpy: how the robot is reached; the twin is started
                      behind it unless address=tcp/HOST:PORT or ws://HOST:PORT says where one is
  episodes=5 seconds=0 seed=0       how much; seconds ends it even inside an episode
  task=reach rate=10 horizon=50 mode="tool delta"   a run trained on an arm brings its own
  limits=panda limits.velocity_share=0.3            what the safety envelope enforces
  obs=both cameras=front,wrist      for policies that look; the report then has their video
  record=DIR          where recording (run.mcap) and report go; else runs/deploy/...

Ctrl-C stops the arm within its limits and closes the recording. If the stop latches, this ends and
says how to clear it. A software stop is not an emergency stop: keep the arm's own in reach.

  embodied train method=sac env=real/panda_twin method.online_steps=20000
  embodied deploy policy=runs/sac-real-panda_twin-0 robot=panda_twin transport=zenoh
"""

HARDWARE = """\
  embodied hardware check robot=panda_twin                     the twin in this process
  embodied hardware check robot=lab/panda.yaml transport=zenoh address=tcp/10.0.0.2:7447
                                                               motion=true also moves the arm
  embodied hardware serve robot=panda_twin transport=rosbridge address=ws://127.0.0.1:9090
  embodied hardware reset robot=panda_twin reason="the cable was caught; it is free"
  embodied hardware teleop robot=panda_twin out=data/teleop episodes=5

All but teleop also run as `python -m hardware ...` where only embodied[hardware] is installed.
"""

DATA = """\
  embodied data info data/door                            what is in it
  embodied data verify demos.hdf5                         every file against its checksum
  embodied data repair demos.hdf5                         keep what can be verified
  embodied data convert demos.hdf5 data/demos --to lerobot
  embodied data convert run.mcap out=data/flight          a flight recording, as LeRobot v3
  embodied data view demos.hdf5 --html demos.html         without --html, a table
"""

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
    from embodied import settings
    from embodied.core.trainer import Interrupted
    from embodied.core.types import UserError

    if arguments.settings:
        return _list_settings(arguments.overrides)
    if not arguments.multirun:
        return _train_one(arguments.overrides)
    runs = settings.sweep(arguments.overrides)
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
    from embodied.core.trainer import Interrupted
    from embodied.progress import CollectionBar, ProgressLine

    with CollectionBar() as bar:
        run = assemble.start(
            overrides, command=["embodied", "train", *overrides], on_episode=bar.advance
        )
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
    from rich.table import Table

    from embodied.core import registry

    if arguments.markdown:
        print(methods_table())
        return 0
    table = Table("method", "what it does", "paper", box=None)
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
    from hardware import commands

    return commands.run(arguments.action, arguments.overrides)


def _data(arguments: argparse.Namespace) -> int:
    from embodied import datatools

    return datatools.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
