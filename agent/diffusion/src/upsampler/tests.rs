//! The latent upsampler against the reference library.

use serde_json::Value;

use super::*;
use crate::golden::Golden;

fn upsamples_as_the_reference(case: &str) {
    let golden = Golden::open(case);
    let upsampler = Upsampler::load(&golden.component(), golden.device()).unwrap();
    assert_eq!(upsampler.channels(), 4);
    let x = golden.channels_last("in.latents");
    let found = upsampler.forward(&x).unwrap();
    golden.check_channels_last("out.latents", &found, 1e-4);
}

#[test]
fn the_upsampler_of_2_0_equals_the_reference() {
    upsamples_as_the_reference("upsampler_20");
}

#[test]
fn the_upsampler_of_2_3_equals_the_reference() {
    upsamples_as_the_reference("upsampler_23");
}

#[test]
fn an_upsampler_of_other_latents_is_refused() {
    let component = Golden::open("upsampler_20").component();
    assert!(check(&component, 4).is_ok());
    let error = check(&component, 128).unwrap_err().to_string();
    assert!(
        error.contains("`in_channels`") && error.contains("vae has 128"),
        "{error}"
    );
}

#[test]
fn upsamplers_that_do_something_else_are_refused_by_field() {
    let golden = Golden::open("upsampler_20");
    let cases = [
        ("temporal_upsample", "true"),
        ("spatial_upsample", "false"),
        ("dims", "2"),
        ("rational_spatial_scale", "1.5"),
        ("mid_channels", "48"),
    ];
    for (field, value) in cases {
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_str(golden.note("config")).unwrap();
        fields.insert(field.to_owned(), serde_json::from_str(value).unwrap());
        let text = serde_json::to_string(&fields).unwrap();
        let config = Config::parse("config.json".as_ref(), &text).unwrap();
        let Err(error) = read(&config) else {
            panic!("{field} = {value} was taken")
        };
        let error = error.to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}
