"""ROS 2 interfaces that rosbags does not bring, as their packages define them.

Fields only: they decide the encoding and the type's hash. They are those of ROS 2 Jazzy;
`hardware.cdr.define` adds a lab's own.
"""

INTERFACES = {
    "std_srvs/srv/Trigger": """
---
bool success
string message
""",
    "action_msgs/srv/CancelGoal": """
GoalInfo goal_info
---
int8 return_code
GoalInfo[] goals_canceling
""",
    "control_msgs/msg/GripperCommand": """
float64 position
float64 max_effort
""",
    "control_msgs/msg/JointTolerance": """
string name
float64 position
float64 velocity
float64 acceleration
""",
    "control_msgs/msg/JointComponentTolerance": """
string joint_name
uint16 component
float64 position
float64 velocity
float64 acceleration
""",
    "control_msgs/action/FollowJointTrajectory": """
trajectory_msgs/JointTrajectory trajectory
trajectory_msgs/MultiDOFJointTrajectory multi_dof_trajectory
JointTolerance[] path_tolerance
JointComponentTolerance[] component_path_tolerance
JointTolerance[] goal_tolerance
JointComponentTolerance[] component_goal_tolerance
builtin_interfaces/Duration goal_time_tolerance
---
int32 error_code
string error_string
---
std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint desired
trajectory_msgs/JointTrajectoryPoint actual
trajectory_msgs/JointTrajectoryPoint error
string[] multi_dof_joint_names
trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_desired
trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_actual
trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_error
""",
    "control_msgs/action/GripperCommand": """
GripperCommand command
---
float64 position
float64 effort
bool stalled
bool reached_goal
---
float64 position
float64 effort
bool stalled
bool reached_goal
""",
    "control_msgs/action/ParallelGripperCommand": """
sensor_msgs/JointState command
---
sensor_msgs/JointState state
bool stalled
bool reached_goal
---
sensor_msgs/JointState state
""",
}
