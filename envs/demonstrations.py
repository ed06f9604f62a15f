"""What the authors of robomimic and LIBERO store beside observations and actions.

Their tools build the simulator again from it: robomimic's `playback_dataset` from `env_args`, each
episode's `model_file` and `states`, LIBERO's `create_dataset` and data loader from these and the
names of the arrays. Layouts are called as dataset formats: "robomimic" and "libero".
"""

import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from envs.libero import LiberoEnv, axis_angle, package_folder, task_names
from envs.robosuite import RobosuiteEnv, RobosuiteSim, controller_configs

ROBOSUITE = 1  # robomimic's number for its kind of environment
CAMERAS = {"agentview_rgb": "agentview", "eye_in_hand_rgb": "robot0_eye_in_hand"}
LIBERO_SIZE = 128  # pixels, of LIBERO's own recordings


def row(env: Any, layout: str) -> dict[str, np.ndarray]:
    """The arrays of one step beside the policy's observation, by column.

    Args:
        env: about to take the step.
        layout: "robomimic" or "libero".

    Returns:
        `states` [1 + nq + nv]: time, positions and velocities. Of LIBERO's tasks in its own layout
        also `robot_states` [9] (fingers, gripper's position, quaternion x, y, z, w) and under
        `observation.`: `agentview_rgb` and `eye_in_hand_rgb`, upside down as OpenGL has them
        (`macros_image_convention`), `joint_states` [7], `gripper_states` [2], `ee_pos` [3],
        `ee_ori` [3] (axis times angle) and `ee_states` [6], both.
    """
    env = env.unwrapped
    if not hasattr(env, "simulator_state"):
        return {}
    found = {"states": env.simulator_state()}
    if layout != "libero" or not isinstance(env, LiberoEnv):
        return found
    seen, robot = env._sim._observables, env._sim.robots[0]
    position, quaternion, fingers = (
        np.array(seen[f"robot0_{name}"].obs, np.float64)
        for name in ("eef_pos", "eef_quat", "gripper_qpos")
    )
    turned = axis_angle(quaternion)
    found["robot_states"] = np.concatenate([fingers, position, quaternion])
    states = {
        "gripper_states": fingers,
        "joint_states": np.array(env._data.qpos[robot._ref_joint_pos_indexes]),
        "ee_states": np.concatenate([position, turned]),
        "ee_pos": position,
        "ee_ori": turned,
    }
    side = LIBERO_SIZE if env.options.obs == "state" else env.options.image_size
    pictures = {name: env.raw_frame(side, side, camera) for name, camera in CAMERAS.items()}
    return found | {f"observation.{name}": value for name, value in (states | pictures).items()}


def episode(env: Any) -> dict[str, Any]:
    """What is stored of an episode right after its reset: `init_state` and `model_file`."""
    env = env.unwrapped
    found: dict[str, Any] = {}
    if hasattr(env, "simulator_state"):
        found["init_state"] = env.simulator_state().tolist()
    if isinstance(env, RobosuiteSim):
        found["model_file"] = model_file(env)
    return found


def model_file(env: RobosuiteSim) -> str:
    """The scene's MJCF, with everything where the present episode has it.

    Fixtures such as cabinets and doors are moved in the compiled model by a reset, which neither
    its source nor the state vector shows.
    """
    root = ElementTree.fromstring(env.source)
    model = env._model
    for body in root.iterfind("worldbody/body"):
        if name := body.get("name"):
            for other in ("axisangle", "euler", "xyaxes", "zaxis"):
                body.attrib.pop(other, None)
            body.set("pos", " ".join(map(repr, model.body(name).pos.tolist())))
            body.set("quat", " ".join(map(repr, model.body(name).quat.tolist())))
    return ElementTree.tostring(root, encoding="unicode")


def file(env: Any, layout: str) -> dict[str, Any]:
    """What is stored of a whole file: the attributes of its group `data`."""
    env = env.unwrapped
    if isinstance(env, LiberoEnv):
        return _libero(env) if layout == "libero" else {"env_args": _libero(env)["env_args"]}
    if isinstance(env, RobosuiteEnv):
        return {"env_args": _robosuite(env)}
    return {}


def _rendering(env: RobosuiteSim, size: int) -> dict[str, Any]:
    """Keyword arguments of the package that decide what is drawn and shown."""
    return {
        "control_freq": int(env._sim.control_freq),
        "reward_shaping": True,
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "ignore_done": True,
        "use_camera_obs": True,
        "camera_depths": False,
        "camera_heights": size,
        "camera_widths": size,
    }


def _robosuite(env: RobosuiteEnv) -> dict[str, Any]:
    import robosuite

    kwargs = env.identity["kwargs"]
    configs = controller_configs(
        robosuite, env.identity["id"], kwargs["robots"], kwargs["controller"]
    )
    return {
        "env_name": type(env._sim).__name__,
        "env_version": robosuite.__version__,
        "type": ROBOSUITE,
        "env_kwargs": {
            "robots": kwargs["robots"],
            "controller_configs": configs[0] if len(configs) == 1 else configs,
            "use_object_obs": True,
            "camera_names": ["agentview", "robot0_eye_in_hand"],
            **_rendering(env, env.options.image_size),
        },
    }


def _libero(env: LiberoEnv) -> dict[str, Any]:
    import robosuite
    from libero.libero.envs.bddl_utils import get_problem_info
    from robosuite import macros

    suite, index = env.identity["id"].removeprefix("libero/").split("/")
    name = f"{suite}/{task_names(env.identity['id'])[suite][int(index)]}.bddl"
    path = package_folder(env.identity["id"]) / "bddl_files" / name
    shown = f"libero/libero/bddl_files/{name}"  # not where it lies on this machine
    problem = get_problem_info(str(path))
    size = LIBERO_SIZE if env.options.obs == "state" else env.options.image_size
    controller = robosuite.load_controller_config(default_controller="OSC_POSE")
    return {
        "env_name": type(env._sim).__name__,
        "problem_info": problem,
        "macros_image_convention": macros.IMAGE_CONVENTION,
        "bddl_file_name": shown,
        "bddl_file_content": path.read_text(),
        "env_args": {
            "type": ROBOSUITE,
            "env_name": type(env._sim).__name__,
            "problem_name": problem["problem_name"],
            "bddl_file": shown,
            "env_kwargs": {
                "robots": ["Panda"],
                "controller_configs": controller,
                "bddl_file_name": shown,
                "camera_names": ["robot0_eye_in_hand", "agentview"],
                "camera_segmentations": None,
                **_rendering(env, size),
            },
        },
    }
