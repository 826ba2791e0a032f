"""Confines the processes that run students' code, by the system's own means.

Each *layer* is a means of Linux that a machine may refuse; each *protection* needs one of them at
least. What does the confining is used by the zygote: it enters namespaces before it imports
anything, then shuts the rest of the file system out, and each worker confines itself further,
first thing after the fork. A layer that was promised and then fails ends the process.

`python -m autograder.sandbox FD` is that zygote; without FD it prints the layers that work here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import platform
import resource
import shutil
import signal
import site
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autograder.usage import EVERY, Watch

LAYERS = {
    "view": "Files: only Python, the packages and the course exist; scratch space is in memory.",
    "landlock": "Files: whatever exists, nothing else can be read or written.",
    "network": "Network: a namespace without any, nor anyone to share memory with.",
    "seccomp": "Network, and what else of the kernel no answer needs.",
    "processes": "Processes: sees only its own; all of them end with it.",
    "user": "Limits: a user without rights, whose processes are counted.",
}
_PROTECTIONS: dict[str, Callable[[Collection[str]], bool]] = {
    "files": lambda on: "view" in on or "landlock" in on,
    "the network": lambda on: "network" in on or "seccomp" in on,
    "other processes": lambda on: "processes" in on or "seccomp" in on,
    "the machine's resources": lambda on: "user" in on,
}


class SandboxError(Exception):
    """Students' code cannot be isolated here; one sentence."""


@dataclass(frozen=True)
class Bounds:
    """What one worker may use, with all that it starts unless said otherwise."""

    memory: int = 8 << 30  # bytes of address space, of each process
    together: int = 8 << 30  # bytes of memory that all processes really use; see `usage`
    processes: int = 64  # threads included
    cpu: int = 900  # seconds, of each process
    file: int = 256 << 20  # bytes of one file
    scratch: int = 512 << 20  # bytes of all files
    files: int = 20_000
    shared: int = 256 << 20  # bytes of memory that processes share
    open_files: int = 256
    gpu: float = 0.0  # the share of its memory; 0 for none

    def explain(self, error: BaseException) -> str:
        """Which limit an error of a student's code comes from; "" if from none."""
        text = str(error)
        match error:
            case MemoryError():
                return self._memory()
            case RuntimeError() if "can't allocate memory" in text:
                return self._memory()
            case RuntimeError() if "can't start new thread" in text:
                return self._processes()
            case BlockingIOError(errno=errno.EAGAIN):
                return self._processes()
            case socket.gaierror() | OSError(errno=errno.ENETUNREACH):
                return "the grader gives no access to a network"
            case OSError(errno=errno.EFBIG):
                return f"the grader allows files of {_size(self.file)}"
            case OSError(errno=errno.ENOSPC):
                return self._files()
            case OSError(errno=errno.EMFILE):
                return f"the grader allows {self.open_files} open files"
            case OSError(errno=errno.EACCES | errno.EROFS | errno.EPERM):
                return "the grader lets code reach only Python, its packages and its own folder"
        return ""

    def __str__(self) -> str:
        return (
            f"A process has {_size(self.memory)} of memory, {self.cpu} s of CPU time and "
            f"{self.open_files} open files; a worker has {self.processes} processes and threads, "
            f"{_size(self.together)} of memory in use, and {_size(self.scratch)} in "
            f"{self.files:,} files of {_size(self.file)} at most."
        )

    def too_much_memory(self) -> str:
        """A sentence on `together`."""
        size = _size(self.together)
        return f"The grader allows {size} of memory to all processes of an answer together."

    def too_many_files(self) -> str:
        """A sentence on `scratch` and `files`."""
        return f"T{self._files()[1:]}."

    def _files(self) -> str:
        return f"the grader allows {_size(self.scratch)} in {self.files:,} files"

    def _memory(self) -> str:
        return f"the grader allows {_size(self.memory)} of memory"

    def _processes(self) -> str:
        return f"the grader allows {self.processes} processes and threads"


BOUNDS = Bounds()


def _size(number: int) -> str:
    return f"{number >> 30} GB" if number >= 1 << 30 else f"{number >> 20} MB"


def missing(layers: Collection[str]) -> list[str]:
    """What stays unprotected if only these layers work."""
    return [name for name, holds in _PROTECTIONS.items() if not holds(layers)]


def require(layers: Collection[str]) -> None:
    """Check that these layers isolate students' code.

    Raises:
        SandboxError: naming what is not protected.
    """
    if unprotected := missing(layers):
        raise SandboxError(
            f"This machine cannot keep students' code from {' and '.join(unprotected)} (see "
            "`autograder doctor`); --no-sandbox runs it all the same, with your rights."
        )


@functools.cache
def available() -> frozenset[str]:
    """The layers that work here, each tried in a process of its own."""
    command = [sys.executable, "-P", "-m", __name__]
    environment = {**os.environ, "PYTHONPATH": str(_HOME)}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
        return frozenset(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return frozenset()


def machine() -> dict[str, str]:
    """What else matters to grading here, for people to read."""
    import torch

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "GPU": ", ".join(gpus) or "none",
    }


def course_home(root: Path | None = None) -> Path:
    """The folder of the package `course`: a repository's own, else the installed one."""
    return root if root is not None and (root / "course").is_dir() else _HOME


def environment(home: Path) -> dict[str, str]:
    """All that a student's code may know of the environment."""
    names = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    kept = {k: os.environ[k] for k in names if k in os.environ}
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    return {
        **kept,
        **threads,
        "HOME": str(home),
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(_HOME),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "USER": "student",
    }


_FOR_PROGRAMS = {"view", "network", "processes", "user"}  # they start sessions and use sockets


# --- what stays visible ---------------------------------------------------------------------------

_HOME = Path(__file__).parents[1]  # only `autograder` and `course` of it can be seen
_SCRATCH = Path("/scratch")  # in a view of the file system, where nothing else has this name
_SHARED = Path("/dev/shm")
_SYSTEM = (
    "/bin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64",
    "/usr/include", "/usr/share", "/usr/local/lib", "/usr/local/cuda", "/etc/alternatives",
    "/etc/fonts", "/etc/ld.so.cache", "/etc/localtime",
    "/proc/cpuinfo", "/sys/devices/system/cpu",  # torch would compute otherwise without them
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_GPU_FILES = ("/proc/devices", "/proc/driver", "/proc/modules", "/sys/bus/pci", "/sys/devices")


def _readable(gpu: float, home: Path) -> list[Path]:
    """What code may read: files and folders that exist here."""
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    python = [
        *packages,
        *(Path(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix)),
        Path(sys.prefix, "pyvenv.cfg"),
        Path(sys.prefix, "share", "jupyter"),
        Path(sys.executable).parent,
        Path(sys.executable).resolve().parent,
        *filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")),
    ]
    course = [_HOME / "autograder", home / "course"]
    wanted = map(Path, [*python, *course, *_SYSTEM, *(_GPU_FILES if gpu else ())])
    return sorted({path for path in wanted if path.is_absolute() and path.exists()})


def _devices(gpu: float) -> list[Path]:
    found = [*map(Path, _DEVICES), *(Path("/dev").glob("nvidia*") if gpu else ())]
    return [path for path in found if path.exists()]


# --- the system's calls ---------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
_NEWPID, _NEWNET, _NEWCGROUP, _NEWTIME = 0x20000000, 0x40000000, 0x2000000, 0x80
_NEW_ANY = _NEWNS | _NEWUTS | _NEWIPC | _NEWUSER | _NEWPID | _NEWNET | _NEWCGROUP
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 24, 22, 38
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_CAPABILITY_VERSION, _SIOCSIFFLAGS, _IFF_UP = 0x20080522, 0x8914, 1

# Names of system calls, and their numbers on x86-64 and on 64-bit ARM.
_NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "capset": (126, 91),
    "chroot": (161, 51), "clone": (56, 220), "clone3": (435, 435),
    "delete_module": (176, 106), "fcntl": (72, 25), "finit_module": (313, 273),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioprio_set": (251, 30), "kexec_load": (246, 104),
    "keyctl": (250, 219), "kill": (62, 129), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prctl": (157, 167),
    "prlimit64": (302, 261), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "semget": (64, 190), "setns": (308, 268), "setpgid": (109, 154), "setpriority": (141, 140),
    "setsid": (112, 157), "shmget": (29, 194), "socket": (41, 198), "swapoff": (168, 225),
    "swapon": (167, 224), "syslog": (103, 116), "tgkill": (234, 131), "tkill": (200, 130),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, audit number


def _check(result: int, what: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(name: str, *args: int | bytes | None) -> int:
    """A function of the C library."""
    return _check(getattr(_libc, name)(*args), name)


def _syscall(name: str, *args: int | bytes | None) -> int:
    """A system call that the C library has no function for."""
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"{name}: unknown on {platform.machine()}")
    number = _NUMBERS[name][_MACHINES[platform.machine()][0]]
    # Without a type, ctypes passes 32 bits of an integer.
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return _check(_libc.syscall(ctypes.c_long(number), *wide), name)


def _prctl(option: int, value: int, more: bytes | None = None) -> None:
    _check(
        _libc.prctl(option, ctypes.c_ulong(value), more, ctypes.c_ulong(0), ctypes.c_ulong(0)),
        "prctl",
    )


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    place = os.fsencode(target)
    _call("mount", os.fsencode(source), place, kind.encode(), flags, options.encode())


def _memory_disk(target: Path, size: int, files: int, mode: str = "700") -> None:
    """An empty file system of bounded size, in memory."""
    options = f"size={size},nr_inodes={files},mode={mode}"
    _mount("none", target, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


# --- the sandbox ----------------------------------------------------------------------------------


@dataclass
class Sandbox:
    """Confines a zygote and its workers by the given layers.

    Args:
        layers: those of `LAYERS` that work here; none leaves only the resource limits.
        scratch: an empty folder of the zygote's.
        kept: a folder of the machine's in which to work, instead of one that ends with the worker.
            Whoever has it may also talk to itself over the loopback device, as Jupyter does.
        home: the folder of the package `course`.

    Every method raises OSError where the system refuses.
    """

    layers: frozenset[str]
    bounds: Bounds
    scratch: Path
    kept: Path | None = None
    home: Path = _HOME
    _uid: int | None = None  # whom workers become, if this is root
    _others: int = 0  # processes that are counted against the limit, but are not the worker's
    _own_processes: int | None = field(default=None, repr=False)  # the zygote's namespace
    _proc: int | None = field(default=None, repr=False)

    def enter(self) -> None:
        """Leave the machine's namespaces; to be called before any thread starts."""
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        if "user" in self.layers:
            # Should memory run out, the kernel ends students' processes first.
            Path("/proc/self/oom_score_adj").write_text("1000")
        spaces = self.layers & {"view", "network", "processes"}
        if os.geteuid() == 0:
            # From the range that systemd gives to services without an account; not one for all,
            # since processes are counted by user.
            self._uid = 61184 + os.getpid() % 4336
        elif spaces:
            _enter_user_namespace()
            if "processes" in spaces:
                _become_first()  # only of a namespace of its own may it leave and return
        else:
            self._others = _count_tasks(os.getuid())
        if "view" in self.layers:
            _call("unshare", _NEWNS)
            _mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)
        if "network" in self.layers:
            _call("unshare", _NEWNET | _NEWIPC | _NEWUTS)
            if self.kept is not None:
                _start_loopback()
        if "processes" in self.layers:
            self._own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY)

    def shut(self) -> None:
        """Replace the file system by a view of what may be read."""
        if "view" not in self.layers:
            os.chmod(self.scratch, 0o711)
            return
        root = self.scratch
        _mount("none", root, "tmpfs", _MS_NOSUID, "mode=755")
        for path in _readable(self.bounds.gpu, self.home) + _devices(self.bounds.gpu):
            _show(path, root)
        for place in filter(None, (_SCRATCH, _SHARED, self.kept)):
            _below(root, place).mkdir(parents=True, exist_ok=True)
        if not _below(root, Path("/tmp")).exists():
            _below(root, Path("/tmp")).symlink_to(_SCRATCH)
        attributes = struct.pack("4Q", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
        place = os.fsencode(root)
        _syscall("mount_setattr", _AT_FDCWD, place, _AT_RECURSIVE, attributes, len(attributes))
        if self.kept is not None:
            _mount(str(self.kept), _below(root, self.kept), "", _MS_BIND)
        os.chdir(root)
        _syscall("pivot_root", b".", b".")  # stacks the old root upon the new one
        _call("umount2", b".", _MNT_DETACH)
        os.chdir("/")

    def fork(self) -> int:
        """As os.fork; the child is the first process of a namespace, and the others end with it."""
        if self._own_processes is None:
            return os.fork()
        # Called before the fork, this costs nothing; after it, it would take a second one.
        _call("unshare", _NEWPID)
        try:
            pid = os.fork()
        except OSError:
            _call("setns", self._own_processes, _NEWPID)
            raise
        if pid:
            _call("setns", self._own_processes, _NEWPID)
        return pid

    def new_folder(self, number: int) -> Path:
        """The scratch folder of a worker to be."""
        if self.kept is not None:
            if self._uid is not None:
                for path in (self.kept, *self.kept.iterdir()):
                    os.chown(path, self._uid, self._uid)
            return self.kept
        if "view" in self.layers:
            return _SCRATCH
        folder = self.scratch / str(number)
        folder.mkdir(0o700)
        if self._uid is not None and "user" in self.layers:
            os.chown(folder, self._uid, self._uid)
        return folder

    def remove_folder(self, folder: Path) -> None:
        """Delete a worker's scratch folder; one of a view went with the worker."""
        if "view" in self.layers:
            return
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:  # thousands of folders, one in the other
            subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL)

    def own_pid(self) -> int:
        """This process's number as the machine has it, outside of all namespaces."""
        return int(os.readlink("self", dir_fd=self._proc))

    def parents(self) -> Iterator[tuple[int, int]]:
        """All processes of the machine, each with its parent."""
        for name in filter(str.isdigit, os.listdir(self._proc)):
            with contextlib.suppress(OSError):
                file = os.open(f"{name}/stat", os.O_RDONLY, dir_fd=self._proc)
                with open(file) as stat:
                    tail = stat.read().rpartition(")")[2]  # the name before it may hold anything
                yield int(name), int(tail.split()[1])

    def confine(self, folder: Path) -> None:
        """Give up, in a worker, whatever a student's code needs not."""
        if "processes" not in self.layers:
            os.setsid()  # a group of its own, so that it is killed with everything that it started
        if "view" in self.layers:
            _call("unshare", _NEWNS)
            _memory_disk(_SCRATCH, self.bounds.scratch, self.bounds.files, "777")
            _memory_disk(_SHARED, self.bounds.shared, 1_000, "777")
        self._limit()
        rules = self._file_rules(folder) if "landlock" in self.layers else None
        if "user" in self.layers:
            self._drop_rights()
        if sys.platform == "linux":
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(folder)
        if self.layers:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if rules is not None:
            _syscall("landlock_restrict_self", rules, 0)
            os.close(rules)
        if "seccomp" in self.layers:
            _filter_calls(_denied_calls(self.layers, self.bounds.gpu, self.kept is not None))

    def _limit(self) -> None:
        bounds = self.bounds
        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_CPU: bounds.cpu,
            resource.RLIMIT_FSIZE: bounds.file,
            resource.RLIMIT_NOFILE: bounds.open_files,
        }
        if sys.platform == "linux":
            # A GPU's driver reserves more addresses than any limit would leave.
            limits[resource.RLIMIT_DATA if bounds.gpu else resource.RLIMIT_AS] = bounds.memory
        if "user" in self.layers:
            limits[resource.RLIMIT_NPROC] = bounds.processes + self._others
        for limit, value in limits.items():
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))

    def _drop_rights(self) -> None:
        if self._uid is not None:
            os.setgroups([])
            os.setresgid(self._uid, self._uid, self._uid)
            os.setresuid(self._uid, self._uid, self._uid)
            return
        with contextlib.suppress(OSError):  # in its user namespace it has all rights, else none
            for capability in range(64):
                _prctl(_PR_CAPBSET_DROP, capability)
        _syscall("capset", struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24))

    # Landlock

    def _file_rules(self, folder: Path) -> int:
        """A descriptor of the rules; made while all that they name can still be reached."""
        version = _syscall("landlock_create_ruleset", None, 0, 1)
        everything = _LANDLOCK_FILES[min(version, len(_LANDLOCK_FILES)) - 1]
        network = 3 if version >= 4 and self.kept is None else 0
        scopes = 3 if version >= 6 else 0
        attributes = struct.pack("3Q", everything, network, scopes)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        rules = _syscall("landlock_create_ruleset", attributes, size, 0)
        writable = [folder, *([_SHARED] if "view" in self.layers else [])]
        allowed = [
            # Whoever imports `course` looks for it there; outside a view, that would show too much.
            *([(self.home, _READ_DIR)] if "view" in self.layers else []),
            *((path, _READ) for path in _readable(self.bounds.gpu, self.home)),
            *((path, _READ | _WRITE_FILE | _IOCTL) for path in _devices(self.bounds.gpu)),
            *((path, everything) for path in writable),
        ]
        for path, access in allowed:
            _allow(rules, path, access & everything)
        return rules


_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_READ, _OF_FILES = _EXECUTE | _READ_FILE | _READ_DIR, _EXECUTE | _WRITE_FILE | _READ_FILE
# What versions 1, 2, … of Landlock can forbid.
_LANDLOCK_FILES = ((1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)


def _allow(rules: int, path: Path, access: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            access &= _OF_FILES | _TRUNCATE | _IOCTL
        _syscall("landlock_add_rule", rules, 1, struct.pack("=Qi", access, beneath), 0)
    finally:
        os.close(beneath)


# namespaces


def _enter_user_namespace() -> None:
    """Become the only user of a namespace, with all rights in it and none outside."""
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _become_first() -> None:
    """Go on as the first process of a namespace; the one before waits for its end."""
    _call("unshare", _NEWPID)
    child = os.fork()
    if child:
        os._exit(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _count_tasks(uid: int) -> int:
    """The threads of all processes of a user."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                count += len(os.listdir(process / "task"))
    return count


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _show(path: Path, root: Path) -> None:
    """Make a file or folder appear below a new root, at its place; symbolic links stay ones."""
    at = Path("/")
    for number, part in enumerate(path.parts[1:], 2):
        at /= part
        if at.is_symlink():
            link, aim = _below(root, at), os.readlink(at)
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(aim)
            there = os.path.normpath(at.parent.joinpath(aim, *path.parts[number:]))
            return _show(Path(there), root)
        if _below(root, at).is_mount():
            return None  # shown with a folder above it
    place = _below(root, path)
    if path.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(str(path), place, "", _MS_BIND | _MS_REC)
    return None


# seccomp

_NEVER = (
    "acct", "add_key", "bpf", "chroot", "delete_module", "finit_module", "fsconfig", "fsmount",
    "fsopen", "fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup",
    "ioprio_set", "kexec_load", "keyctl", "memfd_secret", "migrate_pages", "mount",
    "mount_setattr", "move_mount", "move_pages", "mq_open", "msgget", "name_to_handle_at",
    "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pidfd_open",
    "pidfd_send_signal", "pivot_root", "process_madvise", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "ptrace", "quotactl", "reboot", "request_key", "semget", "setns",
    "setpriority", "shmget", "swapoff", "swapon", "syslog", "umount2", "unshare", "userfaultfd",
)  # fmt: skip
_F_SETOWN, _F_SETOWN_EX = 8, 15


@dataclass(frozen=True)
class _Denied:
    """A system call that fails; with `value`, only where an argument is, is not or has it."""

    name: str
    error: int = errno.EPERM
    argument: int = 0
    test: str = ""  # "is", "is not", "has"
    value: int = 0


def _denied_calls(layers: Collection[str], gpu: float, loopback: bool) -> list[_Denied]:
    denied = [_Denied(name) for name in _NEVER]
    denied += [
        _Denied("clone3", errno.ENOSYS),  # its flags cannot be seen; the C library then uses clone
        _Denied("clone", argument=0, test="has", value=_NEW_ANY),
        _Denied("prctl", argument=0, test="is", value=_PR_SET_PDEATHSIG),
    ]
    if not gpu:
        denied.append(_Denied("memfd_create"))  # memory that no limit counts
    if "view" in layers and not loopback:
        denied.append(_Denied("socket", errno.ENETUNREACH, 0, "is not", socket.AF_UNIX))
    elif not loopback:  # a socket in a file could lead to any service of the machine
        denied.append(_Denied("socket", errno.ENETUNREACH))
    if "processes" not in layers:
        own = os.getpid()
        denied += [
            *(_Denied(name) for name in _ON_OTHERS),
            *(_Denied(name, argument=0, test="is not", value=own) for name in _SIGNALS),
            _Denied("prlimit64", argument=0, test="is not", value=0),
            _Denied("fcntl", argument=1, test="is", value=_F_SETOWN),
            _Denied("fcntl", argument=1, test="is", value=_F_SETOWN_EX),
        ]
    return denied


_ON_OTHERS = (
    "sched_setattr", "sched_setparam", "sched_setscheduler", "setpgid", "setsid", "tkill"
)  # fmt: skip
_SIGNALS = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_LOAD, _RETURN, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_BITS = 0x20, 0x06, 0x15, 0x35, 0x45
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SECCOMP_MODE_FILTER = 2


def _filter_calls(denied: Iterable[_Denied]) -> None:
    """Have the kernel refuse system calls from now on, here and in every child."""
    column, machine = _MACHINES[platform.machine()]
    program = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),  # calls as of a 32-bit process have other numbers
        (_LOAD, 0, 0, 0),
    ]
    if column == 0:
        program += [(_JUMP_GREATER, 0, 1, 0x40000000), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    jumps = {
        "is": (_JUMP_EQUAL, 0, 1),
        "is not": (_JUMP_EQUAL, 1, 0),
        "has": (_JUMP_BITS, 0, 1),
    }
    for rule in denied:
        number, fail = _NUMBERS[rule.name][column], (_RETURN, 0, 0, _FAIL | rule.error)
        if not rule.test:
            program += [(_JUMP_EQUAL, 0, 1, number), fail]
            continue
        program += [
            (_JUMP_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, 16 + 8 * rule.argument),
            (*jumps[rule.test], rule.value),
            fail,
            (_LOAD, 0, 0, 0),
        ]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header)


# --- trying ---------------------------------------------------------------------------------------


def working(wanted: Iterable[str], bounds: Bounds, scratch: Path) -> frozenset[str]:
    """Those of the wanted layers that work here; to be called before any thread starts."""
    if sys.platform != "linux":
        return frozenset()
    os.chmod(scratch, 0o711)  # workers, of another user, pass through to their own folders
    return frozenset(name for name in wanted if _works(name, bounds, scratch))


def _works(layer: str, bounds: Bounds, scratch: Path) -> bool:
    """Whether a process that is confined by this layer alone comes to its end."""
    child = os.fork()
    if not child:
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(dir=scratch))
            sandbox = Sandbox(frozenset([layer]), bounds, folder)
            sandbox.enter()
            sandbox.shut()
            folder = sandbox.new_folder(0)
            grandchild = sandbox.fork()
            if not grandchild:
                sandbox.confine(folder)
                os._exit(0)
            os._exit(int(os.waitpid(grandchild, 0)[1] != 0))
        os._exit(1)
    works = os.waitpid(child, 0)[1] == 0
    for folder in scratch.iterdir():
        shutil.rmtree(folder)
    return works


def run(command: Iterable[str], folder: Path, home: Path, seconds: float) -> str:
    """Run a program in a sandbox in which only `folder` can be written; its output is dropped.

    Args:
        home: the folder of the package `course`.
    Returns:
        the bound that it broke, as a sentence; "" where it came to its end.
    Raises:
        SandboxError: this machine has not what it takes.
        subprocess.TimeoutExpired: it takes longer; all that it started is ended.
    """
    if not available() >= _FOR_PROGRAMS:
        raise SandboxError("This machine cannot isolate a whole notebook; see `autograder doctor`.")
    with tempfile.TemporaryDirectory() as scratch:
        places = map(str, (scratch, folder, home))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, "run", *places, *command],
            cwd=folder,
            env={**environment(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        watch, until = Watch(process.pid, BOUNDS, folder), time.monotonic() + seconds
        try:
            while process.poll() is None:
                if reason := watch.excess():
                    return reason
                if time.monotonic() > until:
                    raise subprocess.TimeoutExpired(process.args, seconds)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EVERY)
        finally:
            process.kill()
            process.wait()
    return ""


def _prefer(home: Path) -> None:
    """Have `course` come from there, in this process and all that it starts.

    Only now, since `autograder` itself must be the one that sent for it.
    """
    sys.path.insert(0, str(home))
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, dict.fromkeys([home, _HOME])))


def _become(scratch: Path, folder: Path, home: Path, command: list[str]) -> None:
    """Confine this process and replace it by a program."""
    _prefer(home)
    sandbox = Sandbox(working(LAYERS, BOUNDS, scratch), BOUNDS, scratch, folder, home)
    require(sandbox.layers)
    sandbox.enter()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sandbox.new_folder(0)
    sandbox.shut()
    child = sandbox.fork()
    if not child:
        sandbox.confine(folder)
        os.execvp(command[0], command)
    os.waitpid(child, 0)


def main() -> None:
    """Try the layers; then be a zygote, run a program, or say which of them work."""
    if len(sys.argv) < 2:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(sorted(working(LAYERS, Bounds(), Path(folder)))))
        return
    if sys.argv[1] == "run":
        _become(*map(Path, sys.argv[2:5]), sys.argv[5:])
        return
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(control.recv(1 << 16))
    bounds, scratch = Bounds(**settings["bounds"]), Path(settings["scratch"])
    home = Path(settings["home"])
    _prefer(home)
    layers = working(settings["layers"], bounds, scratch)
    sandbox = Sandbox(layers, bounds, scratch, home=home)
    sandbox.enter()
    # Only now, since a thread of torch's would keep this process where it is.
    from autograder import worker

    worker.main(control, sandbox, settings["imports"])


if __name__ == "__main__":
    # The student's namespace becomes `__main__`, so this code must live under its own name.
    import autograder.sandbox

    autograder.sandbox.main()
