//! Both vocoders against the reference library.

use super::*;
use crate::golden::Golden;
use crate::weights::Config;

/// Runs a case: [1, channel, time, mel] in, [1, channel, sample] out.
fn agrees_with_the_reference(case: &str, tolerance: f32) {
    let golden = Golden::open(case);
    let vocoder = Vocoder::load(&golden.component(), golden.device()).unwrap();
    let x = golden.tensor("in.mel");
    let [b, c, t, m]: [usize; 4] = x.dims().try_into().unwrap();
    let values = (0..t * m * c)
        .map(|i| x.f32s()[i % c * t * m + i / c])
        .collect();
    let mel = Tensor::from_f32(golden.device(), &[b, t, m, c], values).unwrap();
    let wave = vocoder.wave(&mel).unwrap();
    let (samples, channels) = (wave.dims()[1], wave.dims()[2]);
    assert_eq!(channels, vocoder.channels());
    let planar: Vec<f32> = (0..wave.count())
        .map(|i| wave.f32s()[i % samples * channels + i / samples])
        .collect();
    golden.check("out.wave", &planar, tolerance);
}

#[test]
fn the_vocoder_of_2_0_and_of_the_built_in_model_agrees_with_the_reference() {
    agrees_with_the_reference("vocoder_20", 1e-5);
}

#[test]
fn the_vocoder_with_bandwidth_extension_agrees_with_the_reference() {
    agrees_with_the_reference("vocoder_bwe", 1e-4);
}

#[test]
fn another_class_is_refused_by_name() {
    let golden = Golden::open("audio_vae_mono");
    let message = Vocoder::load(&golden.component(), golden.device())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("AutoencoderKLLTX2Audio") && message.contains("LTX2Vocoder"),
        "{message}"
    );
}

#[test]
fn another_number_of_mel_bins_is_refused() {
    let golden = Golden::open("vocoder_20");
    let vocoder = Vocoder::load(&golden.component(), golden.device()).unwrap();
    let mel = Tensor::zeros_f32(golden.device(), &[1, 4, 15, 2]).unwrap();
    assert!(vocoder.wave(&mel).is_err());
}

#[test]
fn unsupported_configs_are_refused_by_field() {
    for (case, field, value) in [
        ("vocoder_20", "upsample_kernel_sizes", "[15, 15, 4]"),
        ("vocoder_20", "upsample_factors", "[6, 5]"),
        ("vocoder_20", "resnet_dilations", "[[1, 3]]"),
        ("vocoder_20", "act_fn", "\"relu\""),
        ("vocoder_20", "antialias", "true"),
        ("vocoder_20", "final_act_fn", "\"sign\""),
        ("vocoder_20", "hidden_channels", "4"),
        ("vocoder_bwe", "bwe_upsample_factors", "[6, 6]"),
        ("vocoder_bwe", "output_sampling_rate", "44100"),
        ("vocoder_bwe", "window_length", "32"),
    ] {
        let golden = Golden::open(case);
        let mut fields: serde_json::Value = serde_json::from_str(golden.note("config")).unwrap();
        fields[field] = serde_json::from_str(value).unwrap();
        let path = std::path::Path::new("vocoder/config.json");
        let config = Config::parse(path, &fields.to_string()).unwrap();
        let message = match case {
            "vocoder_20" => config::plain(&config).unwrap_err().to_string(),
            _ => config::bandwidth(&config).unwrap_err().to_string(),
        };
        // Kernels and factors are judged together; either name will do.
        let named =
            message.contains(&format!("`{field}`")) || message.contains("upsample_kernel_sizes");
        assert!(named, "{field}: {message}");
    }
}
