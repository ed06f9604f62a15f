"""Implementations of ROS 2's wire that are not ours, in an interpreter of their own.

test_zenoh_peers.py runs this file with $EMBODIED_ROS_PEERS_PYTHON, which has zenoh-ros2-sdk,
cyclonedds and mcap-ros2-support. It takes one JSON object per line and answers with one. It imports
nothing of this repository, and knows the messages from its own definitions.
"""

import functools
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

JOINT_STATE = "sensor_msgs/msg/JointState"
ADD = "example_interfaces/srv/AddTwoInts"
DEFINITIONS = {
    "builtin_interfaces/msg/Time": "int32 sec\nuint32 nanosec\n",
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id\n",
    JOINT_STATE: "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n"
    "float64[] effort\n",
    ADD: "int64 a\nint64 b\n---\nint64 sum\n",
    "service_msgs/msg/ServiceEventInfo": "uint8 event_type\nbuiltin_interfaces/Time stamp\n"
    "char[16] client_gid\nint64 sequence_number\n",
}


class Graph:
    """A node of zenoh-ros2-sdk."""

    def __init__(self, port):
        os.environ["ZENOH_CONFIG_OVERRIDE"] = (
            "scouting/multicast/enabled=false;scouting/gossip/enabled=false;listen/endpoints=[]"
        )
        import zenoh_ros2_sdk as sdk
        from zenoh_ros2_sdk.message_registry import get_registry
        from zenoh_ros2_sdk.session import ZenohSession

        folder = Path(tempfile.mkdtemp())
        for kind, text in DEFINITIONS.items():
            path = folder / f"{kind}.{'srv' if '/srv/' in kind else 'msg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.sdk, self.at = sdk, {"router_ip": "127.0.0.1", "router_port": port, "domain_id": 0}
        self.session = ZenohSession.get_instance("127.0.0.1", port)
        get_registry(str(folder)).load_message_type(JOINT_STATE)
        self.heard, self.kept = [], []

    def publish(self, topic, name, position, times):
        publisher = self.sdk.ROS2Publisher(topic, JOINT_STATE, DEFINITIONS[JOINT_STATE], **self.at)
        types = self.session.store.types
        stamp = types["builtin_interfaces/msg/Time"](7, 8)
        header = types["std_msgs/msg/Header"](stamp, "base")
        import numpy as np

        time.sleep(0.3)
        for i in range(times):
            values = np.array(position) + i
            publisher.publish(
                header=header, name=name, position=values, velocity=0 * values, effort=values[:0]
            )
            time.sleep(0.01)
        self.kept.append(publisher)
        return {"key": publisher.keyexpr}

    def subscribe(self, topic, latched=False):
        def hear(message):
            self.heard.append(shown(message))

        from zenoh_ros2_sdk.qos import QosDurability, QosProfile

        qos = QosProfile(durability=QosDurability.TRANSIENT_LOCAL)
        subscriber = self.sdk.ROS2Subscriber(
            topic,
            JOINT_STATE,
            hear,
            DEFINITIONS[JOINT_STATE],
            qos=qos if latched else None,
            **self.at,
        )
        self.kept.append(subscriber)
        return {"key": subscriber.keyexpr}

    def told(self):
        heard, self.heard[:] = list(self.heard), []
        return {"heard": heard}

    def topic(self, name):
        info = self.sdk.get_topic_info(name, verbose=True, **self.at)
        ends = [*info.publishers, *info.subscribers]
        return {
            "types": info.topic_types,
            "publishers": len(info.publishers),
            "subscribers": len(info.subscribers),
            "ends": [[e.node_name, e.type_hash, e.qos] for e in ends],
        }

    def services(self):
        found = self.sdk.get_service_names_and_types(**self.at)
        return {"services": [[name, list(types)] for name, types in found]}

    def call(self, service, a, b):
        request, response = DEFINITIONS[ADD].split("---\n")
        client = self.sdk.ROS2ServiceClient(service, ADD, request, response, timeout=5.0, **self.at)
        time.sleep(0.3)
        reply = client.call(a=a, b=b)
        self.kept.append(client)
        return {"sum": reply and int(reply.sum), "key": client.keyexpr}

    def serve(self, service):
        request, response = DEFINITIONS[ADD].split("---\n")

        def add(asked):
            return server.response_msg_class(sum=asked.a + asked.b)

        server = self.sdk.ROS2ServiceServer(service, ADD, add, request, response, **self.at)
        self.kept.append(server)
        return {"key": server.keyexpr}


def shown(message):
    return {
        "stamp": [message.header.stamp.sec, message.header.stamp.nanosec],
        "frame": message.header.frame_id,
        "name": list(message.name),
        **{
            key: [float(x) for x in getattr(message, key)]
            for key in ("position", "velocity", "effort")
        },
    }


@functools.cache
def dds_types():
    from cyclonedds.idl import IdlStruct
    from cyclonedds.idl.types import float64, int32, sequence, uint32

    @dataclass
    class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
        sec: int32
        nanosec: uint32

    @dataclass
    class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
        stamp: Time
        frame_id: str

    @dataclass
    class JointState(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
        header: Header
        name: sequence[str]
        position: sequence[float64]
        velocity: sequence[float64]
        effort: sequence[float64]

    return Time, Header, JointState


def dds(cdr):
    """Decodes with CycloneDDS, and encodes what it understood."""
    _, _, joint_state = dds_types()
    message = joint_state.deserialize(bytes.fromhex(cdr))
    return {"message": shown(message), "cdr": message.serialize(use_version_2=False).hex()}


def mcap(cdr, kind, definition):
    """Decodes with mcap-ros2-support, as viewers of recordings do."""
    from mcap.records import Schema
    from mcap_ros2.decoder import DecoderFactory

    schema = Schema(id=1, name=kind, encoding="ros2msg", data=definition.encode())
    message = DecoderFactory().decoder_for("cdr", schema)(bytes.fromhex(cdr))

    def plain(value):
        if hasattr(value, "__slots__"):
            return {key: plain(getattr(value, key)) for key in value.__slots__}
        if isinstance(value, bytes):
            return value.hex()
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {"message": plain(message)}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries' own prints
    graph = None
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        do = asked.pop("do")
        if do == "open":
            graph, answer = Graph(**asked), {}
        else:
            answer = ({"dds": dds, "mcap": mcap}.get(do) or getattr(graph, do))(**asked)
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # zenoh's threads may still wait


if __name__ == "__main__":
    main()
