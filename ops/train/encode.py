"""Encodes training clips to latents, in shards under runs/cache/ that the DiT stage reads as they appear.

    python -m ops.train.encode --shards 4 --objects 1
    python -m ops.train.encode --shards 12 --objects 0

A shard is 256 clips of one size: raw latent means in f16, weights of the tokens (objects, sound), and scenes.
The first shards also fix latents_mean and latents_std (runs/statistics.pt), once for ever.
Both encoders are causal, so a prefix of the latents is the encoding of the prefix of the clip.
"""

import argparse

import numpy as np
import torch
import torch.multiprocessing as mp

from . import models, scenes, sound, stage, train_audio, train_vae

SHARD, STATISTICS_SHARDS = 256, 5  # Five shards hold every size.
CACHE = stage.RUNS / "cache"
SIZE_CYCLE = [0, 1, 2, 0, 2]  # Two fifths square, two fifths portrait, a fifth landscape: a film is portrait unless asked otherwise.


def codecs(variant):
    vae, audio = models.video_vae(variant), models.audio_vae(variant)
    vae.load_state_dict(stage.load("vae")["vae"])
    audio.load_state_dict(stage.load("audio_vae")["vae"])
    return vae.eval(), audio.eval()


@torch.no_grad()
def encode_scene(vae, audio, scene, device):
    """Raw latents video [f, h, w, C], audio [L, 16 c], and the token masks of objects and of sound."""
    frames, mask = scenes.render(scene, with_mask=True)
    with stage.autocast(device):
        video = train_vae.encode_mean(vae, train_vae.pixels(frames)[None].to(device))[0].float().cpu()
        count = sound.latents_of(scene["frames"], scene["fps"])
        mel = sound.log_mel(torch.from_numpy(scenes.sound(scene))[None])[:, :, : sound.mel_frames(count)]
        heard = train_audio.encode_mean(audio, mel.to(device))[0].float().cpu()
    return (video.permute(1, 2, 3, 0), heard.transpose(0, 1).flatten(1), object_tokens(mask), sound_tokens(mel[0, 0], count))


def object_tokens(mask):
    """[n, h, w] of pixels -> [f, h / 16, w / 16] of tokens; the first latent frame is one picture frame."""
    m = torch.from_numpy(mask)
    grid = m.view(len(m), m.shape[1] // 16, 16, m.shape[2] // 16, 16).amax(dim=(2, 4))
    return torch.cat([grid[:1], grid[1:].unflatten(0, (-1, 4)).amax(1)])


def sound_tokens(mel, count):
    loud = mel.amax(1) > -8.0
    return torch.cat([loud[:1], loud[1:].unflatten(0, (-1, 4)).amax(1)])[:count]


def make_shard(vae, audio, index, objects, rng, device, clips):
    size = scenes.SIZES[SIZE_CYCLE[index % len(SIZE_CYCLE)]]
    rows, kept = [], []
    for _ in range(clips):
        scene = scenes.draw_scene(int(rng.integers(scenes.VALIDATION_SEED)), size=size, count=objects or int(rng.choice((1, 2))))
        rows.append(encode_scene(vae, audio, scene, device))
        kept.append(scene)
    video, heard, seen, loud = (torch.stack(c) for c in zip(*rows))
    return {"video": video.half(), "audio": heard.half(), "seen": seen, "loud": loud, "scenes": kept, "objects": objects}


def write_statistics(shards):
    video = torch.cat([s["video"].float().flatten(0, -2) for s in shards])
    audio = torch.cat([s["audio"].float().flatten(0, -2) for s in shards])
    stage.save("statistics", video_mean=video.mean(0), video_std=video.std(0).clamp_min(1e-3),
               audio_mean=audio.mean(0), audio_std=audio.std(0).clamp_min(1e-3))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--shards", type=int, required=True)
    args.add_argument("--objects", type=int, default=0, help="0: one or two")
    args.add_argument("--clips", type=int, default=SHARD, help="clips of a shard")
    args.add_argument("--processes", type=int, default=2, help="single-thread workers: two threads of one process wait for each other")
    stage.add_device(args)
    args = args.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    first = len(list(CACHE.glob("*.pt")))
    mp.spawn(worker, (args, range(first, first + args.shards)), nprocs=args.processes)
    if stage.load("statistics") is None:
        write_statistics([torch.load(path, weights_only=False) for path in sorted(CACHE.glob("*.pt"))[:STATISTICS_SHARDS]])


def worker(rank, args, indices):
    """Every `processes`-th shard, so that a shard is the same whoever makes it."""
    torch.set_num_threads(1)
    vae, audio = (part.to(args.device) for part in codecs(args.variant))
    clock, log = stage.Clock(1e9), stage.Log("encode")
    for done, index in enumerate(indices[rank::args.processes], 1):
        shard = make_shard(vae, audio, index, args.objects, np.random.default_rng((4, index)), args.device, args.clips)
        temporary = CACHE / f"{index:04}.writing"
        torch.save(shard, temporary)
        temporary.replace(CACHE / f"{index:04}.pt")
        log.write(shard=index, objects=args.objects, size=shard["scenes"][0]["size"], clips_per_s=done * args.clips / clock.elapsed())


if __name__ == "__main__":
    main()
