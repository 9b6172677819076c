"""A function of many items in processes of their own, each with one thread: on a CPU, networks on small images gain
more from a core each than from all cores together."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from gnl.node_apps.privileges import die_with_parent
from gnl.topologies.errors import MachineError

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Items and what `function`, which can be pickled, makes of them, in the order in which they are done.

    One worker works in this process. Errors of `function` are raised here, and end all workers; so does an interrupt.
    MachineError if a worker is killed.
    """
    if workers == 1:
        yield from ((item, function(item)) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(1, len(items))), context, _prepare, (os.getpid(),)) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for done in as_completed(futures):
                yield futures[done], done.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise MachineError("a worker was killed: is the memory full? Try gnl curves --workers 1") from error
            raise


def _prepare(parent_pid: int) -> None:
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    os.environ["OMP_NUM_THREADS"] = "1"  # the tensor library is not loaded yet, and reads it
