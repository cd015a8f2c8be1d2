"""Starts programs and ends all of them, whatever happens to this one."""
import atexit
import ctypes
import os
import signal
import socket
import subprocess
import time

_PR_SET_PDEATHSIG = 1
_running = []


class Failed(Exception):
    """Something that the bench needs did not happen."""


def free_port():
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=30, what="a condition"):
    """Calls `condition` until it returns something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s in vain: {what}")
        time.sleep(0.05)


class Program:
    """A program that runs until it is stopped. Its output is appended to a file."""

    def __init__(self, name, command, log, stop_signal=signal.SIGTERM, **options):
        self.name, self.command, self.log = name, command, log
        self.stop_signal, self.options = stop_signal, options
        self.child = None

    def start(self):
        """Starts it, unless it runs already."""
        if self.is_running():
            return self
        libc = ctypes.CDLL(None)

        def end_with_parent():
            libc.prctl(_PR_SET_PDEATHSIG, self.stop_signal)

        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                preexec_fn=end_with_parent, start_new_session=True, **self.options)
        _running.append(self)
        return self

    def is_running(self):
        return self.child is not None and self.child.poll() is None

    def stop(self, seconds=40):
        """Asks it to end and waits; kills it if it does not end in time. Returns the exit code."""
        if not self.is_running():
            return None if self.child is None else self.child.returncode
        self.child.send_signal(self.stop_signal)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {seconds} s") from None

    def kill(self, with_signal=signal.SIGKILL):
        """Ends it at once, as a crash does."""
        if self.is_running():
            self.child.send_signal(with_signal)
            self.child.wait(60)

    def tail(self, lines=15):
        """The last lines of its output."""
        with open(self.log, errors="replace") as output:
            return "".join(output.readlines()[-lines:])


@atexit.register
def end_all():
    """Ends every program that is still running, the youngest first."""
    for program in reversed(_running):
        try:
            program.stop(15)
        except Failed:
            pass
    _running.clear()


def run(*command, **options):
    """Runs a command to its end. Fails with its output if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        raise Failed(f"{' '.join(command[:4])}: exit code {done.returncode}\n{done.stdout.decode()[-2000:]}")
    return done.stdout.decode()


def end_on_signals():
    """SIGTERM and SIGHUP end this program in the orderly way."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(_orderly()))


def _orderly():
    end_all()
    return 143
