"""Measures of films from pixels and samples, without networks: a quick form of the marks of the evaluation.

    marks(frames, wave, scene)  right or wrong for each attribute, and timing errors
    summary(rows)               means and medians over the clips
"""

import numpy as np

from . import sound
from .scenes import world_t0 as scenes


def lab(rgb):
    """sRGB 0..255 [..., 3] -> CIE Lab (D65)."""
    c = np.asarray(rgb, np.float64) / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


PALETTE = lab(np.array(list(scenes.COLOR.values())))


def components(mask):
    """Connected components (4 neighbours) of a small mask, largest first, as lists of (row, col)."""
    seen, found = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask)):
        if seen[start]:
            continue
        stack, cells = [start], []
        seen[start] = True
        while stack:
            r, c = stack.pop()
            cells.append((r, c))
            for q in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if 0 <= q[0] < mask.shape[0] and 0 <= q[1] < mask.shape[1] and mask[q] and not seen[q]:
                    seen[q] = True
                    stack.append(q)
        found.append(np.array(cells))
    return sorted(found, key=len, reverse=True)


def background_of(frames):
    """Kind of sky by the colour of the upper border in the middle of the clip."""
    border = np.median(frames[:, 1:4].reshape(-1, 3), axis=0)
    skies = {k: np.mean(v, axis=0) * 0.3 + np.array(v[0]) * 0.7 for k, v in scenes.SKY.items()}
    return min(skies, key=lambda k: np.abs(lab(border) - lab(skies[k])).sum())


def blobs(frame, backdrop, least=40):
    """Objects of one frame: saturated pixels far from the backdrop."""
    rgb = frame.astype(np.float64)
    strong = np.abs(lab(rgb) - lab(backdrop)[:, None, :])
    far = np.sqrt((strong ** 2).sum(-1)) > 28
    chroma = rgb.max(-1) - rgb.min(-1) > 60
    return [c for c in components(far & chroma) if len(c) >= least]


UNIT_AREA = {"circle": np.pi, "square": 3.24, "triangle": 0.75 * np.sqrt(3) * 1.45 ** 2}


def shape_of(cells):
    """The best template by intersection over union, at the blob's centre and area."""
    low, high = cells.min(0) - 3, cells.max(0) + 4
    grid = np.zeros(high - low, bool)
    grid[tuple((cells - low).T)] = True
    rows, cols = np.mgrid[low[0]:high[0], low[1]:high[1]] - cells.mean(0)[:, None, None]
    best = (0.0, None)
    for shape, area in UNIT_AREA.items():
        inside = scenes._distance(shape, cols, -rows, np.sqrt(len(cells) / area)) < 0
        iou = (grid & inside).sum() / max(1, (grid | inside).sum())
        best = max(best, (iou, shape), key=lambda p: p[0])
    return best[1]


def observe(frames, scene):
    """Counts, colours, shapes and areas by vote over the frames, and the tracks of the lowest row of each column half."""
    h = frames.shape[1]
    backdrop = np.median(frames[:, :, [0, 1, -2, -1]], axis=(0, 2))
    seen = [blobs(f, backdrop) for f in frames]
    counts = np.bincount([min(len(s), 4) for s in seen], minlength=5)
    count = int(counts[1:].argmax() + 1) if counts[1:].sum() else 0
    things, tracks = [], []
    good = [(i, sorted(s, key=lambda c: c[:, 1].mean())) for i, s in enumerate(seen) if len(s) == count and count]
    for k in range(count):
        rows = []
        for i, s in good:
            cells = s[k]
            rgb = np.median(frames[i][cells[:, 0], cells[:, 1]], axis=0)
            color = scenes.COLORS[int(((PALETTE - lab(rgb)) ** 2).sum(1).argmin())]
            rows.append((color, shape_of(cells) if i % 4 == 0 else None, len(cells)))
        things.append({"color": vote([r[0] for r in rows]), "shape": vote([r[1] for r in rows if r[1]]),
                       "area": float(np.median([r[2] for r in rows]))})
        tracks.append(np.array([[i, np.mean(s[k][:, 0])] for i, s in good]))
    ppm = min(frames.shape[1:3]) / scenes.SHORT_SIDE_M
    return {"count": count, "objects": things, "tracks": tracks, "bg": background_of(frames), "ppm": ppm, "steady": float((counts[count] / len(frames))) if count else 0.0}


def vote(values):
    return max(set(values), key=values.count) if values else None


def impacts(track, fps):
    """Times where the vertical speed turns from falling to rising: sharp lows, with lines fitted on both sides."""
    if len(track) < 7:
        return []
    t, y = track[:, 0] / fps, track[:, 1]
    found = []
    for i in range(2, len(t) - 2):
        before, after = y[i] - y[i - 2], y[i + 2] - y[i]
        if before > 1.5 and after < before - 2.5 and y[i] >= y[i - 1] - 0.5 and y[i] >= y[i + 1] - 0.5:
            v1, v2 = (y[i - 1] - y[i - 2]) / (t[i - 1] - t[i - 2]), (y[i + 2] - y[i + 1]) / (t[i + 2] - t[i + 1])
            if v1 - v2 > 1:
                cross = (y[i + 1] - v2 * t[i + 1] - y[i - 1] + v1 * t[i - 1]) / (v1 - v2)
                found.append(float(np.clip(cross, t[i - 1], t[i + 1])))
    keep = []
    for t in found:
        if not keep or t - keep[-1] > 0.15:
            keep.append(t)
    return keep


def gravity_of(track, fps, ppm):
    """g from a parabola through the first free fall, in m/s^2, and R^2."""
    if len(track) < 6:
        return None
    t, y = track[:, 0] / fps, track[:, 1]
    low = next((i for i in range(2, len(y) - 1) if y[i] > y[i - 1] and y[i + 1] < y[i] - 0.3), len(y) - 1)
    if low < 5:
        return None
    p = np.polyfit(t[:low], y[:low], 2)
    rest = y[:low] - np.polyval(p, t[:low])
    return 2 * p[0] / ppm, 1 - rest.var() / max(1e-9, y[:low].var())


def marks(frames, wave, scene):
    o = observe(frames, scene)
    want = scene["objects"]
    said, got = sorted((w["color"], w["shape"]) for w in want), sorted((str(g["color"]), str(g["shape"])) for g in o["objects"])
    same = lambda k: sorted(w[k] for w in want) == sorted(str(g[k]) for g in o["objects"])
    big = sorted(w["size"] == "big" for w in want)
    out = {"count": o["count"] == len(want), "color": same("color"), "shape": same("shape"), "bg": o["bg"] == scene["bg"],
           "joint": said == got, "size": big == sorted(g["area"] > 225 for g in o["objects"]), "steady": o["steady"]}
    heard = sound.onsets(wave)
    seen = sorted(t for track in o["tracks"] for t in impacts(track, scene["fps"]))
    errors = [min((abs(t - s) for s in heard), default=9.0) for t in seen]
    back = [min((abs(t - s) for s in seen), default=9.0) for t in heard]
    out.update(sync=[e for e in errors if e < 0.2], seen=len(seen), heard=len(heard), hit=sum(e < 0.2 for e in errors), true=sum(e < 0.2 for e in back))
    fits = [g for g in (gravity_of(t, scene["fps"], o["ppm"]) for t in o["tracks"]) if g]
    if len(want) == 1 and fits:
        out.update(g=fits[0][0] / scenes.GRAVITY[scene["gravity"]], r2=fits[0][1])
    return out


def summary(rows):
    mean = lambda k: float(np.mean([r[k] for r in rows]))
    sync = np.array([e for r in rows for e in r["sync"]] or [9.0])
    out = {k: round(mean(k), 3) for k in ("count", "color", "shape", "size", "bg", "joint", "steady")}
    out.update(sync_median_s=round(float(np.median(sync)), 4), sync_p90_s=round(float(np.quantile(sync, 0.9)), 4),
               recall=round(sum(r["hit"] for r in rows) / max(1, sum(r["seen"] for r in rows)), 3),
               precision=round(sum(r["true"] for r in rows) / max(1, sum(r["heard"] for r in rows)), 3))
    g = [r["g"] for r in rows if "g" in r]
    if g:
        out.update(g_ratio_median=round(float(np.median(g)), 3), g_r2_median=round(float(np.median([r["r2"] for r in rows if "g" in r])), 3))
    return out
