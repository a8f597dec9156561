"""Golden cases of the video VAE, the audio VAE, the mel spectrogram and the vocoders: small random modules of the reference
library with their inputs and outputs, as agent/diffusion/tests/golden/*.safetensors.

Each file holds the part's config as JSON under the metadata key `config`, weights as `w.KEY` in f16 (rounded before the reference
runs, so both sides compute from the same values), inputs `in.NAME` likewise, and outputs
`out.NAME` in f32.
Run from the repository root: python -m ops.train.golden_vae [CASE...]
"""

import json
import os
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from safetensors.torch import save_file
from transformers.audio_utils import mel_filter_bank

FOLDER = Path("agent/diffusion/tests/golden")
WEIGHT_STD = 0.08  # Large enough that no output is near zero.


def randomise(module, seed, std=WEIGHT_STD):
    """Draws every parameter and the latent statistics, rounded to f16; filters and bases keep their values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator).mul(std).half().float())
        for name, b in module.named_buffers():
            if name == "latents_mean":
                b.copy_((torch.randn(b.shape, generator=generator) * 0.5).half().float())
            if name == "latents_std":
                b.copy_((torch.rand(b.shape, generator=generator) + 0.5).half().float())
            if name.endswith("filter"):
                b.copy_(b.half().float())
    return module.eval().float()


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().float()


def save(name, config, module, inputs, outputs, drop=()):
    assert all(torch.equal(v, v.half().float()) for v in inputs.values()), "inputs must survive f16"
    tensors = {f"in.{k}": v.contiguous().half() for k, v in inputs.items()}
    tensors |= {f"out.{k}": v.contiguous().float() for k, v in outputs.items()}
    if module is not None:
        state = module.state_dict()
        tensors |= {f"w.{k}": v.contiguous().half() for k, v in state.items() if not k.startswith(tuple(drop))}
    for k, v in outputs.items():
        print(f"{name:20} {k:12} {tuple(v.shape)} std {v.std():.3f} absmax {v.abs().max():.2f}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    os.chmod(path, 0o644)


def config_of(module):
    return {k: v for k, v in module.config.items() if not k.startswith("_") or k == "_class_name"} | {
        "_class_name": type(module).__name__}


def video_vae(**fields):
    blocks = len(fields["block_out_channels"])
    ups = len(fields["decoder_block_out_channels"])
    defaults = dict(
        down_block_types=("LTX2VideoDownBlock3D",) * blocks, spatio_temporal_scaling=(True,) * blocks,
        decoder_spatio_temporal_scaling=(True,) * ups, decoder_inject_noise=(False,) * (ups + 1), timestep_conditioning=False,
        encoder_causal=True, decoder_causal=False, encoder_spatial_padding_mode="zeros", decoder_spatial_padding_mode="zeros")
    return AutoencoderKLLTX2Video(**(defaults | fields))


def decode_case(name, vae, latents):
    with torch.no_grad():
        sample = vae.decode(latents, return_dict=False)[0]
    save(name, config_of(vae), vae, {"latents": latents}, {"sample": sample}, drop=["encoder."])


def vae_dec_23():
    """Four blocks in the order of 2.3, every kind of upsampler, widths that differ between blocks; no residual."""
    vae = randomise(video_vae(
        latent_channels=6, block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(4, 8, 8, 16), decoder_layers_per_block=(2, 1, 1, 1, 1), upsample_factor=(2, 2, 1, 2),
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"), upsample_residual=(False,) * 4, patch_size=2,
        spatial_compression_ratio=16, temporal_compression_ratio=8), 1)
    decode_case("vae_dec_23", vae, noise(2, 1, 6, 2, 1, 2))


def two_blocks(**fields):
    return video_vae(**(dict(
        latent_channels=8, block_out_channels=(8, 16), layers_per_block=(1, 1, 1), downsample_type=("spatiotemporal",) * 2,
        decoder_block_out_channels=(8, 16), decoder_layers_per_block=(1, 1, 1), upsample_factor=(1, 2),
        upsample_type=("spatiotemporal",) * 2, upsample_residual=(False,) * 2, patch_size=4,
        spatial_compression_ratio=16, temporal_compression_ratio=4) | fields))


def vae_dec_t0():
    """The layout of the built-in model: 16x16x4."""
    vae = randomise(two_blocks(decoder_block_out_channels=(4, 8)), 3)
    decode_case("vae_dec_t0", vae, noise(4, 1, 8, 2, 2, 1))


def vae_dec_causal():
    """A block without an upsampler, and time padded on the left alone."""
    vae = randomise(two_blocks(decoder_causal=True, decoder_block_out_channels=(8, 8), upsample_factor=(1, 1), patch_size=2,
                               upsample_type=("temporal", "spatial"), decoder_spatio_temporal_scaling=(False, True),
                               spatial_compression_ratio=2, temporal_compression_ratio=2), 5)
    decode_case("vae_dec_causal", vae, noise(6, 1, 8, 3, 3, 2))


def vae_dec_20():
    """Residual upsamplers and reflected borders, as in 2.0."""
    vae = randomise(video_vae(
        latent_channels=6, block_out_channels=(8,), layers_per_block=(1, 1), downsample_type=("spatiotemporal",),
        decoder_block_out_channels=(8, 16), decoder_layers_per_block=(1, 1, 1), upsample_factor=(2, 2),
        upsample_type=("spatiotemporal",) * 2, upsample_residual=(True, True), decoder_spatial_padding_mode="reflect",
        patch_size=2, spatial_compression_ratio=8, temporal_compression_ratio=4), 7)
    decode_case("vae_dec_20", vae, noise(8, 1, 6, 2, 2, 2))


def vae_enc():
    """Clips of 1, 9 and 17 frames through every kind of downsampler."""
    vae = randomise(video_vae(
        latent_channels=8, block_out_channels=(8, 8, 8, 16), layers_per_block=(1, 1, 1, 1, 1),
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(8,), decoder_layers_per_block=(1, 1), upsample_factor=(1,), upsample_type=("spatial",),
        upsample_residual=(False,), patch_size=2, spatial_compression_ratio=16, temporal_compression_ratio=8), 9)
    inputs, outputs = {}, {}
    for frames in (1, 9, 17):
        inputs[f"video{frames}"] = noise(10 + frames, 1, 3, frames, 16, 32 if frames == 9 else 16).clamp(-1, 1)
        with torch.no_grad():
            outputs[f"mean{frames}"] = vae.encode(inputs[f"video{frames}"]).latent_dist.mode()
    save("vae_enc", config_of(vae), vae, inputs, outputs, drop=["decoder."])


def patchify_order():
    """Where each pixel of a 2x4x8 clip goes, patches of 4, as the encoder takes it: channel = c*16 + column*4 + row."""
    p, x = 4, torch.arange(3 * 2 * 4 * 8).float().reshape(1, 3, 2, 4, 8)
    y = x.reshape(1, 3, 2, 1, 4 // p, p, 8 // p, p).permute(0, 1, 3, 7, 5, 2, 4, 6).flatten(1, 4)
    save("patchify_order", {"patch_size": p}, None, {"video": x}, {"patches": y})


def audio_vae(**fields):
    return AutoencoderKLLTX2Audio(**(dict(
        base_channels=16, output_channels=1, ch_mult=(1, 1, 1), num_res_blocks=1, in_channels=1, latent_channels=4,
        norm_type="pixel", causality_axis="height", mel_bins=16, double_z=True) | fields))


def audio_vae_dec():
    """Stereo, with widths that change (1x1 shortcuts)."""
    vae = randomise(audio_vae(base_channels=8, latent_channels=2, ch_mult=(1, 2, 2), num_res_blocks=1, output_channels=2, in_channels=2), 20)
    latents = noise(21, 1, 2, 5, 4)
    with torch.no_grad():
        mel = vae.decode(latents, return_dict=False)[0]
    save("audio_vae_dec", config_of(vae), vae, {"latents": latents}, {"mel": mel}, drop=["encoder."])


def audio_vae_mono():
    """The layout of the built-in model, both ways."""
    vae = randomise(audio_vae(base_channels=8, latent_channels=2), 22)
    mel, latents = noise(23, 1, 1, 13, 16), noise(24, 1, 2, 4, 4)
    with torch.no_grad():
        mean, decoded = vae.encode(mel).latent_dist.mode(), vae.decode(latents, return_dict=False)[0]
    save("audio_vae_mono", config_of(vae), vae, {"mel": mel, "latents": latents}, {"mean": mean, "mel": decoded})


def audio_vae_enc():
    vae = randomise(audio_vae(base_channels=8, latent_channels=2, ch_mult=(1, 2, 2), num_res_blocks=1, output_channels=2, in_channels=2), 25)
    mel = noise(26, 1, 2, 18, 16)
    with torch.no_grad():
        mean = vae.encode(mel).latent_dist.mode()
    save("audio_vae_enc", config_of(vae), vae, {"mel": mel}, {"mean": mean}, drop=["decoder."])


def mel():
    """ln(max(Slaney mel of the magnitude, 1e-5)): n_fft 1024, hop 160, Hann, centred with reflection, 64 bins to 8 kHz."""
    wave = noise(27, 2, 3330).mul(0.1) + torch.sin(torch.arange(3330) * 0.3) * 0.3
    wave[:, 1700:] = 0.0  # So that some cells reach the floor.
    wave = wave.half().float()
    spectrum = torch.stft(wave, 1024, 160, window=torch.hann_window(1024), center=True, pad_mode="reflect", return_complex=True)
    bank = torch.tensor(mel_filter_bank(513, 64, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")).float()
    out = (spectrum.abs().transpose(1, 2) @ bank).clamp(min=1e-5).log()
    save("mel", {"n_fft": 1024, "hop": 160, "bins": 64, "rate": 16000}, None, {"wave": wave}, {"mel": out})


def vocoder_20():
    """Leaky, stereo, both parities of kernel and stride."""
    vocoder = LTX2Vocoder(in_channels=32, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[16, 15, 4],
                          upsample_factors=[6, 5, 2], resnet_kernel_sizes=[3, 7], resnet_dilations=[[1, 3], [1, 5]],
                          output_sampling_rate=16000)
    randomise(vocoder, 30)
    mel = noise(31, 1, 2, 7, 16)
    with torch.no_grad():
        wave = vocoder(mel)
    save("vocoder_20", config_of(vocoder), vocoder, {"mel": mel}, {"wave": wave})


def vocoder_bwe():
    """SnakeBeta with anti-aliasing, then the bandwidth extension from 16 to 48 kHz."""
    vocoder = LTX2VocoderWithBWE(
        in_channels=32, hidden_channels=16, out_channels=2, upsample_kernel_sizes=[11, 4], upsample_factors=[5, 2],
        resnet_kernel_sizes=[3, 5], resnet_dilations=[[1, 3], [1, 3]], bwe_in_channels=32, bwe_hidden_channels=16,
        bwe_upsample_kernel_sizes=[12, 11], bwe_upsample_factors=[6, 5], bwe_resnet_kernel_sizes=[3], bwe_resnet_dilations=[[1, 3]],
        filter_length=64, hop_length=10, window_length=64, num_mel_channels=16)
    randomise(vocoder, 32)
    stft = vocoder.mel_stft
    t = torch.arange(64).float()
    window = torch.hann_window(64)
    phase = 2 * torch.pi * torch.arange(33).float()[:, None] * t[None] / 64
    with torch.no_grad():
        stft.stft_fn.forward_basis.copy_((torch.cat([phase.cos(), -phase.sin()]) * window).half().float()[:, None])
        stft.mel_basis.copy_((noise(33, 16, 33).abs() * 0.1).half().float())
    mel = noise(34, 1, 2, 9, 16)
    with torch.no_grad():
        wave = vocoder(mel)
    save("vocoder_bwe", config_of(vocoder), vocoder, {"mel": mel}, {"wave": wave}, drop=["mel_stft.stft_fn.inverse_basis"])


CASES = [vae_dec_23, vae_dec_t0, vae_dec_causal, vae_dec_20, vae_enc, patchify_order, audio_vae_dec, audio_vae_mono,
         audio_vae_enc, mel, vocoder_20, vocoder_bwe]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        if len(sys.argv) == 1 or case.__name__ in sys.argv[1:]:
            case()
