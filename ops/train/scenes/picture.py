"""Paints world T1: primitives by signed distance in four styles, on any torch device.

A layout is a table of primitives for every frame, [n, p, 16] floats in pixels (rows downwards), and a row of what
lies behind them, [n, 12]. One painter draws every scene, so that a batch of different scenes is a few large operations.

Kinds: BOX (rounded: half sizes a, b, corner c; a capsule or a circle at the limit), ROUND (ellipse of half axes a, b),
FOLD (regular polygons and stars: a corners, edges whose normal is turned by b from a corner, apothem c).
`hollow` > 0 leaves a ring of that half thickness, `cut` keeps what lies above it (in local units, y up).
"""

import math

import numpy as np
import torch

KIND, X, Y, ANGLE, A, B, C, HOLLOW, CUT, RED, GREEN, BLUE, OPACITY, PATTERN, SCALE, BODY = range(16)
BOX, ROUND, FOLD = 0.0, 1.0, 2.0
PLAIN, WOOD, METAL, GLASS, STONE, INK = range(6)  # INK is never shaded or outlined: eyes, mouths, lines.
PATTERN_OF = {"rubber": PLAIN, "wood": WOOD, "metal": METAL, "glass": GLASS, "stone": STONE}
STYLES = ["flat", "neon", "pencil", "clay"]
BACKGROUNDS = ["day", "night", "rain", "plain"]
# Backdrop row: style, background, moon, seed, time, scale (pixels a metre), left edge in metres, contact line, horizon.
STYLE, BG, MOON, SEED, TIME, PPM, LEFT, LINE, HORIZON = range(9)
SKY = torch.tensor([[[140, 195, 240], [205, 230, 245]], [[14, 16, 40], [36, 38, 72]], [[96, 106, 122], [140, 148, 160]], [[196, 196, 196], [214, 214, 214]]]).float()
GROUND = torch.tensor([[[196, 172, 128], [58, 50, 50], [104, 98, 92], [160, 142, 122]], [[168, 168, 176], [86, 86, 96], [112, 112, 118], [118, 118, 124]]]).float()
PAPER, DARK = (246.0, 243.0, 234.0), (38.0, 38.0, 46.0)
TILE_M = 0.5


def primitive(kind, x, y, a, b=0.0, c=0.0, color=(0, 0, 0), angle=0.0, hollow=0.0, cut=-1e4, opacity=1.0, pattern=PLAIN, scale=1.0, body=0.0):
    """One row of the table; numbers or arrays over the frames."""
    row = np.broadcast_arrays(kind, x, y, angle, a, b, c, hollow, cut, *color, opacity, pattern, scale, body)
    return np.stack(row, -1).astype(np.float32)


def paint(tables, backs, size, device="cpu", pixels_at_once=1 << 23):
    """tables [B, n, p, 16], backs [B, n, 12] -> frames uint8 [B, n, h, w, 3], bodies bool [B, n, h, w] (grown by 2 px)."""
    w, h = size
    count, n = tables.shape[:2]
    frames = torch.empty(count * n, h, w, 3, dtype=torch.uint8, device=device)
    bodies = torch.empty(count * n, h, w, dtype=torch.bool, device=device)
    tables, backs = tables.flatten(0, 1), backs.flatten(0, 1)
    styles = backs[:, STYLE].round().long()
    for style in styles.unique().tolist():
        mine = (styles == style).nonzero()[:, 0]
        for rows in mine.split(max(1, pixels_at_once // (h * w))):
            img, mask = _paint_style(tables[rows], backs[rows], size, STYLES[style], device)
            frames[rows.to(device)], bodies[rows.to(device)] = img, mask
    return frames.unflatten(0, (count, n)), bodies.unflatten(0, (count, n))


def _paint_style(table, back, size, style, device):
    w, h = size
    cols = (torch.arange(w, device=device) + 0.5)[None, None, :]
    rows = (torch.arange(h, device=device) + 0.5)[None, :, None]
    img = _backdrop(back.to(device), cols, rows, style)
    mask = torch.zeros(img.shape[:1] + img.shape[2:], dtype=torch.bool, device=device)
    for slot in range(table.shape[1]):
        p = table[:, slot]
        live = p[:, OPACITY] > 0
        if not live.any():
            continue
        box = _window(p[live], size)
        if box is None:
            continue
        (top, bottom), (left, right) = box
        q = p.to(device)
        view = img[:, :, top:bottom, left:right]
        d, dx, dy = _distance(q, cols[..., left:right], rows[:, top:bottom], p[live][:, KIND].unique().tolist())
        view.copy_(_lay(view, q, d, dx, dy, style, cols[..., left:right] + rows[:, top:bottom]))
        mask[:, top:bottom, left:right] |= (d < 2.0) & (_wide(q, BODY) > 0)
    return img.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1), mask


def _wide(q, index):
    return q[:, index][:, None, None]


def _window(p, size):
    """Rows and columns that any of the primitives can touch, with room for a glow; on the CPU this saves most of the work."""
    reach = torch.where(p[:, KIND] == FOLD, p[:, C] * 3.2, p[:, A] + p[:, B] + p[:, C]) + p[:, HOLLOW] + 9
    ends = []
    for middle, side in ((p[:, Y], size[1]), (p[:, X], size[0])):
        first, last = int((middle - reach).min().clamp(0, side)), int((middle + reach).max().clamp(0, side)) + 1
        if first >= min(last, side):
            return None
        ends.append((first, min(last, side)))
    return ends


def _distance(q, cols, rows, kinds):
    """Signed distance in pixels, negative inside, and the local coordinates (y up)."""
    dx, dy = cols - _wide(q, X), _wide(q, Y) - rows
    cos, sin = torch.cos(_wide(q, ANGLE)), torch.sin(_wide(q, ANGLE))
    dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    a, b, c = (_wide(q, i) for i in (A, B, C))
    kind, d = _wide(q, KIND), None
    for k in kinds:
        new = {BOX: _box, ROUND: _round, FOLD: _fold}[k](dx, dy, a, b, c)
        d = new if d is None else torch.where(kind == k, new, d)
    hollow = _wide(q, HOLLOW)
    d = torch.where(hollow > 0, d.abs() - hollow, d)
    return torch.maximum(d, _wide(q, CUT) - dy), dx, dy


def _box(dx, dy, a, b, c):
    qx, qy = dx.abs() - a, dy.abs() - b
    return torch.hypot(qx.clamp_min(0), qy.clamp_min(0)) + torch.maximum(qx, qy).clamp_max(0) - c


def _round(dx, dy, a, b, c):
    a, b = a.clamp_min(0.3), b.clamp_min(0.3)
    k = torch.hypot(dx / a, dy / b)
    return (k - 1) * k / torch.hypot(dx / a ** 2, dy / b ** 2).clamp_min(1e-3)


def _fold(dx, dy, n, turn, apothem):
    n = n.clamp_min(3)
    sector = math.pi / n
    angle = torch.atan2(dx, dy)
    inner = (torch.remainder(angle + sector, 2 * sector) - sector).abs()
    return torch.hypot(dx, dy) * torch.cos(inner - turn) - apothem


def _cover(d):
    return (0.5 - d).clamp(0, 1)


def _lay(img, q, d, dx, dy, style, diagonal):
    """The picture with one primitive on it."""
    color = q[:, RED:BLUE + 1][:, :, None, None]
    opacity, ink = _wide(q, OPACITY)[:, None], (_wide(q, PATTERN) == INK)[:, None]
    fill = _cover(d)[:, None] * opacity
    if style == "neon":
        inside = torch.lerp(img, color * 0.12, fill * torch.where(ink, 0.0, 0.9))
        glow = _cover(d.abs() - 1.0) + 0.5 * torch.exp(-(d.abs() - 1).clamp_min(0) / 2.5)
        lit = (inside + glow[:, None] * opacity * color).clamp_max(255)
        return torch.where(ink, torch.lerp(img, color, fill), lit)
    color = _material(color, q, d, dx, dy)
    if style == "pencil":
        hatch = (torch.remainder(diagonal, 5.0) < 2.5)[:, None]
        light = torch.where(hatch, 0.85 * color + 38, 0.45 * color + 0.55 * 244)
        line = _cover((d + 0.8).abs() - 0.8)[:, None] * opacity * 0.85
        drawn = torch.lerp(torch.lerp(img, light, fill), torch.full_like(img, 45.0), line)
        return torch.where(ink, torch.lerp(img, color, fill), drawn)
    if style == "clay":
        lean = (dy - 0.6 * dx) / _wide(q, SCALE).clamp_min(1.0)
        shade = (1.0 + 0.28 * lean.clamp(-1.2, 1.2) - 0.25 * torch.exp(d.clamp(-20, 0) / 2.0))[:, None]
        color = torch.where(ink, color, (color * shade + 10 * shade).clamp(0, 255))
    return torch.lerp(img, color, fill)


def _material(color, q, d, dx, dy):
    """Stripe of wood, spot of metal, bright rim of glass, speckles of stone."""
    pattern, r = _wide(q, PATTERN), _wide(q, SCALE).clamp_min(1.0)
    if not (q[:, PATTERN] > 0).any():
        return color
    dark = torch.where((pattern == WOOD) & (dy.abs() < 0.2 * r), 0.72, 1.0)
    dark = torch.where((pattern == STONE) & (torch.sin(7 * dx / r + 1) * torch.sin(7 * dy / r + 2) > 0.25), 0.7, dark)
    spot = 0.75 * _cover(torch.hypot(dx + 0.3 * r, dy - 0.3 * r) - 0.25 * r) * (pattern == METAL)
    white = spot + 0.55 * _cover(-d - 0.22 * r) * (pattern == GLASS)
    color = color * dark[:, None]
    return color + white[:, None] * (255 - color)


def _backdrop(back, cols, rows, style):
    """[N, 3, h, w]: sky, ground with tiles, and the weather, before any body."""
    device, bg = back.device, back[:, BG].long()
    sky, ground = SKY.to(device)[bg], GROUND.to(device)[back[:, MOON].long(), bg]
    horizon, line = _wide(back, HORIZON)[:, None], _wide(back, LINE)
    share = (rows[None] / horizon).clamp(0, 1)
    img = torch.lerp(sky[:, 0][:, :, None, None], sky[:, 1][:, :, None, None], share).expand(-1, -1, -1, cols.shape[-1])
    metres = cols / _wide(back, PPM) + _wide(back, LEFT)
    inside = (torch.remainder(metres, 2 * TILE_M) - TILE_M).abs() - TILE_M / 2
    contrast = 2.0 if style == "neon" else 0.16  # What moves must be seen in the dark too.
    tile = 0.88 + contrast * (0.5 - inside * _wide(back, PPM)).clamp(0, 1)
    floor = ground[:, :, None, None] * tile[:, None]
    img = torch.where(rows[None] > horizon, floor.expand(-1, -1, rows.shape[1], -1), img)
    if style == "neon":
        img = img * 0.13
        edge = _cover((rows[None] - horizon).abs() - 0.8)
        img = img + edge * torch.tensor([150.0, 40.0, 170.0], device=device)[:, None, None]
    img = _weather(img, back, bg, metres, cols, rows, horizon)
    if style == "pencil":
        img = torch.lerp(img, torch.tensor(PAPER, device=device)[:, None, None].expand_as(img), 0.68)
        edge = _cover((rows[None] - horizon).abs() - 0.6) * 0.7
        img = torch.lerp(img, torch.tensor(DARK, device=device)[:, None, None].expand_as(img), edge.expand_as(img[:, :1]))
    return img.contiguous()


def _weather(img, back, bg, metres, cols, rows, horizon):
    """Stars at night and falling streaks in rain, from a hash of their cell."""
    night, rain = (bg == 1)[:, None, None], (bg == 2)[:, None, None]
    if night.any():
        across, up = torch.floor(metres / 0.16), torch.floor(rows / 7)
        lucky = torch.frac(torch.sin(across * 12.9898 + up * 78.233 + _wide(back, SEED)) * 43758.5453).abs() > 0.93
        middle = (torch.remainder(metres, 0.16) < 0.045) & (torch.remainder(rows, 7) < 1.5)
        star = (night & lucky & middle & (rows < horizon[:, 0] - 2))[:, None]
        img = torch.where(star, (img + 130).clamp_max(255), img)
    if rain.any():
        lane = torch.floor(cols / 5)
        offset = torch.frac(torch.sin(lane * 12.9898 + _wide(back, SEED)) * 43758.5453).abs() * 40
        fall = torch.remainder(rows - 150 * _wide(back, TIME) + offset, 40.0)
        drop = (rain & (fall < 6) & (torch.remainder(cols, 5) < 1))[:, None]
        img = torch.where(drop, (img + 45).clamp_max(255), img)
    return img
