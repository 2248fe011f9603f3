"""The SSD tier: bytes in are bytes out or a miss, whatever the disk does."""

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from starloom.kv.errors import BlockTooLarge
from starloom.kv.layout import SlotClass
from starloom.kv.ssd import Disk, SegmentInUse, SlotTable, SsdTier
from starloom.kv.ssd.disk import is_aligned
from starloom.kv.ssd.health import FAILURES, Health

PAGE = 4096
SIZE = 3 * PAGE
STRIDE = SIZE + PAGE
WAIT_S = 10.0


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def content(number: int, length: int = SIZE) -> bytes:
    return random.Random(number).randbytes(length)


def blocks(*numbers: int, length: int = SIZE) -> list[tuple[bytes, bytes]]:
    return [(key(number), content(number, length)) for number in numbers]


def read(tier: SsdTier, *numbers: int, length: int = SIZE) -> list[bytes]:
    """The longest prefix of these that can be read."""
    targets = [memoryview(bytearray(length)) for _ in numbers]
    count = tier.get([key(number) for number in numbers], targets, timeout_s=WAIT_S)
    return [bytes(target) for target in targets[:count]]


def held(tier: SsdTier, numbers) -> list[int]:
    return [number for number in numbers if key(number) in tier]


def right(*numbers: int, length: int = SIZE) -> list[bytes]:
    return [content(number, length) for number in numbers]


class Faulty(Disk):
    """A disk that fails or is slow when told so."""

    def __init__(self) -> None:
        self.read_error = self.write_error = 0
        self.delay_s = 0.0
        self.gate: threading.Event | None = None
        self.direct = True

    def open(self, path, *, direct):
        if direct and not self.direct:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return super().open(path, direct=direct)

    def read(self, fd, parts, offset):
        self._wait(self.read_error)
        return super().read(fd, parts, offset)

    def write(self, fd, parts, offset):
        self._wait(self.write_error)
        return super().write(fd, parts, offset)

    def _wait(self, error):
        time.sleep(self.delay_s)
        if self.gate is not None:
            self.gate.wait(WAIT_S)
        if error:
            raise OSError(error, os.strerror(error))


@pytest.fixture
def tier(tmp_path):
    """Makes tiers in one folder; a second call is a restart. Closed at the end."""
    made: list[SsdTier] = []

    def make(slots: int = 8, **more) -> SsdTier:
        for each in made:
            each.close()
        made.clear()
        made.append(SsdTier(tmp_path / "ssd", [SlotClass(SIZE, slots)], **more))
        return made[0]

    yield make
    for each in made:
        each.close(1.0)


def segment_file(tmp_path: Path) -> Path:
    return tmp_path / "ssd" / f"{SIZE}.kv"


class TestBlocks:
    """What goes in comes out."""

    @pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE, PAGE + 1, SIZE])
    def test_any_length_comes_back(self, tier, length):
        """Whole pages go straight, the rest through a page of ours, from and to any address."""
        made = tier()
        assert made.put(blocks(1, 2, length=length), timeout_s=WAIT_S) == 2
        assert read(made, 1, 2, 3, length=length) == right(1, 2, length=length)

    def test_an_aligned_target_is_read_into_without_a_copy(self, tier):
        """The device is given the caller's own memory: nothing but the head and tail pages else."""
        made, seen = tier(disk=Faulty()), []
        area = np.zeros(SIZE + PAGE, np.uint8)
        start = -area.__array_interface__["data"][0] % PAGE
        target = memoryview(area)[start : start + SIZE]
        assert is_aligned(target)
        assert not is_aligned(memoryview(area)[start + 1 : start + SIZE])
        made.put(blocks(1), timeout_s=WAIT_S)
        disk = made._shelves[0].segment._disk
        plain = disk.read
        disk.read = lambda fd, parts, at: seen.extend(parts) or plain(fd, parts, at)
        assert made.get([key(1)], [target], timeout_s=WAIT_S) == 1
        assert bytes(target) == content(1)
        addresses = [np.frombuffer(part, np.uint8).__array_interface__["data"][0] for part in seen]
        assert area.__array_interface__["data"][0] + start in addresses

    def test_a_hole_ends_a_prefix(self, tier):
        """Blocks behind one that is missing are not found."""
        made = tier()
        made.put(blocks(1, 2, 4), timeout_s=WAIT_S)
        assert made.longest_prefix([key(n) for n in (1, 2, 3, 4)]) == 2
        assert read(made, 1, 2, 3, 4) == right(1, 2)

    def test_held_blocks_are_not_written_again(self, tier):
        """A second put counts nothing."""
        made = tier()
        assert made.put(blocks(1, 2), timeout_s=WAIT_S) == 2
        assert made.put(blocks(1, 2, 3), timeout_s=WAIT_S) == 1
        assert made.stat().put_blocks == 3

    def test_a_block_that_is_too_large_is_refused(self, tier):
        with pytest.raises(BlockTooLarge, match=str(SIZE + 1)):
            tier().put([(key(1), bytes(SIZE + 1))], timeout_s=WAIT_S)

    def test_the_oldest_goes_when_the_file_is_full(self, tier, tmp_path):
        """Capacity is the number of slots, and the file never grows."""
        made = tier(slots=4)
        for number in range(9):
            made.put(blocks(number), timeout_s=WAIT_S)
        assert held(made, range(9)) == [5, 6, 7, 8]
        assert made.stat().evicted_blocks == 5
        assert segment_file(tmp_path).stat().st_size == PAGE + 4 * STRIDE

    def test_a_file_system_without_o_direct_is_used_with_a_reason(self, tier):
        """The reason is stated, and blocks come back."""
        disk = Faulty()
        disk.direct = False
        made = tier(disk=disk)
        assert "O_DIRECT" in made._shelves[0].segment.buffered_why
        made.put(blocks(1), timeout_s=WAIT_S)
        assert read(made, 1) == right(1)


class TestRestart:
    """What a new process finds."""

    def test_blocks_are_found_by_their_headers(self, tier):
        """All of them, with their order of age."""
        made = tier(slots=4)
        made.put(blocks(1, 2, 3, 4), timeout_s=WAIT_S)
        again = tier(slots=4)
        assert read(again, 1, 2, 3, 4) == right(1, 2, 3, 4)
        last = tier(slots=4)
        last.put(blocks(9), timeout_s=WAIT_S)
        assert held(last, (1, 2, 3, 4, 9)) == [2, 3, 4, 9]

    def test_a_kept_block_outlives_others_and_a_restart_until_its_time(self, tier):
        """Eviction passes it by while the clock says so, in the next process too."""
        now = [1000.0]
        made = tier(slots=2, clock=lambda: now[0])
        made.put(blocks(1), timeout_s=WAIT_S, keep_s=60.0)
        for number in (2, 3):
            made.put(blocks(number), timeout_s=WAIT_S)
        assert held(made, (1, 2, 3)) == [1, 3]
        again = tier(slots=2, clock=lambda: now[0])
        again.put(blocks(4), timeout_s=WAIT_S)
        assert held(again, (1, 3, 4)) == [1, 4]
        now[0] += 61.0
        again.put(blocks(5), timeout_s=WAIT_S)
        assert held(again, (1, 4, 5)) == [4, 5]

    def test_all_slots_kept_refuses_more(self, tier):
        """Capacity is never exceeded: the block is refused and counted."""
        made = tier(slots=2)
        made.put(blocks(1, 2), timeout_s=WAIT_S, keep_s=60.0)
        assert made.put(blocks(3), timeout_s=WAIT_S) == 0
        assert (made.stat().blocks, made.stat().refused_blocks) == (2, 1)

    def test_another_slot_size_begins_anew(self, tmp_path):
        """A file of another form holds nothing for us."""
        for size in (SIZE, 2 * SIZE):
            folder = tmp_path / "ssd"
            made = SsdTier(folder, [SlotClass(size, 4)])
            assert made.stat().blocks == 0
            made.put(blocks(1), timeout_s=WAIT_S)
            made.close()
            (folder / f"{size}.kv").rename(folder / f"{2 * size}.kv")

    def test_a_smaller_file_keeps_what_lies_in_it(self, tier):
        """The site file may say less after a restart."""
        tier(slots=6).put(blocks(0, 1, 2, 3, 4, 5), timeout_s=WAIT_S)
        made = tier(slots=3)
        assert made.stat().blocks == 3
        for number in held(made, range(6)):
            assert read(made, number) == right(number)

    def test_two_processes_on_one_file_are_refused(self, tier, tmp_path):
        """The second is told which file it is; the first goes on."""
        made = tier()
        with pytest.raises(SegmentInUse, match=r"12288\.kv"):
            SsdTier(tmp_path / "ssd", [SlotClass(SIZE, 8)])
        code = (
            "from pathlib import Path; from starloom.kv.ssd import *; "
            "from starloom.kv.layout import SlotClass; "
            f"SsdTier(Path({str(tmp_path / 'ssd')!r}), [SlotClass({SIZE}, 8)])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "SegmentInUse" in ran.stderr
        assert made.put(blocks(1), timeout_s=WAIT_S) == 1


class TestFaults:
    """Misses and a flag, never wrong bytes, never a hang."""

    @pytest.mark.parametrize("at", [0, 8, 40, 48, 56, 64, 72, PAGE, PAGE + 5000, PAGE + SIZE - 1])
    def test_a_flipped_bit_is_a_miss(self, tier, tmp_path, at):
        """In the header or the block, seen while running and after a restart."""
        made = tier(slots=2)
        made.put(blocks(1, 2), timeout_s=WAIT_S)
        with segment_file(tmp_path).open("r+b") as file:
            file.seek(PAGE + at)
            byte = file.read(1)[0]
            file.seek(PAGE + at)
            file.write(bytes([byte ^ 4]))
            file.flush()
            os.fsync(file.fileno())
        [bad] = [number for number in (1, 2) if read(made, number) == []]
        good = 3 - bad
        assert read(made, good) == right(good)
        assert (held(made, (1, 2)), made.stat().bad_blocks) == ([good], 1)
        assert made.put(blocks(bad), timeout_s=WAIT_S) == 1
        assert read(made, bad) == right(bad)

    def test_a_flipped_header_is_not_found_after_a_restart(self, tier, tmp_path):
        tier(slots=2).put(blocks(1, 2), timeout_s=WAIT_S)
        tier(slots=2).close()
        data = bytearray(segment_file(tmp_path).read_bytes())
        data[PAGE + 10] ^= 1
        segment_file(tmp_path).write_bytes(data)
        made = tier(slots=2)
        assert made.stat().blocks == 1
        [left] = held(made, (1, 2))
        assert read(made, left) == right(left)

    def test_a_truncated_file_is_misses(self, tier, tmp_path):
        """What was cut off is missed, now and after a restart, and the room is made again."""
        made = tier(slots=4)
        made.put(blocks(1, 2, 3, 4), timeout_s=WAIT_S)
        os.truncate(segment_file(tmp_path), PAGE + 2 * STRIDE + PAGE + 100)
        whole = [number for number in (1, 2, 3, 4) if read(made, number) == right(number)]
        assert len(whole) == 2
        again = tier(slots=4)
        assert [number for number in range(5) if read(again, number) == right(number)] == whole
        assert held(again, range(5)) == whole
        assert segment_file(tmp_path).stat().st_size == PAGE + 4 * STRIDE

    def test_a_torn_write_is_a_miss(self, tier):
        """The header got to disk and the block did not: checksums disagree, after a restart too."""

        class Torn(Disk):
            def write(self, fd, parts, offset):
                size = sum(map(len, parts))
                if offset:
                    parts = [parts[0], parts[1][:PAGE]]
                super().write(fd, parts, offset)
                return size

        tier(slots=2, disk=Torn()).put(blocks(1), timeout_s=WAIT_S)
        made = tier(slots=2)
        assert made.stat().blocks == 1
        assert read(made, 1) == []
        assert made.stat().blocks == 0

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
    def test_a_failing_write_is_a_miss_and_a_flag(self, tier, error):
        """The block is not found; the flag names the error and goes when the disk is well."""
        disk, now = Faulty(), [0.0]
        made = tier(disk=disk, clock=lambda: now[0])
        disk.write_error = error
        assert made.put(blocks(1, 2, 3, 4, 5), timeout_s=WAIT_S) == 0
        stat = made.stat()
        assert (stat.healthy, stat.why, stat.blocks) == (False, os.strerror(error), 0)
        assert made.put(blocks(6), timeout_s=WAIT_S) == 0
        disk.write_error = 0
        now[0] += 100.0
        assert made.put(blocks(1), timeout_s=WAIT_S) == 1
        assert made.stat().healthy
        assert read(made, 1) == right(1)

    def test_a_failing_read_is_a_miss_and_a_flag(self, tier):
        """An unreadable sector costs its block only."""
        disk = Faulty()
        made = tier(disk=disk)
        made.put(blocks(1, 2), timeout_s=WAIT_S)
        disk.read_error = errno.EIO
        assert read(made, 1) == []
        assert not made.stat().healthy
        disk.read_error = 0
        assert read(made, 2) == right(2)
        assert made.stat().healthy
        assert held(made, (1, 2)) == [2]

    def test_a_disk_without_room_cannot_be_opened_and_leaves_nothing(self, tmp_path):
        """A real limit on the size of files: the error comes at the start, not in the middle."""
        code = (
            "import resource, signal; from pathlib import Path; from starloom.kv.ssd import *; "
            "from starloom.kv.layout import SlotClass; "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({4 * STRIDE}, {4 * STRIDE})); "
            f"folder = Path({str(tmp_path)!r}); "
            f"small = SsdTier(folder, [SlotClass({SIZE}, 2)])\n"
            f"try: small.resize({SIZE}, 8)\n"
            "except OSError as error: print('grow', error.errno)\n"
            "print(small.stat().slots, small.put([(bytes(32), b'x')], timeout_s=9))\n"
            "small.close()\n"
            f"try: SsdTier(folder / 'b', [SlotClass({SIZE}, 8)])\n"
            "except OSError as error: print('start', error.errno)\n"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ran.stdout.splitlines() == [f"grow {errno.EFBIG}", "2 1", f"start {errno.EFBIG}"]

    def test_a_slow_disk_does_not_hold_its_callers(self, tier):
        """A get ends at its time limit; the queue refuses more; the flag says what is wrong."""
        disk = Faulty()
        made = tier(disk=disk, threads=1, depth=2, stall_s=0.05)
        made.put(blocks(1, 2), timeout_s=WAIT_S)
        disk.gate = threading.Event()
        began = time.monotonic()
        target = memoryview(bytearray(SIZE))
        assert made.get([key(1)], [target], timeout_s=0.1) == 0
        assert time.monotonic() - began < 1.0
        assert "not ended" in made.stat().why
        assert made.put(blocks(3), timeout_s=0.1) == 0
        disk.gate.set()
        while made.stat().waiting or not made.stat().healthy:
            time.sleep(0.005)
        assert read(made, 1) == right(1)

    def test_a_full_queue_refuses_and_counts(self, tier):
        """Whoever does not wait is told no at once."""
        disk = Faulty()
        made = tier(disk=disk, threads=1, depth=2)
        disk.gate = threading.Event()
        taken = [made.submit_put(*_pair(n), lambda ok: None) for n in range(8)]
        assert sum(taken) in {2, 3}
        assert made.stat().refused_blocks == taken.count(False)
        disk.gate.set()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_thread_that_dies_is_noticed(self, tier):
        """What nobody thought of ends a thread: the flag says so, and nobody waits for it."""
        disk = Faulty()
        made = tier(disk=disk, threads=1)

        def broken(fd, parts, offset):
            raise RuntimeError("a fault of ours")

        disk.write = broken
        assert made.put(blocks(1), timeout_s=WAIT_S) == 0
        made._queue._threads[0].join(WAIT_S)
        assert "ended" in made.stat().why
        assert made.put(blocks(2), timeout_s=WAIT_S) == 0

    def test_kill_9_in_the_middle_of_puts(self, tmp_path):
        """Whatever is found afterwards is what was put, five times over one file."""
        code = (
            "import random, sys; from pathlib import Path; from starloom.kv.ssd import *; "
            "from starloom.kv.layout import SlotClass; "
            f"tier = SsdTier(Path({str(tmp_path)!r}), [SlotClass({1 << 20}, 16)])\n"
            "print('on', flush=True)\n"
            "n = 0\n"
            "while True:\n"
            f"  data = random.Random(n % 40).randbytes({1 << 20})\n"
            "  tier.put([((n % 40).to_bytes(32, 'big'), data)], timeout_s=9); n += 1\n"
        )
        seen = 0
        for turn in range(5):
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            child.stdout.readline()
            time.sleep(0.1 + 0.037 * turn)
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
            made = SsdTier(tmp_path, [SlotClass(1 << 20, 16)])
            assert made.stat().blocks <= 16
            for number in held(made, range(40)):
                got = read(made, number, length=1 << 20)
                assert got in ([], right(number, length=1 << 20))
                seen += len(got)
            made.close()
        assert seen > 0


def _pair(number: int) -> tuple[bytes, memoryview]:
    return key(number), memoryview(content(number))


class Counting(Disk):
    """Counts calls and bytes; fails where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.bad_offset = -1
        self.short_write_at = -1

    def read(self, fd, parts, offset):
        size = sum(map(len, parts))
        self.calls.append(("read", offset, size))
        if offset <= self.bad_offset < offset + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(fd, parts, offset)

    def write(self, fd, parts, offset):
        size = sum(map(len, parts))
        self.calls.append(("write", offset, size))
        if offset <= self.short_write_at < offset + size and size > STRIDE:
            return super().write(fd, parts[:2], offset)
        return super().write(fd, parts, offset)

    def sizes(self, way: str) -> list[int]:
        return [size for each, at, size in self.calls if each == way and at]


class TestRuns:
    """Blocks that lie together move together."""

    def tier(self, tier, disk: Counting, slots: int = 40) -> SsdTier:
        """One thread that finds all jobs of a call waiting: what it does is certain."""
        return tier(slots=slots, disk=disk, threads=1)

    def test_many_blocks_take_few_calls(self, tier):
        """32 blocks handed over at once go, and come, in a handful of system calls."""
        disk = Counting()
        made = self.tier(tier, disk)
        numbers = range(32)
        assert made.put(blocks(*numbers), timeout_s=WAIT_S) == 32
        assert read(made, *numbers) == right(*numbers)
        for way in ("write", "read"):
            assert sum(disk.sizes(way)) == 32 * STRIDE
            assert len(disk.sizes(way)) <= 4

    def test_a_run_is_no_longer_than_it_may_be(self, tier, monkeypatch):
        monkeypatch.setattr("starloom.kv.ssd.queue.RUN_BYTES", 5 * SIZE)
        disk = Counting()
        made = self.tier(tier, disk)
        made.put(blocks(*range(32)), timeout_s=WAIT_S)
        assert max(disk.sizes("write")) == 5 * STRIDE

    def test_blocks_of_other_lengths_and_addresses_mix(self, tier):
        """Whatever a run is made of, each block is its own."""
        disk, lengths = Counting(), [SIZE, SIZE - 1, 5, SIZE, 0, PAGE, SIZE - PAGE + 1, SIZE]
        made = self.tier(tier, disk)
        area = memoryview(mmap.mmap(-1, 16 * SIZE))
        wants = []
        for number, length in enumerate(lengths):
            start = 2 * number * SIZE + number % 3
            area[start : start + length] = content(number, length)
            wants.append((key(number), area[start : start + length]))
        assert made.put(wants, timeout_s=WAIT_S) == len(lengths)
        targets = [memoryview(bytearray(length)) for length in lengths]
        assert made.get([name for name, _ in wants], targets, timeout_s=WAIT_S) == len(lengths)
        assert [bytes(each) for each in targets] == [
            content(number, length) for number, length in enumerate(lengths)
        ]

    def test_one_bad_sector_costs_one_block(self, tier):
        """The rest of its run is read again, block by block."""
        disk = Counting()
        made = self.tier(tier, disk)
        made.put(blocks(*range(8)), timeout_s=WAIT_S)
        disk.bad_offset = PAGE + 3 * STRIDE + PAGE
        assert read(made, *range(8)) == right(0, 1, 2)
        assert held(made, range(8)) == [0, 1, 2, 4, 5, 6, 7]
        assert read(made, 4, 5, 6, 7) == right(4, 5, 6, 7)
        assert made.stat().bad_blocks == 1

    def test_a_flipped_bit_in_a_run_costs_one_block(self, tier, tmp_path):
        made = self.tier(tier, Counting())
        made.put(blocks(*range(8)), timeout_s=WAIT_S)
        with segment_file(tmp_path).open("r+b") as file:
            file.seek(PAGE + 3 * STRIDE + PAGE + 99)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
            file.flush()
            os.fsync(file.fileno())
        assert read(made, *range(8)) == right(0, 1, 2)
        assert held(made, range(8)) == [0, 1, 2, 4, 5, 6, 7]

    def test_a_write_that_is_cut_short_is_tried_block_by_block(self, tier):
        """A disk that takes only part of a run has each block alone, and nothing is lost."""
        disk = Counting()
        made = self.tier(tier, disk)
        disk.short_write_at = PAGE + 2 * STRIDE
        assert made.put(blocks(*range(8)), timeout_s=WAIT_S) == 8
        assert read(made, *range(8)) == right(*range(8))
        assert made.stat().healthy

    def test_a_disk_that_fails_is_not_asked_for_every_block_of_a_run(self, tier):
        """After three failures in a row the rest of the run is not tried, and not given up."""
        disk = Faulty()
        made = tier(slots=40, disk=disk, threads=1)
        made.put(blocks(*range(32)), timeout_s=WAIT_S)
        asked = []
        disk.read_error = errno.EIO
        plain = disk._wait
        disk._wait = lambda error: asked.append(error) or plain(error)
        assert read(made, *range(32)) == []
        assert len(asked) <= 3 + 4, "three alone, and at most a few runs before them"
        assert held(made, range(32)) == list(range(3, 32))


class TestResize:
    """More or less disk while everything runs."""

    def test_growing_gives_room_and_loses_nothing(self, tier, tmp_path):
        made = tier(slots=2)
        made.put(blocks(1, 2), timeout_s=WAIT_S)
        made.resize(SIZE, 4)
        made.put(blocks(3, 4), timeout_s=WAIT_S)
        assert read(made, 1, 2, 3, 4) == right(1, 2, 3, 4)
        assert segment_file(tmp_path).stat().st_size == PAGE + 4 * STRIDE

    def test_shrinking_evicts_the_oldest_only(self, tier, tmp_path):
        """The young ones move to the front of the file, and are found after a restart too."""
        made = tier(slots=8)
        made.put(blocks(*range(8)), timeout_s=WAIT_S)
        for number in (7, 6, 5, 0):
            read(made, number)
        made.resize(SIZE, 3)
        assert held(made, range(8)) == [0, 5, 6]
        assert segment_file(tmp_path).stat().st_size == PAGE + 3 * STRIDE
        assert read(made, 0, 5, 6) == right(0, 5, 6)
        assert read(tier(slots=3), 0, 5, 6) == right(0, 5, 6)

    def test_kept_blocks_go_last(self, tier):
        made = tier(slots=4)
        made.put(blocks(1), timeout_s=WAIT_S, keep_s=60.0)
        made.put(blocks(2, 3, 4), timeout_s=WAIT_S)
        made.resize(SIZE, 1)
        assert held(made, range(5)) == [1]
        assert read(made, 1) == right(1)

    def test_resizing_under_load_never_shows_wrong_bytes(self, tier, tmp_path):
        """Readers and writers go on through twenty changes of size."""
        made, wrong, stop = tier(slots=8), [], threading.Event()

        def work(seed: int) -> None:
            draw = random.Random(seed)
            while not stop.is_set():
                number = draw.randrange(20)
                made.put(blocks(number), timeout_s=WAIT_S)
                if read(made, number) not in ([], right(number)):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        draw = random.Random(5)
        for _ in range(20):
            slots = draw.randrange(1, 14)
            made.resize(SIZE, slots)
            assert made.stat().blocks <= made.stat().slots == slots
            assert segment_file(tmp_path).stat().st_size == PAGE + slots * STRIDE
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert made.stat().bad_blocks == 0

    def test_a_size_that_there_is_not_is_named(self, tier):
        with pytest.raises(KeyError, match="12288"):
            tier().resize(7, 1)


def test_health_rests_after_failures_in_a_row_and_doubles():
    """One failure changes nothing; three put the disk aside for 1, 2, 4 s; success ends it."""
    health = Health()
    health.failed(0.0, "EIO")
    assert not health.well
    assert health.usable(0.0)
    for _ in range(FAILURES - 1):
        health.failed(0.0, "EIO")
    assert [health.usable(now) for now in (0.9, 1.0)] == [False, True]
    health.failed(1.0, "EIO")
    assert [health.usable(now) for now in (2.9, 3.0)] == [False, True]
    health.worked()
    assert health.well
    assert (health.usable(0.0), health.why, health.errors) == (True, "", 4)


class TableMachine(RuleBasedStateMachine):
    """Any order of writes, reads, failures and changes of size over a model of the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(4)
        self.disk: dict[int, tuple[bytes, int]] = {}
        self.filling: list = []
        self.reading: list = []
        self.now_s = 0.0

    @rule(number=st.integers(0, 9), keep_s=st.sampled_from([0, 0, 0, 5]))
    def take(self, number, keep_s) -> None:
        until = self.now_s + keep_s if keep_s else 0.0
        place = self.table.take(key(number), 10, self.now_s, until)
        if place is not None:
            assert 0 <= place.slot < self.table.slots
            users = [each.slot for each in (*self.filling, *self.reading)]
            assert place.slot not in users
            self.disk[place.slot] = (place.key, place.generation)
            self.filling.append(place)

    @precondition(lambda self: self.filling)
    @rule(choice=st.integers(0, 9), ok=st.booleans())
    def end(self, choice, ok) -> None:
        place = self.filling.pop(choice % len(self.filling))
        if ok:
            inside = place.slot < self.table.slots
            assert self.table.commit(place) == inside
            assert place.key in self.table or not inside
        else:
            self.table.abort(place)

    @rule(number=st.integers(0, 9))
    def hold(self, number) -> None:
        place = self.table.hold(key(number))
        assert (place is not None) == (key(number) in self.table)
        if place is not None:
            self.reading.append(place)

    @precondition(lambda self: self.reading)
    @rule(choice=st.integers(0, 9), bad=st.booleans())
    def release(self, choice, bad) -> None:
        place = self.reading.pop(choice % len(self.reading))
        if bad:
            self.table.drop(place)
        self.table.release(place)

    @rule(slots=st.integers(0, 7))
    def resize(self, slots) -> None:
        moves = self.table.resize(slots, self.now_s)
        for moved in moves:
            source = self.table.hold(moved)
            target = self.table.take(moved, 10, self.now_s, source.keep_until_s)
            if target is not None:
                self.disk[target.slot] = (target.key, target.generation)
                self.table.commit(target)
            self.table.release(source)
        self.table.evict_beyond()
        self.table.trim()

    @rule(step_s=st.floats(0, 4))
    def later(self, step_s) -> None:
        self.now_s += step_s

    @invariant()
    def what_is_found_is_on_disk(self) -> None:
        for place in self.table.places():
            assert self.disk[place.slot] == (place.key, place.generation)
        for place in self.reading:
            assert self.disk[place.slot] == (place.key, place.generation)

    @invariant()
    def capacity_holds_and_references_balance(self) -> None:
        assert len(self.table) <= self.table.slots
        counts: dict[int, int] = {}
        for place in self.reading:
            counts[place.slot] = counts.get(place.slot, 0) + 1
        states = self.table._slots
        assert {n: s.readers for n, s in enumerate(states) if s.readers} == counts
        used = {place.slot for place in (*self.filling, *self.reading, *self.table.places())}
        inside = {slot for slot in used if slot < self.table.slots}
        assert sorted([*self.table._free, *inside]) == list(range(self.table.slots))


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
