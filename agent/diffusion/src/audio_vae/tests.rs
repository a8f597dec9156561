//! The audio autoencoder and its spectrograms against the reference library.

use kernels::stft_mel::{MelScale, MelWeights, stft_mel};

use super::*;
use crate::golden::Golden;
use crate::weights::Config;

const TOLERANCE: f32 = 1e-4;

/// [1, channel, time, mel] as the reference has it to channel-last.
fn last(golden: &Golden, name: &str) -> Tensor {
    let x = golden.tensor(name);
    let [b, c, t, m]: [usize; 4] = x.dims().try_into().unwrap();
    let values = (0..t * m * c)
        .map(|i| x.f32s()[i % c * t * m + i / c])
        .collect();
    Tensor::from_f32(golden.device(), &[b, t, m, c], values).unwrap()
}

fn channels_first(x: &Tensor) -> Vec<f32> {
    let c = x.last_dim();
    let positions = x.count() / c;
    (0..x.count())
        .map(|i| x.f32s()[i % positions * c + i / positions])
        .collect()
}

fn decodes_as_the_reference(case: &str) {
    let golden = Golden::open(case);
    let decoder = AudioDecoder::load(&golden.component(), golden.device()).unwrap();
    let mel = decoder.decode(&last(&golden, "in.latents")).unwrap();
    golden.check("out.mel", &channels_first(&mel), TOLERANCE);
}

fn encodes_as_the_reference(case: &str) {
    let golden = Golden::open(case);
    let encoder = AudioEncoder::load(&golden.component(), golden.device()).unwrap();
    let mean = encoder.encode(&last(&golden, "in.mel")).unwrap();
    golden.check("out.mean", &channels_first(&mean), TOLERANCE);
}

#[test]
fn the_stereo_decoder_agrees_with_the_reference() {
    decodes_as_the_reference("audio_vae_dec");
}

#[test]
fn the_stereo_encoder_agrees_with_the_reference() {
    encodes_as_the_reference("audio_vae_enc");
}

#[test]
fn the_mono_autoencoder_of_the_built_in_model_agrees_with_the_reference() {
    decodes_as_the_reference("audio_vae_mono");
    encodes_as_the_reference("audio_vae_mono");
}

#[test]
fn mel_spectrograms_agree_with_the_reference() {
    let golden = Golden::open("mel");
    let scale = MelScale {
        rate: 16_000,
        n_fft: 1024,
        hop: 160,
        bins: 64,
    };
    let weights = MelWeights::slaney(golden.device(), scale).unwrap();
    let wave = golden.tensor("in.wave");
    let frames = weights.frames(wave.last_dim());
    let mut mel = Tensor::zeros_f32(golden.device(), &[2, frames, 64]).unwrap();
    stft_mel(golden.device(), &wave, &weights, &mut mel).unwrap();
    golden.check("out.mel", mel.f32s(), 1e-3);
}

#[test]
fn packed_latents_hold_all_bins_of_a_channel_together() {
    let golden = Golden::open("audio_vae_mono");
    let decoder = AudioDecoder::load(&golden.component(), golden.device()).unwrap();
    let own = last(&golden, "in.latents");
    let (statistics, reference) = (&decoder.statistics, golden.tensor("in.latents"));
    let packed = statistics.pack(own.f32s());
    // Channel 1, token 2, bin 3 of [1, 2, 4, 4] and its packed place.
    let (value, at) = (reference.f32s()[(4 + 2) * 4 + 3], 4 + 3);
    let expected = (value - statistics.mean[at]) / statistics.deviation[at];
    assert_eq!(packed[2 * 8 + at], expected);
    let mel = decoder.spectrogram(&packed).unwrap();
    golden.check("out.mel", &channels_first(&mel), TOLERANCE);
    assert!(decoder.spectrogram(&packed[..31]).is_err());
    assert!(decoder.spectrogram(&[]).is_err());
}

#[test]
fn unsupported_configs_are_refused_by_field() {
    let golden = Golden::open("audio_vae_mono");
    for (field, value) in [
        ("norm_type", "\"group\""),
        ("causality_axis", "\"width\""),
        ("mid_block_add_attention", "true"),
        ("attn_resolutions", "[16]"),
        ("ch_mult", "[1, 2]"),
        ("base_channels", "16"),
        ("mel_bins", "18"),
    ] {
        let mut fields: serde_json::Value = serde_json::from_str(golden.note("config")).unwrap();
        fields[field] = serde_json::from_str(value).unwrap();
        let path = std::path::Path::new("audio_vae/config.json");
        let config = Config::parse(path, &fields.to_string()).unwrap();
        let message = config::read(&config).unwrap_err().to_string();
        assert!(
            message.contains(&format!("`{field}`")),
            "{field}: {message}"
        );
    }
}
