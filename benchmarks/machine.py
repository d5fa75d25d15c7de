"""What a step takes of the machine it runs on, a CPU or a GPU, and how a benchmark shows it."""

import platform
import time
from collections.abc import Mapping
from pathlib import Path


def now(device: str, threads: int = 1) -> float:
    """Seconds: of the process on one thread of a CPU, so that other work disturbs little, else on the clock.

    On a GPU once it is done.
    """
    if device == "cpu":
        return time.process_time() if threads == 1 else time.perf_counter()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak(device: str) -> int:
    """Forget the peak so far; returns the bytes in use."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    import torch

    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak(device: str) -> int:
    """The most bytes in use since `reset_peak`."""
    if device == "cpu":
        return _status("VmHWM")
    import torch

    return torch.cuda.max_memory_allocated()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def machine(device: str) -> str:
    """The name of the processor or the GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def chart(title: str, bars: Mapping[str, float]) -> str:
    """Bars as a Mermaid block, which Markdown viewers draw."""
    names = ", ".join(f'"{name}"' for name in bars)
    values = ", ".join(f"{value:.2f}" for value in bars.values())
    return f'```mermaid\nxychart-beta horizontal\n    title "{title}"\n    x-axis [{names}]\n    bar [{values}]\n```'
