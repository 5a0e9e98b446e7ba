"""Programs that try to do harm, by what has to become of them."""

from __future__ import annotations

CTYPES = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def _call(number: int, *arguments: str) -> str:
    """A system call on x86_64, past the C library; prints its error's number."""
    words = ", ".join(f"ctypes.c_long({argument})" for argument in (str(number), *arguments))
    return f"{CTYPES}libc.syscall({words})\nprint(ctypes.get_errno())"


# Each prints what it could do; nothing may be printed but errors' names.
REFUSED = {
    "fork-bomb": "import os\nwhile True: os.fork()",
    "forkpty": "import pty\npty.fork()",
    "subprocess": "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'pass'])",
    "multiprocessing": (
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()"
    ),
    "daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', 22))",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix-abstract": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0anything')",
    "unix-datagram": (
        "import socket\none, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "one.connect('/run/sandbox/socket')"
    ),
    "netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "import socket\nsocket.socket(socket.AF_VSOCK).connect((2, 1))",
    "shadow": "print(open('/etc/shadow').read())",
    "home": "import os\nprint(os.listdir(os.path.expanduser('~root')))\nopen('/root/.bashrc')",
    "environ": "print(open('/proc/1/environ').read())",
    "memory-of-first": "print(open('/proc/1/mem', 'rb').read(1))",
    "descriptors-of-first": "import os\nprint(os.listdir('/proc/1/fd'))",
    "socket-folder": "import os\nprint(os.listdir('/run/sandbox'))",
    "socket-removed": "import os\nos.unlink('/run/sandbox/socket')",
    "socket-folder-opened": "import os\nos.chmod('/run/sandbox', 0o777)",
    "write-library": "open(__import__('os').__file__, 'a')",
    "write-root": "open('/here', 'w')",
    "large-file": "f = open('/tmp/a', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "many-files": (
        "import itertools\n"
        "for n in itertools.count(): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))"
    ),
    "many-descriptors": "import os\nwhile True: os.dup(0)",
    "more-memory": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)"
    ),
    "limits-of-first": "import resource\nresource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))",
    "nice-first": "import os\nos.setpriority(os.PRIO_PROCESS, 1, 19)",
    "become-root": "import os\nos.setuid(0)",
    "chroot": "import os\nos.chroot('/tmp')",
    "shared-memory": (
        "from multiprocessing.shared_memory import SharedMemory\n"
        "while True: SharedMemory(create=True, size=1 << 30)"
    ),
    "memfd": "import os\nos.memfd_create('a')",
    "thread-bomb": (
        "import threading\n"
        "while True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    ),
    "deep-recursion": "def f(): f()\nf()",
}

# Past Python and past the C library: each prints 1, EPERM, but where it is said.
SYSTEM_CALLS = {
    "fork": _call(57),
    "vfork": _call(58),
    "clone": _call(56, "17", "0", "0", "0", "0"),
    "clone3": _call(435, "0", "0").replace("ctypes.get_errno()", "ctypes.get_errno() - 37"),
    "ptrace": _call(101, "16", "1", "0", "0"),
    "traced-by-parent": _call(101, "0", "0", "0", "0"),
    "read-memory-of-first": _call(310, "1", "0", "0", "0", "0", "0"),
    "user-namespace": _call(272, "0x10000000"),
    "shmget": _call(29, "0", "1 << 30", "0o1777"),
    "msgget": _call(68, "0", "0o1777"),
    "io-uring": _call(425, "8", "0"),
    "bpf": _call(321, "0", "0", "0"),
    "keyctl": _call(250, "0", "0", "0", "0", "0"),
    "second-numbers": _call(0x40000000 + 39),
    "pidfd-of-first": _call(434, "1", "0"),
}

# Harmless to others; what counts is that it is over, and that it was no success.
KILLED = {
    "abort": "import os\nos.abort()",
    "kill-itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "stack": (
        "import sys, threading\nsys.setrecursionlimit(10**9)\n"
        "class A:\n    def __getattr__(self, name): return getattr(self, name + 'a')\n"
        "A().a"
    ),
    "null-pointer": "import ctypes\nctypes.string_at(0)",
}

# Nothing comes of them in any time.
ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "deaf": (
        "import signal\n"
        "for n in set(signal.valid_signals()) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
        "while True: pass"
    ),
    "threads": (
        "import threading\n"
        "def spin():\n    while True: pass\n"
        "for _ in range(4): threading.Thread(target=spin).start()"
    ),
    "silent": "import os\nfor fd in range(64):\n"
    "    try: os.close(fd)\n    except OSError: pass\nwhile True: pass",
    "at-exit": "import atexit\n@atexit.register\ndef f():\n    while True: pass",
    "kill-others": (
        "import os, signal\n"
        "for pid in (os.getppid(), 1, -1):\n"
        "    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT):\n"
        "        try: os.kill(pid, number)\n        except OSError: pass\n"
        "while True: pass"
    ),
    "files": (
        "import os\n"
        "for n in range(400):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\n"
        "    open('f', 'w').close()\n    os.symlink('..', 's')\n"
        "os.mkdir('closed', 0)\n"
        "while True: pass"
    ),
}

# In the place of a tested function; `check` wants 42 of it.
CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "exit-in-function": "def f():\n    raise SystemExit",
    "leave": "import os\nos._exit(0)",
    "leave-in-function": "import os\ndef f():\n    os._exit(0)",
    "other-program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-S', '-c', ''])",
    "own-check": "def check(candidate): pass\ndef f(): return 41",
    "at-exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(): return 41",
    "replaced-exit": "import os\nos._exit = print\nos.write = print\ndef f(): return 41",
    "no-assertion": "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(): return 41",
    "hook": "import sys\nsys.excepthook = lambda *_: None\ndef f(): return 41",
    "verdict": (
        "import os\n"
        "for fd in range(3, 64):\n"
        "    for text in (b'finished\\n', b'started\\nfinished\\n', b'0' * 32 + b' finished\\n'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\n"
        "os._exit(0)"
    ),
    "verdict-flooded": (
        "import os\n"
        "while True:\n"
        "    for fd in range(3, 16):\n"
        "        try: os.write(fd, b'finished\\n' * 1000)\n        except OSError: pass\n"
    ),
    "order-read-again": (
        "import os\n"
        "for fd in range(3, 64):\n"
        "    try: text = os.pread(fd, 10000, 0)\n    except OSError: continue\n"
        "    os.write(2, text)\n"
        "os._exit(0)"
    ),
    "recursion": "def f(): return f()",
    "memory": "def f(): return bytearray(1 << 40)",
    "thread": "import threading, os\nthreading.Thread(target=os._exit, args=(0,)).start()\n"
    "def f():\n    while True: pass",
    "own-assertion": "def f():\n    assert False",
}
