"""How rmw_zenoh names ROS 2 things on Zenoh: keys, liveliness tokens, QoS strings, attachments.

Pure functions. Source: rmw_zenoh_cpp's design document and `liveliness_utils.cpp`.
"""

import hashlib
import re
import struct
from dataclasses import dataclass

from hardware.wire import Qos

NO_HASH = "TypeHashNotSupported"
"""What stands for the type's hash on ROS 2 Humble and older."""

SERVICE_QOS = Qos(reliable=True, depth=10)
_NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")
_ATTACHMENT = struct.Struct("<qqB16s")


def resolve(name: str, namespace: str) -> str:
    """Returns the full name of a topic, service or action.

    Args:
        name: relative names are put under the namespace.
        namespace: such as "/" or "/left_arm".

    Raises:
        ValueError: ROS allows no such name.
    """
    full = name if name.startswith("/") else f"{namespace.rstrip('/')}/{name}"
    if not _NAME.fullmatch(full):
        raise ValueError(
            f"{name!r} is no ROS name: parts of letters, digits and _, not beginning with a digit, "
            "are joined by /"
        )
    return full


def dds_type(kind: str) -> str:
    """Returns "sensor_msgs::msg::dds_::JointState_" of "sensor_msgs/msg/JointState"."""
    package, group, name = kind.split("/")
    return f"{package}::{group}::dds_::{name}_"


def data_key(domain: int, name: str, kind: str, type_hash: str) -> str:
    """Returns the key under which a topic is published or a service asked."""
    return f"{domain}/{name.strip('/')}/{dds_type(kind)}/{type_hash}"


def qos_text(qos: Qos) -> str:
    """Returns a QoS as in tokens; rmw_zenoh's defaults (reliable, volatile) are left out."""
    reliability, durability = "" if qos.reliable else "2", "1" if qos.latched else ""
    return f"{reliability}:{durability}:,{qos.depth}:,:,:,,"


@dataclass(frozen=True)
class Node:
    """A node of a session, which all its endpoints belong to.

    Attributes:
        domain: ROS domain id.
        session: Zenoh's id of the session, hexadecimal.
        name: of the node.
        namespace: such as "/".
    """

    domain: int
    session: str
    name: str
    namespace: str = "/"

    @property
    def token(self) -> str:
        """The key of the liveliness token that makes `ros2 node list` show it."""
        return self._token(0, "NN")

    def endpoint(
        self, entity: int, what: str, name: str, kind: str, type_hash: str, qos: Qos
    ) -> str:
        """Returns the key of an endpoint's liveliness token.

        Args:
            entity: a number that no other entity of this session has.
            what: MP a publisher, MS a subscription, SS a service, SC its client.
            name: full name of the topic or service.
            kind: its type.
            type_hash: of the type.
            qos: of the endpoint.
        """
        rest = (_mangled(name), dds_type(kind), type_hash, qos_text(qos))
        return "/".join((self._token(entity, what), *rest))

    def _token(self, entity: int, what: str) -> str:
        place = (_mangled(self.namespace), self.name)
        return "/".join(
            ("@ros2_lv", str(self.domain), self.session, "0", str(entity), what, "%", *place)
        )


def _mangled(name: str) -> str:
    return name.replace("/", "%") or "%"


def gid(token: str) -> bytes:
    """Returns 16 bytes that identify an endpoint (rmw_zenoh takes another hash of its token)."""
    return hashlib.blake2b(token.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Attachment:
    """What goes with every sample, request and reply; 33 bytes.

    Attributes:
        sequence: rises by one from sample to sample of a publisher.
        stamp: ns since 1970 on the sender's clock.
        gid: of the sender, 16 bytes.
    """

    sequence: int
    stamp: int
    gid: bytes

    def pack(self) -> bytes:
        """Returns its bytes."""
        return _ATTACHMENT.pack(self.sequence, self.stamp, 16, self.gid)


def read_attachment(data: bytes) -> Attachment:
    """Returns an attachment; raises ValueError if the bytes are none."""
    if len(data) != _ATTACHMENT.size or data[16] != 16:
        raise ValueError(f"an attachment of {len(data)} bytes, not {_ATTACHMENT.size}")
    sequence, stamp, _, sender = _ATTACHMENT.unpack(data)
    return Attachment(sequence, stamp, sender)
