"""One film through the reference pipeline of diffusers, timed: the other side of `cargo xtask bench engine`.

Same folder of weights, noise, noise levels, guidance and shape as the engine; reads the film's order as JSON on stdin
and writes its measures as JSON on stdout, and the pictures as RGB24 to `frames` so that both films can be compared.
"""

import importlib.metadata
import json
import resource
import sys
import time

import numpy as np
import torch
from diffusers import LTX2Pipeline

from . import noise


def load(folder):
    pipe = LTX2Pipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def film(pipe, order):
    video, audio = pipe.vae, pipe.audio_vae
    grid = [(order["frames"] - 1) // video.temporal_compression_ratio + 1,
            order["height"] // video.spatial_compression_ratio, order["width"] // video.spatial_compression_ratio]
    tokens, channels = int(np.prod(grid)), pipe.transformer.config.in_channels
    x = noise.normals(order["seed"], noise.VIDEO, tokens * channels).reshape(1, tokens, channels)
    length, width = order["audio_tokens"], pipe.transformer.config.audio_in_channels
    a = noise.normals(order["seed"], noise.AUDIO, length * width).reshape(1, length, width)
    # 0.0 and None mean "as the picture" to the pipeline; 1.0 and 0.0 below switch the other passes off.
    return pipe(
        prompt=order["prompt"], negative_prompt=order["negative_prompt"], height=order["height"], width=order["width"],
        num_frames=order["frames"], frame_rate=float(order["fps"]), sigmas=order["sigmas"][:-1],
        num_inference_steps=len(order["sigmas"]) - 1, guidance_scale=order["guidance_video"],
        audio_guidance_scale=order["guidance_audio"], stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0,
        audio_modality_scale=1.0, guidance_rescale=0.0, audio_guidance_rescale=0.0, latents=torch.from_numpy(x),
        audio_latents=torch.from_numpy(a), output_type="np", max_sequence_length=order["text_tokens"], return_dict=False)


def main():
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    start = time.perf_counter()
    pipe = load(order["weights"])
    load_s = time.perf_counter() - start
    seconds, processor = [], []
    for _ in range(order["runs"]):
        start, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            pictures, sound = film(pipe, order)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - cpu)
    rgb = (np.clip(np.asarray(pictures)[0], 0, 1) * 255 + 0.5).astype(np.uint8)
    rgb.tofile(order["frames_file"])
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")}
    json.dump({"load_s": load_s, "film_s": seconds, "film_cpu_s": processor,
               "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "pictures": list(rgb.shape), "samples": int(np.prod(sound.shape[-1:])), "versions": versions}, sys.stdout)


if __name__ == "__main__":
    main()
