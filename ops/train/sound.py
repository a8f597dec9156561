"""Log-mel of the audio VAE: 16 kHz mono, n_fft = window = 1024, hop 160, Slaney scale and norm, ln(max(x, 1e-5))."""

import math

import numpy as np
import torch

RATE, N_FFT, HOP, MELS, FLOOR = 16000, 1024, 160, 64, 1e-5


def _hz_to_mel(f):
    return f * 3 / 200 if f < 1000 else 15 + math.log(f / 1000) * 27 / math.log(6.4)


def _mel_to_hz(m):
    return m * 200 / 3 if m < 15 else 1000 * math.exp((m - 15) * math.log(6.4) / 27)


def filterbank():
    """[513, 64] triangles, each scaled to unit area."""
    edges = np.array([_mel_to_hz(m) for m in np.linspace(0, _hz_to_mel(RATE / 2), MELS + 2)])
    bins = np.linspace(0, RATE / 2, N_FFT // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bank = np.maximum(0, np.minimum(up, down)) * (2 / (edges[2:] - edges[:-2]))
    return torch.from_numpy(bank).float()


_BANK, _WINDOW = filterbank(), torch.hann_window(N_FFT)


def log_mel(wave):
    """[B, samples] -> [B, 1, samples / 160 + 1, 64]."""
    window, bank = (table.to(wave.device) for table in (_WINDOW, _BANK))
    spectrum = torch.stft(wave, N_FFT, HOP, N_FFT, window, center=True, pad_mode="reflect", return_complex=True).abs()
    return (spectrum.transpose(1, 2) @ bank).clamp_min(FLOOR).log().unsqueeze(1)


def mel_frames(latents):
    """Mel frames of a number of audio latents (the decoder gives 4 L - 3)."""
    return 4 * latents - 3


def latents_of(frames, fps):
    return round(frames / fps * 25)


def onsets(wave, hop=80, threshold=0.12, gap_s=0.06):
    """Times in seconds of energy-flux peaks; a flux counts from `threshold` times the largest."""
    n = len(wave) // hop
    energy = np.sqrt(np.square(np.asarray(wave[: n * hop], np.float64)).reshape(n, hop).mean(1) + 1e-10)
    flux = np.maximum(0, np.diff(np.log(energy + 3e-3), prepend=np.log(energy[0] + 3e-3)))
    flux = flux[:-1] + flux[1:] if len(flux) > 1 else flux
    times = []
    for i in np.argsort(-flux):
        if flux[i] < max(0.5, threshold * flux.max()):
            break
        t = (i + 1) * hop / RATE
        if all(abs(t - u) > gap_s for u in times):
            times.append(t)
    return sorted(times)
