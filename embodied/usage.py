"""What the commands say of themselves with --help."""

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
  task=chain model=PATH  of a language method: its task (chain, add, sort, edit), and a model of
                         transformers (or tiny); data=rows.jsonl: prompts, completions or
                         preferences as TRL takes them; or a game (tictactoe, kuhn, negotiation),
                         which method=spiral learns by playing itself
  reward=maths           or format, code: judges answers to prompts of data= by the facts in their
                         rows (docs/language.md); longest=256 tokens, evaluation.data=held_out.jsonl
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

Of a run of a language method (docs/language.md):

  suite=tiny          problems of every length of its task; by default what it was trained on
  suite=gsm8k_jsonl data=FILE       questions and answers of mathematics
  samples=8           answers to each question: pass@k, majority; temperature=1 top_p=1 longest=256
  batch=16            questions asked together
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
  embodied collect suite=tiny task=sort out=data/sort episodes=1000     texts: problems, pairs, ...
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
  robot=panda_twin    the twin, or a YAML file of your arm (README, "On a real arm"), or the Panda
                      of a robosuite or LIBERO task: robosuite/Lift, libero/libero_goal/0, ...
  transport=local     or zenoh, rosbridge, rclpy: how the robot is reached; the twin is started
                      behind it unless address=tcp/HOST:PORT or ws://HOST:PORT says where one is
  episodes=5 seconds=0 seed=0       how much; seconds ends it even inside an episode
  task=reach rate=10 horizon=50 mode="tool delta"   a run trained on an arm brings its own
  limits=panda limits.velocity_share=0.3            what the safety envelope enforces
  obs=both cameras=front,wrist      for policies that look; the report then has their video
  env_args.horizon=200              options of a robosuite or LIBERO task instead of these two lines
  operator=keyboard   or gamepad, spacemouse: take over while something is pressed, say whether an
                      episode is done (enter) or not (x); steps taken over are recorded as such
  record=DIR          where recording (run.mcap) and report go; else runs/deploy/...

Ctrl-C stops the arm within its limits and closes the recording. If the stop latches, this ends and
says how to clear it. A software stop is not an emergency stop: keep the arm's own in reach.

  embodied train method=sac env=real/panda_twin method.online_steps=20000
  embodied deploy policy=runs/sac-real-panda_twin-0 robot=panda_twin transport=zenoh
  embodied deploy policy=scripted robot=robosuite/Lift episodes=3
"""

HARDWARE = """\
  embodied hardware check robot=panda_twin                     the twin in this process
  embodied hardware check robot=lab/panda.yaml transport=zenoh address=tcp/10.0.0.2:7447
                                                               motion=true also moves the arm
  embodied hardware serve robot=panda_twin transport=rosbridge address=ws://127.0.0.1:9090
  embodied hardware reset robot=panda_twin reason="the cable was caught; it is free"
  embodied hardware teleop robot=panda_twin out=data/teleop episodes=5 operator=gamepad
                                                               or keyboard, or spacemouse

robot is also the Panda of a robosuite or LIBERO task, such as robosuite/Lift. All but teleop also
run as `python -m hardware ...`, without those, where only embodied[hardware] is installed.
"""

DATA = """\
  embodied data info data/door                            what is in it
  embodied data verify demos.hdf5                         every file against its checksum
  embodied data repair demos.hdf5                         keep what can be verified
  embodied data convert demos.hdf5 data/demos --to lerobot
  embodied data convert run.mcap out=data/flight          a flight recording, as LeRobot v3
  embodied data view demos.hdf5 --html demos.html         without --html, a table
"""
