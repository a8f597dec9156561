//! What a film is asked for with: the options that commands share.

use std::path::PathBuf;

use clap::Args;

/// Takes every whole second from 1 to 20, unlike its alias `sora-2`.
pub const MODEL_DEFAULT: &str = "builtin";

#[derive(Args, Clone, Debug)]
pub struct FilmArgs {
    /// Size of the film in pixels as WxH. It is rendered at the model's nearest native size of
    /// that aspect and scaled [default: 720x1280]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// Length in whole seconds [default: 4]
    #[arg(long)]
    pub seconds: Option<String>,
    #[command(flatten)]
    pub make: MakeArgs,
    /// First frame of the film: a PNG, JPEG or WebP, scaled and cut to the film's size.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
}

/// How a film is made.
#[derive(Args, Clone, Debug)]
pub struct MakeArgs {
    /// The same seed gives the same film [default: a new one each time]
    #[arg(long, allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Denoising steps: more take longer [default: what the model recommends]
    #[arg(long, allow_negative_numbers = true)]
    pub steps: Option<i64>,
    /// How closely to follow the prompt, 0 to 30 [default: what the model recommends]
    #[arg(long, allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// What to keep away from.
    #[arg(long, value_name = "PROMPT", default_value = "")]
    pub negative: String,
}
