"""Runs in the process of a sandbox: gives up what it may not keep, then runs files.

It is started as a script by `rewards.sandbox`, which says what holds, and imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import types
from collections.abc import Callable
from importlib.abc import SourceLoader

LIBC = ctypes.CDLL(None, use_errno=True)
LAYERS = ("network", "processes", "files")
READABLE = (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")

# ---- Landlock (Linux 5.13): which files may be touched
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
READ_FILE, READ_DIR, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
EXECUTE, MAKE = 1 << 0, 1 << 6 | 1 << 7 | 1 << 9 | 1 << 11  # devices, directories, sockets
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights a version knows; 16 since the fifth

# ---- seccomp: which system calls may be made, as (x86-64, arm64); None where there is no such call
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE, CLONE3, CLONE_THREAD = (56, 220), (435, 435), 0x10000
OWN = {"kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261)}  # of oneself only
FCNTL, SIGNALLING = (72, 25), (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals by a file
REFUSED = {
    # other programs
    **{"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)},
    # the network, and local sockets
    **{"socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200)},
    # other processes
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424)},
    **{"tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)},
    **{"setpriority": (141, 140), "sched_setaffinity": (203, 122)},
    # what outlives the process
    **{"shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    # what Landlock leaves alone about files
    **{"truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53)},
    **{"fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None)},
    **{"fchownat": (260, 54), "utime": (132, None), "utimes": (235, None)},
    **{"futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5)},
    **{"lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14)},
    **{"lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463)},
    **{"removexattrat": (466, 466), "file_setattr": (469, 469), "memfd_create": (319, 279)},
    # new views of the system, and wide doors into the kernel
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39)},
    **{"open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"mount_setattr": (442, 442), "chroot": (161, 51), "pivot_root": (155, 41)},
    **{"io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241)},
    **{"userfaultfd": (323, 282), "name_to_handle_at": (303, 264)},
    **{"open_by_handle_at": (304, 265)},
}
LOAD, JUMP_EQUAL, JUMP_ABOVE, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, UNKNOWN, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # EPERM, ENOSYS
X32 = 0x40000000  # a second numbering of the calls on x86-64


def confine(limits: dict[str, tuple[int, int]], folder: str | None = None) -> set[str]:
    """Give up rights for good.

    Args:
        limits: soft and hard ones by the names of the resource module, in its units.
        folder: may still be written; nowhere if None.

    Returns:
        Which of `LAYERS` hold.
    """
    held = set()
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit[0], limit[1]))
    if not sys.platform.startswith("linux"):
        return held
    LIBC.prctl(38, 1, 0, 0, 0)  # no_new_privs
    if LIBC.unshare(0x10000000 | 0x40000000 | 0x08000000) == 0:  # user, network, System V IPC
        held.add("network")
    _drop_capabilities()
    if _landlock(folder):
        held.add("files")
    if _seccomp():
        held |= {"network", "processes"}
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        if os.getuid() != 0:  # to whom this limit does not apply
            held.add("processes")
    return held


def _drop_capabilities() -> None:
    header = struct.pack("Ii", 0x20080522, 0)
    if LIBC.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _landlock(folder: str | None) -> bool:
    version = LIBC.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << RIGHTS.get(version, 16)) - 1
    ruleset = LIBC.syscall(CREATE_RULESET, struct.pack("Q", rights), 8, 0)
    allowed = {path: READ_FILE | READ_DIR | EXECUTE for path in READABLE}
    allowed |= {"/dev/null": READ_FILE | WRITE_FILE, "/dev/urandom": READ_FILE}
    if folder is not None:
        allowed[folder] = rights & ~EXECUTE & ~MAKE
    for path, right in allowed.items():
        if not os.path.exists(path):
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", right if os.path.isdir(path) else right & ~READ_DIR, place)
        if LIBC.syscall(ADD_RULE, ruleset, 1, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_add_rule", path)
        os.close(place)
    if LIBC.syscall(RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)
    return True


def _seccomp() -> bool:
    if platform.machine() not in ARCHITECTURES:
        return False
    column, architecture = ARCHITECTURES[platform.machine()]

    def unless(value: int, *then: tuple, test: int = JUMP_EQUAL) -> list[tuple]:
        """`then` if the loaded word passes the test against a value, else go on behind it."""
        return [(test, 0, len(then), value), *then]

    refuse, allow = (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)
    argument = (LOAD, 0, 0, 16)
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    program += [(LOAD, 0, 0, 0), *unless(X32, refuse, test=JUMP_ABOVE)]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            program += unless(numbers[column], refuse)
    threads = unless(CLONE_THREAD, allow, test=JUMP_SET)
    program += unless(CLONE3[column], (RETURN, 0, 0, UNKNOWN))
    program += unless(CLONE[column], argument, *threads, refuse)
    for numbers in OWN.values():
        mine = [*unless(os.getpid(), allow), *unless(0, allow)]
        program += unless(numbers[column], argument, *mine, refuse)
    signalling = [step for command in SIGNALLING for step in unless(command, refuse)]
    program += unless(FCNTL[column], (LOAD, 0, 0, 24), *signalling, allow)
    program.append(allow)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    return LIBC.prctl(22, 2, filter, 0, 0) == 0


class _Source(SourceLoader):
    """A file that is read now and removed, so that what runs before it cannot see or change it."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.source = file.read()
        os.unlink(path)

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        return self.source


def run(files: list[str], report: Callable[[int, str | None], None]) -> None:
    """Run files in one module, `__main__`, up to the first that fails and is not a test.

    Args:
        files: the first is the program, the others its tests.
        report: called with (number, error or None) after each.
    """
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv[:] = files[:1]
    for number, source in enumerate([_Source(path) for path in files]):
        error = None
        try:
            source.exec_module(module)
        except BaseException as caught:  # also SystemExit: whoever leaves early is told so
            code = getattr(caught, "code", None) or 0
            text = code if isinstance(caught, SystemExit) else caught
            error = f"{type(caught).__name__}: {text}"[:500]
        report(number, error)
        if error and number == 0:
            return


def main() -> None:
    """Read what to do from one pipe, write what came of it into another."""
    with open(int(sys.argv[1]), encoding="utf-8") as file:
        order = json.load(file)
    results = int(sys.argv[2])

    def say(message: dict) -> None:
        line = json.dumps({"nonce": order["nonce"], **message}) + "\n"
        os.write(results, line.encode())

    held = confine(order["limits"], ".")
    say({"held": sorted(held)})
    if set(order["required"]) <= held:
        run(order["files"], lambda number, error: say({"file": number, "error": error}))


if __name__ == "__main__":
    main()
