"""The engine's noise in numpy, from its specification in agent/diffusion/src/noise.rs alone: a second implementation of it.

Run `python -m ops.train.noise` for the known answers that the engine's test holds.
"""

import numpy as np

VIDEO, AUDIO = 0, 1
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Philox 4x32-10; counter: four arrays of 64-bit integers below 2^32, key: two integers below 2^32."""
    a, b, c, d = counter
    for _ in range(10):
        first, second = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b = (second >> np.uint64(32)) ^ b ^ np.uint64(key[0]), second & LOW
        c, d = (first >> np.uint64(32)) ^ d ^ np.uint64(key[1]), first & LOW
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, WEYL)]
    return a, b, c, d


def normals(seed, stream, count):
    """`count` normal values of a stream, as f32."""
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(blocks)
    words = philox((blocks & LOW, blocks >> np.uint64(32), zero + np.uint64(stream), zero), [seed & 0xFFFFFFFF, seed >> 32])
    u = [(w.astype(np.float64) + 0.5) / 2.0**32 for w in words]
    pairs = []
    for a, b in ((u[0], u[1]), (u[2], u[3])):
        radius, angle = np.sqrt(-2.0 * np.log(a)), 2.0 * np.pi * b
        pairs += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.stack(pairs, axis=1).reshape(-1)[:count].astype(np.float32)


if __name__ == "__main__":
    for seed, stream in ((0, VIDEO), (7, VIDEO), (7, AUDIO), (2**64 - 1, VIDEO)):
        values = normals(seed, stream, 6)
        print(seed, stream, [f"0x{bits:08x}" for bits in values.view(np.uint32)], values)
