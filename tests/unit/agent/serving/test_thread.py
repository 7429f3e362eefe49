"""The inference thread: order, failures, callers that leave."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.serving.thread import InferenceThread

pytestmark = pytest.mark.agent


def test_jobs_run_in_order_on_one_thread_and_the_rest_after_the_answer() -> None:
    done: list[object] = []

    async def story() -> None:
        thread = InferenceThread()
        names = await asyncio.gather(
            *(
                thread.run(
                    lambda i=i: (done.append(i), threading.current_thread().name)[1],
                    after=lambda name, i=i: done.append(f"after {i} on {name}"),
                )
                for i in range(3)
            )
        )
        await thread.run(lambda: None)
        assert set(names) == {"inference"}
        assert done == [step for i in range(3) for step in (i, f"after {i} on inference")]
        assert thread.pending == 0
        thread.close()

    asyncio.run(story())


def test_failures_reach_the_caller_and_the_thread_goes_on(caplog) -> None:
    async def story() -> None:
        thread = InferenceThread()
        with pytest.raises(KeyError):
            await thread.run(lambda: {}["x"], after=lambda _: pytest.fail("must not run"))
        await thread.run(lambda: None, after=lambda _: {}["y"])
        assert await thread.run(lambda: 7) == 7
        assert "left to do has failed" in caplog.text
        thread.close()

    asyncio.run(story())


def test_a_caller_that_leaves_is_counted_until_its_job_ends() -> None:
    async def story() -> None:
        thread = InferenceThread()
        gate, begun = threading.Event(), threading.Event()
        task = asyncio.create_task(thread.run(lambda: (begun.set(), gate.wait(20))))
        await asyncio.to_thread(begun.wait, 20)
        assert thread.busy_s > 0
        waiting = asyncio.create_task(thread.run(lambda: 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert thread.pending == 2
        gate.set()
        assert await waiting == 1
        await asyncio.sleep(0)
        assert thread.pending == 0
        thread.close()

    asyncio.run(story())
