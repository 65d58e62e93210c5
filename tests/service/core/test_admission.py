"""Who is let in, who waits, and whose work is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from service import admission as module
from service import deadlines
from service.admission import Admission, House
from service.deadlines import Deadline, working_under
from service.errors import ClientLeftError, DeadlineExceededError, OverloadedError
from service.telemetry import Telemetry


def admission(**bounds: int) -> Admission:
    bounds = {"most": 8, "threads": 1, "waiting": 8} | bounds
    return Admission("recognize", Telemetry(), House(bounds["threads"]), **bounds)


class Client:
    """Waits until it `leaves`; its deadline is `within_s` away."""

    def __init__(self, within_s: float = 60) -> None:
        self._gone = asyncio.Event()
        self.deadline = Deadline(within_s, self._left)

    async def _left(self) -> None:
        await self._gone.wait()

    def leaves(self) -> None:
        self._gone.set()

    async def asks(self, house: Admission, work: Callable[[], str]) -> str:
        with working_under(self.deadline), house.admit():
            return await house.run(work)


class Work:
    """Goes on until it is told to end; looks at its deadline then, as the next stage would."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.end = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> str:
        self.begun.set()
        assert self.end.wait(30)
        try:
            deadlines.check()
        except Exception as error:
            self.error = error
            raise
        return "done"


async def begun(work: Work) -> None:
    assert await asyncio.to_thread(work.begun.wait, 30)


def test_a_full_house_refuses() -> None:
    async def story() -> None:
        house, work = admission(most=1), Work()
        first = asyncio.create_task(Client().asks(house, work))
        await begun(work)
        with pytest.raises(OverloadedError):
            await Client().asks(house, work)
        work.end.set()
        assert await first == "done"
        assert await Client().asks(house, work) == "done"

    asyncio.run(story())


def test_whose_body_came_to_a_full_queue_is_refused() -> None:
    """It was let in while there was room, and others were faster."""

    async def story() -> None:
        house, work = admission(waiting=0), Work()
        with house.admit():
            first = asyncio.create_task(Client().asks(house, work))
            await begun(work)
            with pytest.raises(OverloadedError):
                await house.run(work)
        with pytest.raises(OverloadedError), house.admit():
            pass
        work.end.set()
        await first

    asyncio.run(story())


def test_kinds_share_the_threads_of_their_house() -> None:
    async def story() -> None:
        house, telemetry = House(2), Telemetry()
        bounds = {"most": 8, "waiting": 0}
        recognitions = Admission("recognize", telemetry, house, threads=2, **bounds)
        posts = Admission("gallery", telemetry, house, threads=1, **bounds)
        hangs, works = Work(), Work()
        post = asyncio.create_task(Client().asks(posts, hangs))
        await begun(hangs)
        with pytest.raises(OverloadedError):
            await Client().asks(posts, lambda: "one thread is never theirs")
        recognition = asyncio.create_task(Client().asks(recognitions, works))
        await begun(works)
        with pytest.raises(OverloadedError):
            await Client().asks(recognitions, lambda: "the other is taken")
        works.end.set()
        assert await recognition == "done"
        assert await Client().asks(recognitions, lambda: "a thread") == "a thread"
        hangs.end.set()
        assert await post == "done"
        assert (house.working, house.free._value) == (0, 2)

    asyncio.run(story())


def test_spare_threads_take_nobody_in_while_nobody_may_wait() -> None:
    async def story() -> None:
        house, telemetry = House(3, spare=1), Telemetry()
        bounds = {"most": 8, "waiting": 0}
        recognitions = Admission("recognize", telemetry, house, threads=1, **bounds)
        posts = Admission("gallery", telemetry, house, threads=2, **bounds)
        works = [Work() for _ in range(4)]
        calm = [asyncio.create_task(Client().asks(posts, work)) for work in works[:2]]
        for work in works[:2]:
            await begun(work)
        with pytest.raises(OverloadedError):
            await Client().asks(posts, works[2])
        for work in works[:2]:
            work.end.set()
        assert await asyncio.gather(*calm) == ["done", "done"]
        post = asyncio.create_task(Client().asks(posts, works[2]))
        await begun(works[2])
        with pytest.raises(OverloadedError):
            await Client().asks(posts, lambda: "it would only be slower")
        recognition = asyncio.create_task(Client().asks(recognitions, works[3]))
        await begun(works[3])
        for work in works[2:]:
            work.end.set()
        assert await asyncio.gather(post, recognition) == ["done", "done"]

    asyncio.run(story())


def test_a_refusal_of_one_kind_lets_nobody_of_the_house_wait() -> None:
    async def story() -> None:
        house, telemetry, work = House(1), Telemetry(), Work()
        bounds = {"most": 8, "threads": 1}
        recognitions = Admission("recognize", telemetry, house, waiting=8, **bounds)
        posts = Admission("gallery", telemetry, house, waiting=0, **bounds)
        first = asyncio.create_task(Client().asks(recognitions, work))
        await begun(work)
        second = asyncio.create_task(Client().asks(recognitions, lambda: "waited"))
        await asyncio.sleep(0)
        for kind in (posts, recognitions):
            with pytest.raises(OverloadedError):
                await Client().asks(kind, work)
        work.end.set()
        assert (await first, await second) == ("done", "waited")

    asyncio.run(story())


def test_what_has_begun_is_not_refused_half_way() -> None:
    async def story() -> None:
        house, work = admission(waiting=0), Work()
        with house.admit():
            first = asyncio.create_task(Client().asks(house, work))
            await begun(work)
            rest = asyncio.create_task(house.run(lambda: "the rest", begun=True))
            await asyncio.sleep(0)
            assert not rest.done()
            work.end.set()
            assert (await first, await rest) == ("done", "the rest")

    asyncio.run(story())


def test_a_queue_that_was_too_short_lets_nobody_wait_until_it_is_calm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        now = 1_000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
        house, work = admission(waiting=1), Work()
        first = asyncio.create_task(Client().asks(house, work))
        await begun(work)
        second = asyncio.create_task(Client().asks(house, lambda: "second"))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await Client().asks(house, work)
        work.end.set()
        await first
        await second
        work.begun.clear()
        work.end.clear()
        third = asyncio.create_task(Client().asks(house, work))
        await begun(work)
        with pytest.raises(OverloadedError):
            await Client().asks(house, work)
        now += module._PRESSED_S
        fourth = asyncio.create_task(Client().asks(house, lambda: "fourth"))
        await asyncio.sleep(0)
        work.end.set()
        assert (await third, await fourth) == ("done", "fourth")

    asyncio.run(story())


def test_what_takes_more_than_it_refuses_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    house = House(1)
    house.refuse()
    for taken, refused, calm in ((1, 2, False), (0, 0, True)):
        assert not house.lets_wait()
        for _ in range(taken):
            house.take()
        for _ in range(refused):
            house.refuse()
        now += module._PRESSED_S
        assert house.lets_wait() is calm


def test_told_to_come_again_when_those_ahead_will_be_done() -> None:
    async def story() -> None:
        house = admission(threads=1, waiting=1)
        for _ in range(60):  # what has been takes two seconds each, as far as it knows
            house._running += 1
            house._house.working += 1
            await house._free.acquire()
            await house._house.free.acquire()
            house._leave_thread(2.0)
        house._house.working = house._queued = 2
        with pytest.raises(OverloadedError) as caught, house.admit():
            pass
        assert caught.value.retry_after_s == 4

    asyncio.run(story())


def test_work_that_waits_is_dropped_with_its_client() -> None:
    async def story() -> None:
        house, work, never = admission(waiting=1), Work(), Work()
        first = asyncio.create_task(Client().asks(house, work))
        await begun(work)
        client = Client()
        second = asyncio.create_task(client.asks(house, never))
        await asyncio.sleep(0)
        client.leaves()
        with pytest.raises(ClientLeftError):
            await second
        third = asyncio.create_task(Client().asks(house, lambda: "there is room again"))
        await asyncio.sleep(0)
        work.end.set()
        assert (await first, await third) == ("done", "there is room again")
        assert not never.begun.is_set()

    asyncio.run(story())


def test_work_that_has_begun_ends_at_its_next_look() -> None:
    async def story() -> None:
        house, work, client = admission(), Work(), Client()
        asked = asyncio.create_task(client.asks(house, work))
        await begun(work)
        client.leaves()
        with pytest.raises(ClientLeftError):
            await asked
        work.end.set()
        assert await Client().asks(house, lambda: "its thread is free") == "its thread is free"
        assert isinstance(work.error, ClientLeftError)

    asyncio.run(story())


def test_accepted_indexing_goes_on_without_its_client() -> None:
    async def story() -> None:
        house = Admission(
            "gallery", Telemetry(), House(1), most=8, threads=1, waiting=8, finishes=True
        )
        work, client = Work(), Client()
        asked = asyncio.create_task(client.asks(house, work))
        await begun(work)
        client.leaves()
        with pytest.raises(ClientLeftError):
            await asked
        work.end.set()
        await Client().asks(house, lambda: "next")
        assert work.error is None

    asyncio.run(story())


def test_at_its_deadline_a_request_is_answered_though_its_work_still_hangs() -> None:
    async def story() -> None:
        house, work = admission(waiting=0), Work()
        with pytest.raises(DeadlineExceededError):
            await Client(within_s=0.1).asks(house, work)
        with pytest.raises(OverloadedError):
            await Client().asks(house, work)
        work.end.set()
        house.close()
        assert isinstance(work.error, ClientLeftError)

    asyncio.run(story())


def test_a_call_gets_what_is_left_of_its_request() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    assert deadlines.timeout_s(5) == 5, "the background is in no hurry"
    with working_under(Deadline(60, never)):
        assert deadlines.timeout_s(5) == 5
    with working_under(Deadline(2, never)):
        assert 0 < deadlines.timeout_s(5) < 3
    with working_under(Deadline(0, never)), pytest.raises(DeadlineExceededError):
        deadlines.timeout_s(5)
