"""Golden cases of the transformer, the text encoder, the connectors, the rope tables and the sampler: small random modules of the
reference libraries with their inputs and outputs, as agent/diffusion/tests/golden/*.safetensors.

Weights are `w.KEY` in f16 (rounded before the reference runs), configs are JSON under `config` or `config.CASE` in the header,
arguments JSON under `args.CASE`, and tensors are `in.CASE.NAME` and `out.CASE.NAME` in f32. Several cases share a file's weights.
Run from the repository root: python -m ops.train.golden_dit
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTX2VideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoRotaryPosEmbed
from diffusers.pipelines.ltx2.connectors import LTX2RotaryPosEmbed1d, LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift, rescale_noise_cfg
from safetensors.torch import save_file
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

FOLDER = Path("agent/diffusion/tests/golden")
WEIGHT_STD = 0.25  # The modules are narrow: at 0.08 their outputs would be nearly zero.


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(module, seed, std=WEIGHT_STD):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator).mul(std).half().float())
    return module.eval().float()


class File:
    """One golden file in the making."""

    def __init__(self, name):
        self.name, self.tensors, self.notes = name, {}, {}

    def weights(self, module, prefix="w.", keep=lambda key: True):
        for key, value in module.state_dict().items():
            if keep(key):
                self.tensors[prefix + key] = value.contiguous().half()

    def case(self, case, args, inputs, outputs):
        self.notes[f"args.{case}"] = json.dumps(args)
        for kind, tensors in (("in", inputs), ("out", outputs)):
            for key, value in tensors.items():
                self.tensors[f"{kind}.{case}.{key}"] = value.contiguous().float().clone()
        for key, value in outputs.items():
            print(f"{self.name:12} {case:18} {key:8} {tuple(value.shape)} std {value.float().std():.3f} max {value.abs().max():.2f}")

    def save(self):
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{self.name}.safetensors"
        save_file(self.tensors, path, metadata=self.notes)
        print(f"{path}: {path.stat().st_size} bytes")


DIT = dict(in_channels=6, out_channels=6, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
           vae_scale_factors=(4, 16, 16), audio_in_channels=8, audio_out_channels=8, audio_num_attention_heads=2,
           audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, caption_channels=12, rope_type="split")
DIT_23 = dict(gated_attn=True, cross_attn_mod=True, audio_gated_attn=True, audio_cross_attn_mod=True,
              use_prompt_embeddings=False, perturbed_attn=True)


def dit_case(file, name, model, grid=(2, 2, 3), fps=24.0, audio_tokens=5, text=4, video_times=None, audio_times=(700.0,),
             sigmas=(900.0, 700.0), mask=None, seed=10, **options):
    """One forward. `video_times` and `audio_times`: one value for all tokens, or one a token."""
    tokens = grid[0] * grid[1] * grid[2]
    video_times = video_times or (sigmas[0],)
    c = model.config
    width, audio_width = (c.caption_channels,) * 2 if c.use_prompt_embeddings else (16, 8)
    inputs = dict(video=noise(seed, tokens, c.in_channels), audio=noise(seed + 1, audio_tokens, c.audio_in_channels),
                  video_text=noise(seed + 2, text, width), audio_text=noise(seed + 3, text, audio_width),
                  video_times=torch.tensor(video_times), audio_times=torch.tensor(audio_times))
    call = dict(options)
    if mask is not None:
        inputs["mask"] = torch.tensor(mask)
        call |= dict(encoder_attention_mask=inputs["mask"][None], audio_encoder_attention_mask=inputs["mask"][None])
    with torch.no_grad():
        video, audio = model(
            inputs["video"][None], inputs["audio"][None], inputs["video_text"][None], inputs["audio_text"][None],
            timestep=inputs["video_times"][None], audio_timestep=inputs["audio_times"][None],
            sigma=torch.tensor([sigmas[0]]), audio_sigma=torch.tensor([sigmas[1]]), num_frames=grid[0], height=grid[1],
            width=grid[2], fps=fps, audio_num_frames=audio_tokens, return_dict=False, **call)
    args = dict(grid=grid, fps=fps, sigmas=sigmas, options=options)
    file.case(name, args, inputs, dict(video=video[0], audio=audio[0]))
    file.notes[f"config.{name}"] = json.dumps({k: v for k, v in c.items() if not k.startswith("_")}
                                              | {"_class_name": "LTX2VideoTransformer3DModel"})


def variant(model, **fields):
    """The same weights under another config (tensors that it lacks are left out)."""
    other = LTX2VideoTransformer3DModel(**(DIT | DIT_23 | fields))
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k in other.state_dict()})
    return other.eval()


def dit_23():
    file = File("dit_23")
    model = randomise(LTX2VideoTransformer3DModel(**(DIT | DIT_23)), 1)
    file.weights(model)
    per_token = tuple(0.0 if i < 6 else 900.0 for i in range(12))
    cross = dict(use_cross_timestep=True)
    dit_case(file, "plain", model, **cross)
    dit_case(file, "per_token", model, video_times=per_token, **cross)
    dit_case(file, "audio_per_token", model, audio_times=(0.0, 10.0, 700.0, 700.0, 3.0), **cross)
    dit_case(file, "legacy_timestep", model, use_cross_timestep=False)
    dit_case(file, "stg", model, spatio_temporal_guidance_blocks=[1], **cross)
    dit_case(file, "isolated", model, isolate_modalities=True, **cross)
    dit_case(file, "text_mask", model, mask=(0.0, 1.0, 1.0, 0.0), **cross)
    dit_case(file, "one_audio_token", model, grid=(1, 1, 1), audio_tokens=1, text=1, **cross)
    dit_case(file, "odd_shape", model, grid=(3, 5, 7), fps=60.0, audio_tokens=67, text=33, seed=20, **cross)
    dit_case(file, "gate_ratio", variant(model, cross_attn_timestep_scale_multiplier=1), **cross)
    dit_case(file, "static_prompt", variant(model, use_prompt_adaln_single=False), **cross)
    dit_case(file, "no_ff_bias", variant(model, ff_bias=False), **cross)
    dit_case(file, "interleaved", variant(model, rope_type="interleaved"), **cross)
    file.save()


def dit_20():
    file = File("dit_20")
    model = randomise(LTX2VideoTransformer3DModel(**DIT), 2)
    file.weights(model)
    dit_case(file, "plain", model, audio_times=(900.0,), sigmas=(900.0, 900.0))
    per_token = tuple(0.0 if i < 6 else 900.0 for i in range(12))
    dit_case(file, "per_token", model, video_times=per_token, audio_times=(900.0,), sigmas=(900.0, 900.0))
    file.save()


def rope():
    """Tables [token, width / 2]; in the interleaved form the library repeats each value, here it is stored once."""
    file = File("rope")
    for dim, heads in ((4096, 32), (256, 4), (192, 3)):
        for kind in ("split", "interleaved"):
            embed = LTX2AudioVideoRotaryPosEmbed(dim=dim, num_attention_heads=heads, rope_type=kind)
            tables = embed(embed.prepare_video_coords(1, 3, 2, 2, torch.device("cpu"), fps=24.0))
            if kind == "split":
                tables = [t[0].transpose(0, 1).flatten(1) for t in tables]
            else:
                tables = [t[0, :, ::2] for t in tables]
            keep = [0, 5, 11]
            file.case(f"video_{dim}_{kind}", dict(width=dim, grid=(3, 2, 2), fps=24.0, rows=keep, scale=(8, 32, 32)), {},
                      dict(cos=tables[0][keep], sin=tables[1][keep]))
    audio = LTX2AudioVideoRotaryPosEmbed(dim=96, num_attention_heads=3, rope_type="split", scale_factors=[4], modality="audio")
    coords = audio.prepare_audio_coords(1, 7, torch.device("cpu"))
    cos, sin = (t[0].transpose(0, 1).flatten(1) for t in audio(coords))
    file.case("audio", dict(width=96, tokens=7), {}, dict(cos=cos, sin=sin))
    cross = LTX2AudioVideoRotaryPosEmbed(dim=96, num_attention_heads=3, rope_type="split")
    coords = cross.prepare_video_coords(1, 3, 2, 2, torch.device("cpu"), fps=16.0)
    cos, sin = (t[0].transpose(0, 1).flatten(1) for t in cross(coords[:, :1]))
    file.case("cross", dict(width=96, grid=(3, 2, 2), fps=16.0, rows=list(range(12)), scale=(8, 32, 32)), {}, dict(cos=cos, sin=sin))
    line = LTX2RotaryPosEmbed1d(128, num_attention_heads=2, rope_type="split")
    cos, sin = (t[0].transpose(0, 1).flatten(1) for t in line(1, 9, torch.device("cpu")))
    file.case("connector", dict(width=128, tokens=9), {}, dict(cos=cos, sin=sin))
    file.save()


def gemma():
    """Five sliding layers and a full one, window 6 of 16 tokens, linear factor 8, four query heads on one key head."""
    file = File("gemma")
    text = dict(vocab_size=40, hidden_size=24, intermediate_size=40, num_hidden_layers=6, num_attention_heads=4,
                num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=6, rms_norm_eps=1e-6,
                max_position_embeddings=64)
    rope_new = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = Gemma3TextConfig(**text, layer_types=kinds, rope_parameters=rope_new, pad_token_id=0)
    model = randomise(Gemma3TextModel(config), 3)
    file.weights(model, "w.model.language_model.")
    new = text | dict(layer_types=kinds, rope_parameters=rope_new)
    old = text | dict(sliding_window_pattern=6, rope_theta=1000000.0, rope_local_base_freq=10000.0,
                      rope_scaling={"rope_type": "linear", "factor": 8.0})
    file.notes |= {"config.new": json.dumps({"text_config": new}), "config.old": json.dumps({"text_config": old})}
    for name, pads in (("padded", 5), ("full", 0)):
        ids = torch.randint(3, 40, (16,), generator=torch.Generator().manual_seed(4))
        ids[:pads] = 0
        mask = (torch.arange(16) >= pads).long()
        with torch.no_grad():
            out = model(input_ids=ids[None], attention_mask=mask[None], output_hidden_states=True)
        states = torch.stack(out.hidden_states, -1)[0]  # [token, hidden, layers + 1]
        file.case(name, dict(ids=ids.tolist(), pads=pads), {}, dict(states=states))
    file.save()


CONNECTOR = dict(caption_channels=10, text_proj_in_factor=3, video_connector_num_attention_heads=2,
                 video_connector_attention_head_dim=8, video_connector_num_layers=2, video_connector_num_learnable_registers=4,
                 audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=4, audio_connector_num_layers=2,
                 audio_connector_num_learnable_registers=4)


def connectors():
    new = CONNECTOR | dict(video_gated_attn=True, audio_gated_attn=True, rope_type="split", per_modality_projections=True,
                           video_hidden_dim=16, audio_hidden_dim=8, proj_bias=True)
    old = CONNECTOR | dict(caption_channels=16, audio_connector_attention_head_dim=8, rope_type="split")
    for name, fields, seed in (("conn_23", new, 5), ("conn_20", old, 6)):
        file = File(name)
        model = randomise(LTX2TextConnectors(**fields), seed)
        file.weights(model)
        file.notes["config"] = json.dumps(fields | {"_class_name": "LTX2TextConnectors"})
        states = noise(seed + 10, 8, fields["caption_channels"], fields["text_proj_in_factor"])
        for case, pads in (("partial", 3), ("full", 0), ("one", 7)):
            mask = (torch.arange(8) >= pads).long()
            with torch.no_grad():
                video, audio, _ = model(states[None], mask[None])
            file.case(case, dict(pads=pads), dict(states=states), dict(video=video[0], audio=audio[0]))
        file.save()


def sampler():
    """Sigma lists of the library's scheduler, and one guided step with all four passes."""
    file = File("sampler")
    fields = dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
                  max_image_seq_len=4096, shift_terminal=0.1)
    file.notes["config"] = json.dumps(fields)
    for tokens, steps in ((1024, 8), (4096, 30), (6144, 40), (208, 2)):
        scheduler = FlowMatchEulerDiscreteScheduler(**fields)
        mu = calculate_shift(tokens, 1024, 4096, 0.95, 2.05)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        file.case(f"sigmas_{tokens}", dict(tokens=tokens, steps=steps), {}, dict(sigmas=scheduler.sigmas))
    x, c, n, p, i = (noise(30 + k, 7, 6) for k in range(5))
    sigma, following, g, stg, m, phi = 0.8, 0.55, 3.0, 1.0, 2.5, 0.7
    clean = [x - sigma * v for v in (c, n, p, i)]
    guided = clean[0] + (g - 1) * (clean[0] - clean[1]) + stg * (clean[0] - clean[2]) + (m - 1) * (clean[0] - clean[3])
    guided = rescale_noise_cfg(guided[None], clean[0][None], phi)[0]
    stepped = x + (following - sigma) * (x - guided) / sigma
    args = dict(sigma=sigma, next=following, scale=g, perturbed=stg, modality=m, rescale=phi)
    file.case("guidance", args, dict(x=x, conditional=c, negative=n, perturbed=p, isolated=i), dict(x=stepped))
    file.save()


def main():
    for make in (dit_23, dit_20, rope, gemma, connectors, sampler):
        make()


if __name__ == "__main__":
    main()
