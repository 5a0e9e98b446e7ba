"""The first code in a sandboxed process: sets the limits, runs the program, says how it ended.

Started as `python bootstrap.py ORDER VERDICT` with the numbers of two descriptors.
It stands alone: the standard library is all there is, and imports cost time at every
run. The order comes in `marshal`'s form, which the same interpreter wrote.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import marshal
import os
import resource
import sys
import types

CONTEXT, CODE, TESTS = "<context>", "<answer>", "<tests>"
STARTED = b"started\n"
WORDS = ("finished", "failed", "raised", "exited", "out_of_memory")


def main() -> None:
    """Obey the order."""
    order_fd, verdict_fd = (int(argument) for argument in sys.argv[1:])
    with open(order_fd, "rb") as file:
        order = marshal.load(file)
    os.set_inheritable(verdict_fd, False)
    become(order["user"])
    set_limits(order)
    # Made now: later there may be no memory left to make them.
    words = {word: f"{order['token']} {word}\n".encode() for word in WORDS}
    run(order["parts"], order["name"], verdict_fd, words)


def become(user: int | None) -> None:
    """Give up the present user for good."""
    if user is None:
        return
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def set_limits(order: dict[str, int]) -> None:
    """Lower the limits for good; as another user, since threads are counted by user."""
    limits = {
        resource.RLIMIT_AS: order["memory"],
        resource.RLIMIT_CPU: order["cpu"],
        resource.RLIMIT_FSIZE: order["files"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if order["threads"]:
        limits[resource.RLIMIT_NPROC] = order["threads"]
    for limit, value in limits.items():
        # What was inherited cannot be raised.
        hard = resource.getrlimit(limit)[1]
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lower, lower))
    if order["first_to_go"]:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")


def run(parts: list[tuple[str, str]], name: str, verdict_fd: int, words: dict[str, bytes]) -> None:
    """Run the parts in one module and end the process."""
    for word in ("exit", "quit"):
        # Programs expect them; the module that brings them is left out for speed.
        setattr(builtins, word, _sitebuiltins.Quitter(word, "Ctrl-D (i.e. EOF)"))
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.argv = [name]
    script = name == "__main__"
    # What the program finds in `os` later may be its own.
    write, leave = os.write, os._exit
    write(verdict_fd, STARTED)
    try:
        for label, source in parts:
            exec(compile(source, label, "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        write(verdict_fd, words["exited"])
        if script:
            raise
        leave(1)
    except BaseException as error:
        write(verdict_fd, words[word_for(error)])
        module.__dict__.clear()
        tell(error)
        leave(1)
    write(verdict_fd, words["finished"])
    if not script:
        leave(0)


def word_for(error: BaseException) -> str:
    """What an exception says of the program."""
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, AssertionError) and raised_in(error) == TESTS:
        return "failed"
    return "raised"


def raised_in(error: BaseException) -> str:
    """The part whose line raised, itself or in the library that it called."""
    part, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        part = file if file in (CONTEXT, CODE, TESTS) else part
        trace = trace.tb_next
    return part


def tell(error: BaseException) -> None:
    """Write the error as Python would, without our own lines."""
    try:
        trace = error.__traceback__
        error = error.with_traceback(trace and trace.tb_next)
        sys.__excepthook__(type(error), error, error.__traceback__)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        # The text is a help for people; the verdict is out already.
        return


if __name__ == "__main__":
    main()
