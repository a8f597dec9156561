//! Prints how long the decoders of a model folder take for a clip of random latents.
//!
//! `cargo run -p diffusion --example bench_decode FOLDER [LATENT_FRAMES ROWS COLUMNS SECONDS [THREADS]]`

use std::path::Path;
use std::time::Instant;

use diffusion::audio_vae::AudioDecoder;
use diffusion::video_vae::VideoDecoder;
use diffusion::vocoder::Vocoder;
use diffusion::weights::Component;
use kernels::Device;

/// Seconds of the fastest of several runs.
fn best<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Values between -1 and 1 that look random enough for timing.
fn noise(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0)
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(arguments.first().ok_or("name a folder of weights")?);
    let number = |i: usize, default| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let grid = [number(1, 17)?, number(2, 4)?, number(3, 7)?];
    let (seconds, threads) = (number(4, 4)?, number(5, 2)?);
    let device = Device::cpu(threads)?;

    let video = VideoDecoder::load(&Component::open(folder, "vae")?, &device)?;
    let latents = noise(grid.iter().product::<usize>() * video.latent_channels());
    let frames = video.frames(&latents, grid)?;
    println!(
        "video  {:?}: {:.3} s",
        frames.dims(),
        best(|| video.frames(&latents, grid))
    );

    let audio = AudioDecoder::load(&Component::open(folder, "audio_vae")?, &device)?;
    let latents = noise(seconds * 25 * audio.packed_channels());
    let mel = audio.spectrogram(&latents)?;
    println!(
        "audio  {:?}: {:.3} s",
        mel.dims(),
        best(|| audio.spectrogram(&latents))
    );

    let vocoder = Vocoder::load(&Component::open(folder, "vocoder")?, &device)?;
    let wave = vocoder.wave(&mel)?;
    println!(
        "sound  {:?}: {:.3} s",
        wave.dims(),
        best(|| vocoder.wave(&mel))
    );
    Ok(())
}
