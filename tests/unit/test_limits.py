"""How much may be promised to all bundles together, and that nobody starves of it."""

from __future__ import annotations

import random

from jobtree.limits import OVERTAKEN, Limits, add


def test_what_is_not_limited_has_no_end() -> None:
    assert Limits({}).allows(1, {"cpu": 1e9}, {"cpu": 1e9})
    assert Limits({"licence": 0}).allows(1, {"cpu": 4, "licence": 0}, {})


def test_no_more_is_promised_than_there_is() -> None:
    limits = Limits({"cpu": 4, "licence": 2})

    assert limits.allows(1, {"cpu": 1, "licence": 2}, {"cpu": 3})
    assert not limits.allows(1, {"cpu": 2}, {"cpu": 3})
    assert not limits.allows(1, {"licence": 1}, {"licence": 2})


def test_three_thirds_of_a_core_are_one() -> None:
    promised: dict[str, float] = {}
    limits = Limits({"cpu": 1}, soft=["cpu"])
    for _ in range(3):
        assert limits.allows(1, {"cpu": 1 / 3}, promised)
        add(promised, {"cpu": 1 / 3})
    assert not limits.allows(1, {"cpu": 1 / 3}, promised)


def test_one_bundle_alone_may_have_more_cores_but_no_more_licences() -> None:
    limits = Limits({"cpu": 1, "licence": 1}, soft=["cpu"])

    assert limits.allows(1, {"cpu": 2}, {})
    assert not limits.allows(2, {"licence": 2}, {})


def test_who_asks_for_much_is_overtaken_a_bounded_number_of_times() -> None:
    limits = Limits({"licence": 4})
    large, small = {"licence": 4.0}, {"licence": 1.0}

    assert not limits.allows(1, large, {"licence": 1})
    for _ in range(OVERTAKEN):
        assert limits.allows(2, small, {"licence": 1})
        limits.made(small)
    assert not limits.allows(2, small, {"licence": 1})
    assert limits.allows(3, {"scanner": 1}, {"licence": 1}), "it wants something else"

    assert limits.allows(1, large, {})
    limits.made(large)
    assert limits.allows(2, small, {"licence": 1})


def test_of_two_that_were_overtaken_the_first_goes_first() -> None:
    limits = Limits({"licence": 4})
    for shape in (1, 2):
        limits.allows(shape, {"licence": 4}, {"licence": 1})
    for _ in range(OVERTAKEN):
        limits.made({"licence": 1})

    assert not limits.allows(2, {"licence": 4}, {})
    assert limits.allows(1, {"licence": 4}, {})
    assert limits.allows(2, {"licence": 4}, {})


def test_more_than_there_will_ever_be_is_known_at_once() -> None:
    limits = Limits({"cpu": 1, "licence": 1}, soft=["cpu"])

    assert limits.lacks({"licence": 2})
    assert not limits.lacks({"licence": 1, "cpu": 2, "scanner": 9})


def test_who_waits_no_more_holds_nobody_up() -> None:
    limits = Limits({"licence": 4})
    limits.allows(1, {"licence": 4}, {"licence": 1})
    for _ in range(OVERTAKEN):
        limits.made({"licence": 1})
    assert not limits.allows(2, {"licence": 1}, {"licence": 1})

    limits.keep({2})

    assert limits.allows(2, {"licence": 1}, {"licence": 1})


def test_a_random_crowd_is_served_whole_and_never_too_much_at_once() -> None:
    seed = 20261127
    print("seed", seed)
    chance = random.Random(seed)
    most = {"licence": 5.0, "cpu": 8.0}
    limits = Limits(most)
    waiting = [
        (shape, {"licence": float(chance.randint(0, 5)), "cpu": float(chance.randint(1, 8))})
        for shape in range(12)
    ] * 20
    running: list[tuple[int, dict[str, float]]] = []
    turns = 0
    while waiting or running:
        turns += 1
        assert turns < 10_000, "somebody starves"
        for job in chance.sample(waiting, len(waiting)):
            promised: dict[str, float] = {}
            for _, asked in running:
                add(promised, asked)
            if limits.allows(job[0], job[1], promised):
                waiting.remove(job)
                running.append(job)
                limits.made(job[1])
                add(promised, job[1])
                assert all(promised.get(name, 0) <= number for name, number in most.items())
        if running:
            running.remove(chance.choice(running))
        limits.keep({shape for shape, _ in waiting})
