//! The video autoencoder against the reference library.

use super::*;
use crate::golden::Golden;
use crate::progress::Control;
use crate::weights::Config;

const TOLERANCE: f32 = 1e-4;

/// [1, channel, t, h, w] as the reference has it to channel-last, or back.
fn channels_last(x: &Tensor) -> Vec<f32> {
    let [_, c, t, h, w]: [usize; 5] = x.dims().try_into().unwrap();
    let positions = t * h * w;
    (0..positions * c)
        .map(|i| x.f32s()[i % c * positions + i / c])
        .collect()
}

fn channels_first(x: &Tensor) -> Vec<f32> {
    let c = x.last_dim();
    let positions = x.count() / c;
    (0..x.count())
        .map(|i| x.f32s()[i % positions * c + i / positions])
        .collect()
}

fn last(golden: &Golden, name: &str) -> Tensor {
    let x = golden.tensor(name);
    let [b, c, t, h, w]: [usize; 5] = x.dims().try_into().unwrap();
    Tensor::from_f32(golden.device(), &[b, t, h, w, c], channels_last(&x)).unwrap()
}

fn decodes_as_the_reference(case: &str) {
    let golden = Golden::open(case);
    let decoder = VideoDecoder::load(&golden.component(), golden.device()).unwrap();
    let pixels = decoder.decode(last(&golden, "in.latents")).unwrap();
    golden.check("out.sample", &channels_first(&pixels), TOLERANCE);
}

#[test]
fn the_decoder_of_the_built_in_model_agrees_with_the_reference() {
    decodes_as_the_reference("vae_dec_t0");
}

#[test]
fn the_decoder_of_2_3_agrees_with_the_reference() {
    decodes_as_the_reference("vae_dec_23");
}

#[test]
fn the_decoder_of_2_0_agrees_with_the_reference() {
    decodes_as_the_reference("vae_dec_20");
}

#[test]
fn a_causal_decoder_with_a_block_that_does_not_scale_agrees_with_the_reference() {
    decodes_as_the_reference("vae_dec_causal");
}

/// Tiles of the golden file: which axes are cut.
fn tiling(space: bool, time: bool) -> Tiling {
    Tiling {
        space: space.then_some(Tiles { size: 8, stride: 4 }),
        time: time.then_some(Tiles { size: 4, stride: 2 }),
    }
}

#[test]
fn decoding_and_encoding_in_tiles_agree_with_the_reference_in_tiles() {
    let golden = Golden::open("vae_tiled");
    let component = golden.component();
    let decoder = VideoDecoder::load(&component, golden.device()).unwrap();
    let encoder = VideoEncoder::load(&component, golden.device()).unwrap();
    let (latents, video) = (last(&golden, "in.latents"), last(&golden, "in.video"));
    for (case, space, time) in [
        ("space", true, false),
        ("time", false, true),
        ("both", true, true),
    ] {
        let tiling = tiling(space, time);
        let pixels = decoder.decode_tiled(&latents, tiling).unwrap();
        golden.check_channels_last(&format!("out.{case}.sample"), &pixels, TOLERANCE);
        let mean = encoder.encode_tiled(&video, tiling).unwrap();
        golden.check_channels_last(&format!("out.{case}.mean"), &mean, TOLERANCE);
    }
    let whole = decoder.decode(latents.clone()).unwrap();
    let published = decoder.decode_tiled(&latents, Tiling::PUBLISHED).unwrap();
    assert!(published.f32s() == whole.f32s(), "a clip within one tile");
}

#[test]
fn windows_come_in_order_and_make_up_the_clip() {
    let golden = Golden::open("vae_tiled");
    let decoder = VideoDecoder::load(&golden.component(), golden.device()).unwrap();
    let latents = last(&golden, "in.latents");
    let whole = decoder.decode_tiled(&latents, tiling(true, true)).unwrap();
    let (mut frames, mut values) = (Vec::new(), Vec::new());
    let mut sink = |window: Tensor| -> Result<(), KernelError> {
        frames.push(window.dims()[1]);
        values.extend_from_slice(window.f32s());
        Ok(())
    };
    decoder
        .decode_windows(&latents, tiling(true, true), &mut sink)
        .unwrap();
    assert_eq!(frames, [3, 2, 2, 2]);
    assert!(values == whole.f32s());
}

#[test]
fn tiles_that_latents_do_not_divide_are_refused() {
    let golden = Golden::open("vae_tiled");
    let component = golden.component();
    let decoder = VideoDecoder::load(&component, golden.device()).unwrap();
    let encoder = VideoEncoder::load(&component, golden.device()).unwrap();
    let (latents, video) = (last(&golden, "in.latents"), last(&golden, "in.video"));
    for (size, stride) in [(6, 4), (8, 6), (8, 0), (8, 12)] {
        let tiling = Tiling {
            space: Some(Tiles { size, stride }),
            time: None,
        };
        let error = decoder.decode_tiled(&latents, tiling).unwrap_err();
        assert!(
            error.to_string().contains("where a latent covers 4"),
            "{error}"
        );
        assert!(encoder.encode_tiled(&video, tiling).is_err());
    }
}

#[test]
fn the_encoder_agrees_with_the_reference_for_every_length() {
    let golden = Golden::open("vae_enc");
    let encoder = VideoEncoder::load(&golden.component(), golden.device()).unwrap();
    assert_eq!(encoder.compression(), Compression { time: 8, space: 16 });
    for frames in [1, 9, 17] {
        let mean = encoder
            .encode(&last(&golden, &format!("in.video{frames}")))
            .unwrap();
        golden.check(
            &format!("out.mean{frames}"),
            &channels_first(&mean),
            TOLERANCE,
        );
    }
    let two = Tensor::zeros_f32(golden.device(), &[1, 2, 16, 16, 3]).unwrap();
    assert!(
        encoder.encode(&two).is_err(),
        "two frames are no multiple of 8 plus one"
    );
    let narrow = Tensor::zeros_f32(golden.device(), &[1, 1, 16, 24, 3]).unwrap();
    assert!(
        encoder.encode(&narrow).is_err(),
        "24 columns are no multiple of 16"
    );
}

#[test]
fn patches_are_ordered_as_in_the_reference() {
    let golden = Golden::open("patchify_order");
    let video = last(&golden, "in.video");
    let mut patches = Tensor::zeros_f32(golden.device(), &[1, 2, 1, 2, 48]).unwrap();
    kernels::patchify::patchify(golden.device(), &video, 4, &mut patches).unwrap();
    golden.check("out.patches", &channels_first(&patches), 0.0);
}

#[test]
fn frames_are_the_decoded_denormalised_latents() {
    let golden = Golden::open("vae_dec_t0");
    let component = golden.component();
    let decoder = VideoDecoder::load(&component, golden.device()).unwrap();
    assert_eq!(decoder.compression(), Compression { time: 4, space: 16 });
    let own = last(&golden, "in.latents");
    let normal = decoder.statistics.normalise(own.f32s());
    let frames = decoder.frames(&normal, [2, 2, 1]).unwrap();
    assert_eq!(frames.dims(), [5, 32, 16, 3]);
    let pixels = decoder.decode(own).unwrap();
    for (level, pixel) in frames.u8s().iter().zip(pixels.f32s()) {
        let expected = (pixel.clamp(-1.0, 1.0) + 1.0) * 127.5;
        assert!(
            (f32::from(*level) - expected).abs() < 0.51,
            "{level} {expected}"
        );
    }
    assert!(decoder.frames(&normal, [2, 2, 2]).is_err());
}

/// All frames, and how many times some were handed over.
fn in_pieces(
    decoder: &VideoDecoder,
    latents: &[f32],
    grid: [usize; 3],
    piece: usize,
) -> (Vec<u8>, usize) {
    let (mut frames, mut times) = (Vec::new(), 0);
    let mut keep = |some: Tensor| {
        frames.extend_from_slice(some.u8s());
        times += 1;
        Ok(Control::Continue)
    };
    decoder.pictures(latents, grid, piece, &mut keep).unwrap();
    (frames, times)
}

#[test]
fn frames_decoded_in_pieces_are_those_decoded_whole_bit_for_bit() {
    for case in ["vae_dec_t0", "vae_dec_23", "vae_dec_20", "vae_dec_causal"] {
        let golden = Golden::open(case);
        let decoder = VideoDecoder::load(&golden.component(), golden.device()).unwrap();
        let grid = [7, 3, 2];
        let latents: Vec<f32> = (0..7 * 3 * 2 * decoder.latent_channels())
            .map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0)
            .collect();
        let whole = decoder.frames(&latents, grid).unwrap();
        assert_eq!(whole.dims()[0], 6 * decoder.compression().time + 1);
        let mut most = 0;
        for piece in [0, 1_000, 3_000, 20_000, 100_000, usize::MAX] {
            let (frames, times) = in_pieces(&decoder, &latents, grid, piece);
            assert!(frames == whole.u8s(), "{case} in pieces of {piece}");
            most = most.max(times);
        }
        assert!(most > 6, "{case} was never cut: {most}");
    }
}

#[test]
fn decoding_ends_when_its_taker_says_so() {
    let golden = Golden::open("vae_dec_t0");
    let decoder = VideoDecoder::load(&golden.component(), golden.device()).unwrap();
    let latents = vec![0.5; 5 * decoder.latent_channels()];
    let mut times = 0;
    let mut stop = |_: Tensor| {
        times += 1;
        Ok(Control::Pause)
    };
    let ended = decoder.pictures(&latents, [5, 1, 1], 0, &mut stop).unwrap();
    assert_eq!((ended, times), (Control::Pause, 1));
}

/// Loads the decoder and the encoder of a config that is changed in one field.
fn refusal(case: &str, field: &str, value: &str) -> String {
    let golden = Golden::open(case);
    let mut fields: serde_json::Value = serde_json::from_str(golden.note("config")).unwrap();
    fields[field] = serde_json::from_str(value).unwrap();
    let config =
        Config::parse(std::path::Path::new("vae/config.json"), &fields.to_string()).unwrap();
    let result = if case == "vae_enc" {
        config::encoder(&config)
    } else {
        config::decoder(&config)
    };
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn unsupported_configs_are_refused_by_field() {
    for (case, field, value) in [
        ("vae_dec_23", "timestep_conditioning", "true"),
        (
            "vae_dec_23",
            "decoder_inject_noise",
            "[false, true, false, false, false]",
        ),
        ("vae_dec_23", "decoder_inject_noise", "true"),
        ("vae_dec_23", "decoder_block_out_channels", "[4, 8, 8, 12]"),
        ("vae_dec_23", "decoder_block_out_channels", "[]"),
        ("vae_dec_23", "upsample_factor", "[2, 2, 1]"),
        (
            "vae_dec_23",
            "upsample_type",
            r#"["spatial", "spatial", "temporal", "sideways"]"#,
        ),
        ("vae_dec_23", "spatial_compression_ratio", "32"),
        ("vae_dec_23", "decoder_spatial_padding_mode", "\"circular\""),
        ("vae_dec_23", "patch_size_t", "2"),
        ("vae_enc", "block_out_channels", "[8, 12, 8, 16]"),
        ("vae_enc", "layers_per_block", "[1, 1]"),
        ("vae_enc", "encoder_causal", "false"),
        ("vae_enc", "down_block_types", r#"["LTXVideoDownBlock3D"]"#),
        (
            "vae_enc",
            "downsample_type",
            r#"["conv", "temporal", "spatial", "spatial"]"#,
        ),
    ] {
        let message = refusal(case, field, value);
        assert!(
            message.contains(&format!("`{field}`")),
            "{field}: {message}"
        );
    }
}

#[test]
fn every_field_of_a_real_config_is_known() {
    for case in ["vae_dec_23", "vae_dec_20"] {
        let golden = Golden::open(case);
        let component = golden.component();
        VideoDecoder::load(&component, golden.device()).unwrap();
        let unread = component.config().unread();
        assert!(unread.is_empty(), "{case}: {unread:?}");
    }
}

#[test]
fn a_width_that_changes_between_blocks_names_the_missing_part() {
    let message = refusal("vae_dec_23", "decoder_block_out_channels", "[4, 4, 8, 16]");
    assert!(message.contains("`conv_in`"), "{message}");
}
