"""Reading ahead: the same results in the same order, while the caller works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Wanted = TypeVar("Wanted")
Found = TypeVar("Found")


def read_ahead(
    read: Callable[[Wanted], Found], wanted: Iterable[Wanted], *, workers: int, each: int = 2
) -> Generator[Found, None, None]:
    """``read`` of everything that is wanted, in order.

    Args:
        workers: Threads that read; 0 reads each thing when it is asked for.
        each: Things that each thread reads ahead.
    """
    if not workers:
        yield from map(read, wanted)
        return
    waiting: deque[Future[Found]] = deque()
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
