"""The decoder service's queue: bounds, batches, and what becomes of prompts when the worker dies. No I/O, no clock.

    submit -> (waiting, a queue a client) -> next_batch -> (running, in the worker) -> answered
                     ^                                          |
                     +------ not begun, or to be tried alone <--+ worker_died -> failures

The worker decodes batches in the order they were given, so when it dies the first unfinished batch is to blame. Its
prompts are then tried alone. One that kills the worker alone a second time, or hangs it alone once, has failed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .decoder_frames import Submission

CRASHES_ALONE = 2


@dataclass(slots=True, eq=False)
class Job:
    """One prompt on its way: whose it is, its number in the worker, and how often it killed the worker alone."""

    client: Hashable
    submission: Submission
    number: int = -1
    crashes_alone: int = 0
    cancelled: bool = False

    @property
    def codec_key(self) -> tuple[int, int]:
        return self.submission.codec, self.submission.weights


class DecodeQueue:
    """Jobs that wait and jobs that the worker has. At most `max_items` of together `max_bytes` wait."""

    def __init__(self, max_items: int, max_bytes: int, max_batch: int) -> None:
        self.max_items, self.max_bytes, self.max_batch = max_items, max_bytes, max_batch
        self.waiting_items = self.waiting_bytes = 0
        self._waiting: OrderedDict[Hashable, deque[Job]] = OrderedDict()
        self._alone: deque[Job] = deque()
        self._running: deque[dict[int, Job]] = deque()
        self._next_number = 1  # a worker's frames about no job carry 0

    @property
    def running_batches(self) -> int:
        return len(self._running)

    @property
    def running_items(self) -> int:
        return sum(map(len, self._running))

    def submit(self, client: Hashable, submission: Submission) -> bool:
        """Queue a prompt; False where the bounds leave no room."""
        if self.waiting_items >= self.max_items or self.waiting_bytes + submission.size_bytes > self.max_bytes:
            return False
        self._count(submission, 1)
        self._waiting.setdefault(client, deque()).append(Job(client, submission))
        return True

    def next_batch(self, ready: Callable[[Hashable], bool] = lambda client: True) -> list[Job]:
        """Take the next jobs for the worker, all of one codec: clients in turn, those only that are `ready`.

        A prompt that was in a fatal batch goes alone, with nothing behind it. Empty where nothing is to be done now.
        """
        if self._alone:
            if self._running:
                return []
            batch = [self._alone.popleft()]
        else:
            batch = self._of_one_codec([client for client in self._waiting if ready(client)])
        for job in batch:
            self._count(job.submission, -1)
            job.number = self._next_number
            self._next_number += 1
        if batch:
            self._running.append({job.number: job for job in batch})
        return batch

    def answered(self, number: int) -> Job | None:
        """Take a running job off, as answered by the worker; None where the worker has no such job."""
        if not self._running or number not in self._running[0]:
            return None
        job = self._running[0].pop(number)
        if not self._running[0]:
            self._running.popleft()
        return job

    def worker_died(self, hung: bool) -> list[Job]:
        """Put back what the worker had, and return the jobs that are to be answered as failed."""
        if not self._running:
            return []
        blamed = list(self._running.popleft().values())
        failed = []
        for job in blamed:
            job.crashes_alone += len(blamed) == 1
            if len(blamed) == 1 and (hung or job.crashes_alone >= CRASHES_ALONE):
                failed.append(job)
            elif not job.cancelled:
                self._count(job.submission, 1)
                self._alone.append(job)
        for batch in reversed(self._running):
            for job in reversed(batch.values()):
                if not job.cancelled:
                    self._count(job.submission, 1)
                    self._waiting.setdefault(job.client, deque()).appendleft(job)
        self._running.clear()
        return failed

    def drop_client(self, client: Hashable) -> int:
        """Forget a client's jobs and return how many; those in the worker are decoded for nobody."""
        dropped = list(self._waiting.pop(client, ()))
        dropped += [job for job in self._alone if job.client is client]
        self._alone = deque(job for job in self._alone if job.client is not client)
        for job in dropped:
            self._count(job.submission, -1)
        running = [job for batch in self._running for job in batch.values() if job.client is client]
        for job in running:
            job.cancelled = True
        return len(dropped) + len(running)

    def _of_one_codec(self, clients: list[Hashable]) -> list[Job]:
        if not clients:
            return []
        codec_key = self._waiting[clients[0]][0].codec_key
        batch: list[Job] = []
        while clients and len(batch) < self.max_batch:
            for client in list(clients):
                jobs = self._waiting.get(client)
                if not jobs or jobs[0].codec_key != codec_key:
                    clients.remove(client)
                elif len(batch) < self.max_batch:
                    batch.append(jobs.popleft())
                    # Whoever was served goes behind the others; who has nothing more leaves.
                    self._waiting.move_to_end(client)
                    if not jobs:
                        del self._waiting[client]
        return batch

    def _count(self, submission: Submission, sign: int) -> None:
        self.waiting_items += sign
        self.waiting_bytes += sign * submission.size_bytes
