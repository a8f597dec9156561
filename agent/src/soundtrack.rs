//! Joins the sound of shots into one track, sample by sample.

use std::path::{Path, PathBuf};

use schemas::task::AssembleSpec;

use crate::mux::{Ffmpeg, MuxError, Run, Stop, words};

/// Rate of every film's sound, in Hz.
pub const RATE: u32 = 48_000;
pub const CHANNELS: u16 = 2;
/// Peaks above this are brought down with the whole track: -1 dBFS leaves AAC its overshoot.
const PEAK_MAX: f32 = 0.891;
/// Fade at both sides of a cut, so that a jump between shots does not click. 3 ms.
const FADE_FRAMES: usize = RATE as usize * 3 / 1_000;

/// Sound of the whole film: interleaved stereo, exactly as long as its frames.
pub fn join(
    ffmpeg: &Ffmpeg,
    spec: &AssembleSpec,
    shots: &[PathBuf],
    stop: Stop<'_>,
) -> Result<Vec<f32>, MuxError> {
    let mut track = Vec::new();
    let mut frames_before = 0;
    for (index, (shot, frames)) in shots.iter().zip(&spec.shot_frames).enumerate() {
        let (start, end) = (
            sample_of(frames_before, spec.fps),
            sample_of(frames_before + u64::from(*frames), spec.fps),
        );
        let mut part = decode(ffmpeg, shot, stop)?;
        part.resize((end - start) * usize::from(CHANNELS), 0.0);
        let is_last = index + 1 == shots.len();
        fade(&mut part, index > 0, !is_last);
        track.append(&mut part);
        frames_before += u64::from(*frames);
    }
    hold_peak(&mut track);
    Ok(track)
}

/// The first sample of a frame, rounded; sums of rounded lengths would drift.
fn sample_of(frame: u64, fps: u32) -> usize {
    let fps = u64::from(fps);
    usize::try_from((frame * u64::from(RATE) + fps / 2) / fps).expect("films have few samples")
}

fn decode(ffmpeg: &Ffmpeg, shot: &Path, stop: Stop<'_>) -> Result<Vec<f32>, MuxError> {
    let (rate, channels) = (RATE.to_string(), CHANNELS.to_string());
    let mut args = words(&["-i"]);
    args.push(shot.into());
    args.extend(words(&[
        "-map", "0:a:0", "-f", "f32le", "-ar", &rate, "-ac", &channels, "pipe:1",
    ]));
    let bytes = ffmpeg.run(
        Run {
            what: "read the sound of a shot",
            args,
            stdin: &[],
        },
        stop,
    )?;
    Ok(bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect())
}

fn fade(part: &mut [f32], at_start: bool, at_end: bool) {
    let channels = usize::from(CHANNELS);
    let frames = part.len() / channels;
    let length = FADE_FRAMES.min(frames / 2);
    for at in 0..length {
        let gain = at as f32 / length as f32;
        for channel in 0..channels {
            if at_start {
                part[at * channels + channel] *= gain;
            }
            if at_end {
                part[(frames - 1 - at) * channels + channel] *= gain;
            }
        }
    }
}

/// One gain for the whole film, and only downward: shots keep their balance, silence stays silent.
fn hold_peak(track: &mut [f32]) {
    let peak = track
        .iter()
        .fold(0.0f32, |peak, sample| peak.max(sample.abs()));
    if peak > PEAK_MAX {
        let gain = PEAK_MAX / peak;
        track.iter_mut().for_each(|sample| *sample *= gain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_at_the_sample_of_their_first_frame() {
        assert_eq!(sample_of(0, 24), 0);
        assert_eq!(sample_of(48, 16), 144_000);
        assert_eq!(sample_of(1, 24), 2_000);
        assert_eq!(
            (1..=7)
                .map(|f| sample_of(f, 7) - sample_of(f - 1, 7))
                .sum::<usize>(),
            48_000
        );
    }

    #[test]
    fn a_loud_track_comes_down_and_a_quiet_one_stays() {
        let mut loud = vec![2.0, -1.0, 0.0];
        hold_peak(&mut loud);
        assert_eq!(loud, [PEAK_MAX, -PEAK_MAX / 2.0, 0.0]);
        let mut quiet = vec![0.1, -0.2];
        hold_peak(&mut quiet);
        assert_eq!(quiet, [0.1, -0.2]);
    }

    #[test]
    fn a_cut_fades_on_both_sides_and_the_film_ends_do_not() {
        let mut part = vec![1.0; 2 * 1_000];
        fade(&mut part, true, false);
        assert_eq!((part[0], part[1_999]), (0.0, 1.0));
        fade(&mut part, false, true);
        assert_eq!(part[1_999], 0.0);
        assert_eq!(part[1_000], 1.0);
    }
}
