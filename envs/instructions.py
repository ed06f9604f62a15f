"""What each task asks for, in words, where its suite has no instruction of its own.

LIBERO's tasks come with theirs. These say in a plain sentence what the task's name and the suite's
description mean; they name nothing that changes from episode to episode.
"""

_METAWORLD = {
    "assembly": "put the ring on the peg",
    "basketball": "put the basketball into the basket",
    "bin-picking": "pick the block from one bin and put it into the other",
    "box-close": "put the lid on the box",
    "button-press": "press the button",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "press the button from above, over the wall",
    "button-press-wall": "press the button behind the wall",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "take the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "hammer": "hammer in the nail",
    "hand-insert": "put the hand into the hole",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle down from the side",
    "handle-pull": "pull the handle up",
    "handle-pull-side": "pull the handle up from the side",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "insert the peg into the hole from the side",
    "peg-unplug-side": "unplug the peg sideways",
    "pick-out-of-hole": "pick the puck out of the hole and bring it to the goal",
    "pick-place": "pick up the puck and bring it to the goal",
    "pick-place-wall": "pick up the puck and bring it over the wall to the goal",
    "plate-slide": "slide the plate into the goal",
    "plate-slide-back": "slide the plate back",
    "plate-slide-back-side": "slide the plate back, sideways",
    "plate-slide-side": "slide the plate into the goal, sideways",
    "push": "push the puck to the goal",
    "push-back": "pull the puck back to the goal",
    "push-wall": "push the puck around the wall to the goal",
    "reach": "reach the goal",
    "reach-wall": "reach the goal behind the wall",
    "shelf-place": "pick up the puck and put it on the shelf",
    "soccer": "push the ball into the goal",
    "stick-pull": "take the stick and pull the container with it",
    "stick-push": "take the stick and push the container with it",
    "sweep": "sweep the puck off the table",
    "sweep-into": "sweep the puck into the hole",
    "window-close": "close the window",
    "window-open": "open the window",
}
_TABLETOP = {
    "any": "do what the goal shows",
    "drawer-open": "open the drawer",
    "drawer-close": "close the drawer",
    "door-left": "slide the door to the left",
    "door-right": "slide the door to the right",
    "button-red": "press the red button",
    "button-green": "press the green button",
    "button-blue": "press the blue button",
    "block-left": "push the block to the left",
    "block-right": "push the block to the right",
}
_ROBOSUITE = {
    "Lift": "lift the cube",
    "Stack": "stack the red cube on the green cube",
    "Door": "open the door",
    "NutAssembly": "put each nut on the peg of its shape",
    "NutAssemblySingle": "put the nut on the peg of its shape",
    "NutAssemblySquare": "put the square nut on the square peg",
    "NutAssemblyRound": "put the round nut on the round peg",
    "PickPlace": "put each object into its bin",
    "PickPlaceSingle": "put the object into its bin",
    "PickPlaceMilk": "put the milk into its bin",
    "PickPlaceBread": "put the bread into its bin",
    "PickPlaceCereal": "put the cereal into its bin",
    "PickPlaceCan": "put the can into its bin",
    "Wipe": "wipe the table clean",
    "TwoArmLift": "lift the pot with both arms",
    "TwoArmPegInHole": "insert the peg into the hole",
    "TwoArmHandover": "hand the hammer over to the other arm",
}
_DM_CONTROL = {
    "acrobot": {"swingup": "swing the acrobot up and balance it"},
    "ball_in_cup": {"catch": "catch the ball in the cup"},
    "cartpole": {
        "balance": "balance the pole",
        "swingup": "swing the pole up and balance it",
        "two_poles": "swing both poles up and balance them",
        "three_poles": "swing the three poles up and balance them",
    },
    "cheetah": {"run": "make the cheetah run"},
    "dog": {
        "fetch": "make the dog fetch the ball",
        "run": "make the dog run",
        "stand": "make the dog stand",
        "trot": "make the dog trot",
        "walk": "make the dog walk",
    },
    "finger": {
        "spin": "keep the body spinning",
        "turn": "turn the body's tip to the target",
    },
    "fish": {"swim": "make the fish swim to the target", "upright": "keep the fish upright"},
    "hopper": {"hop": "make the hopper hop", "stand": "make the hopper stand"},
    "humanoid": {
        "run": "make the humanoid run",
        "stand": "make the humanoid stand",
        "walk": "make the humanoid walk",
    },
    "lqr": {"lqr": "bring the masses to rest in the middle"},
    "manipulator": {
        "bring_ball": "bring the ball to the target",
        "bring_peg": "bring the peg to the target",
        "insert_ball": "put the ball into the cup",
        "insert_peg": "insert the peg into the slot",
    },
    "pendulum": {"swingup": "swing the pendulum up and balance it"},
    "point_mass": {"easy": "move the point to the middle", "hard": "move the point to the middle"},
    "quadruped": {
        "escape": "make the quadruped climb out of the bowl",
        "fetch": "make the quadruped bring the ball to the target",
        "run": "make the quadruped run",
        "walk": "make the quadruped walk",
    },
    "reacher": {"easy": "reach the target", "hard": "reach the target"},
    "stacker": {"stack": "stack the boxes at the target"},
    "swimmer": {"swimmer": "make the swimmer swim to the target"},
    "walker": {
        "run": "make the walker run",
        "stand": "make the walker stand",
        "walk": "make the walker walk",
    },
}


def instruction(env_id: str) -> str:
    """Returns the sentence for an id; "" if there is none."""
    suite, _, task = env_id.partition("/")
    if suite == "metaworld":
        return _METAWORLD.get(task.removesuffix("-v3"), "")
    if suite == "robosuite":
        return _ROBOSUITE.get(task, "")
    if suite == "tabletop":
        return _TABLETOP.get(task, "")
    if suite == "corridors":
        return "turn one lamp over"
    if suite == "maze":
        return "reach the goal behind the wall"
    if suite == "puck":
        return "push the puck to the goal" if task == "push-goal-v0" else "push the puck about"
    domain, _, name = task.partition("-")
    sentences = _DM_CONTROL.get(domain.removesuffix("_CMU"), {})
    # what follows the task in a name (sizes, "sparse", "easy") is no part of what to do
    return next((text for known, text in sentences.items() if name.startswith(known)), "")
