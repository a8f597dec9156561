"""The denoiser as one module: text encoder, connectors and transformer; and the sampling loop."""

import torch
from torch import nn

from . import models, sound


class Denoiser(nn.Module):
    def __init__(self, variant):
        super().__init__()
        self.text_encoder = models.text_encoder(variant)
        # Padding is on the left: its rows see no token. The fused attention of a GPU makes them NaN in the backward pass.
        self.text_encoder.set_attn_implementation("eager")
        self.connectors = models.connectors(variant)
        self.transformer = models.transformer(variant)
        models.initialise(self.transformer, self.connectors)
        self.text_encoder.model.vision_tower.requires_grad_(False)
        self.text_encoder.model.multi_modal_projector.requires_grad_(False)

    def context(self, ids, mask):
        """ids and mask [B, 64] -> text tokens of video [B, 64, D] and of audio [B, 64, A]."""
        hidden = self.text_encoder.model.language_model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return self.connectors(torch.stack(hidden, dim=-1), mask)[:2]

    def velocity(self, x, a, context, grid, fps, t, t_a, s, s_a):
        """x [B, S, C], a [B, L, 16 c]; grid = (frames, rows, columns) of latents; t [B] or [B, S], the rest [B], all 0..1."""
        return self.transformer(
            hidden_states=x, audio_hidden_states=a, encoder_hidden_states=context[0], audio_encoder_hidden_states=context[1],
            timestep=t * 1000, audio_timestep=t_a * 1000, sigma=s * 1000, audio_sigma=s_a * 1000, num_frames=grid[0],
            height=grid[1], width=grid[2], fps=fps, audio_num_frames=a.shape[1], use_cross_timestep=True, return_dict=False)


def grid_of(size, frames):
    f, r, c = models.SCALE_FACTORS
    return (frames - 1) // f + 1, size[1] // r, size[0] // c


def shifted(steps, shift):
    """`steps` sigmas from 1 downwards, then 0: s' = shift s / (1 + (shift - 1) s)."""
    line = [1 - i / steps for i in range(steps)]
    return [round(shift * s / (1 + (shift - 1) * s), 5) for s in line] + [0.0]


@torch.no_grad()
def sample(denoiser, positive, negative, noise, audio_noise, grid, fps, sigmas, guidance, audio_guidance):
    """Euler steps in f32 with guidance in x0 space. positive/negative: (ids, mask). Returns normalised latents."""
    good, bad = denoiser.context(*positive), denoiser.context(*negative)
    bad = [c.expand(noise.shape[0], -1, -1) for c in bad]
    context = [torch.cat(pair) for pair in zip(good, bad)]
    x, a = noise.clone(), audio_noise.clone()
    for s, s_next in zip(sigmas[:-1], sigmas[1:]):
        t = torch.full((2 * len(x),), s)
        v, v_a = denoiser.velocity(torch.cat([x, x]), torch.cat([a, a]), context, grid, fps, t, t, t, t)
        x = euler(x, v.float(), s, s_next, guidance)
        a = euler(a, v_a.float(), s, s_next, audio_guidance)
    return x, a


def euler(x, v, s, s_next, guidance):
    clean, free = (x - s * part for part in v.chunk(2))
    guided = clean + (guidance - 1) * (clean - free)
    return x + (s_next - s) * (x - guided) / s


def decode_video(vae, x, grid):
    """Normalised tokens [B, S, C] -> pictures [B, 3, n, h, w] in [-1, 1]."""
    z = x * vae.latents_std + vae.latents_mean
    return vae.decode(z.unflatten(1, grid).permute(0, 4, 1, 2, 3), return_dict=False)[0].clamp(-1, 1)


def decode_audio(audio_vae, vocoder, a):
    """Normalised tokens [B, L, 16 c] -> waveforms [B, samples]."""
    z = a * audio_vae.latents_std + audio_vae.latents_mean
    mel = audio_vae.decode(z.unflatten(2, (-1, 16)).transpose(1, 2), return_dict=False)[0]
    return vocoder(mel)[:, 0]


def audio_length(frames, fps):
    return sound.latents_of(frames, fps)
