"""Engines in several threads of one process, as programs that import segcli have them: answers and settings."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from test_torch_cuda import StandIn, patches

from segcli.engines import torch_state
from segcli.engines.choose import open_engine
from segcli.engines.torch_memory import Device
from segcli.engines.torch_state import bounded, settings
from segcli.models.card import ModelCard


def found() -> list[Any]:
    """torch's settings of the process, and CPU threads of the one that asks."""
    flags = torch_state._flags("float32")
    return [torch.get_num_threads(), *(getattr(owner, name) for owner, name, _ in flags)]


def in_a_new_thread(work: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.parametrize("kind", ["torch", "openvino", "onnx"])
def test_one_engine_answers_several_threads_as_one_and_settings_are_as_they_were(card: ModelCard, kind: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(kind, kind))
    engine = open_engine(card, engine=kind, device="cpu", threads=3).engine
    draw = np.random.default_rng(0)
    shown = [draw.standard_normal((1, 1, 32, 32, 32)).astype(np.float32) for _ in range(4)]
    wanted = [engine.run(x).copy() for x in shown]
    before, new = found(), in_a_new_thread(found)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x: engine.run(x).copy(), shown * 4))
    for answer, own in zip(answers, wanted * 4, strict=True):
        np.testing.assert_array_equal(answer, own)
    assert found() == before
    assert in_a_new_thread(found) == new


@pytest.mark.parametrize("last", [0, 1])
def test_settings_of_threads_that_overlap_hold_for_each_and_the_last_puts_them_back(
    monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    before, new = found(), in_a_new_thread(found)
    both, gone = threading.Barrier(2), threading.Event()

    def work(which: int) -> None:
        own = torch.get_num_threads() if which == 0 else 0
        with settings(2 + which):
            both.wait()
            assert torch.get_num_threads() == 2 + which
            assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
            if which == last:
                assert gone.wait(20)
                assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
        gone.set()
        assert own in (0, torch.get_num_threads())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert found() == before
    assert in_a_new_thread(found) == new


def test_a_thread_that_begins_meanwhile_goes_on_with_the_threads_that_the_process_had() -> None:
    before = torch.get_num_threads()

    def late() -> int:
        with bounded(before + 1):
            assert torch.get_num_threads() == before + 1
        return torch.get_num_threads()

    with bounded(before + 2):
        assert in_a_new_thread(late) == before
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has one flag for all from 2.9 on")
@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_a_callers_flag_for_all_kinds_of_kernels_holds_after_a_run_as_it_would_without(
    before: str, precision: str
) -> None:
    backends: Any = torch.backends
    kinds = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    usual = [backends.fp32_precision, *(kind.fp32_precision for kind in kinds)]
    try:
        kinds[0].fp32_precision, backends.fp32_precision = "none", before
        with settings(1, precision):
            gpu = "tf32" if precision == "tf32" else "ieee"
            assert [kind.fp32_precision for kind in kinds] == [gpu, gpu, "ieee", "ieee"]
        assert {kind.fp32_precision for kind in kinds} == {before}
        if (before, precision) != ("ieee", "tf32"):
            backends.fp32_precision = after = "ieee" if before == "tf32" else "tf32"
            assert {kind.fp32_precision for kind in kinds} == {after}
    finally:
        backends.fp32_precision = usual[0]
        for kind, value in zip(kinds, usual[1:], strict=True):
            kind.fp32_precision = value


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_settings_are_put_back_after_an_interrupt_too(error: type[BaseException]) -> None:
    before = found()

    def interrupted() -> None:
        with settings(before[0] + 1, "tf32"):
            assert found() != before
            raise error

    with pytest.raises(error):
        interrupted()
    assert found() == before


def test_threads_take_turns_on_a_device_and_steps_down_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    wanted = StandIn(Device("cpu")).run(patches(8))
    engine = StandIn(Device("cpu"))
    engine.room, inside, most = 2, list[int](), list[int]()
    plain = engine._forward

    def forward(some: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        inside.append(1)
        most.append(len(inside))
        try:
            return plain(some, exact=exact)
        finally:
            inside.pop()

    engine._forward = forward  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: engine.run(patches(8)), range(8)))
    for answer in answers:
        np.testing.assert_allclose(answer, wanted, rtol=1e-6, atol=1e-6)
    assert max(most) == 1
    assert engine.batch == 2
    assert engine.fallbacks == [f"out of GPU memory: {n} windows at a time" for n in (4, 2)]


def test_a_window_that_is_computed_again_in_float32_is_that_of_its_own_thread_alone() -> None:
    engine, seen = StandIn(Device("cpu")), dict[str, list[bool]](first=[], second=[])
    engine.precision = "float16"
    plain, both = engine._forward, threading.Barrier(2)

    def forward(some: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        seen[threading.current_thread().name].append(exact)
        return plain(some, exact=exact)

    engine._forward = forward  # type: ignore[method-assign]

    def first() -> None:
        with engine.exact(1):
            both.wait()
            both.wait()
            engine.logits(torch.from_numpy(patches(1)))

    def second() -> None:
        both.wait()
        engine.logits(torch.from_numpy(patches(1)))
        both.wait()

    threads = [threading.Thread(target=work, name=work.__name__) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == {"first": [True], "second": [False]}


def test_a_caller_who_has_asked_torch_for_quick_products_has_float32_while_a_network_runs() -> None:
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        pytest.skip("torch before 2.9 has one word for all products")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with settings(1):
            assert {backends.mkldnn.matmul.fp32_precision, backends.cuda.matmul.fp32_precision} == {"ieee"}
        assert backends.mkldnn.matmul.fp32_precision == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
