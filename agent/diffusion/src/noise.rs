//! Noise of the sampler: normal values that depend on the seed, the stream and their index alone, so
//! that any device and any number of threads draws the same.
//!
//! Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the seed as
//! key and (block low, block high, stream, 0) as counter gives four words a block. Words (a, b) make two
//! normals by Box and Muller: r = sqrt(-2 ln u), u = (a + 1/2) / 2^32, angle = 2 pi (b + 1/2) / 2^32,
//! in f64, rounded to f32 at the end.

/// Which latents the noise is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoiseStream {
    /// Video latents.
    Video,
    /// Audio latents.
    Audio,
    /// Video latents of the second stage.
    VideoRefining,
    /// Audio latents of the second stage.
    AudioRefining,
}

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// `count` normal values.
pub fn normals(seed: u64, stream: NoiseStream, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let stream = match stream {
        NoiseStream::Video => 0,
        NoiseStream::Audio => 1,
        NoiseStream::VideoRefining => 2,
        NoiseStream::AudioRefining => 3,
    };
    let mut values = Vec::with_capacity(count.next_multiple_of(4));
    for block in 0..count.div_ceil(4) as u64 {
        let [a, b, c, d] = philox([block as u32, (block >> 32) as u32, stream, 0], key);
        values.extend(box_muller(a, b));
        values.extend(box_muller(c, d));
    }
    values.truncate(count);
    values
}

fn box_muller(a: u32, b: u32) -> [f32; 2] {
    const SCALE: f64 = 1.0 / 4_294_967_296.0;
    let radius = (-2.0 * ((f64::from(a) + 0.5) * SCALE).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * (f64::from(b) + 0.5) * SCALE).sin_cos();
    [(radius * cos) as f32, (radius * sin) as f32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low, high] =
            [0, 1].map(|lane| u64::from(MULTIPLIERS[lane]) * u64::from(counter[2 * lane]));
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        let ones = u32::MAX;
        let cases = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [ones; 4],
                [ones; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn values_are_normal_and_depend_on_seed_stream_and_index() {
        let values = normals(7, NoiseStream::Video, 100_001);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
        let fourth =
            values.iter().map(|v| f64::from(*v).powi(4)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02 && (fourth - 3.0).abs() < 0.15);
        assert_eq!(values[..33], normals(7, NoiseStream::Video, 33));
        assert_ne!(values[..8], normals(7, NoiseStream::Audio, 8));
        assert_ne!(values[..8], normals(8, NoiseStream::Video, 8));
        assert_ne!(values[..8], normals(7 + (1 << 32), NoiseStream::Video, 8));
    }
}
