"""Reading ahead: the same results in the same order, while the caller works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], wanted: Iterable[Item], *, workers: int, each: int = 2
) -> Generator[Result, None, None]:
    """``read`` of every requested item, in order.

    Args:
        workers: Threads that read; 0 reads each item on request.
        each: Items that each thread reads ahead.
    """
    if not workers:
        yield from map(read, wanted)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ptycho-reader") as pool:
        try:
            for one in wanted:
                waiting.append(pool.submit(read, one))
                if len(waiting) > workers * each:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
