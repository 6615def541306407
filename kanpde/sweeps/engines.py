"""Where the cells of a sweep run: processes of this machine, or tasks of a Ray cluster."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import available_bytes
from kanpde.sweeps.cells import INTERRUPTED, Cell

PAUSE = 0.1  # seconds between two looks at a process
SECONDS = 5  # for an answer of a cluster
SHARE = 0.9  # of the memory that is free


class Engine:
    """Begins cells, and says with which code each has ended.

    Attributes:
        jobs: cells at a time.
        threads: of each.
    """

    jobs: int
    threads: int

    def __str__(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} does not say what it is")

    def start(self, cell: Cell):
        """Begin a cell; what is returned stands for it."""
        raise NotImplementedError(f"{type(self).__name__} starts nothing")

    def code(self, handle) -> int | None:
        """The exit code, less than 0 of a signal; None: it runs."""
        raise NotImplementedError(f"{type(self).__name__} knows no codes")

    def stop(self, handles: Collection) -> None:
        """Let these store their state, and wait for their end."""
        raise NotImplementedError(f"{type(self).__name__} stops nothing")

    def close(self) -> None:
        """Give back what it has taken."""


class Local(Engine):
    """Processes of this machine: as many as it has cores, and as its free memory holds; cells on a GPU one by one."""

    def __init__(self, cells: Sequence[Cell], jobs: int | None = None):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        most = max((cell.bytes for cell in cells), default=1)
        fitting = 1 if any(cell.gpu for cell in cells) else int(min(cores, SHARE * available_bytes() / most))
        self.jobs = max(1, min(jobs or fitting, len(cells)))
        self.threads = max(1, cores // self.jobs)

    def __str__(self) -> str:
        return f"{self.jobs} at a time, {self.threads} thread{'s' * (self.threads > 1)} each"

    def start(self, cell: Cell) -> subprocess.Popen:
        return program(cell.command(), cell.log, self.threads)

    def code(self, handle: subprocess.Popen) -> int | None:
        return handle.poll()

    def stop(self, handles: Collection[subprocess.Popen]) -> None:
        """Ctrl-C, and once more each time that this is interrupted."""
        while any(process.poll() is None for process in handles):
            for process in handles:
                process.send_signal(signal.SIGINT)
            try:
                for process in handles:
                    process.wait()
            except KeyboardInterrupt:
                continue


def program(words: Sequence[str], log: Path, threads: int) -> subprocess.Popen:
    """Python with these words, its output appended to a log. Ctrl-C at the terminal is not for it, but for us."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with log.open("a", encoding="utf-8") as file:
        print(f"$ python {' '.join(words)}", file=file, flush=True)
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


class Cluster(Engine):
    """Tasks of a Ray cluster, whose machines share the folder of the sweep; without one, Ray is started here."""

    def __init__(self, cells: Sequence[Cell], jobs: int | None = None, address: str | None = None):
        try:
            import ray
        except ImportError:
            raise ConfigError("--engine ray: Ray is not installed: pip install 'kanpde[scale]'") from None
        self.ray = ray
        try:
            address = _answering(address or os.environ.get("RAY_ADDRESS"))
            ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--engine ray: {' '.join(str(error).split())}") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = int(sum(node.get("CPU", 0) for node in nodes))
        self.largest = max(node.get("memory", 0) for node in nodes)
        if any(cell.gpu for cell in cells) and not any(node.get("GPU") for node in nodes):
            self.close()
            raise ConfigError("--engine ray: cells are on a GPU, and the cluster has none")
        self.jobs = max(1, min(jobs or cores, len(cells)))
        self.threads = max(1, min(cores // self.jobs, *(int(node["CPU"]) for node in nodes if node.get("CPU"))))
        self.machines = len(nodes)

    def __str__(self) -> str:
        on = f"{self.machines} machine{'s' * (self.machines > 1)}"
        return f"{self.jobs} at a time on {on} of Ray, {self.threads} thread{'s' * (self.threads > 1)} each"

    def start(self, cell: Cell):
        needs = {"num_cpus": self.threads, "num_gpus": int(cell.gpu), "memory": min(cell.bytes, self.largest)}
        task = self.ray.remote(max_retries=0, **needs)(in_task)
        return task.remote(cell.command(), cell.log, self.threads, os.getcwd())

    def code(self, handle) -> int | None:
        done, _ = self.ray.wait([handle], timeout=0)
        return self._code(handle) if done else None

    def _code(self, handle) -> int:
        try:
            return self.ray.get(handle)
        except self.ray.exceptions.TaskCancelledError:
            return INTERRUPTED
        except self.ray.exceptions.RayError as error:  # a machine is lost, or its worker
            print(f"kanpde: Ray: {' '.join(str(error).split())}", file=sys.stderr)
            return 1

    def stop(self, handles: Collection) -> None:
        for handle in handles:
            self.ray.cancel(handle)
        for handle in handles:
            self._code(handle)

    def close(self) -> None:
        self.ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises OSError where host:port answers no connection, which Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        except (OSError, OverflowError) as error:
            raise OSError(f"there is no cluster at {address} ({error})") from None


def _answering(address: str | None) -> str | None:
    """The address for Ray; `local`, a cluster of our own, where the last of this machine has ended without `ray stop`.

    Raises:
        OSError: the cluster that is asked for does not answer, which Ray would try for minutes.
    """
    if address and address != "auto":
        _check_reachable(address)
        return address
    recorded = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        _check_reachable(recorded.read_text().strip())
    except FileNotFoundError:
        return address
    except OSError:
        if address:
            raise
        return "local"
    return address


def in_task(words: Sequence[str], log: Path, threads: int, folder: str) -> int:
    """The work of a task of Ray, which is cancelled by a KeyboardInterrupt: that is passed on."""
    os.chdir(folder)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a program inherits what Ray blocks
    try:
        process = program(words, log, threads)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        while process.poll() is None:
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
    return process.returncode
