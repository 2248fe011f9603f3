"""The shared memory: where slots lie, and that only the server can change them."""

import fcntl
import mmap
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.kv import arena as arena_module
from starloom.kv.arena import Arena, ReadArena
from starloom.kv.errors import BlockTooLarge, NoSharedMemory
from starloom.kv.layout import ALIGN_BYTES, Block, Layout, SlotClass

CLASSES = st.lists(
    st.builds(SlotClass, st.integers(1, 300), st.integers(1, 20)),
    min_size=1,
    max_size=4,
    unique_by=lambda each: each.slot_bytes,
)


@given(CLASSES)
def test_slots_never_overlap(classes):
    """Slots are aligned, lie one after the other behind the generation words, and fit."""
    layout = Layout(classes)
    spans = []
    for slot in range(layout.slots):
        size = layout.classes[layout.class_of(slot)].slot_bytes
        spans.append(layout.span(slot, size))
    assert spans[0].start >= layout.slots * 8
    assert all(span.start % ALIGN_BYTES == 0 for span in spans)
    assert all(one.stop <= other.start for one, other in pairwise(spans))
    assert spans[-1].stop <= layout.total_bytes


@given(CLASSES, st.integers(0, 400))
def test_the_smallest_class_that_fits_is_chosen(classes, size):
    """The class for a size holds it, and no smaller class does."""
    layout = Layout(classes)
    fitting = [each.slot_bytes for each in classes if each.slot_bytes >= size]
    if not fitting:
        with pytest.raises(BlockTooLarge):
            layout.class_for(size)
        return
    assert layout.classes[layout.class_for(size)].slot_bytes == min(fitting)


def test_slots_are_written_as_bytes_times_count():
    """`parse` reads what the command line takes, and refuses the rest with the form."""
    assert SlotClass.parse("4096x8") == SlotClass(4096, 8)
    for wrong in ("4096", "x8", "4096x", "-1x8", "4kx8", "1x2x3"):
        with pytest.raises(ValueError, match="BYTESxCOUNT"):
            SlotClass.parse(wrong)
    for classes in ([], [SlotClass(0, 1)], [SlotClass(1, 0)], [SlotClass(8, 1), SlotClass(8, 2)]):
        with pytest.raises(ValueError, match=r"slot|class"):
            Layout(classes)


def test_the_descriptor_that_clients_get_cannot_write():
    """No write, no writable mapping, no resize, no further seal, even for the same user."""
    layout = Layout([SlotClass(64, 2)])
    arena = Arena(layout)
    block = Block(0, 5, 1)
    arena.claim(block)[:] = b"hello"
    reader = ReadArena(arena.fd, layout)
    assert bytes(reader.view(block)) == b"hello"
    assert reader.generations[0] == 1
    with pytest.raises(TypeError):
        reader.view(block)[0] = 1
    with pytest.raises(PermissionError):
        os.pwrite(arena.fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(arena.fd, layout.total_bytes)
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(arena.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    arena.claim(block)[:] = b"world"
    assert bytes(reader.view(block)) == b"world"
    arena.close()


def test_a_kernel_without_the_future_write_seal_sends_a_read_only_descriptor(monkeypatch):
    """Where F_SEAL_FUTURE_WRITE is refused, the descriptor itself is open for reading only."""
    monkeypatch.setattr(arena_module, "_F_SEAL_FUTURE_WRITE", 1 << 20)
    layout = Layout([SlotClass(64, 2)])
    arena = Arena(layout)
    arena.claim(Block(1, 3, 9))[:] = b"abc"
    assert bytes(ReadArena(arena.fd, layout).view(Block(1, 3, 9))) == b"abc"
    with pytest.raises(PermissionError):
        mmap.mmap(arena.fd, layout.total_bytes)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(arena.fd, b"x", 0)
    arena.close()


def test_a_system_without_memfd_says_what_to_do(monkeypatch):
    """The error names the system's lack and the way out."""
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(NoSharedMemory, match="Leave `pool` out"):
        Arena(Layout([SlotClass(64, 2)]))


def test_nothing_is_left_in_shared_memory():
    """An arena has no name in /dev/shm, and a process that dies with one leaves nothing."""
    code = (
        "import os; from starloom.kv.arena import *; from starloom.kv.layout import *;"
        "a = Arena(Layout([SlotClass(1 << 20, 8)])); print(*os.listdir('/dev/shm'), flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == -9
    assert "starloom" not in child.stdout
    assert not [path for path in Path("/dev/shm").iterdir() if "starloom" in path.name]


@pytest.mark.parametrize("classes", [[SlotClass(100, 4)], [SlotClass(16, 3), SlotClass(5000, 2)]])
def test_many_views_are_the_views_of_each(classes):
    """One class has a shorter way; both give what `view` and `span` give, block by block."""
    arena = Arena(Layout(classes))
    blocks = [Block(slot, 3 + slot, 7) for slot in range(arena.layout.slots)]
    for block in blocks:
        arena.claim(block)[:] = bytes([block.slot + 1]) * block.length
    reader = ReadArena(arena.fd, arena.layout)
    assert [bytes(view) for view in reader.views(blocks)] == [
        bytes(reader.view(block)) for block in blocks
    ]
    assert reader.views([]) == []
    for bad in (Block(-1, 1, 0), Block(arena.layout.slots, 1, 0), Block(0, 101, 0)):
        with pytest.raises(IndexError):
            reader.views([*blocks, bad])
    arena.close()
