"""Random streams: one for every stage of a run, so that leaving a finished stage out changes no other.

A study's multiplier and the numbers of its stages are part of its results: with others, a run that goes on would get
other numbers, and a finished one could not be repeated.
"""

import zlib

import torch

_LARGEST = 2**62  # of seeds that several stages are mixed into


def random_stream(
    seed: int | str, *stages: int, times: int = 1, plus: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random stream of one stage, which a number, nested numbers or a name stands for.

    Args:
        seed: of the run; or the name of the stage, where the name says which seed is meant.
        stages: the stage's number, after the numbers of what it is a part of.
        times: the study's own multiplier, which never changes: number after number, the seed becomes
            seed * times + number + plus.
        plus: added with each number.
        device: where the numbers are drawn; they differ from device to device.

    >>> random_stream(3, 11, times=1009).initial_seed()
    3038
    """
    mixed = zlib.crc32(seed.encode()) if isinstance(seed, str) else seed
    for stage in stages:
        mixed = mixed * times + int(stage) + plus
    return torch.Generator(device).manual_seed(mixed % _LARGEST if len(stages) > 1 else mixed)
