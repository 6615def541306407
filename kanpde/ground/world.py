"""The processes of a run: which of them this one is, and the few things that they do together.

`torchrun` starts them and tells each its rank; `joined` makes a group of them. Of one process each operation below is
the identity. Sums, largest numbers and copies are the same bits in all processes.
"""

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count, groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kanpde.ground.errors import ConfigError

TIMEOUT = timedelta(seconds=45)  # after which a process that takes no part counts as lost
JOINING = timedelta(seconds=300)  # that processes may begin after one another
BEAT, SILENCE = 1.0, 20.0  # seconds between signs of life of the first process, and without one
POLL = 0.1  # seconds at most between two looks for it


class Lost(RuntimeError):
    """A process of the run is gone, or takes no part any more; one line."""


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: the number of this process; 0 leads: it alone writes files and prints.
        size: how many there are.
        local_rank: its number on its machine.
        backend: what carries their messages, `gloo` on CPUs, `nccl` between GPUs; "": there are none.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    backend: str = ""
    _store: Any = None
    _turns: Iterator[int] = field(default_factory=lambda: count(1), repr=False, compare=False)
    _gone: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @classmethod
    def of_torchrun(cls) -> "World":
        """What the environment says of this process; without torchrun it is alone.

        Raises:
            ConfigError: it says what cannot be.
        """
        if "MASTER_ADDR" not in os.environ:
            return ALONE
        given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        numbers = [int(text) if text.isdecimal() else -1 for text in given.values()]
        rank, size, local_rank = numbers
        if min(numbers) < 0 or rank >= size:
            stated = ", ".join(f"{name}={text!r:.20}" for name, text in given.items())
            raise ConfigError(f"environment: given {stated}; needed is 0 <= RANK < WORLD_SIZE, as torchrun sets them")
        return cls(rank, size, local_rank) if size > 1 else ALONE

    @classmethod
    def current(cls) -> "World":
        """Those that this process has `joined`; else it is alone."""
        return _CURRENT.get()

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def speaks(self) -> bool:
        """Whether it is for this process to say why the run ends: the first that asks.

        Where the machine that counts them is gone, one process of each of the others.
        """
        if self._store is None:
            return self.leads
        try:
            return self._store.add("spoken", 1) == 1
        except RuntimeError:
            return self.local_rank == 0

    # -----------------------------------------------------------------------------------------------------------
    # Shares

    def share(self, n: int) -> int:
        """How many of n points are those of this process: n / size, the remainder to the first ones."""
        return n // self.size + (self.rank < n % self.size)

    def total(self, n: int) -> int:
        """How many of n rows there are in all processes together: n, or where they are fewer n in each."""
        return n if n >= self.size else n * self.size

    def part(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of this process by their index; all where there are fewer than processes."""
        if self.alone or len(rows) < self.size:
            return rows
        start = len(rows) // self.size * self.rank + min(self.rank, len(rows) % self.size)
        return rows[start : start + self.share(len(rows))]

    # -----------------------------------------------------------------------------------------------------------
    # Together

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over the processes, in one message for each dtype."""
        return self._over(tensors, dist.all_reduce)

    def largest(self, t: Tensor) -> Tensor:
        """The largest of each number over the processes."""
        return self._over([t], partial(dist.all_reduce, op=dist.ReduceOp.MAX))[0]

    def of_first(self, t: Tensor) -> Tensor:
        """What the first process has."""
        return self._over([t], partial(dist.broadcast, src=0))[0]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of all processes, one after another; n may differ."""
        if self.alone:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        (counts,) = self.sum([counts])
        start = int(counts[: self.rank].sum())
        found = rows.new_zeros(int(counts.sum()), *rows.shape[1:])
        found[start : start + len(rows)] = rows.detach()
        return self.sum([found])[0]

    def to_first(self, rows: Tensor) -> Tensor | None:
        """The rows (n, ...) of all processes one after another, at the first process and on the CPU; elsewhere None.

        They come from one process after the other; the first alone holds them all.
        """
        mine = rows.detach().cpu().contiguous()
        if self.alone:
            return mine
        counts = self.collect(len(mine))
        with self._noticing():
            if not self.leads:
                dist.send(mine, 0)
                return None
            found = mine.new_empty(sum(counts), *mine.shape[1:])
            parts = found.split(counts)
            parts[0].copy_(mine)
            for rank in range(1, self.size):
                dist.recv(parts[rank], rank)
        return found

    def swap(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The last ones of the process before this one and the first ones of that after it; zeros where there is none.

        They are of one shape in all processes.
        """
        sent = [t.detach().cpu().contiguous() for t in (first, last)]
        found = [torch.zeros_like(t) for t in sent]
        there = [(k, rank) for k, rank in ((0, self.rank - 1), (1, self.rank + 1)) if 0 <= rank < self.size]
        messages = [
            dist.P2POp(op, t[k], rank) for k, rank in there for op, t in ((dist.isend, sent), (dist.irecv, found))
        ]
        if messages:
            with self._noticing():
                for work in dist.batch_isend_irecv(messages):
                    work.wait()
        before, after = (t.to(first.device) for t in found)
        return before, after

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether it is up in any of the processes, in one message."""
        if self.alone:
            return flags
        return tuple(self.largest(torch.tensor([float(flag) for flag in flags])).bool().tolist())

    def agree(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the sums of all tensors are the same numbers in all processes."""
        if self.alone:
            return True
        sums = torch.stack([t.detach().sum(dtype=torch.float64).nan_to_num() for t in tensors])
        high, low = self.largest(torch.stack([sums, -sums]))
        return torch.equal(high, -low)

    def collect(self, mine: Any) -> list:
        """An object of each process, plain values or tensors, by rank."""
        if self.alone:
            return [mine]
        found = [None] * self.size
        with self._noticing():
            dist.all_gather_object(found, mine)
        return found

    def first(self, work: Callable[[], Any]) -> Any:
        """What the first process finds, plain values or tensors, or its error; the others wait as long as it lives.

        Raises:
            Lost: the first process gives no sign of life any more. Else what `work` raises, in all processes.
        """
        if self.alone:
            return work()
        turn, found, error = next(self._turns), None, None
        if self.leads:
            try:
                found = work()
            except Exception as raised:
                error = raised
            with self._noticing():
                self._store.set("turn", str(turn))
        else:
            self._wait(turn)
        held = [(found, _portable(error))]
        with self._noticing():
            dist.broadcast_object_list(held, 0)
        if error is not None:
            raise error
        found, error = held[0]
        if error is not None:
            raise error
        return found

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """In the block the first process gives signs of life, whatever it is at work on."""
        ended = threading.Event()
        if not self.leads:
            yield
            return

        def beat():
            while not ended.is_set():
                with suppress(RuntimeError):
                    self._store.add("beat", 1)
                ended.wait(BEAT)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """What torch says of a process that is gone becomes one line."""
        try:
            yield
        except RuntimeError as error:  # of torch, those of its stores and backends too
            self._gone.set()
            if isinstance(error, Lost):
                raise
            raise Lost("a process of the run is lost: it has ended, or takes no part any more") from None

    @contextmanager
    def _ending_once(self) -> Iterator[None]:
        """In the block SIGTERM, by which torchrun ends those that a lost process leaves, does not break off their end.

        A process that has noticed writes what it has and says why, and ends by itself.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

        def end(number, frame):
            if not self._gone.is_set():
                signal.signal(number, former)
                os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def _wait(self, turn: int) -> None:
        """Until the first process has done its work of this number."""
        beat, since, pause = -1, time.monotonic(), POLL / 64
        with self._noticing():
            while int(self._store.get("turn")) < turn:
                if (now := self._store.add("beat", 0)) != beat:
                    beat, since = now, time.monotonic()
                if time.monotonic() - since > SILENCE:
                    raise Lost("the first process of the run is lost")
                time.sleep(pause)
                pause = min(2 * pause, POLL)

    def _over(self, tensors: Sequence[Tensor], message: Callable[[Tensor], Any]) -> list[Tensor]:
        """What a message that changes a tensor in place makes of each, in one for each dtype and device."""
        found = list(tensors)
        if self.alone:
            return found
        kind = lambda i: (str(found[i].dtype), found[i].device.type)
        for _, alike in groupby(sorted(range(len(found)), key=kind), kind):
            places = list(alike)
            flat = torch.cat([found[i].detach().reshape(-1) for i in places])
            with self._noticing():
                message(flat)
            parts = flat.split([found[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                found[i] = part.view(found[i].shape)
        return found


ALONE = World()
_CURRENT: ContextVar[World] = ContextVar("world", default=ALONE)


@contextmanager
def joined() -> Iterator[World]:
    """In the block this process is one of those that torchrun has started, and sends and receives their messages.

    A process has a GPU of its own where there are enough of them: `cuda` is that one.

    Raises:
        ConfigError: the environment says what cannot be. Lost: the others do not come.
    """
    world = World.of_torchrun()
    if world.alone:
        yield ALONE
        return
    gpus = torch.cuda.device_count()
    backend = "gloo" if gpus < int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) else "cpu:gloo,cuda:nccl"
    if gpus:
        torch.cuda.set_device(world.local_rank % gpus)
    # Its functions take the group that there is when they are imported, which the first step of an optimiser does, as
    # their default: that group's threads would outlive its end, and an exit that they are in the way of aborts.
    importlib.import_module("torch.distributed.nn.functional")
    with world._noticing():
        store, *_ = next(dist.rendezvous("env://", world.rank, world.size, timeout=JOINING))
        store = dist.PrefixStore("kanpde", store)
        store.add("turn", 0)
        dist.init_process_group(backend, timeout=TIMEOUT, world_size=world.size, rank=world.rank, store=store)
        dist.all_reduce(torch.zeros(1))  # all are there before one may go, and the store of the first with it
    world = replace(world, backend=backend, _store=store)
    token = _CURRENT.set(world)
    try:
        with world._beating(), world._ending_once():
            yield world
    finally:
        _CURRENT.reset(token)
        dist.destroy_process_group()


def _portable(error: Exception | None) -> Exception | None:
    """An error that can be sent: one of kanpde's own as it is, others by what they say."""
    if error is None or type(error).__module__.startswith("kanpde."):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
