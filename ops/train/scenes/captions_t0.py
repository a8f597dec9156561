"""Captions of scenes: natural, with synonyms, shuffled order and left-out attributes."""

import random

SHAPE_WORDS = {
    "circle": (["ball", "ball", "ball", "circle", "sphere"], ["balls", "balls", "balls", "circles", "spheres"]),
    "square": (["box", "cube", "square", "block"], ["boxes", "cubes", "squares", "blocks"]),
    "triangle": (["triangle", "triangle", "pyramid"], ["triangles", "triangles", "pyramids"]),
}
COLOR_WORDS = {"red": ["red"], "green": ["green"], "blue": ["blue"], "yellow": ["yellow"],
               "purple": ["purple", "purple", "violet"], "orange": ["orange"]}
SIZE_WORDS = {"small": ["small", "small", "little", "tiny"], "big": ["big", "big", "large", "huge"]}
MATERIAL_WORDS = {"rubber": ["rubber", "rubber", "bouncy"], "wood": ["wooden", "wooden", "wood"],
                  "metal": ["metal", "metal", "steel", "iron"]}
MADE_OF = {"rubber": ["rubber"], "wood": ["wood"], "metal": ["metal", "steel"]}
BG_WORDS = {
    "day": ["by day", "in daylight", "on a sunny day", "in the daytime", "under a blue sky"],
    "night": ["at night", "at night", "in the dark", "under a night sky", "by night"],
    "plain": ["on a plain background", "in an empty room", "in a grey room", "in a studio", "in a plain room"],
}
GRAVITY_WORDS = {
    "earth": ["on earth", "in normal gravity"],
    "moon": ["on the moon", "on the moon", "in low gravity", "in moon gravity", "on the lunar surface"],
}
VERBS = [("bounces", "bounce"), ("falls", "fall"), ("drops", "drop"), ("falls and bounces", "fall and bounce"),
         ("hits", "hit"), ("is dropped", "are dropped"), ("falls down", "fall down"), ("drops and bounces", "drop and bounce"),
         ("lands", "land"), ("bouncing", "bouncing"), ("falling", "falling"), ("dropping", "dropping")]
TOSS_VERBS = [("is thrown up and falls", "are thrown up and fall"), ("is tossed up and lands", "are tossed up and land"),
              ("flies up and falls down", "fly up and fall down")]
FLOORS = ["on the floor", "to the floor", "on the ground", "to the ground", "onto the floor"]
INTROS = ["a video of ", "a clip of ", "a film of ", "we see ", "there is "]


def known_words():
    """Every lower-case word a caption can hold, sorted."""
    pools = [w for ws in SHAPE_WORDS.values() for side in ws for w in side]
    for table in (COLOR_WORDS, SIZE_WORDS, MATERIAL_WORDS, MADE_OF, BG_WORDS, GRAVITY_WORDS):
        pools += [w for ws in table.values() for w in ws]
    pools += [w for pair in VERBS + TOSS_VERBS for w in pair] + FLOORS + INTROS
    pools += ["a an two and made of next to beside"]
    return sorted({word for text in pools for word in text.split()})


def caption(scene, rng, full=False):
    """One caption of the scene. With `full` every attribute is named in plain order."""
    keep = {k: full or rng.random() < p for k, p in
            (("size", 0.7), ("material", 0.7), ("color", 0.94), ("bg", 0.7), ("gravity", 0.35))}
    if scene["gravity"] == "moon":
        keep["gravity"] = full or rng.random() < 0.85
    subject, plural = _subject(scene["objects"], keep, rng, full)
    places = []
    if keep["gravity"]:
        places.append(rng.choice(GRAVITY_WORDS[scene["gravity"]]))
    if keep["bg"]:
        places.append(rng.choice(BG_WORDS[scene["bg"]]))
    rng.shuffle(places)
    return _style(_sentence(scene, subject, plural, places, rng, full), rng, full)


def _sentence(scene, subject, plural, places, rng, full):
    tossed = scene["objects"][0]["vy"] > 0.8 and rng.random() < 0.6 and not full
    verb = rng.choice(TOSS_VERBS if tossed else VERBS)[plural]
    floor = " " + rng.choice(FLOORS) if rng.random() < 0.45 or verb in ("hits", "hit") else ""
    if verb in ("hits", "hit"):
        floor = rng.choice([" the floor", " the ground"])
    tail = "".join(" " + p for p in places)
    template = rng.randrange(8)
    if template == 0 and places:  # at night a red ball falls on the floor
        comma = rng.choice([",", ""])
        return f"{places[0]}{comma} {subject} {verb}{floor}" + "".join(" " + p for p in places[1:])
    if template == 1:  # a red ball at night falls
        return f"{subject}{tail} {verb}{floor}"
    if template == 2:  # a red ball at night
        return f"{subject}{tail}"
    if template == 3:  # a video of a red ball ...
        return f"{rng.choice(INTROS)}{subject} {_ing(verb)}{floor}{tail}"
    if template == 4 and tail:  # a red ball falls, at night
        return f"{subject} {verb}{floor},{tail}"
    return f"{subject} {verb}{floor}{tail}"


def _ing(verb):
    return verb if verb.endswith("ing") else ING.get(verb, verb)


ING = {"bounces": "bouncing", "bounce": "bouncing", "falls": "falling", "fall": "falling",
                "drops": "dropping", "drop": "dropping", "falls down": "falling", "fall down": "falling"}


def _subject(objects, keep, rng, full):
    if len(objects) == 1:
        return _noun(objects[0], keep, rng, 0), 0
    if all(objects[0][k] == objects[1][k] for k in ("shape", "color", "size", "material")):
        return _noun(objects[0], keep, rng, 1), 1
    first, second = rng.sample(objects, 2)
    joint = rng.choice([" and ", " and ", " and ", " next to ", " beside "]) if not full else " and "
    return _noun(first, keep, rng, 0) + joint + _noun(second, keep, rng, 0), 1


def _noun(o, keep, rng, twins):
    words = [rng.choice(SIZE_WORDS[o["size"]])] if keep["size"] else []
    color = [rng.choice(COLOR_WORDS[o["color"]])] if keep["color"] else []
    material = [rng.choice(MATERIAL_WORDS[o["material"]])] if keep["material"] else []
    shape, tail = rng.choice(SHAPE_WORDS[o["shape"]][twins]), ""
    if material and rng.random() < 0.15:
        tail, material = " made of " + rng.choice(MADE_OF[o["material"]]), []
    pair = color + material
    if rng.random() < 0.25:
        pair.reverse()
    words += pair + [shape]
    if twins:
        return "two " + " ".join(words) + tail
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)}{tail}"


def _style(text, rng, full):
    roll = 1.0 if full else rng.random()
    if roll < 0.12:
        text = text[0].upper() + text[1:]
    if roll < 0.2 and roll > 0.06:
        text += "."
    if 0.2 < roll < 0.25 and text.startswith(("a ", "an ")):
        text = text.split(" ", 1)[1]  # "red ball falls"
    return text


def caption_of_seed(scene, variant=0, full=False):
    return caption(scene, random.Random(scene["seed"] * 64 + variant), full)
