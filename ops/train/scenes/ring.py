"""What world T1 sounds like: hits of both bodies, rolling, speech and ambience, 16 kHz mono, peak below -3 dBFS."""

import math

import numpy as np

from . import matter, physics, speech

RATE, PEAK = 16000, 0.7
AMBIENCE_LEVEL = {"none": 0.0, "rain": 0.012, "wind": 0.014, "hum": 0.014}
ROLLING_LEVEL, FADE_S = 0.006, 0.25  # Noise begins softly, or its start would be a hit.


def hit(wave, material, radius_m, t, gain):
    """Adds damped sines that start at time t; sample n is at n / RATE."""
    f1, ratios, weights, taus = matter.MODES[material]
    first = math.ceil(t * RATE)
    for ratio, weight, tau in zip(ratios, weights, taus):
        f = ratio * f1 * 0.4 / radius_m
        if f > 0.45 * RATE:
            continue
        dt = np.arange(first, min(len(wave), first + int(tau * 12 * RATE))) / RATE - t
        wave[first:first + len(dt)] += gain * weight * np.exp(-dt / tau) * np.sin(2 * math.pi * f * dt)


def waveform(scene):
    """[samples] float32."""
    seconds = scene["frames"] / scene["fps"]
    wave = np.zeros(round(seconds * RATE))
    fade = np.minimum(1.0, np.arange(len(wave)) / (FADE_S * RATE))
    if scene["kind"] in ("bounce", "collide", "roll"):
        pieces, contacts = physics.motion(scene)
        for c in contacts:
            met = [scene["objects"][i] for i in c["bodies"] if i is not None]
            for o in met:
                hit(wave, o["material"], matter.RADIUS[o["size"]], c["t"], gain_of(c))
        if scene["kind"] != "bounce":
            wave += fade * sum(_rolling(o, p, len(wave)) for o, p in zip(scene["objects"], pieces))
    if scene["kind"] == "talk":
        wave += speech.say(tuple(scene["face"]["words"]), scene["face"]["voice"], seconds)
    wave += _ambience(scene["ambience"], scene["seed"], len(wave)) * fade
    peak = np.abs(wave).max()
    return (wave * min(1.0, PEAK / peak) if peak else wave).astype(np.float32)


def gain_of(contact):
    """A fall of full height is 0.6; two bodies that meet are slower, and each rings with half of the loudness of its speed."""
    fastest = 8.0 if contact["bodies"][1] is None else 4.0
    return 0.6 * min(1.0, contact["speed"] / fastest)


def _coloured(seed, n, centre_hz, octaves):
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hz = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 1.0)
    out = np.fft.irfft(spectrum * np.exp(-(np.log2(hz / centre_hz) / octaves) ** 2), n)
    return out / np.sqrt(np.mean(out * out))


def _rolling(o, pieces, n):
    """Noise around a quarter of the body's first mode, as loud as it is fast."""
    times = np.arange(0, n, 160) / RATE
    speed = np.abs(physics.speeds(pieces, times)[:, 0])
    level = ROLLING_LEVEL * np.minimum(speed, 2.0)
    centre = matter.MODES[o["material"]][0] * 0.4 / matter.RADIUS[o["size"]] * 0.5
    return np.interp(np.arange(n) / RATE, times, level) * _coloured(11, n, max(centre, 90.0), 0.5)


def _ambience(kind, seed, n):
    level = AMBIENCE_LEVEL[kind]
    if kind == "hum":
        t = np.arange(n) / RATE
        return level * (np.sin(2 * math.pi * 60 * t) + 0.5 * np.sin(2 * math.pi * 120 * t) + 0.3 * np.sin(2 * math.pi * 180 * t))
    if kind == "wind":
        t = np.arange(n) / RATE
        swell = 0.65 + 0.35 * np.sin(2 * math.pi * 0.5 * t + seed % 7)
        return level * swell * _coloured(seed % 8, n, 350.0, 0.8)
    return level * _coloured(seed % 8, n, 3800.0, 1.2) if kind == "rain" else 0.0
