"""Named lists of tasks that benchmarks train or evaluate on, in their published order.

    envs.suite("metaworld/mt10")   # -> ["metaworld/reach-v3", ...]; a task's id is its position
    envs.suite("libero_spatial")   # ten tasks, also spelled "libero/libero_spatial"; "libero": all

A list may name a task more than once: the second half of CW20 is ten new tasks. Importing this
imports no simulator; the lists of Meta-World are tested against the package's.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from envs.base import UnknownTask
from envs.registry import tasks

_MT10 = """
reach push pick-place door-open drawer-open drawer-close button-press-topdown peg-insert-side
window-open window-close
"""
_MT25 = f"""
{_MT10} coffee-pull pick-out-of-hole disassemble pick-place-wall basketball stick-pull
button-press-wall faucet-open door-lock lever-pull sweep-into faucet-close coffee-button
button-press-topdown-wall dial-turn
"""
_MT50 = """
assembly basketball bin-picking box-close button-press-topdown button-press-topdown-wall
button-press button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble
door-close door-lock door-open door-unlock hand-insert drawer-close drawer-open faucet-open
faucet-close hammer handle-press-side handle-press handle-pull-side handle-pull lever-pull
pick-place-wall pick-out-of-hole pick-place plate-slide plate-slide-side plate-slide-back
plate-slide-back-side peg-insert-side peg-unplug-side soccer stick-push stick-pull push push-wall
push-back reach reach-wall shelf-place sweep-into sweep window-open window-close
"""
_ML10_TRAIN = """
reach push pick-place door-open drawer-close button-press-topdown peg-insert-side window-open
sweep basketball
"""
_ML45_TRAIN = """
assembly basketball button-press-topdown button-press-topdown-wall button-press button-press-wall
coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-open drawer-close
drawer-open faucet-open faucet-close hammer handle-press-side handle-press handle-pull-side
handle-pull lever-pull pick-place-wall pick-out-of-hole push-back pick-place plate-slide
plate-slide-side plate-slide-back plate-slide-back-side peg-insert-side peg-unplug-side soccer
stick-push stick-pull push-wall push reach-wall reach shelf-place sweep-into sweep window-open
window-close
"""
# Continual World (Wolczyk et al. 2021, arXiv 2105.10919), whose tasks were Meta-World's v1. The
# names are kept, the v3 tasks have other observations and rewards, and its horizon was 200.
_CW10 = """
hammer push-wall faucet-close push-back stick-pull handle-press-side push shelf-place window-close
peg-unplug-side
"""
_METAWORLD = {
    "mt10": _MT10,
    "mt25": _MT25,
    "mt50": _MT50,
    "ml10-train": _ML10_TRAIN,
    "ml10-test": "drawer-open door-close shelf-place sweep-into lever-pull",
    "ml25-train": _MT25,
    "ml25-test": "basketball door-close shelf-place sweep button-press",
    "ml45-train": _ML45_TRAIN,
    "ml45-test": "bin-picking box-close hand-insert door-lock door-unlock",
    "cw10": _CW10,
    "cw20": 2 * _CW10,
}
# dm_control's own benchmarking set (`suite.BENCHMARKING`; Tassa et al. 2018, arXiv 1801.00690).
_DM_CONTROL = """
acrobot-swingup acrobot-swingup_sparse ball_in_cup-catch cartpole-balance cartpole-balance_sparse
cartpole-swingup cartpole-swingup_sparse cheetah-run finger-spin finger-turn_easy finger-turn_hard
fish-upright fish-swim hopper-stand hopper-hop humanoid-stand humanoid-walk humanoid-run
manipulator-bring_ball pendulum-swingup point_mass-easy reacher-easy reacher-hard swimmer-swimmer6
swimmer-swimmer15 walker-stand walker-walk walker-run
"""
# The nine tasks of robosuite's paper (arXiv 2009.12293), a single object where there is a choice.
_ROBOSUITE = """
Lift Stack PickPlaceCan NutAssemblyRound Door Wipe TwoArmLift TwoArmPegInHole TwoArmHandover
"""
_SUITES: dict[str, tuple[str, ...]] = {}


def register_suite(name: str, ids: Sequence[str]) -> None:
    """Names a list of environment ids; the modules of other simulators call this too.

    Raises:
        ValueError: the name is taken by another list, or the list is empty.
    """
    if not ids or _SUITES.get(name, tuple(ids)) != tuple(ids):
        raise ValueError(f"suite {name!r} is empty or already names another list of tasks")
    _SUITES[name] = tuple(ids)


def suite(name: str) -> list[str]:
    """Returns the environment ids of a suite such as "metaworld/cw10", in its order.

    Raises:
        UnknownTask: with the nearest known names in the message.
    """
    if name in _SUITES:
        return list(_SUITES[name])
    near = difflib.get_close_matches(name, _SUITES, n=3, cutoff=0.0)
    raise UnknownTask(
        f"no suite {name!r}; nearest are {', '.join(near)} (envs.suite_names() lists all)"
    )


def suite_names() -> list[str]:
    """Returns the names of all suites."""
    return list(_SUITES)


def protocol(env_id: str) -> dict[str, Any]:
    """Returns the options under which a task's numbers are published, where not the defaults.

    LIBERO: an episode ends with success, as in evaluations of vision-language-action models.
    """
    return {"terminate_on_success": True} if env_id.startswith("libero/") else {}


for _name, _ids in _METAWORLD.items():
    register_suite(f"metaworld/{_name}", [f"metaworld/{task}-v3" for task in _ids.split()])
register_suite("dm_control", [f"dm_control/{task}" for task in _DM_CONTROL.split()])
register_suite("robosuite", [f"robosuite/{task}" for task in _ROBOSUITE.split()])
register_suite("libero", tasks("libero"))
register_suite("tabletop", [task for task in tasks("tabletop") if task != "tabletop/any"])
for _name in dict.fromkeys(task.split("/")[1] for task in tasks("libero")):
    _ids = [task for task in tasks("libero") if task.split("/")[1] == _name]
    register_suite(_name, _ids)
    register_suite(f"libero/{_name}", _ids)
