"""Captions of world T1: what happens, in several templates, with synonyms, left-out attributes and shuffled order."""

from .captions_t0 import BG_WORDS as BG_WORDS_T0
from .captions_t0 import COLOR_WORDS as COLOR_WORDS_T0
from .captions_t0 import FLOORS, ING, INTROS, TOSS_VERBS, VERBS, _style
from .captions_t0 import MATERIAL_WORDS as MATERIAL_WORDS_T0
from .captions_t0 import SHAPE_WORDS as SHAPE_WORDS_T0

SHAPES = {k: v[0] for k, v in SHAPE_WORDS_T0.items()} | {"star": ["star", "star", "five-pointed star"]}
COLORS = COLOR_WORDS_T0 | {"pink": ["pink"], "cyan": ["cyan", "turquoise"]}
SIZES = {"small": ["small", "little", "tiny"], "medium": ["medium", "middle-sized"], "big": ["big", "large", "huge"]}
MATERIALS = MATERIAL_WORDS_T0 | {"glass": ["glass", "glass", "crystal"], "stone": ["stone", "stone", "rock"]}
BACKGROUNDS = BG_WORDS_T0 | {"rain": ["in the rain", "in the rain", "on a rainy day", "in rainy weather"]}
GRAVITIES = {"earth": ["on earth", "in normal gravity"], "moon": ["on the moon", "in low gravity", "in moon gravity"],
             "none": ["in zero gravity", "without gravity", "in free space"]}
STYLES = {"flat": ["flat style", "a flat cartoon", "simple shapes"], "neon": ["neon style", "neon lights", "glowing neon"],
          "pencil": ["pencil style", "a pencil drawing", "a pencil sketch"], "clay": ["clay style", "clay animation", "soft clay"]}
CAMERAS = {"static": ["the camera stands still", "static camera"], "pan_left": ["the camera pans left", "camera moves to the left"],
           "pan_right": ["the camera pans right", "camera moves to the right"],
           "zoom_in": ["the camera zooms in", "slow zoom in"], "zoom_out": ["the camera zooms out", "slow zoom out"]}
AMBIENCES = {"rain": ["sound of rain", "rain is heard"], "wind": ["sound of wind", "wind is heard"], "hum": ["a low hum", "humming room"]}
COLLIDE = ["{a} and {b} collide", "{a} hits {b}", "{a} bumps into {b}", "{a} crashes into {b}", "{a} and {b} roll into each other", "{a} meets {b}"]
ROLL = ["{a} rolls over the floor", "{a} rolls along", "{a} is rolling", "{a} rolls on the ground", "{a} rolls past", "{a} rolls by"]
PENDULUM = ["{a} swings on a rod", "{a} swings as a pendulum", "a pendulum with {a}", "{a} hangs and swings", "{a} swings to and fro", "a swinging pendulum of {a}"]
DRIFT = ["{a} floats", "{a} drifts", "{a} hovers", "{a} floats in the air", "{a} drifts slowly", "{a} is floating"]
TALK = ['{who} says "{words}"', '{who} is saying "{words}"', '"{words}", says {who}', '{who} speaks: "{words}"', '{who} tells us "{words}"', 'we hear {who} say "{words}"']
QUIET = ["an empty scene", "nobody is there", "nothing happens", "an empty floor", "no one and nothing", "a quiet place"]
PEOPLE = {"low": ["man", "man", "guy"], "high": ["woman", "woman", "lady"]}
EMOTIONS = {"happy": ["happy", "smiling"], "sad": ["sad", "unhappy"], "calm": ["calm", "serious"]}
SKINS = {"pale": ["pale"], "brown": ["brown"], "dark": ["dark"]}
LEFT_OUT = {"size": 0.7, "material": 0.75, "color": 0.94, "bg": 0.65, "gravity": 0.3, "style": 0.65, "camera": 0.7, "ambience": 0.75, "look": 0.6}


def known_words():
    """Every lower-case word a caption can hold, sorted."""
    from .speech import VOCABULARY
    tables = (SHAPES, COLORS, SIZES, MATERIALS, BACKGROUNDS, GRAVITIES, STYLES, CAMERAS, AMBIENCES, PEOPLE, EMOTIONS, SKINS)
    pools = [w for table in tables for words in table.values() for w in words]
    pools += [w for pair in VERBS + TOSS_VERBS for w in pair] + FLOORS + INTROS + COLLIDE + ROLL + PENDULUM + DRIFT + TALK + QUIET
    pools += ["float drift hover are a an and in with of hair hat glasses wearing blond black grey red green blue skinned"] + VOCABULARY
    marks = str.maketrans({c: " " for c in '{}",:'})
    words = {word for text in pools for word in text.translate(marks).split()}
    return sorted(words - {"b", "who", "words"})  # Names of gaps in the templates.


def caption(scene, rng, full=False):
    """One caption of the scene. With `full` every attribute is named; 5 % name what happens alone."""
    bare = not full and rng.random() < 0.05
    keep = {k: full or (not bare and rng.random() < p) for k, p in LEFT_OUT.items()}
    # What is out of the ordinary is named nearly always, or nobody could have asked for it.
    for key, usual in (("gravity", "earth"), ("camera", "static"), ("style", "flat")):
        if scene[key] != usual and not bare:
            keep[key] = full or rng.random() < 0.88
    happening = {"talk": _talk, "quiet": _quiet}.get(scene["kind"], _bodies)(scene, keep, rng)
    return _style(_arrange(happening, _places(scene, keep, rng), _notes(scene, keep, rng), rng), rng, full)


def _places(scene, keep, rng):
    places = [rng.choice(BACKGROUNDS[scene["bg"]])] if keep["bg"] else []
    if keep["gravity"] and scene["kind"] in ("bounce", "pendulum"):
        places.append(rng.choice(GRAVITIES[scene["gravity"]]))
    rng.shuffle(places)
    return places


def _notes(scene, keep, rng):
    notes = [rng.choice(STYLES[scene["style"]])] if keep["style"] else []
    if keep["camera"] and scene["kind"] != "talk":
        notes.append(rng.choice(CAMERAS[scene["camera"]]))
    if keep["ambience"] and scene["ambience"] != "none":
        notes.append(rng.choice(AMBIENCES[scene["ambience"]]))
    rng.shuffle(notes)
    return notes


def _arrange(happening, places, notes, rng):
    template = rng.randrange(6)
    if template == 0 and places:  # at night, a red ball falls
        return ", ".join([f"{places[0]}, {happening}" + "".join(" " + p for p in places[1:]), *notes])
    if template == 1 and notes:  # pencil style: a red ball falls at night
        return ", ".join([f"{notes[0]}: {happening}" + "".join(" " + p for p in places), *notes[1:]])
    if template == 2 and notes:  # a red ball falls at night, pencil style
        return ", ".join([happening + "".join(" " + p for p in places), *notes])
    if template == 3:
        return ", ".join([happening, *places, *notes])
    if template == 4 and not happening.startswith(('"', "we ", "no")):
        return ", ".join([rng.choice(INTROS) + happening + "".join(" " + p for p in places), *notes])
    return ", ".join([happening + "".join(" " + p for p in places), *notes])


def _bodies(scene, keep, rng):
    nouns = [_noun(o, keep, rng) for o in scene["objects"]]
    rng.shuffle(nouns)
    if scene["kind"] == "collide":
        return rng.choice(COLLIDE).format(a=nouns[0], b=nouns[1])
    subject = nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]
    plural = len(nouns) > 1
    if scene["kind"] != "bounce" or scene["gravity"] == "none":
        text = rng.choice({"roll": ROLL, "pendulum": PENDULUM}.get(scene["kind"], DRIFT)).format(a=subject)
        return text.replace(" floats", " float").replace(" drifts", " drift").replace(" hovers", " hover").replace(" is ", " are ") if plural else text
    tossed = scene["objects"][0]["vy"] > 0.8 and rng.random() < 0.6
    verb = rng.choice(TOSS_VERBS if tossed else VERBS)[plural]
    if rng.random() < 0.15:
        verb = ING.get(verb, verb)
    floor = " the floor" if verb in ("hits", "hit") else " " + rng.choice(FLOORS) if rng.random() < 0.35 and not plural else ""
    return f"{subject} {verb}{floor}"


def _noun(o, keep, rng):
    words = [rng.choice(table[o[key]]) for key, table in (("size", SIZES), ("color", COLORS), ("material", MATERIALS)) if keep[key]]
    words.append(rng.choice(SHAPES[o["shape"]]))
    return _a(" ".join(words))


def _a(text):
    return ("an " if text[0] in "aeiou" else "a ") + text


def _talk(scene, keep, rng):
    face = scene["face"]
    words = [rng.choice(EMOTIONS[face["emotion"]])] if keep["look"] else []
    who = _a(" ".join([*words, rng.choice(PEOPLE[face["voice"]])]))
    worn = [f"{face['hair']} hair"] if keep["look"] and keep["color"] else []
    worn += [_a(f"{face['hat']} hat")] if face["hat"] and keep["look"] else []
    worn += ["glasses"] if face["glasses"] and keep["look"] else []
    who += " with " + " and ".join(worn) if worn else ""
    return rng.choice(TALK).format(who=who, words=" ".join(face["words"]))


def _quiet(scene, keep, rng):
    return rng.choice(QUIET)
