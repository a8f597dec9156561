"""Fills runs/ from the weights that ship, so that training goes on where the last export ended.

    python -m ops.train.restore
    python -m ops.train.encode --shards 10 --objects 1
    python -m ops.train.encode --shards 30
    python -m ops.train.train_dit --minutes 60 --batch 8 --resume

The averages become the weights; the optimiser's moments are not kept and start anew behind a warm-up.
The latents' statistics are those of the export, so clips are encoded as before.
"""

import json
import shutil

from . import export, stage, tokenizer

# Record of an export -> log file of the stage and the row's other keys.
LOGS = {
    "vae images": ("vae", {"phase": "images"}), "vae clips": ("vae", {"phase": "clips"}),
    "audio vae": ("audio", {"part": "vae"}), "audio vocoder": ("audio", {"part": "vocoder"}), "dit": ("dit", {}),
}


def main():
    if (stage.RUNS / "dit.pt").exists():
        raise SystemExit("runs/ holds a state already: move it away first")
    defaults = json.loads((export.FOLDER / "dailies.json").read_text())
    stages = defaults["training"]["stages"]
    denoiser, vae, audio, vocoder = export.reload(export.FOLDER, defaults["variant"])
    stage.save("vae", vae=vae.state_dict(), steps=stages["vae clips"]["steps"])
    stage.save("audio_vae", vae=audio.state_dict(), steps=stages["audio vae"]["steps"])
    stage.save("vocoder", vocoder=vocoder.state_dict(), steps=stages["audio vocoder"]["steps"])
    stage.save("statistics", video_mean=vae.latents_mean.clone(), video_std=vae.latents_std.clone(),
               audio_mean=audio.latents_mean.clone(), audio_std=audio.latents_std.clone())
    stage.save("dit", model=denoiser.state_dict(), ema=[p.detach().clone() for p in denoiser.parameters()],
               steps=stages["dit"]["steps"])
    tokenizer.FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy(export.FOLDER / "tokenizer" / "tokenizer.json", tokenizer.FOLDER)
    for name, row in stages.items():
        log, keys = LOGS[name]
        values = {key: value for key, value in row.items() if key != "steps"}
        stage.Log(log).write(step=row["steps"], **keys, **values)


if __name__ == "__main__":
    main()
