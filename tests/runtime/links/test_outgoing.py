"""The queue of one peer, and the rate limiter: plain values, no network."""

from __future__ import annotations

from collections import Counter

from mesh.limits import LinkLimits
from mesh.runtime.links.outgoing import Outgoing
from mesh.runtime.rates import Rates

CONTROL, WORK, BULK = 0, 1, 2


def queue(**limits: int) -> tuple[Outgoing, Counter[str]]:
    dropped: Counter[str] = Counter()
    return Outgoing(LinkLimits(**limits), dropped), dropped  # type: ignore[arg-type]


def test_control_first_then_work_then_bulk_each_in_order() -> None:
    out, _ = queue()
    for class_no, part in ((BULK, b"b1"), (WORK, b"w1"), (CONTROL, b"c1"), (WORK, b"w2"), (BULK, b"b2"), (CONTROL, b"c2")):
        out.add(class_no, part)
    assert out.pack() == [b"c1", b"c2", b"w1", b"w2", b"b1", b"b2"]
    assert not out and out.pack() == []


def test_an_envelope_holds_so_many_messages_and_bytes() -> None:
    out, _ = queue(batch_messages_max=3, batch_bytes_max=100)
    for size in (10, 10, 10, 10, 95, 300, 50):
        out.add(WORK, bytes(size))
    sizes = []
    while parts := out.pack():
        sizes.append([len(part) for part in parts])
    assert sizes == [[10, 10, 10], [10], [95], [300], [50]]


def test_a_full_class_drops_its_oldest() -> None:
    out, dropped = queue(queue_messages_max=2)
    for number in range(5):
        out.add(WORK, b"%d" % number)
    out.add(CONTROL, b"c")
    assert out.pack() == [b"c", b"3", b"4"]
    assert dropped == {"overflow_work": 3}


def test_too_many_bytes_drop_bulk_then_work_then_control() -> None:
    out, dropped = queue(queue_bytes_max=100)
    out.add(CONTROL, bytes(30))
    out.add(WORK, bytes(30))
    out.add(BULK, bytes(30))
    out.add(CONTROL, bytes(40))
    assert dropped == {"overflow_bulk": 1} and len(out) == 3
    out.add(CONTROL, bytes(60))
    assert dropped == {"overflow_bulk": 1, "overflow_work": 1, "overflow_control": 1}
    assert [len(part) for part in out.pack()] == [40, 60]


def test_bytes_are_counted_through_pack_and_clear() -> None:
    out, dropped = queue(queue_bytes_max=100, batch_bytes_max=50)
    for _ in range(200):
        out.add(WORK, bytes(30))
        out.pack()
    out.add(WORK, bytes(90))
    assert out.clear() == 1
    out.add(WORK, bytes(90))
    assert not dropped and len(out) == 1


def test_a_rate_is_a_burst_and_then_so_many_a_second() -> None:
    now = [0.0]
    rates = Rates(2.0, 3.0, keys_max=2, clock=lambda: now[0])
    assert [rates.allow("a") for _ in range(4)] == [True, True, True, False]
    assert rates.allow("b")
    now[0] = 1.0
    assert [rates.allow("a") for _ in range(3)] == [True, True, False]
    now[0] = 100.0
    assert [rates.allow("a") for _ in range(4)] == [True, True, True, False]


def test_keys_of_rates_are_bounded() -> None:
    rates = Rates(1.0, 1.0, keys_max=2, clock=lambda: 0.0)
    for number in range(100):
        assert rates.allow(str(number))
    assert not rates.allow("99") and len(rates._buckets) == 2
