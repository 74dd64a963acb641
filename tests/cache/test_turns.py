"""Time and turns: compilers that hang, threads and processes that need one kernel."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from losskit.kernels import codegen, compiler, library

from .conftest import assert_one_sentence, declare, forked, hold, kernel_of, look_again, look_for, wait_for


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("ending", ["wait", "exec sleep 1000"])
def test_a_compiler_that_hangs_is_killed_with_its_children(ending, fake, tmp_path, monkeypatch):
    monkeypatch.setenv(compiler.TIME_LIMIT, "0.5")
    fake(f"trap '' TERM INT HUP; sleep 1000 & echo $! > {tmp_path}/child; {ending}")
    started = time.monotonic()
    address, (message,) = look_again()
    assert not address
    assert "took too long and was stopped; LOSSKIT_COMPILE_TIMEOUT allows 0.5 seconds" in message
    assert time.monotonic() - started < 10
    child = int(wait_for(tmp_path / "child"))
    for _ in range(500):
        if not is_running(child):
            break
        time.sleep(0.01)
    assert not is_running(child)


def test_a_compiler_keeps_its_temporary_files_in_the_cache(fake, tmp_path):
    """So that they go, whatever happens to it."""
    fake(f'echo "$TMPDIR" >> {tmp_path}/used; : > "$TMPDIR/litter"')
    assert look_again()[0]
    (folder,) = set((tmp_path / "used").read_text().splitlines())
    assert Path(folder).parent.parent == tmp_path / "cache/losskit"
    assert not Path(folder).parent.exists()


def test_a_compiler_s_daemon_is_not_waited_for(fake, tmp_path, monkeypatch):
    """Compiler caches leave a server behind, which keeps the pipe open."""
    monkeypatch.setenv(compiler.TIME_LIMIT, "30")
    fake(f"[ $kind = -shared ] || {{ sleep 1000 & echo $! > {tmp_path}/child; }}")
    started = time.monotonic()
    address, told = look_again()
    os.kill(int(wait_for(tmp_path / "child")), signal.SIGKILL)
    assert address
    assert not told
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("text, seconds", [("3", 3.0), ("0.5", 0.5), ("1e300", threading.TIMEOUT_MAX), ("inf", threading.TIMEOUT_MAX),
    *((text, 120.0) for text in ("", "x", "0", "-1", "nan"))])  # fmt: skip
def test_the_time_limit_is_a_positive_number_of_seconds(text, seconds, monkeypatch):
    monkeypatch.setenv(compiler.TIME_LIMIT, text)
    assert compiler.time_limit() == seconds


def test_threads_that_need_one_kernel_compile_it_once(fake):
    fake("sleep 0.2")
    formula, found = declare(), []
    others = [declare() for _ in range(3)]  # the same source in other classes
    threads = [threading.Thread(target=lambda f=f: found.append(library.find(f))) for f in [formula] * 8 + others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 11
    assert len(set(found)) == 1
    assert found[0]
    assert fake.compilations() == 1


def test_threads_that_get_no_kernel_ask_once(fake, tmp_path):
    fake("sleep 0.2; exit 1")
    formula = declare()
    library._told.add(formula.loss)
    threads = [threading.Thread(target=library.find, args=(formula,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "calls").read_text().count("\n") == 1


def test_processes_that_need_one_kernel_compile_it_once(fake, tmp_path):
    fake("sleep 0.2")
    pids = forked(lambda: bool(library.find(declare())), count=8)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert fake.compilations() == 1
    assert kernel_of(tmp_path / "cache/losskit").suffix == ".so"  # no lock is left


def test_a_killed_holder_holds_nothing(fake, tmp_path):
    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    path.unlink()
    pid = hold(path, tmp_path / "ready")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert path.with_suffix(".lock").exists()
    assert look_again()[0]
    assert kernel_of(tmp_path / "cache/losskit") == path


def test_a_holder_is_waited_for_but_not_for_ever(fake, tmp_path, monkeypatch):
    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    path.unlink()
    pid = hold(path, tmp_path / "ready")
    try:
        monkeypatch.setenv(compiler.TIME_LIMIT, "0.3")
        started = time.monotonic()
        address, told = look_again()
        assert not address
        assert_one_sentence(told, "another process has been compiling it for too long")
        assert time.monotonic() - started < 10
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_thread_is_waited_for_but_not_for_ever(monkeypatch, fake):
    monkeypatch.setenv(compiler.TIME_LIMIT, "0.1")
    formula = declare()
    turn = library._turns.setdefault(codegen.cpp(formula)[0], threading.Lock())
    with turn:
        address, told = look_for(formula)
    assert not address
    assert_one_sentence(told, "another thread has been compiling it for too long")


@pytest.mark.parametrize("what", ["no locks", "a folder", "a fifo", "a link"])
def test_a_lock_that_cannot_be_had_costs_no_kernel(what, fake, tmp_path, monkeypatch):
    import fcntl

    def refuse(*args):
        raise OSError(37, "No locks available")

    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    path.unlink()
    lock = path.with_suffix(".lock")
    if what == "no locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        {"a folder": Path.mkdir, "a fifo": os.mkfifo, "a link": lambda p: p.symlink_to(p)}[what](lock)
    address, told = look_again()
    assert address
    assert not told
    assert fake.compilations() == 2
