"""The same shapes in PyTorch, timed the same way. Prints a line of JSON for each; called by gpu-check.

`bench_torch.py --cpu SHAPES` runs on the processor instead, to see that the script itself works.
"""

import json
import statistics
import sys
import time

CPU = "--cpu" in sys.argv
DEVICE = "cpu" if CPU else "cuda"


def say(**fields):
    print(json.dumps(fields), flush=True)


def measure(torch, work):
    """Median milliseconds of up to 20 runs after three."""
    for _ in range(3):
        work()
    if CPU:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
        if sum(times) > 1000 and len(times) >= 3:
            break
    return statistics.median(times)


def linear(torch, shapes):
    for m, n, k in shapes:
        x, w = (torch.randn(rows, k, device=DEVICE, dtype=torch.bfloat16) for rows in (m, n))
        ms = measure(torch, lambda: torch.nn.functional.linear(x, w))
        for name in ("linear", "blas"):
            say(kind="op", name=name, shape=f"{m}x{n}x{k}", torch_ms=ms, torch_backend="F.linear")


def attention(torch, shapes, heads):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }
    if CPU:
        backends = {"math": SDPBackend.MATH}
    for tokens, d in shapes:
        q, k, v = (torch.randn(1, heads, tokens, d, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
        found = {}
        for name, backend in backends.items():
            try:
                with sdpa_kernel(backend):
                    found[name] = measure(torch, lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
            except RuntimeError as error:
                say(kind="skipped", why=f"torch attention {name} {tokens}x{d}: {str(error).splitlines()[0]}")
        if not found:
            continue
        best = min(found, key=found.get)
        for path in ("Mma", "Hopper", "HopperWide", "HopperDeep"):
            if d != {"HopperWide": 128, "HopperDeep": 64}.get(path, d):
                continue
            say(kind="op", name=f"attention {path}", shape=f"{tokens}x{d}", torch_ms=found[best], torch_backend=best, torch_all=found)


def conv3d(torch, shapes):
    for t, h, w, c in shapes:
        x = torch.randn(1, c, t, h, w, device=DEVICE, dtype=torch.bfloat16).to(memory_format=torch.channels_last_3d)
        layer = torch.nn.Conv3d(c, c, 3, padding=1, device=DEVICE, dtype=torch.bfloat16).to(memory_format=torch.channels_last_3d)
        with torch.no_grad():
            ms = measure(torch, lambda: layer(x))
        for path in ("Mma", "Hopper"):
            say(kind="op", name=f"conv3d {path}", shape=f"{t}x{h}x{w}x{c}", torch_ms=ms, torch_backend="F.conv3d channels_last_3d")


def whole_pass(torch, told):
    """A pass of the 19 B transformer of diffusers with random weights; its defaults are those of LTX-2."""
    try:
        from diffusers import LTX2VideoTransformer3DModel
    except ImportError as error:
        return say(kind="skipped", why=f"torch pass: {error}")
    small = dict(num_layers=1, num_attention_heads=2, audio_num_attention_heads=2, cross_attention_dim=256, audio_cross_attention_dim=128)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = LTX2VideoTransformer3DModel(**(small if CPU else {})).eval()
        text = [torch.randn(1, told["text"], model.config.caption_channels) for _ in range(2)]
        sigma = torch.full((1,), 500.0)
    for size, (frames, rows, columns) in told["sizes"]:
        with torch.device(DEVICE):
            x = torch.randn(1, frames * rows * columns, model.config.in_channels)
            a = torch.randn(1, told["audio"], model.config.audio_in_channels)
        work = lambda: model(
            hidden_states=x, audio_hidden_states=a, encoder_hidden_states=text[0], audio_encoder_hidden_states=text[1], timestep=sigma,
            audio_timestep=sigma, num_frames=frames, height=rows, width=columns, fps=24.0, audio_num_frames=told["audio"], return_dict=False)
        with torch.no_grad():
            say(kind="pass", name="pass", shape=size, torch_ms=measure(torch, work), torch_backend="diffusers, its default attention")


def main():
    shapes = json.loads(sys.argv[-1])
    try:
        import torch
    except ImportError as error:
        say(kind="skipped", why=f"torch: {error}")
        return
    if not CPU and not torch.cuda.is_available():
        say(kind="skipped", why="torch: it sees no GPU")
        return
    cudnn = None if CPU else torch.backends.cudnn.version()
    say(kind="env", torch=torch.__version__, torch_cuda=torch.version.cuda, cudnn=cudnn)
    for name, work in (
        ("linear", lambda: linear(torch, shapes["linear"])),
        ("attention", lambda: attention(torch, shapes["attention"], shapes["heads"])),
        ("conv3d", lambda: conv3d(torch, shapes["conv3d"])),
        ("pass", lambda: whole_pass(torch, shapes["pass"])),
    ):
        try:
            work()
        except Exception as error:  # What PyTorch cannot do is a note.
            say(kind="skipped", why=f"torch {name}: {str(error).splitlines()[0]}")


main()
