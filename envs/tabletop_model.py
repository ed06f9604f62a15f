"""The table-top to play on, as MuJoCo reads it: m, x to the right, y away from the viewer.

A round finger that a stiff drive moves in space; at the back a drawer with a bar before its front,
three buttons with lamps and a sliding door with a post; in front a block between low rails. A wall
that the finger cannot pass above stands before the buttons: the way to them leads round its left or
its right end.
"""

REACH = ((-0.3, 0.3), (-0.25, 0.27), (0.03, 0.16))  # of the finger's tip, per axis
FINGER = 0.012  # radius
DRAWER_X, DRAWER_Y, DRAWER_OUT = -0.22, 0.24, 0.12  # its front when shut, and how far it comes out
BAR = -0.06  # of its bar, from its front
BUTTONS_X, BUTTONS_Y, TRAVEL = (-0.1, -0.03, 0.04), 0.2, 0.02
DOOR_X, DOOR_Y, DOOR_SIDE = 0.2, 0.2, 0.05  # of its post in the middle; how far it slides each way
WALL_X, WALL_Y = (-0.1, 0.04), 0.1
BLOCK, BLOCK_Y = 0.025, -0.1  # half of an edge; the middle of its zone
ZONE_X = 0.2  # half of the zone's width
COLOURS = {"red": "0.85 0.2 0.2", "green": "0.2 0.65 0.3", "blue": "0.2 0.35 0.85"}

_LOOK = 'contype="0" conaffinity="0"'  # of what is only seen


def _button(name: str, x: float) -> str:
    return f"""
    <geom {_LOOK} type="cylinder" size="0.026 0.009" pos="{x} {BUTTONS_Y} 0.009" rgba=".3 .3 .3 1"/>
    <body name="{name}" pos="{x} {BUTTONS_Y} 0.035">
      <joint name="{name}" type="slide" axis="0 0 1" range="-{TRAVEL} 0" limited="true"
             stiffness="120" springref="0.012" damping="3"/>
      <geom type="cylinder" size="0.02 0.01" mass="0.05" rgba="{COLOURS[name]} 1"/>
    </body>
    <geom name="{name} lamp" {_LOOK} type="sphere" size="0.012"
          pos="{x} {BUTTONS_Y + 0.06} .03"/>"""


def _rail(x: float, y: float, along: str) -> str:
    size = "0.26 0.006 0.006" if along == "x" else "0.006 0.11 0.006"
    return f'    <geom type="box" size="{size}" pos="{x} {y} 0.006" rgba=".5 .4 .3 1"/>'


RAILS = "\n".join(
    _rail(*place)
    for place in ((0, 0.01, "x"), (0, -0.21, "x"), (-0.26, BLOCK_Y, "y"), (0.26, BLOCK_Y, "y"))
)
MODEL = f"""
<mujoco model="tabletop">
  <option timestep="0.005" integrator="implicitfast" cone="elliptic"/>
  <visual><global offwidth="640" offheight="480"/></visual>
  <default>
    <geom friction="0.6 0.01 0.001" condim="3" solref="0.01 1"/>
  </default>
  <worldbody>
    <light pos="-0.3 -0.6 1.2" dir="0.3 0.5 -1" castshadow="false" diffuse=".7 .7 .7"/>
    <camera name="front" pos="0 -0.78 0.62" xyaxes="1 0 0 0 0.62 0.78"/>
    <geom name="table" type="box" size="0.36 0.34 0.02" pos="0 0.02 -0.02" rgba=".75 .7 .6 1"/>
{RAILS}
    <geom name="wall" type="box" size="{(WALL_X[1] - WALL_X[0]) / 2} 0.008 0.12"
          pos="{sum(WALL_X) / 2} {WALL_Y} 0.12" rgba=".55 .6 .65 .6"/>

    <body name="finger" gravcomp="1">
      <joint name="finger x" type="slide" axis="1 0 0" damping="30"/>
      <joint name="finger y" type="slide" axis="0 1 0" damping="30"/>
      <joint name="finger z" type="slide" axis="0 0 1" damping="30"/>
      <geom type="capsule" size="{FINGER}" fromto="0 0 0 0 0 0.12" mass="0.3" rgba=".15 .15 .2 1"/>
    </body>

    <geom {_LOOK} type="box" size="0.07 0.03 0.035" pos="{DRAWER_X} .3 .036" rgba=".45 .35 .2 1"/>
    <body name="drawer" pos="{DRAWER_X} {DRAWER_Y} 0.036">
      <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_OUT}" limited="true"
             damping="4" frictionloss="0.8"/>
      <geom type="box" size="0.06 0.008 0.03" mass="0.3" rgba=".65 .5 .35 1"/>
      <geom type="box" size="0.045 0.006 0.02" pos="0 {BAR} 0" mass="0.05" rgba=".2 .2 .2 1"/>
      <geom {_LOOK} type="box" size="0.004 0.028 0.006" pos="-0.04 -0.03 -0.02" mass="0"/>
      <geom {_LOOK} type="box" size="0.004 0.028 0.006" pos="0.04 -0.03 -0.02" mass="0"/>
    </body>
{"".join(_button(name, x) for name, x in zip(COLOURS, BUTTONS_X, strict=True))}

    <geom {_LOOK} type="box" size="0.11 0.004 0.004" pos="{DOOR_X} 0.225 0.004" rgba=".4 .4 .4 1"/>
    <body name="door" pos="{DOOR_X} {DOOR_Y} 0.05">
      <joint name="door" type="slide" axis="1 0 0" range="-{DOOR_SIDE} {DOOR_SIDE}" limited="true"
             damping="4" frictionloss="0.8"/>
      <geom type="box" size="0.012 0.02 0.045" mass="0.2" rgba=".8 .6 .2 1"/>
      <geom {_LOOK} type="box" size="0.05 0.004 0.05" pos="0 .028 .005" mass="0" rgba=".6 .7 .8 1"/>
    </body>

    <body name="block" pos="0 {BLOCK_Y} {BLOCK}">
      <freejoint name="block"/>
      <geom type="box" size="{BLOCK} {BLOCK} {BLOCK}" mass="0.15" rgba=".9 .5 .2 1"/>
    </body>
  </worldbody>
  <actuator>
    <position joint="finger x" kp="700" forcerange="-25 25"/>
    <position joint="finger y" kp="700" forcerange="-25 25"/>
    <position joint="finger z" kp="700" forcerange="-25 25"/>
  </actuator>
</mujoco>
"""
