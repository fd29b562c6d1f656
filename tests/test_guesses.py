"""Wrong tries: counted by key, for a while."""

from pullthrough.guesses import FORGOTTEN, FREE, Guesses


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_some_tries_are_free_and_the_next_has_to_wait() -> None:
    guesses: Guesses[str] = Guesses(Clock())
    for _ in range(FREE):
        assert guesses.wait("alice") == 0
        guesses.wrong("alice")

    assert guesses.wait("alice") == FORGOTTEN
    assert guesses.wait("bob") == 0


def test_they_are_forgotten_some_time_after_the_first() -> None:
    clock = Clock()
    guesses: Guesses[str] = Guesses(clock)
    for _ in range(FREE):
        guesses.wrong("alice")
        clock.time += 1.0
    assert guesses.wait("alice") == FORGOTTEN - FREE

    clock.time = FORGOTTEN

    assert guesses.wait("alice") == 0
    guesses.wrong("alice")
    assert guesses.wait("alice") == 0


def test_strangers_do_not_make_us_remember_without_end() -> None:
    guesses: Guesses[int] = Guesses(Clock())
    for _ in range(FREE):
        guesses.wrong(0)
    for key in range(1, 20000):
        guesses.wrong(key)

    assert guesses.wait(0) == 0, "the oldest is forgotten"
