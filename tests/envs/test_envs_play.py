"""Play goes on for ever, is reproducible, and is as careless as it says."""

import dataclasses
import importlib.util
import json
import os

import numpy as np
import pytest

import envs
from envs import play
from envs.play import PlaySettings, Scene, Skill
from envs.skills import CLOSED, HERE, OPEN, Waypoint

needs_libero = pytest.mark.skipif(
    not (importlib.util.find_spec("libero") and os.environ.get("LIBERO_ASSETS")),
    reason="needs hf-libero, and LIBERO_ASSETS to name the folder of its models",
)
CAREFUL = PlaySettings(wander=0, half=0, miss=0, via=0, idle=0, speed=(1, 1), noise=(0, 0))


class FakeArm:
    """A gripper that is where it was told to be."""

    action_dim, moving = 7, 6

    def __init__(self):
        self.position, self.rotation = np.array([0.0, 0.0, 1.0]), np.eye(3)

    def action(self, position, rotation, grip, speed=1.0):
        way = np.clip(position - self.position, -0.05 * speed, 0.05 * speed)
        self.position = self.position + way
        return np.append(np.append(way / 0.05, np.zeros(3)), grip).astype(np.float32)

    def body(self, name):
        return np.array([0.3, 0.0, 0.8]), np.eye(3)


def grasp_plan(arm, rng):
    turned = tuple(np.eye(3).ravel())
    return [
        Waypoint((0.0, 0.0, 0.1), OPEN, "thing", turned),
        Waypoint((0.0, 0.0, 0.0), OPEN, "thing", turned),
        Waypoint((0.0, 0.0, 0.0), CLOSED, "thing", turned, hold=3),
        Waypoint((0.0, 0.0, 0.1), CLOSED, HERE, turned),
    ]


def player(monkeypatch, settings, seed=0, affords=lambda arm: True):
    arm = FakeArm()
    monkeypatch.setattr(play, "Arm", lambda env: arm)
    monkeypatch.setattr("envs.skills.Arm", lambda env: arm)
    scene = Scene(
        skills=(
            Skill("grasp", affords, grasp_plan, lambda a, b: b["x"] > 0.29),
            Skill("never", lambda arm: False, grasp_plan, lambda a, b: True),
        ),
        look=lambda arm: {"x": float(arm.position[0])},
        wander=lambda arm, rng: [Waypoint((0.0, 0.2, 1.0), OPEN)],
        rest=lambda arm: [Waypoint((-0.2, 0.0, 1.0), OPEN)],
    )
    env = envs.make("maze/point-v0")
    return play.PlayExpert(env, scene, np.random.default_rng(seed), settings), arm


def closest(arm, expert, skills):
    """Runs until another skill begins; how near to the thing the fingers were closed, in m."""
    found = np.inf
    while expert.tally["grasp"][0] <= skills:
        if expert.act(None)[-1] > 0:
            found = min(found, float(np.linalg.norm(arm.position - [0.3, 0.0, 0.8])))
    return found


def test_careful_play_does_only_what_is_afforded_and_counts_it(monkeypatch):
    expert, arm = player(monkeypatch, CAREFUL)
    assert closest(arm, expert, 6) < 0.01
    tried, achieved = expert.tally["grasp"]
    assert tried > 5 and achieved >= tried - 1 and expert.tally["never"] == [0, 0]


def test_without_anything_to_do_it_rests(monkeypatch):
    expert, arm = player(monkeypatch, CAREFUL, affords=lambda arm: False)
    for _ in range(40):
        expert.act(None)
    np.testing.assert_allclose(arm.position, [-0.2, 0.0, 1.0], atol=0.01)
    assert expert.tally["grasp"] == [0, 0]


def test_a_miss_closes_beside_the_thing_and_is_followed_by_a_hit(monkeypatch):
    expert, arm = player(monkeypatch, dataclasses.replace(CAREFUL, miss=1))
    for _ in range(3):
        assert 0.03 < closest(arm, expert, expert.tally["grasp"][0] or 1) < 0.07  # misses
        assert closest(arm, expert, expert.tally["grasp"][0]) < 0.01


def test_a_half_skill_stops_early(monkeypatch):
    half, _ = player(monkeypatch, dataclasses.replace(CAREFUL, half=1))
    whole, _ = player(monkeypatch, CAREFUL)
    for _ in range(1000):
        half.act(None)
        whole.act(None)
    assert half.tally["grasp"][0] > 1.3 * whole.tally["grasp"][0]


def test_noise_is_on_the_arm_only_and_of_the_stated_size(monkeypatch):
    quiet, _ = player(monkeypatch, CAREFUL, affords=lambda arm: False)
    settings = PlaySettings(
        wander=0, half=0, miss=0, via=0, idle=0, speed=(1, 1), noise=(0.05, 0.1)
    )
    noisy, _ = player(monkeypatch, settings, affords=lambda arm: False)
    actions = np.array([noisy.act(None) for _ in range(500)])
    assert set(actions[:, -1]) == {OPEN}
    assert 0.05 < actions[:, 3:6].std() < 0.1
    assert not quiet.act(None)[3:6].any()


def test_scenes_are_found_by_prefix_and_kept():
    with pytest.raises(envs.UnknownTask, match=r"no scene to play in; there are .*robosuite/Lift"):
        play.expert(envs.make("maze/point-v0"), 0)
    with pytest.raises(ValueError, match="already is a scene for 'robosuite/Lift'"):
        play.register_scene("robosuite/Lift", lambda env: None)


def test_play_in_robosuite_resumes_exactly_and_never_ends():
    pytest.importorskip("robosuite", reason="needs the extra robosuite")
    env = envs.make("robosuite/Stack", horizon=100_000)
    env.reset(seed=0)
    expert = play.expert(env, 3)
    actions = [expert.act(None)]
    for _ in range(160):
        assert not any(env.step(actions[-1])[2:4])
        actions.append(expert.act(None))
    assert np.abs(actions).max() <= 1.0
    assert sum(tried for tried, _ in expert.tally.values()) > 1
    env.step(actions[-1])
    saved, state = env.get_state(), json.loads(json.dumps(expert.get_state()))
    expected = [env.step(expert.act(None))[0] for _ in range(60)]
    other = envs.make("robosuite/Stack", horizon=100_000)
    other.set_state(saved)
    again = play.expert(other, 99)
    again.set_state(state)
    assert np.array_equal(expected, [other.step(again.act(None))[0] for _ in range(60)])
    door = {**state, "tally": {"open door": [0, 0]}}
    with pytest.raises(ValueError, match="saved play has the skills"):
        again.set_state(door)


def test_a_cube_at_the_edge_is_brought_back():
    pytest.importorskip("robosuite", reason="needs the extra robosuite")
    env = envs.make("robosuite/Stack", horizon=100_000)
    env.reset(seed=0)
    sim = env._sim.sim
    cube = sim.data.get_joint_qpos("cubeA_joint0").copy()
    sim.data.set_joint_qpos("cubeA_joint0", [0.1, 0.25, *cube[2:]])
    env.step(np.zeros(7, np.float32))
    expert = play.expert(env, 0, CAREFUL)
    name = "bring cubeA back"
    expert.scene = dataclasses.replace(
        expert.scene, skills=tuple(skill for skill in expert.scene.skills if skill.name == name)
    )
    for _ in range(200):
        env.step(expert.act(None))
        if expert.tally[name][1]:
            break
    assert expert.tally[name] == [1, 1]
    assert abs(expert.look()["cubeA.y"]) < 0.2


@pytest.fixture(scope="module")
def libero():
    """The table that libero_goal's tasks share, and its player."""
    env = envs.make("libero/libero_goal/0", horizon=100_000)
    env.reset(seed=0)
    return env, play.expert(env, 0)


def afforded(expert):
    return {skill.name for skill in expert.scene.skills if skill.affords(expert._arm)}


def put_joint(env, name, value):
    env.unwrapped._sim.sim.data.set_joint_qpos(name, value)
    env.unwrapped._sim.sim.forward()


@needs_libero
def test_a_libero_table_affords_what_its_state_allows(libero):
    env, expert = libero
    env.reset(seed=0)
    drawer, stove = "wooden_cabinet_1_middle_region", "flat_stove_1"
    names = {skill.name for skill in expert.scene.skills}
    assert {"put wine_bottle_1 on wine_rack_1_top_region", "push plate_1 left"} <= names
    assert "put cream_cheese_1 on wine_rack_1_top_region" not in names
    found = afforded(expert)
    assert {f"open {drawer}", f"turn on {stove}", "lift akita_black_bowl_1"} <= found
    assert not {f"close {drawer}", f"turn off {stove}", "put plate_1 down"} & found
    assert expert.look()["akita_black_bowl_1.place"] == 0.0
    put_joint(env, "wooden_cabinet_1_middle_level", -0.15)
    put_joint(env, "flat_stove_1_button", 0.9)
    bowl = env.unwrapped._sim.sim.data.get_joint_qpos("akita_black_bowl_1_joint0").copy()
    put_joint(env, "akita_black_bowl_1_joint0", [*bowl[:2], 0.4, *bowl[3:]])  # fallen off
    found = afforded(expert)
    assert {f"close {drawer}", f"turn off {stove}"} <= found
    assert not {f"open {drawer}", "open wooden_cabinet_1_top_region"} & found  # one at a time
    assert not [name for name in found if "akita_black_bowl_1" in name]
    assert expert.look()["akita_black_bowl_1.place"] == -1.0


@needs_libero
def test_play_in_libero_achieves_skills_and_resumes_exactly(libero):
    env, expert = libero
    env.reset(seed=0)
    wanted = "turn on flat_stove_1"
    scene, settings = expert.scene, expert.settings
    chosen = tuple(skill for skill in scene.skills if skill.name == wanted)
    expert.scene, expert.settings = dataclasses.replace(scene, skills=chosen), CAREFUL
    for _ in range(150):
        assert not any(env.step(expert.act(None))[2:4])
        if expert.tally[wanted][1]:
            break
    assert expert.tally[wanted][1] == 1 and expert.look()["flat_stove_1"] >= 0.5
    expert.scene, expert.settings = scene, settings
    saved, state = env.get_state(), json.loads(json.dumps(expert.get_state()))
    expected = [env.step(expert.act(None))[0] for _ in range(40)]
    env.set_state(saved)
    again = play.expert(env, 99)
    again.set_state(state)
    assert np.array_equal(expected, [env.step(again.act(None))[0] for _ in range(40)])
