"""The last digests of tags: for whom, for how long, and until somebody deleted or moved them."""

from __future__ import annotations

import json

import pytest

from lab.memory import Memory
from pullthrough import tags as module
from pullthrough.core.digest import Digest
from pullthrough.core.media import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from pullthrough.facts import LASTING
from pullthrough.messages import Registry, Repository
from pullthrough.store.opened import opened
from pullthrough.tags import Tags

APP = Repository(Registry("https", "registry.test", 443), "team/app")
OTHER = Repository(Registry("https", "registry.test", 443), "team/other")
PLAIN = Repository(Registry("http", "registry.test", 80), "team/app")
OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
ACCEPT = (OCI_MANIFEST, DOCKER_MANIFEST)
WEEK = 7 * 24 * 3600.0


@pytest.fixture
def tags(memory: Memory) -> Tags:
    return Tags(memory.facts, WEEK, memory.clock)


async def test_a_tag_that_nobody_saw_names_nothing(tags: Tags) -> None:
    assert await tags.last(APP, "latest", ACCEPT) is None


async def test_what_was_seen_last_counts_also_after_a_restart(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    await tags.seen(APP, "latest", ACCEPT, NEW, tags.now())
    assert await tags.last(APP, "latest", ACCEPT) == NEW

    assert await Tags(await memory.restart(), WEEK, memory.clock).last(APP, "latest", ACCEPT) == NEW


async def test_tags_are_apart(tags: Tags) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())

    for repository, tag in ((APP, "v1"), (OTHER, "latest"), (PLAIN, "latest")):
        assert await tags.last(repository, tag, ACCEPT) is None


async def test_a_name_and_a_tag_cannot_be_taken_for_others(tags: Tags) -> None:
    await tags.seen(Repository(APP.registry, "a"), "b", (), OLD, tags.now())
    await tags.seen(Repository(APP.registry, "a/b"), "c", (), NEW, tags.now())

    assert await tags.last(Repository(APP.registry, "a"), "b", ()) == OLD
    assert await tags.last(Repository(APP.registry, "a/b"), "c", ()) == NEW


async def test_who_accepts_other_types_may_have_got_another_digest(tags: Tags) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    await tags.seen(APP, "latest", (OCI_INDEX,), NEW, tags.now())

    assert await tags.last(APP, "latest", ACCEPT) == OLD
    assert await tags.last(APP, "latest", (OCI_INDEX,)) == NEW
    assert await tags.last(APP, "latest", ()) is None
    assert await tags.last(APP, "latest", (OCI_MANIFEST,)) is None


@pytest.mark.parametrize(
    "accept", [(DOCKER_MANIFEST, OCI_MANIFEST), (f"{DOCKER_MANIFEST} ,{OCI_MANIFEST}",), (*ACCEPT, *ACCEPT)]
)
async def test_the_same_types_are_the_same_however_they_are_written(tags: Tags, accept: tuple[str, ...]) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())

    assert await tags.last(APP, "latest", accept) == OLD


async def test_any_bytes_can_be_accepted(tags: Tags) -> None:
    await tags.seen(APP, "latest", ("\udcff",), OLD, tags.now())

    assert await tags.last(APP, "latest", ("\udcff",)) == OLD
    assert await tags.last(APP, "latest", ("\udcfe",)) is None


# -- for how long


async def test_it_counts_until_it_is_too_stale(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += WEEK - 1
    assert await tags.last(APP, "latest", ACCEPT) == OLD
    memory.clock.time += 1
    assert await tags.last(APP, "latest", ACCEPT) is None


async def test_to_see_the_same_again_renews_it(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += WEEK - 1
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += WEEK - 1

    assert await tags.last(APP, "latest", ACCEPT) == OLD


async def test_where_nothing_may_be_stale_nothing_is_remembered(memory: Memory) -> None:
    tags = Tags(memory.facts, 0, memory.clock)
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    assert await tags.last(APP, "latest", ACCEPT) is None
    tags.gone(APP, "v1")

    await memory.facts.flush()
    assert memory.rows().keys() == []


async def test_less_patience_counts_for_what_was_seen_before(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += WEEK / 2
    facts = await memory.restart()

    assert await Tags(facts, 0, memory.clock).last(APP, "latest", ACCEPT) is None
    assert await Tags(facts, WEEK / 4, memory.clock).last(APP, "latest", ACCEPT) is None
    assert await Tags(facts, WEEK, memory.clock).last(APP, "latest", ACCEPT) == OLD


# -- gone


async def test_what_is_gone_is_gone_for_everybody_and_after_a_restart(tags: Tags, memory: Memory) -> None:
    for accept in (ACCEPT, (OCI_INDEX,)):
        await tags.seen(APP, "latest", accept, OLD, tags.now())
    await tags.seen(APP, "v1", ACCEPT, OLD, tags.now())
    tags.gone(APP, "latest")

    for now in (tags, Tags(await memory.restart(), WEEK, memory.clock)):
        assert await now.last(APP, "latest", ACCEPT) is None
        assert await now.last(APP, "latest", (OCI_INDEX,)) is None
        assert await now.last(APP, "v1", ACCEPT) == OLD


async def test_what_is_gone_stays_so_as_long_as_it_could_have_been_stale(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += 1
    tags.gone(APP, "latest")
    for _ in range(int(WEEK // 3600)):
        memory.clock.time += 3600
        assert await tags.last(APP, "latest", ACCEPT) is None


async def test_a_tag_that_was_gone_can_be_seen_again(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    tags.gone(APP, "latest")
    memory.clock.time += 1
    await tags.seen(APP, "latest", ACCEPT, NEW, tags.now())

    assert await tags.last(APP, "latest", ACCEPT) == NEW
    assert await Tags(await memory.restart(), WEEK, memory.clock).last(APP, "latest", ACCEPT) == NEW


async def test_a_tag_that_one_client_saw_again_stays_gone_for_others(tags: Tags, memory: Memory) -> None:
    """They accept other types, and know of nothing but what was deleted."""
    await tags.seen(APP, "latest", (OCI_INDEX,), OLD, tags.now())
    tags.gone(APP, "latest")
    memory.clock.time += 1
    await tags.seen(APP, "latest", ACCEPT, NEW, tags.now())

    for now in (tags, Tags(await memory.restart(), WEEK, memory.clock)):
        assert await now.last(APP, "latest", ACCEPT) == NEW
        assert await now.last(APP, "latest", (OCI_INDEX,)) is None


async def test_an_answer_to_a_question_from_before_brings_nothing_back(tags: Tags) -> None:
    asked = tags.now()
    tags.gone(APP, "latest")
    await tags.seen(APP, "latest", ACCEPT, OLD, asked)
    assert await tags.last(APP, "latest", ACCEPT) is None
    tags.named(APP, "latest", ACCEPT, OLD, asked)
    await tags.got(APP, OLD)
    assert await tags.last(APP, "latest", ACCEPT) is None


# -- named, but not yet got


async def test_what_was_named_long_ago_is_not_what_somebody_gets_now(tags: Tags, memory: Memory) -> None:
    tags.named(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += 3600
    await tags.got(APP, OLD)

    assert await tags.last(APP, "latest", ACCEPT) is None


async def test_what_nobody_got_does_not_count_until_somebody_does(tags: Tags) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    tags.named(APP, "latest", ACCEPT, NEW, tags.now())
    assert await tags.last(APP, "latest", ACCEPT) == OLD
    await tags.got(APP, Digest.of(b"third"))
    await tags.got(OTHER, NEW)
    assert await tags.last(APP, "latest", ACCEPT) == OLD
    await tags.got(APP, NEW)
    assert await tags.last(APP, "latest", ACCEPT) == NEW


async def test_what_was_got_counts_for_every_tag_that_was_said_to_name_it(tags: Tags, memory: Memory) -> None:
    tags.named(APP, "latest", ACCEPT, NEW, tags.now())
    tags.named(APP, "latest", (OCI_INDEX,), OLD, tags.now())
    tags.named(APP, "v1", (OCI_INDEX,), NEW, tags.now())
    await tags.got(APP, NEW)

    for now in (tags, Tags(await memory.restart(), WEEK, memory.clock)):
        assert await now.last(APP, "latest", ACCEPT) == NEW
        assert await now.last(APP, "v1", (OCI_INDEX,)) == NEW
        assert await now.last(APP, "latest", (OCI_INDEX,)) is None


async def test_a_tag_is_named_as_it_was_named_last(tags: Tags) -> None:
    tags.named(APP, "latest", ACCEPT, OLD, tags.now())
    tags.named(APP, "latest", ACCEPT, NEW, tags.now())
    await tags.got(APP, OLD)
    assert await tags.last(APP, "latest", ACCEPT) is None
    await tags.got(APP, NEW)
    assert await tags.last(APP, "latest", ACCEPT) == NEW


async def test_what_was_seen_since_is_not_undone(tags: Tags) -> None:
    tags.named(APP, "latest", ACCEPT, OLD, tags.now())
    await tags.seen(APP, "latest", ACCEPT, NEW, tags.now())
    await tags.got(APP, OLD)

    assert await tags.last(APP, "latest", ACCEPT) == NEW


async def test_what_is_gone_is_no_longer_named(tags: Tags) -> None:
    for tag, accept in (("latest", ACCEPT), ("latest", (OCI_INDEX,)), ("v1", ACCEPT)):
        tags.named(APP, tag, accept, NEW, tags.now())
    tags.gone(APP, "latest")
    await tags.got(APP, NEW)

    assert await tags.last(APP, "latest", ACCEPT) is None
    assert await tags.last(APP, "latest", (OCI_INDEX,)) is None
    assert await tags.last(APP, "v1", ACCEPT) == NEW


async def test_only_so_much_is_named_and_the_oldest_goes(tags: Tags, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NAMED", 2)
    monkeypatch.setattr(module, "_MAX_REPOSITORIES", 2)
    for tag in "abac":
        tags.named(APP, tag, ACCEPT, NEW, tags.now())
    repositories = {name: Repository(APP.registry, name) for name in ("x", "y")}
    tags.named(repositories["x"], "a", ACCEPT, NEW, tags.now())
    tags.named(APP, "c", ACCEPT, NEW, tags.now())
    tags.named(repositories["y"], "a", ACCEPT, NEW, tags.now())
    for repository in (APP, *repositories.values()):
        await tags.got(repository, NEW)

    assert {tag: await tags.last(APP, tag, ACCEPT) for tag in "abc"} == {"a": NEW, "b": None, "c": NEW}
    assert await tags.last(repositories["x"], "a", ACCEPT) is None
    assert await tags.last(repositories["y"], "a", ACCEPT) == NEW


async def test_where_nothing_may_be_stale_nothing_is_named(memory: Memory) -> None:
    tags = Tags(memory.facts, 0, memory.clock)
    tags.named(APP, "latest", ACCEPT, NEW, tags.now())
    await tags.got(APP, NEW)
    assert await tags.last(APP, "latest", ACCEPT) is None

    await memory.facts.flush()
    assert memory.rows().keys() == []


# -- rows of others


async def test_a_row_that_names_no_digest_is_none(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    await memory.facts.flush()
    (key,) = memory.rows().keys()
    tags = Tags(await memory.restart(), WEEK, memory.clock)
    now = memory.clock.time
    for value in ('["../x", 0]', '["sha256:", 0]', "[7, 0]", "null", f'"{NEW}"', f'["{NEW}", null]', "x"):
        memory.rows().change(key, f"[{now}, 1e9, {value}]")
        assert await tags.last(APP, "latest", ACCEPT) is None
    memory.rows().change(key, f'[{now}, 1e9, ["{NEW}", 0]]')
    assert await tags.last(APP, "latest", ACCEPT) == NEW


# -- what an archive said


async def brought(memory: Memory, digest: Digest, tag: str = "latest") -> None:
    await memory.store.note(dict(module.brought(APP, tag, digest, memory.clock())))


async def test_what_was_imported_counts_for_a_tag_that_nobody_saw(tags: Tags, memory: Memory) -> None:
    await brought(memory, NEW)

    assert await tags.brought(APP, "latest") == NEW
    for repository, tag in ((APP, "v1"), (OTHER, "latest"), (PLAIN, "latest")):
        assert await tags.brought(repository, tag) is None
    assert await tags.last(APP, "latest", ACCEPT) is None, "nobody said who gets it"


async def test_an_import_takes_the_place_of_what_was_seen_before(tags: Tags, memory: Memory) -> None:
    await tags.seen(APP, "latest", ACCEPT, OLD, tags.now())
    memory.clock.time += 1
    await brought(memory, NEW)

    assert await tags.last(APP, "latest", ACCEPT) is None
    assert await tags.brought(APP, "latest") == NEW


async def test_what_the_upstream_says_later_takes_the_place_of_an_import(tags: Tags, memory: Memory) -> None:
    await brought(memory, OLD)
    memory.clock.time += 1
    await tags.seen(APP, "latest", ACCEPT, NEW, tags.now())

    assert await tags.last(APP, "latest", ACCEPT) == NEW
    assert await tags.brought(APP, "latest") is None
    await memory.facts.flush()
    assert await Tags(await memory.restart(), WEEK, memory.clock).last(APP, "latest", ACCEPT) == NEW


async def test_an_answer_to_a_question_from_before_the_import_does_not(tags: Tags, memory: Memory) -> None:
    asked = tags.now()
    memory.clock.time += 1
    await brought(memory, NEW)
    await tags.seen(APP, "latest", ACCEPT, OLD, asked)

    assert await tags.last(APP, "latest", ACCEPT) is None
    assert await tags.brought(APP, "latest") == NEW


async def test_what_was_imported_ends_with_the_tag_for_as_long_as_it_would_count(tags: Tags, memory: Memory) -> None:
    await brought(memory, OLD)
    memory.clock.time += 1
    tags.gone(APP, "latest")
    assert await tags.brought(APP, "latest") is None
    memory.clock.time += 2 * WEEK
    assert await tags.brought(APP, "latest") is None

    await brought(memory, NEW, "v2")
    tags.gone(APP, "v2")
    memory.clock.time += 1
    await brought(memory, NEW, "v2")
    assert await tags.brought(APP, "v2") == NEW, "imported after it was gone"


async def test_what_was_imported_lasts_longer_than_what_was_seen_but_not_for_ever(tags: Tags, memory: Memory) -> None:
    await brought(memory, NEW)
    memory.clock.time += LASTING - 1
    assert await tags.brought(APP, "latest") == NEW
    memory.clock.time += 1
    assert await tags.brought(APP, "latest") is None


async def test_where_nothing_may_be_stale_an_import_names_nothing(memory: Memory) -> None:
    await brought(memory, NEW)

    assert await Tags(memory.facts, 0, memory.clock).brought(APP, "latest") is None


@pytest.mark.parametrize("planted", [None, [], ["sha256:no", 5.0], [str(NEW)], [5.0, str(NEW)], {"a": 1}])
async def test_what_is_no_import_names_nothing(tags: Tags, memory: Memory, planted: object) -> None:
    await brought(memory, NEW)
    [key] = memory.rows().keys()
    memory.rows().change(key, json.dumps([memory.clock(), WEEK, planted]))

    assert await tags.brought(APP, "latest") is None


async def test_the_latest_counts_for_who_looks_after_the_store(tags: Tags, memory: Memory) -> None:
    def known() -> dict[str, Digest]:
        with opened(memory.root) as shelf:
            return module.tags_of(str(APP), shelf.index.facts)

    await tags.seen(APP, "seen", ACCEPT, OLD, tags.now())
    await memory.facts.flush()
    memory.clock.time += 1
    for tag in ("seen", "brought", "gone"):
        await brought(memory, NEW, tag)
    memory.clock.time += 1
    tags.gone(APP, "gone")
    await memory.facts.flush()
    assert known() == {"seen": NEW, "brought": NEW}

    await tags.seen(APP, "brought", ACCEPT, OLD, tags.now())
    await memory.facts.flush()
    assert known() == {"seen": NEW, "brought": OLD}
