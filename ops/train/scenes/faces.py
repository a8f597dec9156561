"""The talking characters of world T1: what a face is, and the primitives that draw it in every frame.

Sizes in metres around the centre of the head, which is at HEAD; the mouth follows `speech.mouth`.
"""

import numpy as np

from . import picture, speech
from .picture import BOX, INK, ROUND

HEAD = (0.0, 1.52)  # From the middle of the picture, above the contact line.
HEAD_A, HEAD_B = 0.62, 0.76
MOUTH_DOWN, MOUTH_WIDE, MOUTH_HIGH = 0.40, (0.15, 0.27), 0.19
SKIN = {"pale": (244, 208, 180), "brown": (176, 120, 82), "dark": (104, 68, 48)}
HAIR = {"black": (34, 30, 32), "blond": (226, 190, 96), "red": (178, 74, 36), "grey": (160, 160, 164)}
HAT = {"red": (200, 40, 44), "green": (44, 140, 64), "blue": (48, 80, 200)}
SHIRT = {"low": (70, 92, 150), "high": (150, 84, 120)}
EMOTIONS = ["happy", "sad", "calm"]
LIPS, MOUTH, WHITE, BLACK = (150, 52, 56), (92, 14, 30), (248, 248, 248), (24, 24, 28)
BLINK_S = 0.16
GLASSES_NEVER_SAY = {"three", "moon", "water", "happy"}  # Held out: by characters with glasses.


def draw_face(rng, length_s, held_out=False):
    """What a character looks like and says; with `held_out` one with a hat says "seven"."""
    voice = rng.choice(list(speech.PITCH))
    face = {"skin": rng.choice(list(SKIN)), "hair": rng.choice(list(HAIR)), "hat": rng.choice([None, None, *HAT]),
            "glasses": rng.random() < 0.35, "emotion": rng.choice(EMOTIONS), "voice": voice, "gaze": round(rng.uniform(-1, 1), 2)}
    if held_out:
        face["hat"] = rng.choice(list(HAT))
    face["words"] = _words(rng, face, length_s, held_out)
    face["blinks"] = [round(rng.uniform(0.2, 1.4), 2), round(rng.uniform(1.7, 2.9), 2)]
    return face


def _words(rng, face, length_s, held_out):
    allowed = [w for w in speech.VOCABULARY if not (face["glasses"] and w in GLASSES_NEVER_SAY) and not (face["hat"] and w == "seven")]
    words, end = (["seven"] if held_out else []), speech.START_S
    for word in rng.sample(allowed, rng.choices((1, 2, 3), (50, 30, 20))[0] - len(words)):
        end += speech.seconds_of(word) + speech.GAP_S
        if not words or end < length_s:
            words.append(word)
    return words


def primitives(face, middle_m, times, to_px):
    """[n, p, 16]; `to_px(x, y)` and `to_px.scale` map metres to pixels."""
    times, s = np.asarray(times), to_px.scale
    hx, hy = middle_m + HEAD[0], HEAD[1]
    skin, hair = SKIN[face["skin"]], HAIR[face["hair"]]

    def part(kind, dx, dy, a, b=0.0, c=0.0, color=BLACK, angle=0.0, cut=None, hollow=0.0, pattern=INK, scale=1.0):
        x, y = to_px(hx + dx, hy + dy)
        return picture.primitive(kind, x, y, a * s, b * s, c * s, color, angle, hollow * s, -1e4 if cut is None else cut * s, 1.0, pattern, scale * s)

    rows = [part(BOX, 0, -1.25, 0.62, 0.30, 0.22, SHIRT[face["voice"]], pattern=picture.PLAIN, scale=0.6),
            part(BOX, 0, -0.85, 0.16, 0.25, 0.05, skin, pattern=picture.PLAIN, scale=0.3)]
    if face["voice"] == "high":
        rows.append(part(BOX, 0, -0.1, 0.55, 0.45, 0.18, hair, pattern=picture.PLAIN, scale=0.7))
    rows += [part(ROUND, 0, 0.06, HEAD_A + 0.05, HEAD_B + 0.05, color=hair, pattern=picture.PLAIN, scale=HEAD_B),
             part(ROUND, 0, -0.04, HEAD_A, HEAD_B - 0.06, color=skin, pattern=picture.PLAIN, scale=HEAD_B)]
    rows += _hat(face, part) + _eyes(face, times, part) + _mouth(face, times, part)
    rows.append(part(BOX, 0.0, -0.1, 0.025, 0.07, 0.02, tuple(int(0.8 * v) for v in skin)))
    return np.stack([np.broadcast_to(r, (len(times), 16)) for r in rows], 1)


def _hat(face, part):
    fringe = part(ROUND, 0, 0.06, HEAD_A + 0.02, HEAD_B + 0.02, color=HAIR[face["hair"]], cut=0.38, pattern=picture.PLAIN, scale=HEAD_B)
    if not face["hat"]:
        return [fringe]
    color = HAT[face["hat"]]
    return [fringe, part(BOX, 0, 0.80, 0.42, 0.26, 0.05, color, pattern=picture.PLAIN, scale=0.4),
            part(BOX, 0, 0.50, 0.80, 0.05, 0.03, color, pattern=picture.PLAIN, scale=0.4)]


def _eyes(face, times, part):
    shut = np.max([np.clip(1.2 - np.abs(times - b) / (BLINK_S / 2), 0, 1) for b in face["blinks"]], 0)
    open_ = 0.015 + 0.105 * (1 - shut)
    tilt = {"happy": 0.10, "sad": -0.35, "calm": 0.0}[face["emotion"]]
    rows = []
    for side in (-1, 1):
        rows += [part(ROUND, side * 0.25, 0.12, 0.13, open_, color=WHITE),
                 part(ROUND, side * 0.25 + 0.045 * face["gaze"], 0.12, 0.062, np.minimum(open_, 0.075), color=BLACK),
                 part(BOX, side * 0.25, 0.31, 0.11, 0.012, 0.018, HAIR[face["hair"]], angle=-side * tilt)]
        if face["glasses"]:
            rows.append(part(ROUND, side * 0.26, 0.11, 0.20, 0.18, color=BLACK, hollow=0.022))
    return rows + [part(BOX, 0, 0.13, 0.07, 0.012, 0.008, BLACK)] * face["glasses"]


def _mouth(face, times, part):
    opening, width, _ = speech.mouth(tuple(face["words"]), times)
    half = MOUTH_WIDE[0] + (MOUTH_WIDE[1] - MOUTH_WIDE[0]) * width
    lift = {"happy": 0.35, "sad": -0.35, "calm": 0.0}[face["emotion"]]
    corners = [part(BOX, side * (half + 0.02), -MOUTH_DOWN + 0.02 * np.sign(lift), 0.05, 0.006, 0.016, LIPS, angle=-side * lift) for side in (-1, 1)]
    return [part(ROUND, 0, -MOUTH_DOWN, half + 0.03, 0.035 + MOUTH_HIGH * opening, color=LIPS), *corners,
            part(ROUND, 0, -MOUTH_DOWN, half, np.maximum(MOUTH_HIGH * opening, 0.002), color=MOUTH)]
