//! Noise of the sampler, specified: normal values that depend on the seed, the stream and their index
//! alone. Any device, any number of threads and any other program that follows this text draws the
//! same; `ops/train/noise.py` is one.
//!
//! Value n of a stream (video 0, audio 1), for n = 4 block + lane:
//! 1. Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key
//!    (seed mod 2^32, seed div 2^32) and the counter (block mod 2^32, block div 2^32, stream, 0) gives
//!    four words w0..w3. A round is c0' = high(c2 M1) ^ c1 ^ k0, c1' = low(c2 M1),
//!    c2' = high(c0 M0) ^ c3 ^ k1, c3' = low(c0 M0), with M0 = D2511F53 and M1 = CD9E8D57; after each of
//!    the ten rounds 9E3779B9 is added to k0 and BB67AE85 to k1.
//! 2. Lanes 0 and 1 are made of (w0, w1), lanes 2 and 3 of (w2, w3), by Box and Muller in f64:
//!    u = (w0 + 1/2) / 2^32, r = sqrt(-2 ln u), angle = 2 pi (w1 + 1/2) / 2^32; the even lane is
//!    r cos(angle), the odd one r sin(angle), each rounded to f32 once, at the end.
//!
//! Values fill a stream's latents as they lie: video [token, channel] with tokens in (frame, row,
//! column) order, audio [token, channel * mel bins].

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

    /// From `python -m ops.train.noise`, which was written from the specification above.
    #[test]
    fn seeds_give_the_known_answers() {
        let cases: [(u64, NoiseStream, [u32; 6]); 4] = [
            (
                0,
                NoiseStream::Video,
                [
                    0x3f7d_bb33,
                    0xbf6c_b6b0,
                    0xbf1e_1b9f,
                    0xbef6_d1b2,
                    0xbe1d_5357,
                    0x3e39_2a6d,
                ],
            ),
            (
                7,
                NoiseStream::Video,
                [
                    0x3998_dd8c,
                    0xbe9c_14e7,
                    0x3fe4_f600,
                    0x3f88_b00c,
                    0x3ec0_b7f6,
                    0xbfa4_bccd,
                ],
            ),
            (
                7,
                NoiseStream::Audio,
                [
                    0x3f0f_5709,
                    0x3f85_cd7c,
                    0x3e71_e3f0,
                    0x3fc1_3879,
                    0x3e92_ee9c,
                    0xbeca_aa97,
                ],
            ),
            (
                u64::MAX,
                NoiseStream::Video,
                [
                    0x3f8c_9ec9,
                    0x3f21_de8f,
                    0x3f25_5714,
                    0x3f3a_c13d,
                    0xbf17_4864,
                    0x4003_8e29,
                ],
            ),
        ];
        for (seed, stream, expected) in cases {
            let found: Vec<u32> = normals(seed, stream, 6)
                .iter()
                .map(|v| v.to_bits())
                .collect();
            assert_eq!(found, expected, "seed {seed}, {stream:?}");
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
