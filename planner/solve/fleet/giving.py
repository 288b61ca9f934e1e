"""Which GPUs each gang gets, where whole GPUs of any node are all that it needs: compiled loops.

Gangs whose replicas are of one size, on nodes that stay, are taken in order of start: what has
ended is given back first, so what is free is free until something that starts later takes it. Whole
GPUs over time are an interval graph: this order never runs out (`give_in_turn`). Whoever had GPUs
before takes them again where they are free; others take such as nobody wants back while they run,
or, where there are none, such as are wanted back late.

Where sizes differ, nodes leave, or some GPUs are held already, what counts is the GPUs that are
free for all of a stretch (`give_over`). Whoever finds too few of them has others moved out of its
way, one after the other, each to GPUs that are free for all of *its* stretch (`make_room`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from planner.compiled import lean
from planner.solve.fleet.columns import Flags, Ints, Longs

BYTE = 8  # GPUs of a node that a byte holds: wider nodes take a word each
Masks = npt.NDArray[Any]  # of free or held GPUs, a bit each: bytes or words


class Asked(NamedTuple):
    """Items in the order in which they choose (n)."""

    start: Longs
    end: Longs
    replicas: Longs
    gpus: Longs  # of one replica
    stays: Flags  # moves for nobody
    kept: Flags  # has just what it had; filled in


class Rows(NamedTuple):
    """Who holds which GPUs of a node; the first ``used[0]`` rows count."""

    item: Ints
    node: Ints
    mask: Longs
    used: Longs  # (1)


class Scratch(NamedTuple):
    """Room for what one item finds."""

    free: Masks  # (nodes)
    head: Longs  # (GPUs + 1) first node of those with so many free, -1: none
    after: Longs  # (nodes)
    holds: Longs  # (GPUs + 1) replicas that so many GPUs are


class Wishes(NamedTuple):
    """What items had before, by item and by node."""

    item: Ints
    node: Ints
    mask: Longs
    row: Longs  # in order of node, then of item
    next: Longs  # (nodes) of ``row``: the first of a node whose item is still to choose
    end: Longs  # (nodes)


class Lists(NamedTuple):
    """Nodes by their number of free GPUs."""

    mask: Longs  # (nodes) free GPUs, a bit each
    head: Longs  # (GPUs + 1) first node of each list, -1: none
    after: Longs  # (nodes)
    before: Longs  # (nodes)


def give(asked: Asked, masks: Longs, absent: Masks | None, gpus: int, held: Rows) -> Rows:
    """What each item gets, sorted by item and node; an item without rows found no room.

    ``masks`` (nodes): GPUs that work, ``absent`` (slots, nodes) those that are away; None: none is,
    and the items are alike, in order of start. ``held``: what items had, by item.
    """
    room = int((asked.replicas * asked.gpus).sum() // max(1, gpus)) + asked.start.size
    room += int(held.used[0]) + 1
    while True:
        given, asked.kept[:] = rows(room), False
        if absent is None:
            done = give_in_turn(asked, _lists(masks, gpus), held, given)
        else:
            word = np.uint8 if gpus <= BYTE else np.int64
            done = _over(asked, masks.astype(word), absent.astype(word), gpus, held, given)
        if done:
            return merged(given, masks.size)
        room *= 2


def rows(room: int) -> Rows:
    """None yet, of ``room`` at most."""
    return Rows(
        item=np.zeros(room, dtype=np.int32),
        node=np.zeros(room, dtype=np.int32),
        mask=np.zeros(room, dtype=np.int64),
        used=np.zeros(1, dtype=np.int64),
    )


def merged(given: Rows, nodes: int) -> Rows:
    """The rows by item and node, each pair once."""
    there = given.mask[: given.used[0]] != 0
    item, node = given.item[: there.size][there], given.node[: there.size][there]
    keys = item.astype(np.int64) * max(1, nodes) + node
    order = np.argsort(keys, kind="stable")
    keys, mask = keys[order], given.mask[: there.size][there][order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return Rows(
        item=item[order][first],
        node=node[order][first],
        mask=np.bitwise_or.reduceat(mask, first) if first.size else mask,
        used=np.array([first.size], dtype=np.int64),
    )


def _over(asked: Asked, masks: Masks, absent: Masks, gpus: int, held: Rows, given: Rows) -> bool:
    """`give_over`, with what is ``held`` taken first."""
    scratch = (_scratch(masks, gpus), _scratch(masks, gpus))
    taken = absent.copy()
    hold(asked, masks, taken, held, given)
    return give_over(asked, masks, taken, *scratch, given)


def _scratch(masks: Masks, gpus: int) -> Scratch:
    return Scratch(
        free=np.zeros_like(masks),
        head=np.full(gpus + 1, -1, dtype=np.int64),
        after=np.zeros(masks.size, dtype=np.int64),
        holds=np.zeros(gpus + 1, dtype=np.int64),
    )


def _lists(masks: Longs, gpus: int) -> Lists:
    lists = Lists(
        mask=masks.copy(),
        head=np.full(gpus + 1, -1, dtype=np.int64),
        after=np.full(masks.size, -1, dtype=np.int64),
        before=np.full(masks.size, -1, dtype=np.int64),
    )
    link_all(lists)
    return lists


@lean
def bits(mask: int) -> int:
    """How many bits are set."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@lean
def lowest(mask: int, count: int) -> int:
    """The ``count`` lowest bits that are set."""
    taken = 0
    for _ in range(count):
        bit = mask & -mask
        taken |= bit
        mask ^= bit
    return taken


# -- in order of start -----------------------------------------------------------------------------


@lean
def link(lists: Lists, n: int) -> None:
    """Put a node into the list that it belongs to."""
    free = bits(lists.mask[n])
    first = lists.head[free]
    lists.after[n], lists.before[n] = first, -1
    if first >= 0:
        lists.before[first] = n
    lists.head[free] = n


@lean
def link_all(lists: Lists) -> None:
    """Put each node into its list, the first of them in front."""
    for n in range(lists.mask.size - 1, -1, -1):
        link(lists, n)


@lean
def unlink(lists: Lists, n: int) -> None:
    """Take a node out of its list."""
    before, after = lists.before[n], lists.after[n]
    if after >= 0:
        lists.before[after] = before
    if before >= 0:
        lists.after[before] = after
    else:
        lists.head[bits(lists.mask[n])] = after


def give_in_turn(asked: Asked, lists: Lists, held: Rows, given: Rows) -> bool:
    """Fill ``given`` in order of start; whether its rows were enough."""
    by_end = np.argsort(asked.end, kind="stable")
    first = np.zeros(asked.start.size + 1, dtype=np.int64)  # item n has rows first[n] to [n + 1]
    return _give_in_turn(asked, lists, _wishes(lists, held), given, by_end, first)


def _wishes(lists: Lists, held: Rows) -> Wishes:
    order = np.argsort(held.node, kind="stable")
    begin = np.searchsorted(held.node[order], np.arange(lists.mask.size + 1)).astype(np.int64)
    return Wishes(
        item=held.item,
        node=held.node,
        mask=held.mask,
        row=order.astype(np.int64),
        next=begin[:-1].copy(),
        end=begin[1:].copy(),
    )


@lean
def _give_in_turn(
    asked: Asked, lists: Lists, wishes: Wishes, given: Rows, by_end: Longs, first: Longs
) -> bool:
    ended, wish = 0, 0
    for n in range(asked.start.size):
        while ended < by_end.size and asked.end[by_end[ended]] <= asked.start[n]:
            gone = by_end[ended]
            give_back(lists, given, first[gone], first[gone + 1])
            ended += 1
        first[n], left = given.used[0], asked.replicas[n]
        while wish < wishes.item.size and wishes.item[wish] <= n:
            if wishes.item[wish] == n:
                left = pick(asked, lists, given, n, left, wishes.node[wish], wishes.mask[wish])
            wish += 1
        asked.kept[n] = left == 0
        if asked.stays[n] and left > 0:  # there or nowhere
            give_back(lists, given, first[n], given.used[0])
            given.used[0] = first[n + 1] = first[n]
            continue
        ahead = asked.end[n] - asked.start[n]
        while left > 0:
            left = fill(asked, lists, wishes, given, n, left, asked.start[n] + ahead)
            if ahead == 0:
                break
            ahead //= 2
        if left < 0:
            return False
        if left > 0:  # all or none
            give_back(lists, given, first[n], given.used[0])
            given.used[0] = first[n]
        first[n + 1] = given.used[0]
    return True


@lean
def pick(asked: Asked, lists: Lists, given: Rows, n: int, left: int, node: int, among: int) -> int:
    """Give item ``n`` free GPUs of a node ``among`` some: replicas still without a place.

    -1: there are no more rows.
    """
    each, free = asked.gpus[n], lists.mask[node] & among
    here = min(left, bits(free) // each)
    if here <= 0:
        return left
    at = given.used[0]
    if at == given.node.size:
        return -1
    taken = lowest(free, here * each)
    unlink(lists, node)
    lists.mask[node] ^= taken
    link(lists, node)
    given.item[at], given.node[at], given.mask[at] = n, node, taken
    given.used[0] += 1
    return int(left - here)


@lean
def fill(
    asked: Asked, lists: Lists, wishes: Wishes, given: Rows, n: int, left: int, until: int
) -> int:
    """Give item ``n`` GPUs that nobody wants back before ``until``, of the tightest nodes first.

    Returns replicas still without a place; -1: there are no more rows.
    """
    for free in range(asked.gpus[n], lists.head.size):
        node = lists.head[free]
        while node >= 0 and left > 0:
            behind = lists.after[node]
            wanted = wanted_back(asked, wishes, n, node, until)
            left = pick(asked, lists, given, n, left, node, ~wanted)
            node = behind
    return left


@lean
def wanted_back(asked: Asked, wishes: Wishes, n: int, node: int, until: int) -> int:
    """GPUs of a node that items behind ``n`` had, and start with before ``until``."""
    while wishes.next[node] < wishes.end[node] and wishes.item[wishes.row[wishes.next[node]]] <= n:
        wishes.next[node] += 1
    found = 0
    for at in range(wishes.next[node], wishes.end[node]):
        row = wishes.row[at]
        if asked.start[wishes.item[row]] >= until:
            break
        found |= wishes.mask[row]
    return found


@lean
def give_back(lists: Lists, given: Rows, begin: int, end: int) -> None:
    """What rows ``begin`` to ``end`` hold is free."""
    for row in range(begin, end):
        node = given.node[row]
        unlink(lists, node)
        lists.mask[node] |= given.mask[row]
        link(lists, node)


# -- free for all of a stretch ---------------------------------------------------------------------


@lean
def occupy(held: Masks, node: int, start: int, end: int, mask: int) -> None:
    """Hold GPUs of a node over a stretch."""
    for t in range(start, end):
        held[t, node] |= mask


@lean
def vacate(held: Masks, node: int, start: int, end: int, mask: int) -> None:
    """Undo `occupy`."""
    for t in range(start, end):
        held[t, node] &= ~mask


@lean
def hold(asked: Asked, masks: Masks, held: Masks, old: Rows, given: Rows) -> None:
    """Give each item what it has by ``old``, sorted by item, unless some of it is not there."""
    begin = 0
    while begin < old.used[0]:
        n = old.item[begin]
        start, end, behind, there = asked.start[n], asked.end[n], begin, True
        while behind < old.used[0] and old.item[behind] == n:
            node, mask = old.node[behind], old.mask[behind]
            there &= mask & ~masks[node] == 0
            for t in range(start, end):
                there &= mask & held[t, node] == 0
            behind += 1
        for row in range(begin, behind if there else begin):
            occupy(held, old.node[row], start, end, old.mask[row])
            at = given.used[0]
            given.item[at], given.node[at], given.mask[at] = n, old.node[row], old.mask[row]
            given.used[0] += 1
            asked.kept[n] = True
        begin = behind


@lean
def look(masks: Masks, held: Masks, start: int, end: int, each: int, s: Scratch) -> int:
    """Fill ``s`` with the GPUs that are free throughout: replicas of ``each`` that they hold."""
    free, head, after, holds = s.free, s.head, s.after, s.holds
    for n in range(free.size):
        free[n] = 0
    for t in range(start, end):
        for n in range(free.size):
            free[n] |= held[t, n]
    for count in range(head.size):
        head[count] = -1
        holds[count] = count // each
    room = 0
    for n in range(free.size):
        free[n] = masks[n] & ~free[n]
        count = bits(free[n])
        room += holds[count]
        after[n] = head[count]
        head[count] = n
    return room


@lean
def take(asked: Asked, held: Masks, s: Scratch, given: Rows, n: int, left: int, but: int) -> int:
    """Give item ``n`` what `look` found, the tightest nodes first: replicas still without a place.

    Of equally tight nodes the last go first: those leave first. ``but``: a node that is not taken.
    -1: there are no more rows.
    """
    each = asked.gpus[n]
    for count in range(each, s.head.size):
        node = s.head[count]
        while node >= 0 and left > 0:
            if node != but:
                at = given.used[0]
                if at == given.node.size:
                    return -1
                here = min(left, s.holds[count])
                taken = lowest(int(s.free[node]), here * each)
                occupy(held, node, asked.start[n], asked.end[n], taken)
                given.item[at], given.node[at], given.mask[at] = n, node, taken
                given.used[0] += 1
                left -= here
            node = s.after[node]
    return left


@lean
def give_over(
    asked: Asked, masks: Masks, held: Masks, mine: Scratch, others: Scratch, given: Rows
) -> bool:
    """Give GPUs to all who have none; whether the rows were enough.

    ``held`` (slots, nodes): GPUs that are taken or away.
    """
    begin = given.used[0]
    row = 0
    for n in range(asked.start.size):
        while row < begin and given.item[row] < n:
            row += 1
        if asked.stays[n] or (row < begin and given.item[row] == n):
            continue
        first, left = given.used[0], asked.replicas[n]
        room = look(masks, held, asked.start[n], asked.end[n], asked.gpus[n], mine)
        left = take(asked, held, mine, given, n, min(left, room), -1) + max(0, left - room)
        if left > 0 and room < asked.replicas[n]:
            left = make_room(asked, masks, held, others, given, n, left)
        if left < 0 or given.used[0] == given.node.size:
            return False
        if left > 0:  # all or none
            for mine_row in range(first, given.used[0]):
                if given.item[mine_row] == n:
                    node, mask = given.node[mine_row], given.mask[mine_row]
                    vacate(held, node, asked.start[n], asked.end[n], mask)
                    given.mask[mine_row] = 0
    return True


@lean
def make_room(
    asked: Asked, masks: Masks, held: Masks, s: Scratch, given: Rows, n: int, left: int
) -> int:
    """Give item ``n`` GPUs that others can do without: replicas still without a place.

    -1: there are no more rows.
    """
    start, end, each = asked.start[n], asked.end[n], asked.gpus[n]
    stuck = -1  # an item that has just found no other place
    for row in range(given.used[0]):
        m, node, mask = given.item[row], given.node[row], given.mask[row]
        if m in (n, stuck) or asked.stays[m] or mask == 0:
            continue
        if asked.end[m] <= start or end <= asked.start[m]:
            continue
        while left > 0:
            out, here = in_the_way(asked, masks, held, node, given.mask[row], m, n)
            if out == 0:
                break
            replicas = bits(out) // asked.gpus[m]
            room = look(masks, held, asked.start[m], asked.end[m], asked.gpus[m], s)
            if room - s.holds[bits(int(s.free[node]))] < replicas:
                stuck = m
                break
            if given.used[0] + replicas + 1 >= given.node.size:
                return -1
            take(asked, held, s, given, m, replicas, node)
            vacate(held, node, asked.start[m], asked.end[m], out)
            given.mask[row] &= ~out
            asked.kept[m] = False
            occupy(held, node, start, end, here)
            at = given.used[0]
            given.item[at], given.node[at], given.mask[at] = n, node, here
            given.used[0] += 1
            left -= bits(here) // each
        if left == 0:
            break
    return left


@lean
def in_the_way(
    asked: Asked, masks: Masks, held: Masks, node: int, mask: int, m: int, n: int
) -> tuple[int, int]:
    """Of item ``m``'s GPUs ``mask`` those that one replica of ``n`` lacks, and all that it gets.

    0: with all of them gone the node has no room for it either.
    """
    used = 0
    for t in range(asked.start[n], asked.end[n]):
        here = int(held[t, node])
        used |= here & ~mask if asked.start[m] <= t < asked.end[m] else here
    free = int(masks[node]) & ~used
    own, each, unit = free & ~mask, asked.gpus[n], asked.gpus[m]
    lack = each - bits(own)
    if lack <= 0 or bits(free & mask) < lack:
        return 0, 0
    wanted = lowest(free & mask, lack)
    more = -(-lack // unit) * unit - lack  # whole replicas go
    return wanted | lowest(mask & ~wanted, more), own | wanted


def none_held() -> Rows:
    """Nobody has anything."""
    return rows(0)
