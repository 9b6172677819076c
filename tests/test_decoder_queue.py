"""The decoder service's queue: bounds, fair batches, and who is blamed when the worker dies."""

from gnl.node_apps.decoder_frames import Submission
from gnl.node_apps.decoder_queue import DecodeQueue
from hypothesis import given, settings
from hypothesis import strategies as st


def ask(number, codec=1, size_bytes=10):
    return Submission(number, codec, 0, "raw", (bytes(size_bytes),))


def queue_of(*submissions, client="a", **bounds):
    queue = DecodeQueue(**{"max_items": 100, "max_bytes": 10_000, "max_batch": 4, **bounds})
    assert all(queue.submit(client, submission) for submission in submissions)
    return queue


def ids(jobs):
    return [job.submission.request_id for job in jobs]


def finish(queue, jobs):
    assert [queue.answered(job.number) for job in jobs] == jobs


def test_bounds_on_items_and_bytes():
    queue = queue_of(ask(0), ask(1), max_items=2)
    assert not queue.submit("a", ask(2))
    queue.next_batch()
    assert queue.submit("a", ask(3))
    queue = queue_of(ask(0, size_bytes=60), max_bytes=100)
    assert not queue.submit("b", ask(1, size_bytes=41)) and queue.submit("b", ask(2, size_bytes=40))
    assert (queue.waiting_items, queue.waiting_bytes) == (2, 100)


def test_batches_are_of_one_codec_and_of_bounded_size():
    queue = queue_of(*(ask(n, codec=1) for n in range(6)), ask(6, codec=2), ask(7, codec=1))
    assert [ids(queue.next_batch()) for _ in range(5)] == [[0, 1, 2, 3], [4, 5], [6], [7], []]


def test_clients_are_served_in_turn_and_one_that_does_not_read_waits():
    queue = queue_of(*(ask(n) for n in range(6)), client="greedy")
    for n in (100, 101):
        queue.submit("modest", ask(n))
    assert sorted(ids(queue.next_batch())) == [0, 1, 100, 101]
    assert ids(queue.next_batch(lambda client: client != "greedy")) == []
    assert ids(queue.next_batch()) == [2, 3, 4, 5]


def test_who_was_served_goes_behind_the_others():
    queue = queue_of(*(ask(n) for n in range(3)), client="greedy", max_batch=1)
    queue.submit("modest", ask(100))
    assert [ids(queue.next_batch()) for _ in range(4)] == [[0], [100], [1], [2]]


def test_worker_dies_in_a_batch_then_each_prompt_is_tried_alone_and_only_the_killer_fails():
    queue = queue_of(*(ask(n) for n in range(6)))
    first, second = queue.next_batch(), queue.next_batch()
    finish(queue, first[:1])
    assert queue.worker_died(hung=False) == []
    assert queue.waiting_items == 5
    for expected in (1, 2):
        alone = queue.next_batch()
        assert ids(alone) == [expected] and queue.next_batch() == [], "nothing runs behind a suspect"
        finish(queue, alone)
    for attempt in range(2):
        assert ids(queue.next_batch()) == [3]
        failed = queue.worker_died(hung=False)
        assert ids(failed) == ([3] if attempt else [])
    assert ids(queue.next_batch()) == ids(second) == [4, 5], "the batch behind is not blamed"


def test_a_prompt_that_hangs_alone_fails_at_once():
    queue = queue_of(ask(0), ask(1))
    queue.next_batch()
    assert queue.worker_died(hung=True) == []
    assert ids(queue.next_batch()) == [0]
    assert ids(queue.worker_died(hung=True)) == [0]
    assert ids(queue.next_batch()) == [1]


def test_idle_worker_death_blames_nobody():
    queue = queue_of()
    assert queue.worker_died(hung=False) == []


def test_answers_nobody_asked_for_are_refused():
    queue = queue_of(*(ask(n) for n in range(5)))
    first, second = queue.next_batch(), queue.next_batch()
    assert queue.answered(12345) is None
    assert queue.answered(second[0].number) is None, "the worker works in order"
    finish(queue, first)
    assert queue.answered(first[0].number) is None, "an answer counts once"
    finish(queue, second)


def test_dropping_a_client_frees_its_room_and_leaves_the_others():
    queue = queue_of(*(ask(n) for n in range(5)), max_batch=2)
    queue.submit("b", ask(50))
    running = queue.next_batch(lambda client: client == "a")
    assert queue.drop_client("a") == 5
    assert all(job.cancelled for job in running)
    assert queue.worker_died(hung=False) == [], "nobody waits for what the dropped client had running"
    assert (queue.waiting_items, queue.waiting_bytes) == (1, 10)
    assert ids(queue.next_batch()) == [50]


@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 29)))
@settings(deadline=None, max_examples=60)
def test_every_prompt_is_answered_once_whatever_kills_the_worker(rng, killers):
    queue = DecodeQueue(1000, 1 << 20, rng.randint(1, 8))
    for number in range(30):
        queue.submit(rng.choice("abc"), ask(number, codec=rng.randint(1, 2)))
    decoded, failed, running = [], [], []
    for _ in range(1000):
        while queue.running_batches < 2 and (batch := queue.next_batch()):
            running.append(batch)
        if not running:
            break
        for job in running[0]:
            if job.submission.request_id in killers:
                failed += ids(queue.worker_died(hung=rng.random() < 0.3))
                running.clear()
                break
            decoded += ids([queue.answered(job.number)])
        else:
            running.pop(0)
    assert sorted(decoded) == sorted(set(range(30)) - killers)
    assert sorted(failed) == sorted(killers)
    assert queue.waiting_items == queue.waiting_bytes == queue.running_items == 0
