"""Which number format the denoiser's products are computed in, here and now.

bfloat16 is several times faster than float32 where a processor multiplies it well, and four to thirty times slower
where torch has to emulate it, as on an x86 processor without AVX-512. Between the two are processors that have the
instruction and gain nothing by it: 1.5 times slower on a Xeon with AVX-512 BF16 and without AMX. A configuration or a
command cannot know where it will run, so bfloat16 is a wish: it is granted where it does not cost time. Weights are
float32 either way.
"""

import time
import warnings
from functools import cache

import torch

SHAPE = 128, 384, 1536  # of the product that is timed: a feed-forward layer's
ROUNDS = 8  # the best of which counts; the first one sets up the kernels


def granted(precision: str, device: str | torch.device) -> str:
    """The format to use where `precision` ("float32" or "bfloat16") was asked for, with a warning if it is another."""
    if precision == "bfloat16" and torch.device(device).type == "cpu" and slowdown() > 1:
        warnings.warn(
            f"bfloat16 takes {slowdown():.1f} times as long as float32 on this processor: float32 is used", stacklevel=3
        )
        return "float32"
    return precision


@cache
def slowdown() -> float:
    """How many times longer a product takes on this CPU in bfloat16 than in float32.

    On one thread: beside other processes several wait for each other, which takes longer than the product.
    """
    rows, width, feed_forward = SHAPE
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            for dtype, taken in seconds.items():
                x, weight = torch.ones(rows, width, dtype=dtype), torch.ones(feed_forward, width, dtype=dtype)
                started = time.perf_counter()
                torch.nn.functional.linear(x, weight, weight[:, 0])
                taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[torch.bfloat16]) / min(seconds[torch.float32])
