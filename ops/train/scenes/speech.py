"""A voice for the characters of world T1: words, phonemes, formants, and the mouth that goes with them.

A word is a row of phonemes. Each has a length, a loudness of the voice and of the breath, three formants and a
closing of the lips; values glide between neighbours within GLIDE_S. The voice is a sum of harmonics of a falling
pitch, each as loud as the formants are at its frequency; the breath is noise in a band. The same glide moves
the mouth: its opening follows the first formant and the loudness, its width the second, and m, b, p close it.
"""

import functools

import numpy as np

RATE = 16000
GLIDE_S, STEP_S, GAP_S, START_S = 0.025, 0.005, 0.25, 0.4
PITCH = {"low": 115.0, "high": 205.0}  # Hz at the start of a word; it falls by a seventh.
TRACT = {"low": 1.0, "high": 1.12}  # Formants of the shorter throat are higher.
BANDWIDTH = (70.0, 100.0, 150.0)

# seconds, voice, breath, F1, F2, F3, band of the breath in Hz, lips closed
VOWELS = {"a": (730, 1150, 2500), "e": (530, 1850, 2500), "i": (290, 2250, 2950), "o": (500, 880, 2500), "u": (310, 850, 2250),
          "A": (660, 1700, 2400), "V": (620, 1200, 2400), "R": (480, 1300, 1700)}
PHONEMES = {v: (0.15, 1.0, 0.0, *f, 0, False) for v, f in VOWELS.items()} | {
    "m": (0.125, 0.30, 0.0, 260, 1100, 2200, 0, True), "b": (0.125, 0.10, 0.0, 220, 850, 2200, 0, True),
    "p": (0.125, 0.0, 0.02, 260, 900, 2200, 900, True),
    "n": (0.09, 0.35, 0.0, 270, 1550, 2550, 0, False), "N": (0.10, 0.35, 0.0, 270, 1950, 2450, 0, False),
    "l": (0.08, 0.55, 0.0, 350, 1050, 2800, 0, False), "r": (0.08, 0.55, 0.0, 350, 1150, 1550, 0, False),
    "w": (0.08, 0.50, 0.0, 300, 700, 2200, 0, False), "y": (0.07, 0.55, 0.0, 280, 2200, 2950, 0, False),
    "d": (0.06, 0.12, 0.10, 300, 1700, 2600, 3200, False), "g": (0.06, 0.12, 0.08, 300, 2000, 2300, 2000, False),
    "t": (0.06, 0.0, 0.30, 350, 1750, 2600, 4200, False), "k": (0.07, 0.0, 0.28, 350, 2000, 2400, 1900, False),
    "s": (0.12, 0.0, 0.35, 350, 1700, 2600, 5600, False), "S": (0.12, 0.0, 0.35, 350, 1800, 2400, 2900, False),
    "f": (0.11, 0.0, 0.16, 330, 1200, 2400, 4500, False), "T": (0.10, 0.0, 0.12, 330, 1400, 2500, 6300, False),
    "h": (0.07, 0.0, 0.16, 550, 1500, 2500, 1400, False), "v": (0.09, 0.30, 0.08, 300, 1100, 2300, 4000, False),
    "z": (0.10, 0.30, 0.20, 300, 1700, 2600, 5200, False),
}
WORDS = {
    "hello": "helo", "hi": "hai", "bye": "bai", "yes": "yes", "no": "nou", "please": "pliz", "thanks": "TANks", "sorry": "sari",
    "good": "gud", "morning": "morniN", "night": "nait", "happy": "hApi", "sad": "sAd", "music": "myuzik", "home": "houm",
    "moon": "mun", "sun": "sVn", "star": "star", "rain": "rein", "sea": "si", "water": "watR", "fire": "faiR", "robot": "roubat",
    "mama": "mama", "papa": "papa", "baby": "beibi", "apple": "Apl", "open": "oupen", "stop": "stap", "go": "gou",
    "one": "wVn", "two": "tu", "three": "Tri", "four": "for", "five": "faiv", "six": "siks", "seven": "seven", "eight": "eit",
    "nine": "nain", "ten": "ten",
}
VOCABULARY = list(WORDS)


def seconds_of(word):
    return sum(PHONEMES[p][0] for p in WORDS[word])


def timeline(words):
    """[(phoneme, start, end)] of all words, the first at START_S."""
    t, rows = START_S, []
    for word in words:
        for p in WORDS[word]:
            rows.append((p, t, t + PHONEMES[p][0]))
            t += PHONEMES[p][0]
        t += GAP_S
    return rows


def _tracks(words, times, glide=GLIDE_S):
    """Voice, breath, F1-F3, band and closing at the given times: steps smoothed by a triangle of GLIDE_S."""
    out = np.zeros((len(times), 7))
    weight = np.full(len(times), 1e-9)
    out[:] = np.array([0, 0, 400, 1300, 2500, 3000, 0.0]) * 1e-9
    for p, start, end in timeline(words):
        _, voice, breath, f1, f2, f3, band, closed = PHONEMES[p]
        into = np.clip((np.minimum(times - start, end - times) + glide) / (2 * glide), 0.0, 1.0)
        out += into[:, None] * np.array([voice, breath, f1, f2, f3, band or 3000, float(closed)])
        weight += into
    share = np.minimum(weight, 1.0)
    out /= weight[:, None]
    out[:, [0, 1, 6]] *= share[:, None]
    return out


def mouth(words, times):
    """Opening [n] and width [n] of the mouth, 0..1, and whether the lips are pressed together."""
    tracks = _tracks(words, np.asarray(times, np.float64))
    loud, f1, f2, closed = tracks[:, 0] + tracks[:, 1], tracks[:, 2], tracks[:, 3], tracks[:, 6]
    opening = np.clip((f1 - 150) / 550, 0.0, 1.0) * np.clip(loud / 0.4, 0.0, 1.0) * (1 - np.clip(closed * 1.6, 0.0, 1.0))
    return opening, np.clip((f2 - 700) / 1600, 0.0, 1.0), closed > 0.5


def closures(words):
    """[(start, end)] of every m, b and p."""
    return [(a, b) for p, a, b in timeline(words) if PHONEMES[p][7]]


@functools.lru_cache(maxsize=256)
def say(words, voice, seconds):
    """Waveform [samples] of a tuple of words, peak 0.6."""
    n = round(seconds * RATE)
    coarse = np.arange(0.0, seconds + STEP_S, STEP_S)
    tracks = _tracks(words, coarse)
    t = np.arange(n) / RATE
    wave = _voice(words, voice, tracks, coarse, t) + _breath(tracks, coarse, t)
    peak = np.abs(wave).max()
    return (0.6 / peak * wave if peak > 0 else wave).astype(np.float64)


def _voice(words, voice, tracks, coarse, t):
    start, end = START_S - GLIDE_S, timeline(words)[-1][2] + GLIDE_S
    inside = (t >= start) & (t <= end)
    t = t[inside]
    pitch = PITCH[voice] * (1.0 - (t - start) / max(end - start, 0.5) / 7.0)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    out = np.zeros(len(t))
    for k in range(1, int(4000 / PITCH[voice]) + 1):
        gain = _formant_gain(k * PITCH[voice], tracks, TRACT[voice]) * tracks[:, 0]
        out += np.interp(t, coarse, gain) * np.sin(k * phase)
    wave = np.zeros(len(inside))
    wave[inside] = out
    return wave


def _formant_gain(hz, tracks, tract):
    gain = 0.0
    for f, width, level in zip(tracks[:, 2:5].T * tract, BANDWIDTH, (1.0, 0.5, 0.25)):
        gain = gain + level / np.sqrt(1 + ((hz - f) / width) ** 2)
    return gain / np.sqrt(hz / 100)


def _breath(tracks, coarse, t):
    """White noise of a fixed seed, weighted in half-octave bands by the phoneme's band."""
    noise = np.fft.rfft(np.random.default_rng(5).standard_normal(len(t)))
    hz, out = np.fft.rfftfreq(len(t), 1 / RATE), np.zeros(len(t))
    for centre in 700 * 2 ** (np.arange(8) / 2.2):
        gain = tracks[:, 1] * np.exp(-(np.log2(np.maximum(tracks[:, 5], 300) / centre) / 0.5) ** 2)
        if gain.max() > 1e-4:
            shape = np.exp(-(np.log2(np.maximum(hz, 20) / centre) / 0.35) ** 2)
            out += np.fft.irfft(noise * shape, len(t)) * np.interp(t, coarse, gain)
    return out * 3.0
