"""Golden cases of what is given (stills, frozen sound, masks), of tiling and of the latent upsampler, as
agent/diffusion/tests/golden/*.safetensors.

Weights are not stored: the note `drawn` lists [name, shape, scale], and `drawn` below makes the values of each from a hash of
their places, as the tests do. Configs, arguments, inputs and outputs are as in golden_dit.py.
Run from the repository root: python -m ops.train.golden_given [CASE...]
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift, rescale_noise_cfg
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2ConditionPipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample import LTX2LatentUpsamplePipeline

from .golden_dit import DIT, DIT_23, File, noise
from .golden_vae import config_of, video_vae


def drawn(number, count):
    """`count` values in -1..1 of tensor `number`: 24 bits of a hash of each place, exact in f32."""
    z = np.arange(count, dtype=np.uint32) + np.uint32((number + 1) * 0x9E3779B9 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        z = (z ^ (z >> np.uint32(shift))) * np.uint32(factor)
    z ^= z >> np.uint32(16)
    return (z >> np.uint32(8)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def draw(file, module, scales):
    """Draws every parameter and statistic; `scales` maps parts of names to scales, the first that fits counts."""
    shapes, state = [], {}
    for number, (name, value) in enumerate(module.state_dict().items()):
        scale = next(scale for part, scale in scales if part in name)
        values = torch.from_numpy(drawn(number, value.numel()) * np.float32(scale)).reshape(value.shape)
        shapes.append([name, list(value.shape), scale])
        state[name] = values
    module.load_state_dict(state)
    file.notes["drawn"] = json.dumps(shapes)
    return module.eval().float()


def upsampler(name, **fields):
    file = File(name)
    fields = dict(in_channels=4, mid_channels=32, num_blocks_per_stage=1) | fields
    model = draw(file, LTX2LatentUpsamplerModel(**fields), [("kernel", 1.0), ("norm", 2.0), ("", 0.125)])
    file.notes["config"] = json.dumps(fields | {"_class_name": "LTX2LatentUpsamplerModel"})
    latents = noise(40, 1, 4, 3, 3, 5)
    with torch.no_grad():
        out = model(latents)
    file.tensors["in.latents"], file.tensors["out.latents"] = latents, out.contiguous()
    print(name, tuple(out.shape), float(out.std()))
    file.save()


def upsampler_20():
    upsampler("upsampler_20", use_rational_resampler=True, rational_spatial_scale=2.0)


def upsampler_23():
    upsampler("upsampler_23", use_rational_resampler=False)


def adain():
    """AdaIN to the statistics of the first stage, and the tone map, of the library's upsampling pipeline."""
    file = File("adain")
    base, large = noise(41, 1, 4, 3, 3, 5) * 2 + 0.5, noise(42, 1, 4, 3, 6, 10) * 0.7
    adapted = LTX2LatentUpsamplePipeline.adain_filter_latent(None, large, base, 0.75)
    mapped = LTX2LatentUpsamplePipeline.tone_map_latents(None, large * 3, 0.6)
    file.case("adain", dict(factor=0.75), dict(base=base, large=large), dict(latents=adapted))
    file.case("tone", dict(compression=0.6), dict(large=large * 3), dict(latents=mapped))
    file.save()


def vae_tiled():
    """Tiles of 8 pixels every 4 and of 4 frames every 2, where a latent covers 4 pixels and 2 frames."""
    file = File("vae_tiled")
    vae = video_vae(
        latent_channels=8, block_out_channels=(8,), layers_per_block=(1, 1), downsample_type=("spatiotemporal",),
        decoder_block_out_channels=(8,), decoder_layers_per_block=(1, 1), upsample_factor=(1,), upsample_type=("spatiotemporal",),
        upsample_residual=(True,), patch_size=2, spatial_compression_ratio=4, temporal_compression_ratio=2)
    draw(file, vae, [("latents_std", 1.0), ("", 0.25)])
    file.notes["config"] = json.dumps(config_of(vae))
    vae.enable_tiling(8, 8, 4, 4, 4, 2)
    latents, video = noise(43, 1, 8, 5, 5, 3), noise(44, 1, 3, 9, 20, 12).clamp(-1, 1)
    for case, framewise, tiled in (("space", False, True), ("time", True, False), ("both", True, True)):
        vae.use_framewise_decoding, vae.use_tiling = framewise, tiled
        with torch.no_grad():
            file.tensors[f"out.{case}.sample"] = vae.decode(latents, return_dict=False)[0].contiguous()
            file.tensors[f"out.{case}.mean"] = vae.encode(video).latent_dist.mode().contiguous()
    file.tensors["in.latents"], file.tensors["in.video"] = latents, video
    file.save()


def given():
    """The transformer with appended stills, with frozen sound, with a mark on keyframes (2.5), and two clips of one batch."""
    file = File("dit_given")
    fields = DIT | DIT_23 | dict(ff_bias=False, use_keyframes_abs_pos_embedding=True)
    model = draw(file, LTX2VideoTransformer3DModel(**fields), [("", 0.5)])
    file.notes["config"] = json.dumps({k: v for k, v in model.config.items() if not k.startswith("_")}
                                      | {"_class_name": "LTX2VideoTransformer3DModel"})
    (f, h, w), audio_tokens, fps, stills = (2, 2, 3), 5, 24.0, (3, 4)
    scale, patch = tuple(fields["vae_scale_factors"]), SimpleNamespace(transformer_spatial_patch_size=1,
                                                                       transformer_temporal_patch_size=1)
    patch.vae_temporal_compression_ratio, patch.vae_spatial_compression_ratio = scale[0], scale[1]
    coords = [model.rope.prepare_video_coords(1, f, h, w, torch.device("cpu"), fps=fps)]
    for still in stills:
        coords.append(LTX2ConditionPipeline._prepare_keyframe_coords(patch, 1, h, w, still, 1, fps, torch.device("cpu")))

    def case(name, tokens, video_times, audio_times, sigmas, coords, mask=None, seed=60):
        inputs = dict(video=noise(seed, tokens, 6), audio=noise(seed + 1, audio_tokens, 8), video_text=noise(seed + 2, 4, 16),
                      audio_text=noise(seed + 3, 4, 8), video_times=torch.tensor(video_times),
                      audio_times=torch.tensor(audio_times))
        call = {}
        if mask is not None:
            inputs["keyframes"] = torch.tensor(mask)
            call["video_keyframes_mask"] = inputs["keyframes"][None, :, None]
        with torch.no_grad():
            video, audio = model(
                inputs["video"][None], inputs["audio"][None], inputs["video_text"][None], inputs["audio_text"][None],
                timestep=inputs["video_times"][None], audio_timestep=inputs["audio_times"][None],
                sigma=torch.tensor([sigmas[0]]), audio_sigma=torch.tensor([sigmas[1]]), num_frames=f, height=h, width=w,
                fps=fps, audio_num_frames=audio_tokens, video_coords=coords, use_cross_timestep=True, return_dict=False, **call)
        frames = list(stills) if tokens > f * h * w else []
        args = dict(grid=(f, h, w), fps=fps, sigmas=sigmas, stills=frames, options=dict(use_cross_timestep=True))
        file.case(name, args, inputs, dict(video=video[0], audio=audio[0]))

    grid, appended = f * h * w, f * h * w + 2 * h * w
    held = [0.0] * (h * w) + [900.0] * (grid - h * w) + [0.0] * (h * w) + [450.0] * (h * w)
    case("keyframe_tokens", appended, held, [900.0], (900.0, 900.0), torch.cat(coords, dim=2))
    case("frozen_audio", grid, [900.0], [0.0], (900.0, 0.0), coords[0])
    case("frozen_video", grid, [0.0] * grid, [900.0], (0.0, 900.0), coords[0])
    case("keyframes_marked", grid, [900.0], [900.0], (900.0, 900.0), coords[0], mask=[1.0] * (h * w) + [0.0] * (grid - h * w))
    file.save()


def masked():
    """One Euler step with tokens held by 0, a half and 1; guidance with sound 0.0; sigmas of a fixed token count."""
    file = File("masked")
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False)
    scheduler.set_timesteps(sigmas=np.array([0.8, 0.55]))
    pipe, sigma, following = LTX2ConditionPipeline, 0.8, float(scheduler.sigmas[1])
    x, v, clean = noise(70, 6, 5), noise(71, 6, 5), noise(72, 6, 5)
    mask = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])[:, None]
    x = torch.where(mask == 1.0, clean, x)
    x0 = pipe.convert_velocity_to_x0(None, x, v, 0, scheduler)
    x0 = x0 * (1 - mask) + clean * mask
    stepped = scheduler.step(pipe.convert_x0_to_velocity(None, x, x0, 0, scheduler), scheduler.timesteps[0], x, return_dict=False)[0]
    file.case("i2v_step", dict(sigma=sigma, next=following), dict(x=x, v=v, clean=clean, mask=mask[:, 0]), dict(x=stepped))

    first = noise(73, 6, 5)
    for name, level in (("start_whole", 1.0), ("start_stage_two", 0.909375)):
        base = noise(74, 6, 5)
        kept = torch.where(mask > 0, clean, base)
        scaled = (1.0 - mask) * level
        file.case(name, dict(sigma=level), dict(noise=first, base=base, clean=clean, mask=mask[:, 0]),
                  dict(x=first * scaled + kept * (1 - scaled)))

    x, c, n, p, i = (noise(80 + k, 7, 6) for k in range(5))
    g, stg, m, phi = 0.0, 0.5, 2.0, 0.7
    clean = [x - sigma * u for u in (c, n, p, i)]
    guided = clean[0] + (g - 1) * (clean[0] - clean[1]) + stg * (clean[0] - clean[2]) + (m - 1) * (clean[0] - clean[3])
    guided = rescale_noise_cfg(guided[None], clean[0][None], phi)[0]
    args = dict(sigma=sigma, next=following, scale=g, perturbed=stg, modality=m, rescale=phi)
    file.case("audio_zero", args, dict(x=x, conditional=c, negative=n, perturbed=p, isolated=i),
              dict(x=x + (following - sigma) * (x - guided) / sigma))

    fields = dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
                  max_image_seq_len=4096, shift_terminal=0.1)
    file.notes["config"] = json.dumps(fields)
    scheduler = FlowMatchEulerDiscreteScheduler(**fields)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 30, 30), mu=calculate_shift(4096, 1024, 4096, 0.95, 2.05))
    file.case("fixed4096", dict(tokens=6144, steps=30), {}, dict(sigmas=scheduler.sigmas))
    file.save()


CASES = [upsampler_20, upsampler_23, adain, vae_tiled, given, masked]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        if len(sys.argv) == 1 or case.__name__ in sys.argv[1:]:
            case()
